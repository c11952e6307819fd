"""The result of a study: the finding, its figures, the papers' findings, the table, and downloads."""

from collections.abc import Sequence

import streamlit as st

from attrlib.figures.study_plots import draw
from attrlib.registry import Paper
from attrlib.specs import StudySpec
from attrlib.studies import Study, StudyResult
from attrlib.studies.findings import even, files_of, refusals
from pages.shared import downloads, notices
from pages.shared import reproduce as reproduction
from pages.shared.jobs import plain
from pages.shared.plots import camera
from pages.shared.times import duration

LABELS = {"html": "Report (HTML)", "csv": "Table (CSV)", "json": "Everything (JSON)", "png": "figure (PNG)", "svg": "figure (SVG)"}


def show(result: StudyResult) -> None:
    """Show the finding, figures, details and table."""
    st.markdown(f"##### {_bold(result.finding)}")
    for number, study_figure in enumerate(result.figures):
        st.caption(plain(study_figure.caption))
        st.plotly_chart(
            draw(study_figure), key=f"t_figure_{result.spec}_{number}", width="stretch", config=camera(result.spec.study),
            alt=f"{study_figure.caption} The same numbers are in the table below.",
        )  # fmt: skip
    grid = st.grid(min_column_width=380, gap="medium", key="t_words")
    with grid.cell():
        st.markdown("**Further findings**" if result.more else "**How to read it**")
        for line in result.more:
            st.markdown(f"- {_bold(line)}")
        st.caption(plain(result.see))
    with grid.cell():
        _papers(result.saw, result.papers)
    with st.expander(f"Table: {len(result.rows)} rows", icon=":material/table:"):
        st.dataframe(_columns(result), hide_index=True, width="stretch")
    left_out = refusals(result)
    if left_out:
        with st.expander(f"Left out because not defined here: {len(left_out)} reasons", icon=":material/block:"):
            for line in left_out:
                st.markdown(f"- {plain(line)}")
    notices.folded(result.notes)
    st.caption(
        f"{len(result.models)} models: {plain(', '.join(result.models))}. {result.computed} results computed now, {result.cached} cached; "
        f"{duration(result.seconds)} in total."
    )


def show_question(study: Study) -> None:
    """Show the question of a study that has no finding yet."""
    st.markdown(f"##### {plain(study.question)}")
    grid = st.grid(min_column_width=380, gap="medium", key="t_question")
    with grid.cell():
        _papers(study.saw, study.papers)
    with grid.cell():
        st.markdown("**How to read it**")
        st.markdown(plain(study.see))


def _papers(saw: str, papers: Sequence[Paper]) -> None:
    st.markdown("**What the papers report**")
    st.markdown(plain(saw))
    st.caption(" · ".join(f"[{plain(paper.authors)}: {plain(paper.title)}]({paper.url})" for paper in papers))


def reproduce(spec: StudySpec) -> None:
    """Show the link, command line and Python snippet of exactly this study."""
    with reproduction.popover(spec.link(), "Link to exactly this study"):
        reproduction.command_line(spec.cli(), "Command line; with --out FOLDER it writes report, table and figures")
        reproduction.python(spec.snippet())


def export(result: StudyResult | None) -> None:
    """Show download buttons; the files are made when a button is pressed."""
    with st.popover("Export", icon=":material/download:"):
        if result is None:
            st.caption("Nothing to export yet. Run the study, or wait until it is done.")
            return
        for name, make in files_of(result).items():
            kind = name.rpartition(".")[2]
            number = name.rpartition(".")[0].rpartition("-")[2]
            label = f"{number}. {LABELS[kind]}" if kind in ("png", "svg") else LABELS[kind]
            downloads.button(label, make, name, width="stretch")


def _bold(text: str) -> str:
    """Return a study's sentence as Markdown in which only bold type is active."""
    return "**".join(plain(part) for part in text.split("**"))


def _columns(result: StudyResult) -> dict[str, list[object]]:
    rows = even(result.rows)
    columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
    # A column is of one type: where some rows have no number they have none.
    return {name: [None if value == "" else value for value in values] for name, values in columns.items()}
