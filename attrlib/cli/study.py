"""Run studies with `python -m attrlib study`, and list them with `studies`."""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from attrlib.cli.common import Cluster, DataRoots, Device, Json, Workers, command, duration, interruptible
from attrlib.cli.explain import write_files
from attrlib.engine.executors.choice import executors
from attrlib.errors import SpecError
from attrlib.methods import read_methods
from attrlib.models import Classifier, load_model
from attrlib.registry import params_of
from attrlib.specs import ModelSpec, StudySpec, whole
from attrlib.store import open_store
from attrlib.studies import PARSERS, StudyEvent, StudyResult, list_studies, plan_study, run_study
from attrlib.studies.findings import check_figures, files_of, markdown, plain, refusals

EVERY = 5.0
"""Seconds between lines of progress if standard error is not a terminal."""
ALL = "all"


@command()
def studies(as_json: Json = False) -> None:
    """List studies with their parameters."""
    infos = list_studies()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(s) for s in infos], default=lambda kind: kind.__name__))
        return
    for s in infos:
        typer.echo(f"{s.name:14} {s.question} (about {s.minutes:g} min on one core, with {len(s.models)} shipped models)")
        for p in s.params:
            typer.echo(f"{'':16} {p.name}={p.format(p.default)}: {p.help} ({p.auto or p.expects()})")


@command(options=params_of(StudySpec))
def study(
    limit: Annotated[str | None, typer.Option("--limit", help="Number of images or grids per model.")] = None,
    device: Device = "auto",
    workers: Workers = None,
    cluster: Cluster = None,
    data_root: DataRoots = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the estimated cost, and compute nothing.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for report, table and figures (HTML, CSV, JSON, PNG, SVG).")] = None,
    page: Annotated[
        Path | None, typer.Option("--markdown", help="Markdown file for the findings; the figures go into a folder next to it.")
    ] = None,
    as_json: Json = False,
    *,
    options: dict[str, str],
) -> None:
    """Answer a question about models, methods and data. Cached results are not computed again."""
    name = options["study"]
    names = [info.name for info in list_studies()] if name == ALL else [name]
    if out is not None or page is not None:
        check_figures()
    if name == ALL and limit is not None:
        raise SpecError("--limit counts images in some studies and grids in others; use it with a single study, as in smoothing --limit 8")
    suffix = f":limit={whole(limit, 'limit')}" if limit is not None else ""
    specs = [StudySpec.read({**options, "study": text + suffix}, {**PARSERS, "methods": read_methods}) for text in names]

    def load(model: ModelSpec, tuned: bool) -> Classifier:
        return load_model(model.architecture, device, deletion_tuned=tuned and model.checkpoint is not None, **model.options())

    if plan:
        for spec in specs:
            cost = plan_study(spec, open_store(), load)
            most = "at most " if cost.upper_bound else "about "
            text = f"{spec.study}: {cost.cached} results cached, {cost.missing} missing, {most}{duration(cost.seconds)}, {cost.nbytes >> 20} MB"
            fields = dataclasses.asdict(cost)
            fields = {"study": spec.study, "cached": fields.pop("cached"), **fields}
            typer.echo(json.dumps(fields) if as_json else text)
        return
    results = []
    with interruptible() as check, executors(workers, cluster, device, data_root or ()) as executor:
        for spec in specs:
            results.append(run_study(spec, open_store(), _progress(spec.study, check, as_json), load, executor=executor))
            if not as_json:
                _show(results[-1])
    if as_json:
        objects = [result.as_json() for result in results]
        typer.echo(json.dumps(objects if name == ALL else objects[0]))
    if out is not None:
        for result in results:
            write_files(out, {file: make() for file, make in files_of(result).items()})
        typer.echo(f"wrote report, table and figures to {out}", err=True)
    if page is not None:
        spec = dataclasses.replace(specs[0], study=ALL, params=()) if name == ALL else specs[0]
        _write_page(page, results, f"{spec.cli()} --markdown {page}")


def _progress(name: str, check: Callable[[], None], quiet: bool) -> Callable[[StudyEvent], None]:
    last = time.monotonic()

    def on_progress(event: StudyEvent) -> None:
        nonlocal last
        check()
        interval = 0.5 if sys.stderr.isatty() else EVERY
        if not quiet and time.monotonic() - last > interval:
            last = time.monotonic()
            left = "" if event.seconds_left is None else f", {duration(event.seconds_left)} left"
            line = f"{name}: {100 * event.share:.0f} %{left}, {event.doing}"
            typer.echo(f"\r{line[:118]:118}" if sys.stderr.isatty() else line, err=True, nl=not sys.stderr.isatty())

    return on_progress


def _show(result: StudyResult) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r{'':118}\r", err=True, nl=False)
    typer.echo(f"{result.title}\n  {plain(result.finding)}")
    for line in result.more:
        typer.echo(f"  - {plain(line)}")
    typer.echo(f"  The papers: {result.saw}")
    for note in [*result.notes, *refusals(result)]:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"  {result.computed} computed, {result.cached} cached, {duration(result.seconds)} in all")


def _write_page(page: Path, results: list[StudyResult], command_line: str) -> None:
    folder = page.parent / page.stem
    figures = {file: make() for result in results for file, make in files_of(result).items() if file.endswith(".svg")}
    write_files(folder, figures)
    write_files(page.parent, {page.name: markdown(results, command_line, page.stem).encode()})
    typer.echo(f"wrote {page} and {len(figures)} figures to {folder}", err=True)
