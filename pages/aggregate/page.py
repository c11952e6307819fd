"""How does a method behave on a whole data set? AggAtt, scores by layer, and a custom grid."""

from urllib.parse import parse_qsl, urlencode

import streamlit as st

from attrlib.engine.jobs import Job, State
from attrlib.errors import AttrlibError
from attrlib.protocols.localisation import GRID_PAPER
from attrlib.specs import AggregateSpec, AggregateView, RunSpec
from attrlib.studies.words import listed
from pages.aggregate import bin_rows, choice, controls, custom_grid, row_jobs, run_panel
from pages.shared import reproduce, run_jobs
from pages.shared.jobs import plain, sentence

OWN = "a grid of your own"
MODES = ("data set", OWN)


def main() -> None:
    """Show the page: the controls on top; cost, progress and results below."""
    state = st.session_state
    choice.start(st.query_params.to_dict())
    st.markdown("#### How does a method behave on a whole data set?")
    st.caption(
        "AggAtt sorts the maps of many images by score and averages them in bins, so that one sees all of them, the best and the worst: "
        f"[{plain(GRID_PAPER.authors)}]({GRID_PAPER.url})."
    )
    notices = st.container()
    controls.choose(st.grid(min_column_width=150, gap="small", key="a_controls"))
    methods, problems = choice.chosen()
    run: RunSpec | None = None
    try:
        run = choice.run_spec(methods)
        choice.cells()
    except AttrlibError as error:
        problems.append(str(error))
    with notices:
        for problem in dict.fromkeys([*state.a_problems, *problems]):
            st.warning(sentence(problem), icon=":material/error:")
        if state.a_problems:
            st.button("Dismiss", on_click=_dismiss, type="tertiary", icon=":material/check:")
    if run is None or not run.methods or not run.data:
        missing = [what for what, has in (("data", run and run.data), ("a method", run and run.methods)) if not has]
        st.info(f"Choose {listed(missing) if run else 'another model or setting'} above to go on.", icon=":material/arrow_upward:")
        return
    state.setdefault("a_mode", MODES[0])
    busy = state.a_mode != OWN and run_panel.is_busy(run)
    st.fragment(run_every=0.5 if busy or state.get("a_waiting") else None)(_body)(run, busy or bool(state.get("a_waiting")))


def _dismiss() -> None:
    st.session_state.a_problems = []


def _body(run: RunSpec, polled: bool) -> None:
    """Show everything that changes by itself, and the dials."""
    job = run_jobs.find(run)
    own = st.session_state.a_mode == OWN
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom", key="a_bar"):
        st.segmented_control(
            "Show",
            MODES,
            key="a_mode",
            persist_state="session",
            required=True,
            help="Many items of the data, or one grid of photos that you choose.",
        )
        if not own:
            run_panel.show_button(run, job)
        controls.choose_view(() if own else choice.cells())
        view = choice.view()
        _reproduce(AggregateSpec(run, view))
    link = dict(parse_qsl(AggregateSpec(run, view).link().lstrip("?"), keep_blank_values=True)) | choice.shown()
    if st.query_params.to_dict() != link:
        st.query_params.from_dict(link)
    waiting = custom_grid.show(run, view) if own else _results(run, job, view)
    st.session_state.a_waiting = waiting
    if polled != (waiting or (not own and run_panel.is_busy(run))):
        st.rerun()


def _results(run: RunSpec, job: Job | None, view: AggregateView) -> bool:
    """Show the results; return whether a job is pending."""
    if job is None or (job.ended and job.state is not State.DONE):
        if job is not None:
            run_panel.show_ended(job)
        if job is None or job.state is State.CANCELLED:
            run_panel.show_cost(run)
    if job is None or job.state is State.FAILED:
        return False
    if not job.ended:
        run_panel.show_progress(job)
        return True
    looking = row_jobs.found_job(run, job)
    if not looking.ended:
        st.caption(":material/hourglass_top: Reading what is known")
        return True
    if looking.state is not State.DONE:
        st.error(sentence(looking.error or "It was cancelled."), icon=":material/error:")
        st.button("Try again", on_click=looking.forget, icon=":material/refresh:", key="a_again")
        return False
    refused = {method: reason for _, method, reason in looking.result.aggregation.refused}
    waiting = bin_rows.show(looking.result, tuple(m for m in run.methods if m not in refused), run.protocols[0], view)
    if isinstance(job.result, run_jobs.Finished):
        result = job.result.result
        for note in result.notes:
            st.caption(f":material/info: {sentence(note)}")
        run_panel.show_refused({str(method): reason for _, method, reason in result.refused})
    return waiting


def _reproduce(spec: AggregateSpec) -> None:
    """Show the link, command line and Python snippet of exactly this view."""
    more = urlencode(choice.shown(), safe="@:,=/")
    with reproduce.popover(spec.link() + (f"&{more}" if more else "")):
        reproduce.command_line(spec.cli(), "Command line: panel and numbers")
        reproduce.python(spec.snippet())


main()
