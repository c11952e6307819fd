"""Submit the scores of a run, and render submissions as a leaderboard: `python -m attrlib submit`, `python -m attrlib leaderboard`."""

import json
from pathlib import Path
from typing import Annotated

import typer

import attrlib
from attrlib.cli.common import Json, chosen_run, command
from attrlib.errors import SpecError
from attrlib.store import open_store
from attrlib.submissions import made_of, make_board, read_all, write_site


@command()
def submit(
    run: Annotated[
        str, typer.Argument(help="Key of the run, or its first characters; attrlib cache lists runs. By default the last one.")
    ] = "",
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("submission.json"),
    name: Annotated[str, typer.Option("--name", help="Who submits it, at most 200 characters.")] = "",
    link: Annotated[str, typer.Option("--link", help="Where more can be read of it, an address that begins with https://.")] = "",
) -> None:
    """Write the scores of a finished run with all digests into a file for a leaderboard."""
    store = open_store()
    scored = [each for each in store.runs() if each.spec.get("kind") == "score"]
    chosen = chosen_run(scored, run or None, "there is no run to submit; run attrlib score")
    content = made_of(chosen, store.records, attrlib.__version__, name, link).to_json()
    try:
        out.write_bytes(content)
    except OSError as error:
        raise SpecError(f"cannot write {str(out)!r} ({error.strerror}); choose another file with --out") from None
    typer.echo(f"wrote {out}: run {chosen.key}, {len(content):,} bytes")


@command()
def leaderboard(
    folder: Annotated[Path, typer.Argument(help="Folder of files that attrlib submit wrote.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the page.")] = Path("leaderboard"),
    published: Annotated[bool, typer.Option(help="Add the values of the IDSDS paper, which are not ranked.")] = True,
    as_json: Json = False,
) -> None:
    """Render submissions as a static page. Files that do not verify are refused; exit code 2 if none does."""
    submissions, refused = read_all(folder)
    for each in refused:
        typer.echo(f"refused: {each.file}: {each.reason}", err=True)
    if not submissions:
        raise SpecError(f"{str(folder)!r} has no submission that verifies; write one with attrlib submit --out FILE.json")
    board = make_board(submissions)
    write_site(board, refused, out, published)
    fields = {"rows": len(board), "submissions": len(submissions), "refused": {each.file: each.reason for each in refused}, "out": str(out)}
    typer.echo(
        json.dumps(fields)
        if as_json
        else f"wrote {out / 'index.html'}: {len(board)} rows of {len(submissions)} submissions, {len(refused)} refused"
    )
