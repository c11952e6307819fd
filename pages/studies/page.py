"""What makes an attribution good? The papers' studies, on the shipped models or on custom ones."""

from urllib.parse import parse_qsl

import streamlit as st

from attrlib.engine.jobs import State
from attrlib.errors import AttrlibError
from attrlib.specs import StudySpec
from attrlib.studies import create
from pages.shared.jobs import sentence
from pages.studies import choice, controls, run_panel, view


def main() -> None:
    """Show the chooser for the study and its inputs; below it the finding, or the cost."""
    choice.start(st.query_params.to_dict())
    st.markdown("#### What makes an attribution good?")
    st.caption(
        "The papers' studies as saved questions. Each runs on the models that come with the project, and on your own model and data."
    )
    notices = st.container()
    controls.choose_study()
    controls.choose(st.grid(min_column_width=170, gap="small", key="t_controls"))
    spec, problems = choice.wanted()
    try:
        create(spec)
    except AttrlibError as error:
        problems.append(str(error))
    with notices:
        for problem in dict.fromkeys([*st.session_state.t_problems, *problems]):
            st.warning(sentence(problem), icon=":material/error:")
        if st.session_state.t_problems:
            st.button("Dismiss", on_click=_dismiss, type="tertiary", icon=":material/check:")
    if problems:
        return
    busy = run_panel.is_busy(spec)
    st.fragment(run_every=0.5 if busy else None)(_body)(spec, busy)


def _dismiss() -> None:
    st.session_state.t_problems = []


def _body(spec: StudySpec, polled: bool) -> None:
    """Show everything that changes by itself: cost, progress, the finding."""
    link = dict(parse_qsl(spec.link().lstrip("?")))
    if st.query_params.to_dict() != link:
        st.query_params.from_dict(link)
    job = run_panel.find_or_read(spec)
    result = job.result if job is not None and job.state is State.DONE else None
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key="t_bar"):
        run_panel.show_button(spec, job)
        view.reproduce(spec)
        view.export(result)
    if result is not None:
        view.show(result)
    else:
        run_panel.show_state(spec, job)
        view.show_question(create(spec))
    if polled != run_panel.is_busy(spec):
        st.rerun()


main()
