"""Export findings of studies: a Markdown page for all of them, and a report with tables and figures for each."""

import json
import math
from collections.abc import Callable, Mapping, Sequence

from attrlib.figures.report import Section, html_report
from attrlib.figures.study_files import render
from attrlib.figures.study_plots import draw
from attrlib.figures.tables import csv_table
from attrlib.studies.base import StudyResult

FIGURES = ("png", "svg")


def files_of(result: StudyResult) -> Mapping[str, Callable[[], bytes]]:
    """Return functions that make the files of a study, by file name: report (HTML), table (CSV), all data (JSON), figures (PNG, SVG)."""
    name = result.spec.study
    files: dict[str, Callable[[], bytes]] = {
        f"{name}.html": lambda: report([result]),
        f"{name}.csv": lambda: csv_table(even(result.rows)),
        f"{name}.json": lambda: json.dumps(result.as_json(), indent=1).encode(),
    }
    for number, figure in enumerate(result.figures, 1):
        files |= {f"{name}-{number}.{kind}": (lambda figure=figure, kind=kind: render(figure, kind)) for kind in FIGURES}  # type: ignore[misc]
    return files


def even(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return the rows with the union of their columns, empty where a row has no value."""
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, "") for name in columns} for row in rows]


def report(results: Sequence[StudyResult]) -> bytes:
    """Return findings, figures and tables as one HTML file that needs neither Python nor a network connection."""
    sections = []
    for own in results:
        rows = even(own.rows)
        text = " ".join(
            [plain(own.finding), *map(plain, own.more), f"What the papers saw: {own.saw}", f"What to see: {own.see}", *refusals(own)]
        )
        columns = list(rows[0]) if rows else []
        cells = [[_cell(row[name]) for name in columns] for row in rows]
        sections.append(Section(own.title, text, columns, cells, [draw(figure) for figure in own.figures]))
    models = listed_models(results)
    return html_report("What makes an attribution good?", f"Studies on {models}.", sections, {r.title: r.spec.cli() for r in results})


def listed_models(results: Sequence[StudyResult]) -> str:
    """List all models of some studies, each once."""
    return ", ".join(dict.fromkeys(model for own in results for model in own.models))


def refusals(result: StudyResult) -> list[str]:
    """Return what was left out and why, one sentence for each reason. Reasons that differ only in the model's name are merged."""
    reasons: dict[str, list[str]] = {}
    for model, protocol, method, why in result.refused:
        shown = why.replace(model, "the model") if model else why
        reasons.setdefault(shown, []).append(method or protocol)
    return [f"Left out: {', '.join(dict.fromkeys(names))}: {why.rstrip('.')}." for why, names in reasons.items()]


def markdown(results: Sequence[StudyResult], command: str, pictures: str = "findings") -> str:
    """Return a Markdown page with the findings of studies beside those of the papers, figures and times.

    Args:
        results: The studies.
        command: The command that made the page.
        pictures: Folder of the figures, which are files `pictures`/NAME-N.svg.
    """
    models = len(dict.fromkeys(model for own in results for model in own.models))
    total = sum(own.seconds for own in results)
    shipped = not any(own.spec.models for own in results)
    lines = [
        "# Findings",
        "",
        f"What {len(results)} {'study says' if len(results) == 1 else 'studies say'} on {models} models{' that come with the project' if shipped else ''}, "
        f"beside what the papers saw on theirs. Made by `{command}`; computing it took {_minutes(total)}, and what is known is not computed again. Numbers in brackets are 95 % intervals.",
        "",
        f"{'The models are small (128 px, drawn birds) and the samples few' if shipped else 'The samples are few'}, so that a study takes minutes: "
        "an interval that holds 0 says that these data do not tell, not that there is nothing. Every study runs unchanged on other models and data.",
        "",
        "| study | models | results | time |",
        "|---|---|---|---|",
        *(
            f"| [{own.title}](#{_anchor(own.title)}) | {len(own.models)} | {own.computed + own.known} | {_minutes(own.seconds)} |"
            for own in results
        ),
    ]
    for own in results:
        lines += ["", f"## {own.title}", "", own.question, "", f"**Here:** {own.finding}", ""]
        lines += [*(f"- {one}" for one in own.more), *([""] if own.more else [])]
        sources = ", ".join(f"[{paper.authors}]({paper.url})" for paper in own.papers)
        lines += [f"**The papers:** {own.saw} ({sources})", ""]
        for number, figure in enumerate(own.figures, 1):
            lines += [f"![{figure.caption}]({pictures}/{own.spec.study}-{number}.svg)", ""]
        lines += [f"*To see:* {own.see}", ""]
        lines += [f"- {one}" for one in (*refusals(own), *own.notes)]
        lines += [*([""] if own.refused or own.notes else []), f"`{own.spec.cli()}`, {_minutes(own.seconds)}."]
    return "\n".join(lines) + "\n"


def _anchor(title: str) -> str:
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c == "-")


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def plain(text: str) -> str:
    """Remove Markdown's marks from a sentence."""
    return text.replace("**", "")


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if math.isfinite(value) else "–"
    return str(value)
