"""Aggregate maps over a data set: `python -m attrlib aggregate`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from attrlib.aggregation.panels import line_of, view_of
from attrlib.aggregation.rows import Row
from attrlib.aggregation.view import Aggregation
from attrlib.cli.common import Cluster, DataRoots, Device, Json, Workers, command, interruptible, read_options
from attrlib.cli.explain import write_files
from attrlib.data.datasets import load_dataset
from attrlib.engine.executors.choice import executors
from attrlib.engine.plan import make_plan
from attrlib.engine.run import Event, run
from attrlib.figures.aggatt import bin_names, panel
from attrlib.figures.numbers import json_value
from attrlib.figures.overlay import encode
from attrlib.methods import read_methods
from attrlib.models import load_model
from attrlib.registry import params_of
from attrlib.specs import AggregateSpec, at_layers, read_list
from attrlib.store import open_store

PANEL, NUMBERS = "aggatt.png", "aggatt.json"
SETTING = "difull"


@command(options=params_of(AggregateSpec))
def aggregate(
    out: Annotated[Path, typer.Option("--out", help=f"Folder for {PANEL} and {NUMBERS}.")],
    layers: Annotated[
        str, typer.Option("--layers", help="Layers for methods that name none, as in Input,Final: each method is used at each of them.")
    ] = "",
    device: Device = "auto",
    workers: Workers = None,
    cluster: Cluster = None,
    data_root: DataRoots = None,
    as_json: Json = False,
    *,
    options: dict[str, str],
) -> None:
    """Sort each method's maps on a data set by score, and average them in bins (AggAtt). Cached results are not computed again."""
    names = read_list(layers, str.strip)
    spec = read_options(AggregateSpec, {"setting": SETTING, **options}, methods=lambda text: at_layers(read_methods(text), names))
    run_spec, view = spec.run, spec.view
    dataset, store = load_dataset(run_spec.data), open_store()
    classifier = load_model(run_spec.model.architecture, device, **run_spec.model.options())
    with interruptible() as check:

        def on_progress(_event: Event) -> None:
            check()

        with executors(workers, cluster, device, data_root or ()) as executor:
            result = run(make_plan(run_spec, classifier, dataset, store), on_progress, executor)
        aggregation = Aggregation(run_spec, classifier, dataset, store)
        rows = [
            aggregation.row(method, view, lambda _done, _total: check())
            for method in run_spec.methods
            if (run_spec.protocols[0], method) in result.scores
        ]
        lines = [line_of(aggregation, row, view) for row in rows]
    numbers = {"cli": spec.cli(str(out)), "notes": result.notes, "rows": [_numbers(row) for row in rows]}
    numbers |= {"refused": [{"method": str(method), "reason": reason} for _, method, reason in result.refused]}
    write_files(out, {PANEL: encode(panel(lines, view_of(view)), "PNG"), NUMBERS: json.dumps(numbers, indent=1).encode()})
    if as_json:
        typer.echo(json.dumps(numbers | {"out": str(out), "computed": result.computed, "cached": result.cached}))
        return
    for row in rows:
        sizes = ", ".join(f"{name}: {size}" for name, size in zip(bin_names(), row.aggregate.sizes, strict=True))
        typer.echo(f"{row.method!s:36} {row.summary.mean:8.4f}  n={row.summary.n}  {sizes}")
    for note in [*result.notes, *(f"{method}: refused: {reason}" for _, method, reason in result.refused)]:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"wrote {PANEL} and {NUMBERS} to {out}")


def _numbers(row: Row) -> dict[str, Any]:
    """Return the numbers of a row as JSON values; NaN becomes None."""
    bins = row.aggregate
    return json_value(
        {
            "method": str(row.method),
            "kernel": row.kernel,
            "mean": row.summary.mean,
            "n": row.summary.n,
            "scale": bins.scale,
            "bins": [{"share": name, "size": size} for name, size in zip(bin_names(), bins.sizes, strict=True)],
            "order": [row.items[position].id for position in bins.order],
            "ids": [item.id for item in row.items],
            "values": row.values.tolist(),
        }
    )
