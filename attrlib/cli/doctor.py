"""Check which methods work on a model, and what they cost, or on several models: `python -m attrlib doctor`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from attrlib.cli.common import MODEL, Device, Json, command, interruptible, take_model
from attrlib.diagnosis import FAMILIES, VALID, Diagnosis, Finding, ending, read_matrix, survey, updated
from attrlib.diagnosis import doctor as examine
from attrlib.errors import SpecError
from attrlib.models import NAMED, load_model
from attrlib.specs import read_list, whole


@command(options=MODEL)
def doctor(
    methods: Annotated[str, typer.Option("--methods", help="all, or names separated by commas.")] = "all",
    layers: Annotated[str, typer.Option("--layers", help="Input, Middle, Final or module paths, separated by commas.")] = ",".join(NAMED),
    images: Annotated[str, typer.Option("--images", help="Number of images for which time and memory are estimated.")] = "100",
    matrix: Annotated[
        Path | None, typer.Option("--matrix", help="Write a table of methods by models to FILE.md or FILE.json instead.", metavar="FILE")
    ] = None,
    models: Annotated[
        str,
        typer.Option(
            "--models",
            help="Models of the table, separated by commas, or families: a small architecture of every family with random weights. "
            "By default those of FILE.json, whose other methods stay, or families.",
        ),
    ] = "",
    device: Device = "auto",
    as_json: Json = False,
    *,
    options: dict[str, str],
) -> None:
    """Probe which methods work on a model and at which layers, why others do not, and what they cost. Exit code 1 if a method changes the model."""
    chosen = None if methods.strip() == "all" else [name.strip() for name in methods.split(",") if name.strip()]
    if matrix is not None:
        if options:
            raise SpecError("--matrix takes its models from --models; write --models MODEL,MODEL")
        _tabulate(matrix, models, chosen)
        return
    if models:
        raise SpecError("--models names the models of a table; give its file with --matrix FILE, or one model with --model")
    count = whole(images, "images")
    spec = take_model(options)
    classifier = load_model(spec.architecture, device, **spec.options())
    with interruptible() as check:
        names = [name.strip() for name in layers.split(",") if name.strip()]
        diagnosis = examine(classifier, chosen, layers=names, images=count, on_progress=_progress(check))
    if as_json:
        typer.echo(json.dumps(diagnosis.json()))
    else:
        _show(diagnosis)
    if not diagnosis.clean:
        raise typer.Exit(1)


def _progress(check: Callable[[], None]) -> Callable[..., None]:
    def report(done: int, total: int, probe: str = "") -> None:
        check()
        if sys.stderr.isatty():
            typer.echo(f"\r{done}/{total} {probe:60}" if done < total else "\r" + " " * 80 + "\r", nl=False, err=True)

    return report


def _tabulate(path: Path, models: str, methods: list[str] | None) -> None:
    """Write the table of methods by models. The table in a JSON file is updated if it has the same models."""
    # The ending is checked before anything is computed.
    old = read_matrix(path) if ending(path) == ".json" and path.is_file() else None
    if models and models != "families":
        titles = {text: text for text in read_list(models, str.strip)}
    else:
        titles = FAMILIES if models or old is None else old.models
    with interruptible() as check:
        table = survey(titles, methods, on_progress=_progress(check))
    if old is not None and old.models == table.models:
        table = updated(old, table)
    table.write(path)


def _show(diagnosis: Diagnosis) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=180)
    layers = list(dict.fromkeys(f.layer for f in diagnosis.findings))
    table = Table(
        title=f"{diagnosis.model} on {diagnosis.device}, {_bytes(diagnosis.weight_bytes)} of weights", title_justify="left", show_lines=True
    )
    table.add_column("method", no_wrap=True)
    for name in layers:
        shape = diagnosis.layers.get(name)
        table.add_column(name if shape is None else f"{name}\n{shape[1]}×{shape[2]}")
    table.add_column("remarks", ratio=1)
    for method in diagnosis.methods:
        cells = [_cell(diagnosis.finding(method, layer), diagnosis.images) for layer in layers]
        table.add_row(method, *cells, Text("\n".join(diagnosis.reasons(method))))
    console.print(table)
    console.print(f"Each entry: cost of one image, then of {diagnosis.images}. Memory is the peak without the weights.", style="dim")
    verdict = (
        "Every method left the model unchanged: hooks, modes, gradients and weights."
        if diagnosis.clean
        else "Some methods left the model changed: see remarks."
    )
    console.print(verdict, style="green" if diagnosis.clean else "red")
    for finding in diagnosis.model_findings:
        console.print(Text(f"the model: {finding}"))
    for source, reason in diagnosis.left_out.items():
        console.print(Text(f"not loaded: {source}: {reason}", style="red"))


def _cell(finding: Finding, images: int) -> Text:
    if finding.state != VALID:
        return Text(finding.state, style="dim" if finding.state == "refused" else "red")
    one, all_images = (f"{_seconds(s)} {_bytes(b)}" for s, b in _costs(finding))
    return Text(f"{one}\n{all_images}" if images > 1 else one)


def _costs(finding: Finding) -> list[tuple[float, int]]:
    pairs = [(finding.seconds, finding.peak_bytes), (finding.seconds_all, finding.peak_bytes_all)]
    return [(s, b) for s, b in pairs if s is not None and b is not None]


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s" if value < 600 else f"{value / 60:.0f} min"


def _bytes(count: int) -> str:
    return f"{count / 2**20:.1f} MB" if count < 10 * 2**20 else f"{count / 2**20:.0f} MB"
