"""Inspect and maintain the store: `python -m attrlib cache show|verify|prune|export`."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from attrlib.cli.common import Json, command
from attrlib.errors import SpecError, unknown
from attrlib.store import Store, open_store, parse_bytes

ACTIONS = ("show", "verify", "prune", "export")


@command()
def cache(
    action: Annotated[str, typer.Argument(help="show sizes and runs, verify files, prune maps, or export a run.")] = "show",
    run: Annotated[
        str | None, typer.Option("--run", help="Key of the run to export, or its first characters; by default the latest run.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to export to: .csv, .json or .parquet.")] = None,
    max_bytes: Annotated[str | None, typer.Option("--max-bytes", help="Prune maps to this size, as in 2GB.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="Also delete all results and runs.")] = False,
    as_json: Json = False,
) -> None:
    """Inspect, verify, prune or export stored results."""
    if action not in ACTIONS:
        raise SpecError(unknown("action", action, ACTIONS))
    store = open_store()
    result: dict[str, Any]
    if action == "export":
        result = {"run": _export(store, run, out), "out": str(out)}
        text = f"wrote run {result['run']} to {out}"
    elif action == "verify":
        result = dataclasses.asdict(store.verify())
        text = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in result.items())
    elif action == "prune":
        freed = store.prune(None if max_bytes is None else parse_bytes(max_bytes, "max-bytes"), everything)
        result, text = {"freed": freed}, f"freed {freed / 2**20:.1f} MB"
    else:
        sizes = dataclasses.asdict(store.sizes())
        runs = store.runs()
        result = sizes | {"folder": str(store.folder), "run_keys": [r.key for r in runs]}
        lines = [f"{store.folder}", ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in sizes.items())]
        text = "\n".join([*lines, *(f"{r.key[:12]}  {r.state:9}  {r.updated[:19]}  {_title(r.spec)}" for r in runs[:50])])
    for note in store.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(json.dumps(result) if as_json else text)


def _title(spec: object) -> str:
    return "" if not isinstance(spec, dict) or "title" not in spec else str(spec["title"])


def _export(store: Store, start: str | None, out: Path | None) -> str:
    """Write a run to a file, and return its key. Raises `SpecError` if no file is named or the run is not unique."""
    if out is None:
        raise SpecError("no file to export to: add --out FILE.csv, FILE.json or FILE.parquet")
    runs = sorted(store.runs(), key=lambda r: r.updated, reverse=True)
    keys = [r.key for r in runs if r.key.startswith(start or "")]
    if not keys:
        raise SpecError(
            "there is no run to export" if start is None else f"no run key starts with {start!r}; python -m attrlib cache lists all runs"
        )
    if start is not None and len(keys) > 1:
        raise SpecError(f"{len(keys)} run keys start with {start!r}; give more characters")
    data = store.export(keys[0], out.suffix.lower().removeprefix("."))
    try:
        out.write_bytes(data)
    except OSError as error:
        raise SpecError(f"cannot write {str(out)!r} ({error.strerror}); choose another file with --out") from None
    return keys[0]
