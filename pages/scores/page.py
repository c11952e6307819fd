"""Which method can I trust on this model? Protocols, methods and models on a data set, with the cost known in advance."""

from urllib.parse import urlencode

import streamlit as st

from attrlib.engine.jobs import State
from attrlib.studies.words import listed
from pages.scores import choice, choosers, results, retraining, takeaway, unfinished
from pages.shared import links, notices, run_panel
from pages.shared.polling import poll
from pages.shared.run_jobs import find


def main() -> None:
    """Show the page: the controls on top; cost, progress and results below."""
    choice.start({name: st.query_params.get_all(name) for name in st.query_params})
    st.markdown("#### Which method can I trust on this model?")
    st.caption(
        "Score attribution methods on a data set under published protocols: means with 95 % CIs, ranks, and the images that make up each score."
    )
    place = st.container()
    choosers.choose(st.grid(min_column_width=130, gap="small", key="score_controls"))
    wanted, problems = choice.wanted()
    with place:
        notices.problems("s_problems", problems)
    poll("s_waits", lambda: _body(wanted))
    retraining.show(wanted)


def _body(wanted: choice.Wanted) -> bool:
    """Show everything that changes by itself: cost, progress, results; return whether anything is pending."""
    specs = {spec.model.text: spec for spec in wanted.runs()}
    jobs = {name: job for name, spec in specs.items() if (job := find(spec)) is not None}
    alive = any(not job.ended for job in jobs.values())
    done = {name: job.result for name, job in jobs.items() if job.state is State.DONE}
    link = wanted.link() | (choice.shown() if done else {})
    links.write(urlencode(link, doseq=True))
    if not specs:
        st.info(_advice(wanted), icon=":material/arrow_upward:")
        unfinished.show()
        return False
    with st.container(horizontal=True, gap="small", vertical_alignment="center", key="s_bar"):
        run_panel.show_button("s", list(specs.values()))
        takeaway.reproduce(link, list(specs.values()), done)
        takeaway.export(done)
    waiting = run_panel.show_state(specs)
    if alive:
        results.show_live(jobs, specs)
        return True
    pictures_wait = False
    if done:
        pictures_wait = results.show(done)
    elif partial := {name: job for name, job in jobs.items() if job.news is not None and job.news.scores}:
        results.show_live(partial, specs)
    unfinished.show(list(specs.values()))
    return waiting or pictures_wait


def _advice(wanted: choice.Wanted) -> str:
    missing = [
        what
        for what, value in (
            ("a model", wanted.models),
            ("a protocol", wanted.run.protocols),
            ("a method", wanted.run.methods),
            ("data", wanted.run.data),
        )
        if not value
    ]
    return f"Choose {listed(missing)} above to see the cost of a run."


main()
