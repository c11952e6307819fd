"""A method on a whole data set: `python -m attrlib aggregate`."""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from attrlib.aggregation.panels import line_of, view_of
from attrlib.aggregation.view import Aggregation, Row
from attrlib.cli.common import Checkpoint, Device, InputSize, Json, ModelName, command, interruptible, model_spec
from attrlib.cli.explain import write_files
from attrlib.data.datasets import anchored, load_dataset
from attrlib.engine.aggregate_spec import AggregateSpec, AggregateView, at_layers
from attrlib.engine.plan import make_plan
from attrlib.engine.run import Event, run
from attrlib.figures.aggatt import bin_names, panel
from attrlib.figures.overlay import encode
from attrlib.methods import read_methods
from attrlib.models import EMBEDDED, load_model
from attrlib.specs import ProtocolSpec, RunSpec, whole
from attrlib.store import open_store

PANEL, NUMBERS = "aggatt.png", "aggatt.json"


@command(options=AggregateView.options())
def aggregate(
    data: Annotated[str, typer.Option("--data", help="A name, a folder of class folders, or a CSV file.")],
    methods: Annotated[str, typer.Option("--methods", help="Separated by commas: NAME, NAME@LAYER:key=value, idsds, rao, erdem, or all.")],
    out: Annotated[Path, typer.Option("--out", help=f"Folder for {PANEL} and {NUMBERS}.")],
    setting: Annotated[str, typer.Option("--setting", help="gridpg, difull, dipart, or a protocol on single images.")] = "difull",
    layers: Annotated[str, typer.Option("--layers", help="Each method that names no layer at each of these, as in Input,Final.")] = "",
    model: ModelName = EMBEDDED,
    checkpoint: Checkpoint = None,
    input_size: InputSize = None,
    limit: Annotated[str | None, typer.Option("--limit", help="Items at most: images, or grids.")] = None,
    seed: Annotated[str, typer.Option("--seed", help="Chooses the items, and draws what is random.")] = "0",
    classes: Annotated[str, typer.Option("--classes", help="How class folders name classes: auto, wnid, name, index or order.")] = "auto",
    device: Device = "auto",
    as_json: Json = False,
    *,
    options: dict[str, Any],
) -> None:
    """Sort a method's maps on a data set by score, and average them in bins (AggAtt). What was computed before is not again."""
    view = AggregateView.parse(options)
    chosen = at_layers(read_methods(methods), [layer.strip() for layer in layers.split(",") if layer.strip()])
    items = None if limit is None else whole(limit, "limit")
    own = RunSpec(
        model_spec(model, checkpoint, input_size), anchored(data), (ProtocolSpec.parse(setting),), chosen, items,
        whole(seed, "seed"), classes=classes,
    )  # fmt: skip
    dataset, store = load_dataset(own.data), open_store()
    classifier = load_model(own.model.architecture, device, **own.model.options())
    with interruptible() as check:

        def watch(_event: Event) -> None:
            check()

        result = run(make_plan(own, classifier, dataset, store), watch)
        found = Aggregation(own, classifier, dataset, store)
        rows = [found.row(method, view, lambda _done, _total: check()) for method in chosen if (own.protocols[0], method) in result.scores]
        lines = [line_of(found, row, view) for row in rows]
    numbers = {"cli": AggregateSpec(own, view).cli(), "notes": result.notes, "rows": [_numbers(row) for row in rows]}
    numbers |= {"refused": [{"method": str(method), "reason": reason} for _, method, reason in result.refused]}
    write_files(out, {PANEL: encode(panel(lines, view_of(view)), "PNG"), NUMBERS: json.dumps(numbers, indent=1).encode()})
    if as_json:
        typer.echo(json.dumps(numbers | {"out": str(out), "computed": result.computed, "known": result.known}))
        return
    for row in rows:
        sizes = ", ".join(f"{name}: {size}" for name, size in zip(bin_names(), row.aggregate.sizes, strict=True))
        typer.echo(f"{row.method!s:36} {row.summary.mean:8.4f}  n={row.summary.n}  {sizes}")
    for note in [*result.notes, *(f"{method}: refused: {reason}" for _, method, reason in result.refused)]:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"wrote {PANEL} and {NUMBERS} to {out}")


def _numbers(row: Row) -> dict[str, Any]:
    """What a row says, as JSON values."""
    own = row.aggregate
    values = [value if math.isfinite(value) else None for value in row.values.tolist()]
    return {
        "method": str(row.method),
        "kernel": row.kernel,
        "mean": row.summary.mean if row.summary.n else None,
        "n": row.summary.n,
        "scale": own.scale,
        "bins": [{"share": name, "size": size} for name, size in zip(bin_names(), own.sizes, strict=True)],
        "order": [row.items[position].id for position in own.order],
        "ids": [item.id for item in row.items],
        "values": values,
    }
