"""How does a method behave on a whole data set? AggAtt, scores by layer, and a custom grid."""

from urllib.parse import urlencode

import streamlit as st

from attrlib.engine.jobs import State
from attrlib.engine.run import Event
from attrlib.errors import AttrlibError
from attrlib.protocols.localisation import GRID_PAPER
from attrlib.specs import AggregateSpec, AggregateView, RunSpec
from attrlib.studies.words import listed
from pages.aggregate import bin_rows, choice, controls, custom_grid, row_jobs
from pages.shared import job_status, links, notices, pickers, reproduce, run_jobs, run_panel
from pages.shared.jobs import plain
from pages.shared.polling import poll

CUSTOM = "custom grid"
MODES = ("data set", CUSTOM)


def main() -> None:
    """Show the page: the controls on top; cost, progress and results below."""
    state = st.session_state
    choice.start(st.query_params.to_dict())
    st.markdown("#### How does a method behave on a whole data set?")
    st.caption(
        "AggAtt sorts the maps of all images by score and averages them in bins, which summarises the whole data set from best to worst: "
        f"[{plain(GRID_PAPER.authors)}]({GRID_PAPER.url})."
    )
    place = st.container()
    controls.choose(st.grid(min_column_width=150, gap="small", key="a_controls"))
    methods, problems = choice.chosen()
    run: RunSpec | None = None
    try:
        run = choice.run_spec(methods)
        choice.cells()
    except AttrlibError as error:
        problems.append(str(error))
    with place:
        notices.problems("a_problems", problems)
    if run is None or not run.methods or not run.data:
        missing = [what for what, has in (("data", run and run.data), ("a method", run and run.methods)) if not has]
        st.info(f"Choose {listed(missing) if run else 'another model or setting'} above to continue.", icon=":material/arrow_upward:")
        return
    state.setdefault("a_mode", MODES[0])
    poll("a_waiting", lambda: _body(run))


def _body(run: RunSpec) -> bool:
    """Show everything that changes by itself, and the view controls; return whether anything is pending."""
    custom = st.session_state.a_mode == CUSTOM
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom", key="a_bar"):
        pickers.switch("Show", MODES, "a_mode", "Many items of the data set, or one grid of photos of your choice.")
        if not custom:
            run_panel.show_button("a", [run])
        controls.choose_view(() if custom else choice.cells())
        view = choice.view()
        spec = AggregateSpec(run, view)
        more = urlencode(choice.shown(), safe="@:,=/")
        link = spec.link() + (f"&{more}" if more else "")
        with reproduce.popover(link):
            reproduce.command_line(spec.cli(), "Command line: panel and numbers")
            reproduce.python(spec.snippet())
    links.write(link)
    return custom_grid.show(run, view) if custom else _results(run, view)


def _results(run: RunSpec, view: AggregateView) -> bool:
    """Show the results; return whether a job is pending."""
    waiting = run_panel.show_state({run.model.text: run})
    job = run_jobs.find(run)
    if job is None or job.state is State.FAILED:
        return waiting
    if not job.ended:
        _scores_so_far(job.news)
        return True
    looking = row_jobs.found_job(run, job)
    if not looking.ended:
        job_status.pending("Reading the cached results")
        return True
    if looking.state is not State.DONE:
        job_status.show_failure(looking)
        return waiting
    refused = {method for _, method, _ in looking.result.aggregation.refused}
    waiting |= bin_rows.show(looking.result, tuple(m for m in run.methods if m not in refused), run.protocols[0], view)
    if isinstance(job.result, run_jobs.Finished):
        run_panel.show_remarks([job.result.result])
    return waiting


def _scores_so_far(event: Event | None) -> None:
    scores = event.scores if event else {}
    rows = [
        {"method": method, "mean so far": score.mean, "from": score.low, "to": score.high, "items": score.n}
        for (_, method), score in scores.items()
        if score.n
    ]
    if rows:
        columns = {name: st.column_config.NumberColumn(format="%.3f") for name in ("mean so far", "from", "to")}
        st.dataframe(rows, hide_index=True, width="content", height="content", column_config=columns)


main()
