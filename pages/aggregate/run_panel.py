"""The run of an aggregate view: its cost, the button that starts and cancels it, its progress and its outcome."""

import streamlit as st

from attrlib.engine.jobs import Job, State
from attrlib.engine.run import Event
from attrlib.specs import RunSpec
from pages.shared import run_jobs
from pages.shared.jobs import plain, sentence
from pages.shared.times import duration, size


def is_busy(spec: RunSpec) -> bool:
    """Return whether the run, or the estimate of its cost, is in progress."""
    job = run_jobs.find(spec)
    if job is not None and (not job.ended or job.state is State.DONE):
        return not job.ended
    stage = run_jobs.prepare(spec)
    return stage.plan is None and (not stage.job.ended or stage.job.state is State.DONE)


def show_button(spec: RunSpec, job: Job | None) -> None:
    """Show the button that starts, resumes or cancels the run, always in the same place."""
    width = 130
    if job is not None and not job.ended:
        st.button("Cancel", on_click=job.cancel, icon=":material/close:", key="a_start", width=width, help="What is computed is kept.")
    elif job is not None and job.state is State.DONE:
        st.button("Run again", on_click=_start, args=(spec,), icon=":material/refresh:", key="a_start", width=width, help="For data that have changed; what is known is not computed again.")  # fmt: skip
    else:
        again = job is not None and job.state is State.CANCELLED
        st.button(
            "Resume" if again else "Start",
            on_click=_start,
            args=(spec,),
            type="primary",
            icon=":material/play_arrow:",
            key="a_start",
            width=width,
        )


def _start(spec: RunSpec) -> None:
    run_jobs.start(spec)


def show_cost(spec: RunSpec) -> None:
    """Show what an unfinished run will cost or why it is impossible; a fully cached run is started, which only reads it."""
    stage = run_jobs.prepare(spec)
    if stage.plan is None:
        if stage.job.state in (State.FAILED, State.CANCELLED):
            st.error(sentence(stage.job.error or "It was cancelled."), icon=":material/error:")
            st.button("Try again", key=f"again-{stage.job.key}", on_click=stage.job.forget, icon=":material/refresh:")
        else:
            st.caption(f":material/hourglass_top: {plain(stage.doing)}")
        return
    plan, estimate = stage.plan.plan, stage.plan.estimate
    if plan.known and not plan.missing and not plan.upper_bound and run_jobs.find(spec) is None:
        run_jobs.start(spec)
        st.caption(":material/hourglass_top: Reading what is known")
        return
    most = "at most " if plan.upper_bound else "about "
    st.info(
        f"**Start** computes {plan.missing} maps with their scores, {plan.known} are known: {most}{duration(estimate.seconds)}, "
        f"{size(estimate.nbytes)} of memory. You may leave the page meanwhile, or close it.",
        icon=":material/grid_view:",
    )
    for note in plan.notes:
        st.caption(f":material/info: {sentence(note)}")


def show_progress(job: Job) -> None:
    """Show the progress and the scores so far."""
    event: Event = job.news or Event("waiting for another run to end" if job.state is State.WAITING else "beginning")
    parts = [f"{event.done} of {event.total}"] if event.total else []
    parts += [f"{event.rate:.2g} a second"] if event.rate else []
    parts += [f"{duration(event.seconds_left)} left"] if event.seconds_left is not None else []
    st.progress(min(1.0, event.done / event.total) if event.total else 0.0, text=" · ".join([*parts, plain(event.doing)]))
    rows = [
        {"method": method, "mean so far": found.mean, "from": found.low, "to": found.high, "items": found.n}
        for (_, method), found in event.scores.items()
        if found.n
    ]
    if rows:
        st.dataframe(rows, hide_index=True, width="content", height="content", column_config={name: st.column_config.NumberColumn(format="%.3f") for name in ("mean so far", "from", "to")})  # fmt: skip


def show_ended(job: Job) -> None:
    """Show why the run failed, or how far it got before it was cancelled."""
    event: Event = job.news or Event("")
    if job.state is State.FAILED:
        st.error(sentence(job.error), icon=":material/error:")
    elif job.state is State.CANCELLED:
        far = f" at {event.done} of {event.total}" if event.total else ""
        st.info(
            f"It was cancelled{far}. What was computed is shown and kept: **Resume** goes on from there.", icon=":material/pause_circle:"
        )


def show_refused(refused: dict[str, str]) -> None:
    """Show what is not defined on the model or the data, with the reason."""
    if refused:
        with st.expander(f"Left out, as not defined here: {len(refused)}", icon=":material/block:"):
            for name, reason in refused.items():
                st.markdown(f"**{plain(name)}**: {plain(reason)}")
