"""Export findings of studies: a Markdown page for several studies, and a report with tables and figures for each."""

import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence

from attrlib.errors import SpecError
from attrlib.figures.study_figure import StudyFigure
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
        files |= {f"{name}-{number}.{kind}": (lambda figure=figure, kind=kind: _render(figure, kind)) for kind in FIGURES}  # type: ignore[misc]
    return files


def even(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return the rows with the union of their columns, empty where a row has no value."""
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name, "") for name in columns} for row in rows]


def check_figures() -> None:
    """Raise `SpecError` if what figures and reports need is not installed."""
    for name in ("plotly", "matplotlib"):
        if importlib.util.find_spec(name) is None:
            raise SpecError(f'figures need {name}, which is not installed; pip install "attrlib[app]"')


def _render(figure: StudyFigure, kind: str) -> bytes:
    check_figures()
    from attrlib.figures.study_files import render

    return render(figure, kind)


def report(results: Sequence[StudyResult]) -> bytes:
    """Return findings, figures and tables as one HTML file that needs neither Python nor a network connection.

    Raises:
        SpecError: If what figures need is not installed.
    """
    check_figures()
    from attrlib.figures.report import Section, html_report
    from attrlib.figures.study_plots import draw

    sections = []
    for result in results:
        rows = even(result.rows)
        notes = [f"The papers: {result.saw}", f"How to read it: {result.see}", *refusals(result)]
        text = " ".join([plain(result.finding), *map(plain, result.more), *notes])
        columns = list(rows[0]) if rows else []
        cells = [[_cell(row[name]) for name in columns] for row in rows]
        sections.append(Section(result.title, text, columns, cells, [draw(figure) for figure in result.figures]))
    models = listed_models(results)
    return html_report("What makes an attribution good?", f"Studies on {models}.", sections, {r.title: r.spec.cli() for r in results})


def listed_models(results: Sequence[StudyResult]) -> str:
    """List the models of all studies, each once."""
    return ", ".join(dict.fromkeys(model for result in results for model in result.models))


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
    models = len(dict.fromkeys(model for result in results for model in result.models))
    total = sum(result.seconds for result in results)
    shipped = not any(result.spec.models for result in results)
    lines = [
        "# Findings",
        "",
        f"Findings of {len(results)} {'study' if len(results) == 1 else 'studies'} on {models} {'shipped ' if shipped else ''}models, beside those of the papers. "
        f"Made by `{command}` in {_minutes(total)} of computing; cached results are not computed again. Numbers in brackets are 95 % CIs.",
        "",
        f"{'The models are small (128 px, drawn birds) and the samples few' if shipped else 'The samples are few'}, so that a study takes minutes. "
        "An interval that contains 0 means that these data show no significant effect, not that there is none. Every study also runs on other models and data.",
        "",
        "| study | models | results | time |",
        "|---|---|---|---|",
        *(
            f"| [{result.title}](#{_anchor(result.title)}) | {len(result.models)} | {result.computed + result.cached} | {_minutes(result.seconds)} |"
            for result in results
        ),
    ]
    for result in results:
        lines += ["", f"## {result.title}", "", result.question, "", f"**Here:** {result.finding}", ""]
        lines += [*(f"- {sentence}" for sentence in result.more), *([""] if result.more else [])]
        sources = ", ".join(f"[{paper.authors}]({paper.url})" for paper in result.papers)
        lines += [f"**The papers:** {result.saw} ({sources})", ""]
        for number, figure in enumerate(result.figures, 1):
            lines += [f"![{figure.caption}]({pictures}/{result.spec.study}-{number}.svg)", ""]
        lines += [f"*How to read it:* {result.see}", ""]
        lines += [f"- {note}" for note in (*refusals(result), *result.notes)]
        lines += [*([""] if result.refused or result.notes else []), f"`{result.spec.cli()}`, {_minutes(result.seconds)}."]
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
