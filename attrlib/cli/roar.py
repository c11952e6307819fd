"""Remove and retrain, keep and retrain: `python -m attrlib roar`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from attrlib.cli.common import Device, Json, command, duration, read_options
from attrlib.cli.events import run_showing
from attrlib.cli.explain import write_files
from attrlib.data.datasets import load_dataset
from attrlib.figures.numbers import number
from attrlib.methods import read_methods
from attrlib.models import load_model
from attrlib.registry import params_of
from attrlib.retraining import RoarPlan, RoarResult, plan_roar, run_roar
from attrlib.retraining.pool import check_workers
from attrlib.retraining.result import READINGS, TITLES, files_of, interval
from attrlib.specs import MethodSpec, RoarSpec
from attrlib.store import open_store, parse_bytes
from attrlib.studies.findings import check_figures


@command(options=params_of(RoarSpec))
def roar(
    workers: Annotated[
        int | None, typer.Option("--workers", help="Number of processes that train, each with one thread; by default this process.")
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", help="Memory budget for maps, as in 4GB; by default half of the free memory.")
    ] = None,
    device: Device = "auto",
    plan: Annotated[bool, typer.Option("--plan", help="Print the number of trainings and the estimated cost, and train nothing.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the table, all values and the figure (CSV, JSON, SVG).")] = None,
    as_json: Json = False,
    *,
    options: dict[str, str],
) -> None:
    """Train small networks without the pixels that methods hold relevant (ROAR), or with only those (KAR). Stored results are not trained again."""
    spec = read_options(RoarSpec, options, methods=read_methods)
    check_workers(workers)
    budget = None if max_memory is None else parse_bytes(max_memory, "max-memory")
    if out is not None:
        check_figures()
    dataset = load_dataset(spec.data)
    classifier = load_model(spec.model.architecture, device, **spec.model.options())
    roar_plan = plan_roar(spec, classifier, dataset, open_store(), max_memory=budget)
    if plan:
        _show_plan(roar_plan, workers, as_json)
        return
    if not as_json:
        typer.echo(_described(roar_plan))
        _echo_refused(roar_plan.refused)
    stopped = "stopped: finished trainings are stored; the same command resumes"
    result = run_showing(lambda on_progress: run_roar(roar_plan, on_progress, workers), as_json, stopped)
    if out is not None:
        write_files(out, {name: make() for name, make in files_of(result).items()})
    if as_json:
        typer.echo(json.dumps(result.as_json()))
    else:
        _report(result, len(roar_plan.refused))
    if out is not None:
        typer.echo(f"wrote table, values and figure to {out}", err=True)


def _described(plan: RoarPlan) -> str:
    spec, size = plan.spec, " x ".join(map(str, plan.size))
    return (
        f"{len(plan.trainings)} trainings of {spec.net} for {spec.epochs} epochs on {len(plan.train)} images of {size} px, tested on "
        f"{len(plan.test)}: {len(plan.cached)} cached, {len(plan.missing)} missing"
    )


def _show_plan(plan: RoarPlan, workers: int | None, as_json: bool) -> None:
    estimate = plan.estimate(workers)
    if as_json:
        fields: dict[str, float] = {"trainings": len(plan.trainings), "cached": len(plan.cached), "missing": len(plan.missing)}
        fields |= {"train": len(plan.train), "test": len(plan.test), "seconds": estimate.seconds, "bytes": estimate.nbytes}
        typer.echo(json.dumps(fields | {"refused": [{"method": str(method), "reason": reason} for method, reason in plan.refused]}))
        return
    typer.echo(_described(plan))
    typer.echo(f"at most {duration(estimate.seconds)} and {estimate.nbytes / 2**20:.0f} MB")
    _echo_refused(plan.refused)


def _report(result: RoarResult, refused_before: int) -> None:
    for keep in dict.fromkeys(curve.keep for curve in result.curves):
        typer.echo(f"{TITLES[keep]}: area under the accuracy, difference to random maps; {READINGS[keep]}")
        places = result.ranking(keep)
        width = max(len(place.name) for place in places)
        for place in places:
            curve = result.curve(place.name, keep)
            difference = "chance" if curve is result.random(keep) else interval(result.to_random(curve))
            typer.echo(f"  {place.ranks:>5}  {place.name:{width}}  {interval(place.summary):22} {difference}")
        for place in places:
            curve = result.curve(place.name, keep)
            points = zip(curve.shares, curve.points, strict=True)
            typer.echo(f"  {place.name:{width}}  " + "  ".join(f"{share:g}: {number(point.mean)}" for share, point in points))
    typer.echo(result.finding)
    for note in [*result.notes, *result.warnings]:
        typer.echo(f"note: {note}", err=True)
    _echo_refused(result.refused[refused_before:])
    typer.echo(f"{result.computed} trained, {result.cached} cached, {duration(result.seconds)}")


def _echo_refused(refused: Sequence[tuple[MethodSpec, str]]) -> None:
    for method, reason in refused:
        typer.echo(f"note: {method}: refused: {reason}", err=True)
