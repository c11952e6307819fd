"""Which method can I trust on this model? Protocols, methods and models on a data set, with the cost known in advance."""

import streamlit as st

from attrlib.engine.jobs import Job, State
from attrlib.specs import RunSpec
from attrlib.studies.words import listed
from pages.scores import choice, choosers, results, start, takeaway
from pages.shared.jobs import sentence
from pages.shared.run_jobs import Finished, find


def main() -> None:
    """Show the page: the controls on top; cost, progress and results below."""
    choice.start({name: st.query_params.get_all(name) for name in st.query_params})
    st.markdown("#### Which method can I trust on this model?")
    st.caption("Protocols judge attribution methods on a data set: how good each is, how sure that is, and which pictures are behind it.")
    notices = st.container()
    choosers.choose(st.grid(min_column_width=130, gap="small", key="score_controls"))
    wanted, problems = choice.wanted()
    with notices:
        for problem in dict.fromkeys([*st.session_state.s_problems, *problems]):
            st.warning(sentence(problem), icon=":material/error:")
        if st.session_state.s_problems:
            st.button("Dismiss", on_click=_dismiss, type="tertiary", icon=":material/check:")
    busy = bool(wanted.runs()) and start.is_busy(wanted.runs())
    st.fragment(run_every=0.5 if busy else None)(_body)(wanted, busy)


def _dismiss() -> None:
    st.session_state.s_problems = []


def _body(wanted: choice.Wanted, polled: bool) -> None:
    """Show everything that changes by itself: cost, progress, results."""
    specs = {spec.model.text: spec for spec in wanted.runs()}
    jobs: dict[str, Job | None] = {name: find(spec) for name, spec in specs.items()}
    done = {name: job.result for name, job in jobs.items() if job is not None and job.state is State.DONE}
    link = wanted.link() | (choice.shown() if done else {})
    if {name: st.query_params.get_all(name) for name in st.query_params} != {k: v if isinstance(v, list) else [v] for k, v in link.items()}:
        st.query_params.from_dict(link)
    if not specs:
        st.info(_advice(wanted), icon=":material/arrow_upward:")
        start.show_unfinished()
        return
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key="s_bar"):
        start.show_button(specs, jobs)
        takeaway.reproduce(link, list(specs.values()), done)
        takeaway.export(done)
    start.show_cost(specs, jobs)
    waiting = _results(specs, jobs, done)
    if polled != (waiting or start.is_busy(list(specs.values()))):
        st.rerun()


def _results(specs: dict[str, RunSpec], jobs: dict[str, Job | None], done: dict[str, Finished]) -> bool:
    """Show the results; return whether a job is pending."""
    alive = {name: job for name, job in jobs.items() if job is not None and not job.ended}
    if alive:
        for name, job in alive.items():
            results.show_progress(name, job)
        results.show_live({name: job for name, job in jobs.items() if job is not None}, specs)
        return True
    start.show_ended(jobs)
    known = {name: job for name, job in jobs.items() if job is not None and job.news is not None and job.news.scores}
    waiting = False
    if done:
        waiting = results.show(done)
    elif known:
        results.show_live(known, specs)
    start.show_unfinished(list(specs.values()))
    return waiting


def _advice(wanted: choice.Wanted) -> str:
    missing = [
        what
        for what, own in (
            ("a model", wanted.models),
            ("a protocol", wanted.run.protocols),
            ("a method", wanted.run.methods),
            ("data", wanted.run.data),
        )
        if not own
    ]
    return f"Choose {listed(missing)} above to see what a run costs."


main()
