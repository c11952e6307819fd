"""Tune the parameters of a method: `python -m attrlib tune`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from attrlib.cli.common import Device, Json, command, duration, read_options
from attrlib.cli.events import run_showing
from attrlib.cli.explain import write_files
from attrlib.data.datasets import load_dataset
from attrlib.figures.numbers import number
from attrlib.figures.tables import csv_table
from attrlib.models import load_model
from attrlib.registry import params_of
from attrlib.specs import TuneSpec
from attrlib.store import open_store, parse_bytes
from attrlib.tuning import Trial, TunePlan, TuneResult, plan_tuning, run_tuning

TRIALS, RESULT = "trials.csv", "tune.json"


@command(options=params_of(TuneSpec))
def tune(
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", help="Memory budget, as in 4GB; by default half of the free memory.")
    ] = None,
    device: Device = "auto",
    plan: Annotated[bool, typer.Option("--plan", help="Print the search space and the estimated cost, and compute nothing.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help=f"Folder for {TRIALS} and {RESULT}.")] = None,
    as_json: Json = False,
    *,
    options: dict[str, str],
) -> None:
    """Search the parameters of a method for the best score, and judge it on held-out items. Cached results are not computed again."""
    spec = read_options(TuneSpec, options)
    budget = None if max_memory is None else parse_bytes(max_memory, "max-memory")
    dataset = load_dataset(spec.data)
    classifier = load_model(spec.model.architecture, device, deletion_tuned=spec.deletion_tuned, **spec.model.options())
    tune_plan = plan_tuning(spec, classifier, dataset, open_store(), max_memory=budget)
    if plan:
        _show_plan(tune_plan, as_json)
        return
    if not as_json:
        typer.echo(f"space: {tune_plan.describe}")
    stopped = "stopped: all results so far are stored; the same command resumes"
    result = run_showing(lambda on_progress: run_tuning(tune_plan, on_progress), as_json, stopped)
    values = json.dumps(result.as_json())
    if out is not None:
        write_files(out, {TRIALS: csv_table(result.table()), RESULT: values.encode()})
    if as_json:
        typer.echo(values)
    else:
        _report(result)
    if out is not None:
        typer.echo(f"wrote {TRIALS} and {RESULT} to {out}", err=True)


def _show_plan(plan: TunePlan, as_json: bool) -> None:
    estimate = plan.estimate()
    if as_json:
        fields = {"space": plan.describe, "settings": [str(each) for each in plan.settings], "cached": plan.search.cached}
        fields |= {"missing": plan.search.missing, "seconds": estimate.seconds, "bytes": estimate.nbytes}
        refused = [{"method": str(method), "reason": reason} for _, method, reason in plan.refused]
        typer.echo(json.dumps(fields | {"refused": refused}))
        return
    typer.echo(f"space: {plan.describe}")
    for setting in plan.settings:
        typer.echo(f"  {setting}")
    typer.echo(f"{plan.search.cached} results of the search cached, {plan.search.missing} missing")
    typer.echo(f"at most {duration(estimate.seconds)} and {estimate.nbytes / 2**20:.0f} MB")
    for _, method, reason in plan.refused:
        typer.echo(f"note: {method}: refused: {reason}", err=True)


def _report(result: TuneResult) -> None:
    better = "higher" if result.winner.protocol.higher_is_better else "lower"
    typer.echo(f"{result.spec.protocol}: {better} is better; trials, best first, with the difference to the default")
    width = max(len(str(trial.method)) for trial in result.trials)
    for trial in result.trials:
        typer.echo(_line(trial, width))
    typer.echo(result.finding)
    typer.echo(f"use: {result.snippet}")
    if result.command:
        typer.echo(f"     {result.command}")
    for note in [*result.notes, *(f"{method}: refused: {reason}" for method, reason in result.refused)]:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{result.computed} computed, {result.cached} cached, {duration(result.seconds)}")


def _line(trial: Trial, width: int) -> str:
    mean, difference = trial.score.summary, trial.difference
    undefined = f", {trial.score.undefined} undefined" if trial.score.undefined else ""
    change = f"{number(difference.mean, 4):>8} {_interval(difference.low, difference.high):20}" if trial.number else f"{'default':29}"
    interval = _interval(mean.low, mean.high)
    return f"  {trial.method!s:{width}} {number(mean.mean, 4):>8} {interval:20} {change} n={len(trial.score.values)}{undefined}"


def _interval(low: float, high: float) -> str:
    return "–" if low != low else f"[{number(low, 4)}, {number(high, 4)}]"
