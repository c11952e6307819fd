"""Show what a user can take away from a run: link, command line, Python and manifest; tables, items, and a report."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from urllib.parse import urlencode

import streamlit as st

import attrlib
from attrlib.analysis.funnybirds import LEGEND
from attrlib.errors import SpecError
from attrlib.figures.leaderboard import LeaderboardRow, counted, has_paper, plain_rows
from attrlib.figures.numbers import json_value
from attrlib.figures.report import Section, html_report
from attrlib.figures.tables import csv_table, latex_table
from attrlib.protocols import create
from attrlib.specs import ProtocolSpec, RunSpec
from attrlib.store import open_store
from attrlib.submissions import made_of
from pages.scores import plots
from pages.shared import downloads
from pages.shared import reproduce as reproduction
from pages.shared.run_jobs import Finished

Done = Mapping[str, Finished]


def reproduce(link: Mapping[str, str | list[str]], specs: list[RunSpec], done: Done) -> None:
    """Show the link, command line and Python snippet of exactly these runs, and the manifests of the finished ones."""
    with reproduction.popover("?" + urlencode(link, doseq=True, safe="@:,=")):
        for spec in specs:
            several = f" for {spec.model.text}" if len(specs) > 1 else ""
            reproduction.command_line(spec.cli(), f"Command line{several}: cached results are not computed again")
            reproduction.python(spec.snippet(), f"Python{several}")
        if done:
            downloads.button("Manifest (JSON)", lambda: _manifest(done), "manifest.json", width="stretch")


def export(done: Done) -> None:
    """Show download buttons; the files are made when a button is pressed."""
    with st.popover("Export", icon=":material/download:"):
        if not done:
            st.caption("Nothing to export yet. Start a run, or wait until it is done.")
            return
        downloads.button("Leaderboard (CSV)", lambda: csv_table(plain_rows(boards(done))), "leaderboard.csv", width="stretch")
        downloads.button("Every item (CSV)", lambda: csv_table(items(done)), "items.csv", width="stretch")
        downloads.button("Everything (JSON)", lambda: everything(done), "scores.json", width="stretch")
        for model, finished in done.items():
            several = f" of {model}" if len(done) > 1 else ""
            downloads.button(f"Submission{several} (JSON)", partial(submission, finished), "submission.json", width="stretch")
        downloads.button("Tables (LaTeX)", lambda: latex_table(boards(done), captions(done)).encode(), "tables.tex", width="stretch")
        downloads.button("Report (HTML)", lambda: report(done), "report.html", width="stretch")
        st.segmented_control(
            "Format of saved plots",
            plots.FORMATS,
            default=plots.FORMATS[0],
            key="s_format",
            persist_state="session",
            required=True,
        )


def boards(done: Done) -> dict[str, list[LeaderboardRow]]:
    """Return the leaderboard rows of all protocols by model."""
    return {model: [row for rows in finished.leaderboards.values() for row in rows] for model, finished in done.items()}


def items(done: Done) -> list[dict[str, object]]:
    """Return the value of each item: one row for each model, protocol, method and item."""
    return [
        {"model": model, "protocol": str(protocol), "method": str(method), "item": item, "name": name, "value": float(value)}
        for model, finished in done.items()
        for (protocol, method), score in finished.result.scores.items()
        for item, name, value in zip(score.keys, score.names(finished.data), score.values, strict=True)
    ]


def everything(done: Done) -> bytes:
    """Return manifests, leaderboards and items as JSON; values that are not finite become null."""
    rows = {"leaderboard": plain_rows(boards(done)), "items": items(done)}
    return json.dumps({"manifests": json.loads(_manifest(done))} | json_value(rows), indent=1, allow_nan=False).encode()


def submission(finished: Finished) -> bytes:
    """Return the file of a run for a leaderboard."""
    run = finished.manifest
    if run is None:
        raise SpecError("the run is not in the store any more; run it again")
    return made_of(run, open_store().records, attrlib.__version__).to_json()


def _manifest(done: Done) -> bytes:
    found = [asdict(own) for finished in done.values() if (own := finished.manifest) is not None]
    return json.dumps(found, indent=1).encode()


def captions(done: Done) -> dict[str, str]:
    """Return, for each protocol, a caption that explains its numbers."""
    spec = next(iter(done.values())).result.spec
    scales = {str(p): plots.scale_of(p) for finished in done.values() for p in finished.result.protocols}
    return {p: f"{own.title} on {spec.data}, seed {spec.seed}. {own.direction}" for p, own in scales.items()}


def report(done: Done) -> bytes:
    """Return one HTML file with a table and the plots of each protocol on each model."""
    sections = [_section(model, finished, protocol, done) for model, finished in done.items() for protocol in finished.result.protocols]
    sections += [_dimensions(model, finished, protocol) for model, finished in done.items() for protocol in finished.dimensions]
    if len(done) > 1:
        means = {p: plots.figure_of(plots.MODELS, f, p, done) for f in done.values() for p in f.result.protocols}
        sections.insert(0, Section("Models and methods", figures=list(means.values())))
    sections += [own for model, finished in done.items() if (own := _agreement(model, finished, done)) is not None]
    left_out = [f"{p} {m}: {why}" for f in done.values() for p, m, why in f.result.refused]
    notes = [note for f in done.values() for note in f.result.notes]
    if left_out or notes:
        sections.append(Section("Notes", columns=("Note",), rows=[[text] for text in dict.fromkeys([*notes, *left_out])]))
    copies = {f"Command line, {model}": f.result.spec.cli() for model, f in done.items()}
    copies |= {f"Python, {model}": f.result.spec.snippet() for model, f in done.items()}
    spec = next(iter(done.values())).result.spec
    summary = f"{', '.join(done)}: means over {counted([row for rows in boards(done).values() for row in rows])} of {spec.data}, seed {spec.seed}."
    return html_report("Which method can be trusted?", summary, sections, copies)


def _agreement(model: str, finished: Finished, done: Done) -> Section | None:
    protocol = next(iter(finished.result.protocols))
    views = [view for view in plots.AGREEING if view in plots.views_of(finished, protocol, done)]
    figures = [plots.figure_of(view, finished, protocol, done) for view in views]
    text = " ".join(plots.WORDS[view] for view in views)
    return Section(f"Agreement of protocols on {model}", text, figures=figures) if figures else None


def _section(model: str, finished: Finished, protocol: ProtocolSpec, done: Done) -> Section:
    judge = create(protocol)
    rows = finished.leaderboards[protocol]
    cells: dict[str, list[str]] = {
        "Rank": [row.ranks or "–" for row in rows],
        "Method": [row.method for row in rows],
        "Mean": [_number(row.mean) for row in rows],
        "from": [_number(row.low) for row in rows],
        "to": [_number(row.high) for row in rows],
        **({"Paper": [_number(row.paper) for row in rows]} if has_paper(rows) else {}),
        "Items": [str(row.n) for row in rows],
        "Undefined": [str(row.undefined) for row in rows],
        "s / map": [_number(row.seconds) for row in rows],
    }
    beyond = (plots.VIOLIN, plots.STARS, *plots.AGREEING)
    views = [v for v in plots.views_of(finished, protocol, {model: finished}) if v not in beyond]
    return Section(
        f"{plots.label_of(protocol)} on {model}",
        f"{plots.scale_of(protocol).direction} {judge.reading} {judge.paper.authors}: {judge.paper.title}, {judge.paper.url}",
        list(cells),
        [list(row) for row in zip(*cells.values(), strict=True)],
        [plots.figure_of(view, finished, protocol, done) for view in views],
    )


def _dimensions(model: str, finished: Finished, protocol: ProtocolSpec) -> Section:
    columns = plots.dimension_columns(finished, protocol)
    cells = [[_number(value) if isinstance(value, float) else value for value in column] for column in columns.values()]
    figure = plots.figure_of(plots.STARS, finished, protocol, {model: finished})
    title = f"Dimensions of {plots.label_of(protocol)} on {model}"
    return Section(title, f"{LEGEND}. {plots.WORDS[plots.STARS]}", list(columns), [list(row) for row in zip(*cells, strict=True)], [figure])


def _number(value: float) -> str:
    return "–" if not math.isfinite(value) else f"{value:.4g}"
