"""Show what is done of a run: `python -m attrlib score --status`."""

import json

import typer

from attrlib.cli.common import duration
from attrlib.engine.status import RunStatus

SHARDS_NAMED = 6
"""Most missing shards that are named."""


def show_status(status: RunStatus, as_json: bool) -> None:
    """Print the state of a run: a line for each protocol and method, and what is left to do."""
    counts = ("total", "done", "claimed", "failed", "missing")
    if as_json:
        rows = [
            {"protocol": str(each.protocol), "method": str(each.method)} | {name: getattr(each, name) for name in (*counts, "reason")}
            for each in status.evaluations
        ]
        fields = {"state": status.state, "evaluations": rows, "seconds": status.estimate.seconds, "bytes": status.estimate.nbytes}
        fields |= {"upper_bound": status.upper_bound, "finished_shards": [str(each) for each in status.finished_shards]}
        typer.echo(json.dumps(fields | {"missing_shards": [str(each) for each in status.missing_shards]}))
        return
    for protocol in dict.fromkeys(each.protocol for each in status.evaluations):
        typer.echo(str(protocol))
        for each in status.evaluations:
            if each.protocol == protocol:
                parts = [f"{getattr(each, name)} {name}" for name in counts[1:] if getattr(each, name) or name == "done"]
                text = f"{', '.join(parts)}, of {each.total}" if each.total else "not defined"
                typer.echo(f"  {each.method!s:36} {text}{f': {each.reason}' if each.reason else ''}")
    if status.finished_shards:
        names = ", ".join(map(str, status.missing_shards[:SHARDS_NAMED])) + (", ..." if len(status.missing_shards) > SHARDS_NAMED else "")
        missing = (
            f"{len(status.missing_shards)} missing ({names})" if names else "none missing: merge them with python -m attrlib cache merge"
        )
        typer.echo(f"shards: {len(status.finished_shards)} finished, {missing}")
    missing_results = sum(each.missing + each.claimed for each in status.evaluations)
    most = "at most " if status.upper_bound else ""
    left = f"{most}{missing_results} results are missing: about {duration(status.estimate.seconds)} on this machine"
    typer.echo(f"{status.state or 'not started'}; {left if missing_results else 'nothing is missing'}")
