"""What makes an attribution good? The papers' studies, on the shipped models or on custom ones."""

import streamlit as st

from attrlib.engine.jobs import State
from attrlib.errors import AttrlibError
from attrlib.specs import StudySpec
from attrlib.studies import create
from pages.shared import links, notices
from pages.shared.polling import poll
from pages.studies import choice, controls, run_panel, view


def main() -> None:
    """Show the chooser for the study and its inputs; below it the finding, or the cost."""
    choice.start(st.query_params.to_dict())
    st.markdown("#### What makes an attribution good?")
    st.caption("Repeat the experiments of the papers on the shipped models, or on your models and data.")
    place = st.container()
    controls.choose_study()
    controls.choose(st.grid(min_column_width=170, gap="small", key="t_controls"))
    spec, problems = choice.wanted()
    try:
        create(spec)
    except AttrlibError as error:
        problems.append(str(error))
    with place:
        notices.problems("t_problems", problems)
    if not problems:
        poll("t_waits", lambda: _body(spec))


def _body(spec: StudySpec) -> bool:
    """Show everything that changes by itself: cost, progress, the finding; return whether anything is pending."""
    links.write(spec.link())
    job = run_panel.find_or_read(spec)
    result = job.result if job is not None and job.state is State.DONE else None
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key="t_bar"):
        run_panel.show_button(spec, job)
        view.reproduce(spec)
        view.export(result)
    if result is not None:
        view.show(result)
        return False
    waiting = run_panel.show_state(spec, job)
    view.show_question(create(spec))
    return waiting


main()
