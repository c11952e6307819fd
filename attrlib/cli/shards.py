"""Compute one shard of a run: `python -m attrlib score --shard 3/64`."""

import json
import os
from collections.abc import Callable

import typer

from attrlib.cli.common import duration
from attrlib.cli.events import run_showing
from attrlib.engine.run import RunListener
from attrlib.engine.shards import ShardResult
from attrlib.specs import Shard


def read_shard(text: str | None) -> Shard | None:
    """Return the shard to compute, None for all items.

    Args:
        text: INDEX/COUNT, `none` for all items, or None to take the shard from Slurm, with a note.

    Raises:
        SpecError: If the text is not valid, or Slurm does not tell the shard.
    """
    if text is not None:
        return None if text.strip() == "none" else Shard.parse(text)
    shard = Shard.of_slurm(os.environ)
    if shard is not None:
        typer.echo(f"note: shard {shard}, the task of this Slurm array; --shard none scores all items", err=True)
    return shard


def score_shard(run: Callable[[RunListener], ShardResult], as_json: bool) -> None:
    """Run a shard, show its progress, and print what was written."""
    stopped = "stopped: all results so far are in part files; run the same command again, also with another number of shards"
    result = run_showing(run, as_json, stopped)
    refused = [{"protocol": str(p), "method": str(m), "reason": why} for p, m, why in result.refused]
    if as_json:
        fields = {"shard": str(result.shard), "folder": str(result.folder), "items": result.items, "computed": result.computed}
        fields |= {"cached": result.cached, "seconds": result.seconds, "refused": refused, "notes": list(result.notes)}
        typer.echo(json.dumps(fields))
        return
    for note in [*result.notes, *(f"{each['protocol']} {each['method']}: refused: {each['reason']}" for each in refused)]:
        typer.echo(f"note: {note}", err=True)
    typer.echo(
        f"shard {result.shard}: {result.items} items, {result.computed} computed, {result.cached} cached, {duration(result.seconds)}"
    )
    typer.echo(f"wrote {result.folder}; when all shards are done: python -m attrlib cache merge {result.folder}")
