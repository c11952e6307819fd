"""The panel of runs: their cost, progress and outcome. Several runs differ in their model."""

from collections.abc import Iterable, Mapping, Sequence

import streamlit as st

from attrlib.engine.evaluations import by_reason
from attrlib.engine.jobs import Job, State
from attrlib.engine.plan import Plan
from attrlib.engine.results import RunResult
from attrlib.engine.run import Event
from attrlib.specs import RunSpec
from pages.shared import job_panel, job_status, notices, run_jobs
from pages.shared.jobs import plain
from pages.shared.times import duration, size

NAMED = 6
"""Largest number of methods that are named when all are left out for the same reason."""
HOW = "Press **Start** to compute the maps and their scores. Scores appear during the run. You can leave or close this page meanwhile."


def show_button(page: str, specs: Sequence[RunSpec]) -> None:
    """Show the button that starts, resumes, cancels or repeats the runs; `page` is the first letter of the page's session keys."""
    unfinished = [spec for spec in specs if _is_open(run_jobs.find(spec))]
    startable = [spec for spec in unfinished if not _has_failed(run_jobs.prepare(spec))]
    job_panel.show_button(
        page, [run_jobs.find(spec) for spec in specs], lambda: _start(startable or specs), disabled=bool(unfinished) and not startable
    )


def _start(specs: Iterable[RunSpec]) -> None:
    for spec in specs:
        run_jobs.start(spec)


def _is_open(job: Job | None) -> bool:
    """Return whether the run was not started, or stopped before its end."""
    return job is None or (job.ended and job.state is not State.DONE)


def _has_failed(stage: run_jobs.Stage) -> bool:
    return stage.job.state in (State.FAILED, State.CANCELLED)


def show_state(specs: Mapping[str, RunSpec]) -> bool:
    """Show the progress of the runs, or how they ended and the cost of the remaining ones; return whether anything is in progress."""
    jobs = {name: run_jobs.find(spec) for name, spec in specs.items()}
    active = {name: job for name, job in jobs.items() if job is not None and not job.ended}
    for name, job in active.items():
        _show_progress(job, name if len(specs) > 1 else "")
    if active:
        return True
    stopped = {name: job for name, job in jobs.items() if job is not None and job.state is not State.DONE}
    for name, job in stopped.items():
        event: Event = job.news or Event("")
        progress = f"{event.done} of {event.total} {event.of} computed" if event.total else "nothing computed yet"
        job_panel.show_ended(job, progress, name if len(specs) > 1 else "")
    unfinished = [spec for name, spec in specs.items() if _is_open(jobs[name])]
    return bool(unfinished) and _show_cost(unfinished, fresh=not any(jobs.values()))


def _show_progress(job: Job, name: str) -> None:
    waiting = job.state is State.WAITING
    event: Event = job.news or Event("waiting for another run to end" if waiting else "starting")
    facts = [f"**{plain(name)}**"] if name else []
    facts += [f"{event.done} of {event.total} {event.of}"] if event.total else []
    facts += [f"{event.rate:.2g} per second"] if event.rate else []
    facts += [f"{event.workers} workers"] if event.workers > 1 else []
    job_panel.show_progress(event.done / event.total if event.total else 0.0, event.doing, *facts, seconds_left=event.seconds_left)


def _show_cost(specs: Sequence[RunSpec], fresh: bool) -> bool:
    """Show the cost of the runs, or why they cannot start; return whether the cost is still being estimated.

    With `fresh`, no run was started yet. Runs whose results are all cached are then started, which only reads the results.
    """
    stages = [run_jobs.prepare(spec) for spec in specs]
    planned = [stage.plan for stage in stages]
    plans = [plan for plan in planned if plan is not None]
    if fresh and len(plans) == len(stages) and all(_is_cached(each.plan) for each in plans):
        _start(specs)
        job_status.pending("Reading the cached results")
        return True
    waiting = [stage.doing for stage, plan in zip(stages, planned, strict=True) if plan is None and not _has_failed(stage)]
    if waiting:
        job_status.pending(f"{waiting[0]} …")
    elif plans:
        st.markdown(cost(plans))
    # Several models may wait for the same data, so failures are listed once per job.
    failed = {stage.job.key: stage.job for stage in stages if _has_failed(stage)}
    for job in failed.values():
        job_status.show_failure(job)
    show_remarks([each.plan for each in plans])
    if fresh and not failed:
        st.info(HOW, icon=":material/leaderboard:")
    return bool(waiting)


def _is_cached(plan: Plan) -> bool:
    return plan.cached > 0 and not plan.missing and not plan.upper_bound


def cost(plans: Sequence[run_jobs.Planned]) -> str:
    """Return time, memory and the cached share of all runs together, as text."""
    cached, missing = sum(each.plan.cached for each in plans), sum(each.plan.missing for each in plans)
    most = "at most " if any(each.plan.upper_bound for each in plans) else ""
    share = f"{100 * cached / (cached + missing):.0f} % cached" if cached + missing else "nothing to compute"
    seconds, nbytes = sum(each.estimate.seconds for each in plans), max(each.estimate.nbytes for each in plans)
    return f"**About {duration(seconds)}** · {size(nbytes)} of memory · {most}{cached + missing} results, {share}"


def show_remarks(results: Sequence[Plan | RunResult]) -> None:
    """Show the notes of plans or results, and which evaluations are not defined on the model or the data, with the reason."""
    notices.folded(note for result in results for note in result.notes)
    refused = [refusal for result in results for refusal in result.refused]
    if refused:
        with st.expander(f"Left out because not defined here: {len(refused)}", icon=":material/block:"):
            for (protocol, why), methods in by_reason(refused).items():
                names = ", ".join(methods) if len(methods) <= NAMED else f"{len(methods)} methods"
                st.markdown(f"**{plain(protocol)}** with {plain(names)}: {plain(why)}")
