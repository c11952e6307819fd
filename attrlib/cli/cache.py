"""Inspect and maintain the store: `python -m attrlib cache show|verify|prune|export|merge`."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from attrlib.cli.common import Json, chosen_run, command
from attrlib.errors import SpecError, StoreError, unknown
from attrlib.store import Store, merge_shards, open_store, parse_bytes

ACTIONS = ("show", "verify", "prune", "export", "merge")
PROBLEMS_SHOWN = 3
"""Most problems of a merge that its error message lists."""


@command()
def cache(
    action: Annotated[str, typer.Argument(help="show sizes and runs, verify files, prune maps, export a run, or merge shards.")] = "show",
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders of shards to merge, see score --shard.")] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Key of the run to export, or its first characters; by default the latest run.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to export to: .csv, .json or .parquet.")] = None,
    max_bytes: Annotated[str | None, typer.Option("--max-bytes", help="Prune maps to this size, as in 2GB.")] = None,
    everything: Annotated[bool, typer.Option("--everything", help="Also delete all results and runs.")] = False,
    as_json: Json = False,
) -> None:
    """Inspect, verify, prune, export or merge stored results."""
    if action not in ACTIONS:
        raise SpecError(unknown("action", action, ACTIONS))
    if folders and action != "merge":
        raise SpecError(f"cache {action} takes no folder; leave out {str(folders[0])!r}")
    store = open_store()
    result: dict[str, Any]
    if action == "export":
        result = {"run": _export(store, run, out), "out": str(out)}
        text = f"wrote run {result['run']} to {out}"
    elif action == "merge":
        result, text = _merge(store, folders or [])
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


def _merge(store: Store, folders: list[Path]) -> tuple[dict[str, Any], str]:
    """Merge shards. Raises `StoreError` if the run is not complete, after all sound files are merged."""
    if not folders:
        raise SpecError("no shards to merge: give the folder that score --shard has written to")
    merged = merge_shards(folders, store)
    records = merged.records
    if records.differing:
        typer.echo(
            f"note: {records.differing} results differ from those in the store, by at most {records.largest:.2g}; those in the store stay. "
            "Processors and numbers of threads differ in the last bits; larger differences mean that data or software differ",
            err=True,
        )
    if merged.problems:
        more = f"; and {len(merged.problems) - PROBLEMS_SHOWN} more" if len(merged.problems) > PROBLEMS_SHOWN else ""
        done = f" ({records.new} new results were merged)" if records.new else ""
        raise StoreError("; ".join(merged.problems[:PROBLEMS_SHOWN]) + more + done)
    text = f"merged {merged.shards} shards: {records.new} new results, {records.cached} already there; run {merged.run} is complete"
    return {"run": merged.run, "shards": merged.shards, "new": records.new, "cached": records.cached}, text


def _title(spec: object) -> str:
    return "" if not isinstance(spec, dict) or "title" not in spec else str(spec["title"])


def _export(store: Store, start: str | None, out: Path | None) -> str:
    """Write a run to a file, and return its key. Raises `SpecError` if no file is named or the run is not unique."""
    if out is None:
        raise SpecError("no file to export to: add --out FILE.csv, FILE.json or FILE.parquet")
    key = chosen_run(store.runs(), start, "there is no run to export").key
    data = store.export(key, out.suffix.lower().removeprefix("."))
    try:
        out.write_bytes(data)
    except OSError as error:
        raise SpecError(f"cannot write {str(out)!r} ({error.strerror}); choose another file with --out") from None
    return key
