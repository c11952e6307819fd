"""Before and after a run: its cost, the button that starts it, and runs that were stopped or failed."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal

import streamlit as st

from attrlib.engine.jobs import Job, State
from attrlib.engine.run import Event
from attrlib.specs import RunSpec
from pages.scores import choice, results
from pages.shared import run_jobs
from pages.shared.jobs import plain, sentence
from pages.shared.times import duration, size

SHOWN = 5
"""Largest number of unfinished runs that are listed."""
HOW = "Start computes the scores. The leaderboard grows while it runs, and you may leave the page or close it."
Jobs = Mapping[str, Job | None]


def is_busy(specs: Sequence[RunSpec]) -> bool:
    """Return whether any of these runs, or an estimate of their cost, is in progress."""
    found = [run_jobs.find(spec) for spec in specs]
    if any(job is not None and not job.ended for job in found):
        return True
    return any(not _settled(run_jobs.prepare(spec)) for spec, job in zip(specs, found, strict=True) if _is_open(job))


def _is_open(job: Job | None) -> bool:
    """Return whether the run is yet to be started or resumed."""
    return job is None or (job.ended and job.state is not State.DONE)


def _settled(stage: run_jobs.Stage) -> bool:
    return stage.plan is not None or (stage.job.ended and stage.job.state is not State.DONE)


def show_button(specs: Mapping[str, RunSpec], jobs: Jobs) -> None:
    """Show the button that starts unfinished runs or cancels running ones, always in the same place."""
    alive = [job for job in jobs.values() if job is not None and not job.ended]
    left = [spec for name, spec in specs.items() if _is_open(jobs[name])]
    able = [spec for spec in left if not _failed(run_jobs.prepare(spec))]
    stopped = any(job is not None and job.state is State.CANCELLED for job in jobs.values())
    if alive:
        _button("Cancel", "close", lambda: _cancel(alive))
    elif left:
        _button("Resume" if stopped else "Start", "play_arrow", lambda: _start(able), main=True, disabled=not able)
    else:
        again = list(specs.values())
        _button("Run again", "refresh", lambda: _start(again), "For data that have changed; what is known is not computed again.")


def _button(label: str, icon: str, act: Callable[[], None], hint: str | None = None, main: bool = False, disabled: bool = False) -> None:
    kind: Literal["primary", "secondary"] = "primary" if main else "secondary"
    st.button(label, on_click=act, type=kind, icon=f":material/{icon}:", key=f"s_{label}", width=130, help=hint, disabled=disabled)


def show_cost(specs: Mapping[str, RunSpec], jobs: Jobs) -> None:
    """Show what the unfinished runs will cost, or why they are impossible."""
    left = {name: spec for name, spec in specs.items() if _is_open(jobs[name])}
    if not left or any(job is not None and not job.ended for job in jobs.values()):
        return
    stages = [run_jobs.prepare(spec) for spec in left.values()]
    plans = [stage.plan for stage in stages if stage.plan is not None]
    if (
        len(plans) == len(left)
        and not any(jobs.values())
        and all(p.plan.missing == 0 and not p.plan.upper_bound and p.plan.known for p in plans)
    ):
        # Everything is cached: the runs only have to read their results.
        _start(list(left.values()))
    waiting = [stage.doing for stage in stages if not _settled(stage)]
    if waiting:
        st.markdown(f":material/hourglass_top: {plain(waiting[0])} …")
    elif plans:
        st.markdown(cost(plans))
    # Several models may wait for the same data, so failures are listed once per job.
    failed = {stage.job.key: stage.job for stage in stages if _failed(stage)}
    for key, job in failed.items():
        st.error(sentence(job.error or "It was cancelled."), icon=":material/error:")
        st.button("Try again", key=f"again-{key}", on_click=job.forget, icon=":material/refresh:")
    for note in dict.fromkeys(note for own in plans for note in own.plan.notes):
        st.caption(f":material/info: {sentence(note)}")
    results.show_refused([refused for own in plans for refused in own.plan.refused])
    if not failed and not any(jobs.values()):
        st.info(HOW, icon=":material/leaderboard:")


def _failed(stage: run_jobs.Stage) -> bool:
    return stage.job.state in (State.FAILED, State.CANCELLED)


def cost(plans: Sequence[run_jobs.Planned]) -> str:
    """Return time, memory and the cached share of all runs together, as text."""
    known, missing = sum(own.plan.known for own in plans), sum(own.plan.missing for own in plans)
    most = "at most " if any(own.plan.upper_bound for own in plans) else ""
    share = f"{100 * known / (known + missing):.0f} % known" if known + missing else "nothing to compute"
    seconds, nbytes = sum(own.estimate.seconds for own in plans), max(own.estimate.nbytes for own in plans)
    return f"**about {duration(seconds)}** · {size(nbytes)} of memory · {most}{known + missing} results, {share}"


def _start(specs: Sequence[RunSpec]) -> None:
    for spec in specs:
        run_jobs.start(spec)


def _cancel(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.cancel()


def show_ended(jobs: Jobs) -> None:
    """Show the outcome of unfinished runs: how far a cancelled one got, why one failed."""
    for name, job in jobs.items():
        if job is None or not job.ended or job.state is State.DONE:
            continue
        event: Event = job.news or Event("")
        if job.state is State.FAILED:
            st.error(f"**{plain(name)}**: {sentence(job.error)}", icon=":material/error:")
        else:
            far = f"after {event.done} of {event.total} {event.of}" if event.total else "before its first result"
            text = f"**{plain(name)}** was cancelled {far}. What is computed is kept: Resume goes on from there."
            st.info(text, icon=":material/pause_circle:")


def show_unfinished(here: Sequence[RunSpec] = ()) -> None:
    """Show the runs that were stopped by a user or with the server, except those in `here`, each with a button to resume it."""
    found = [own for own in run_jobs.unfinished() if own.spec not in here or run_jobs.find(own.spec) is None]
    if not found:
        return
    with st.expander(f"Unfinished runs: {len(found)}", icon=":material/pause_circle:"):
        for number, own in enumerate(found[:SHOWN]):
            spec = own.spec
            with st.container(horizontal=True, gap="small", vertical_alignment="center", key=f"s_unfinished_{number}"):
                names = ", ".join(map(str, spec.protocols))
                st.markdown(
                    f"{plain(names)} · {len(spec.methods)} methods · {plain(spec.model.text)} · {plain(spec.data)} · {_when(own.updated)}",
                    width="content",
                )
                st.button("Resume", key=f"s_resume_{number}", on_click=_resume, args=(spec,), icon=":material/play_arrow:", help=spec.cli())
        if len(found) > SHOWN:
            st.caption(f"And {len(found) - SHOWN} older ones.")


def _when(updated: str) -> str:
    try:
        return f"{datetime.fromisoformat(updated).astimezone():%d %b %H:%M}"
    except ValueError:
        return "some time ago"


def _resume(spec: RunSpec) -> None:
    choice.fill_from(spec)
    run_jobs.start(spec)
