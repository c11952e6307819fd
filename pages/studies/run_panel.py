"""A study as a job of the device's queue: pages that ask for the same study share the job, and it outlives them."""

import time

import streamlit as st

from attrlib.engine.jobs import Job, Priority, State, queue
from attrlib.errors import AttrlibError, Cancelled
from attrlib.models import Classifier
from attrlib.progress import NewsProgress
from attrlib.specs import ModelSpec, StudySpec, digest
from attrlib.store import open_store
from attrlib.studies import StudyEvent, StudyPlan, StudyResult, create, plan_study, resolve, run_study
from attrlib.studies.runner import is_done
from pages.shared import jobs
from pages.shared.jobs import plain, sentence
from pages.shared.roots import load_data
from pages.shared.times import duration, size

FRESH = 20
"""Seconds for which a look-up in the store is reused."""


def find(spec: StudySpec) -> Job | None:
    """Return the job of this study in this process, if there is one."""
    return jobs.device_queue().find(_key(spec))


def find_or_read(spec: StudySpec) -> Job | None:
    """Return the job; a study whose results are all cached is started, which only reads them."""
    job = find(spec)
    return begin(spec) if job is None and _look(spec).result is True else job


def begin(spec: StudySpec) -> Job:
    """Start the study, or resume it where it was stopped; a study in progress continues unchanged."""
    job = find(spec)
    if job is not None:
        job.forget()

    def do(on_progress: NewsProgress) -> StudyResult:
        def on_event(event: StudyEvent) -> None:
            on_progress(round(1000 * event.share), 1000, event)

        data = load_data(spec.data)
        return run_study(spec, open_store(), on_event, lambda model, tuned: _load(model, tuned, on_progress), data)

    return jobs.device_queue().submit(_key(spec), do, priority=Priority.LONG)


def _load(model: ModelSpec, tuned: bool, on_progress: NewsProgress) -> Classifier:
    job = jobs.model_job(model, tuned and model.checkpoint is not None)
    while not job.wait(0.1):
        on_progress(job.done, job.total)
    if job.error is not None:
        raise job.error
    if job.state is not State.DONE:
        raise Cancelled("cancelled")
    return job.result


def _key(spec: StudySpec) -> str:
    return digest("study", resolve(spec), [jobs.stamp(model.checkpoint) for model in spec.models])


def _look(spec: StudySpec) -> Job:
    """Return the job that looks up whether the study is in the store; it has a separate queue, so that no page waits for a disk."""

    def look(_progress: NewsProgress) -> bool:
        return is_done(spec, open_store())

    key = digest("study done", _key(spec), str(open_store().folder), int(time.time() / FRESH))
    job = queue("store").submit(key, look)
    job.wait(0.3)
    return job


def _prepare(spec: StudySpec) -> Job:
    """Return the job that estimates the cost of the study."""

    def plan(on_progress: NewsProgress) -> StudyPlan:
        data = load_data(spec.data)
        return plan_study(spec, open_store(), lambda model, tuned: _load(model, tuned, on_progress), data)

    return jobs.device_queue().submit(digest("study plan", _key(spec)), plan, jobs.PATIENCE)


def _is_own(spec: StudySpec) -> bool:
    """Return whether the study has its default inputs, for which the budget is known."""
    return spec == StudySpec(spec.study)


def is_busy(spec: StudySpec) -> bool:
    """Return whether the study, or the estimate of its cost, is in progress."""
    job = find_or_read(spec)
    if job is not None:
        return not job.ended
    if not _look(spec).ended:
        return True
    return not _is_own(spec) and (not _prepare(spec).ended or find(spec) is not None)


def _start(spec: StudySpec) -> None:
    begin(spec)


def show_button(spec: StudySpec, job: Job | None) -> None:
    """Show the button that starts, resumes or cancels the study, always in the same place."""
    if job is not None and not job.ended:
        st.button("Cancel", on_click=job.cancel, icon=":material/close:", key="t_start", width=130, help="What is computed is kept.")
    elif job is not None and job.state is State.DONE:
        hint = "For models or data that have changed; what is known is not computed again."
        st.button("Run again", on_click=_start, args=(spec,), icon=":material/refresh:", key="t_start", width=130, help=hint)
    else:
        label = "Resume" if job is not None and job.state is State.CANCELLED else "Run the study"
        st.button(label, on_click=_start, args=(spec,), type="primary", icon=":material/play_arrow:", key="t_start", width=160)


def show_state(spec: StudySpec, job: Job | None) -> None:
    """Show the progress of the study, why it failed, or what it would cost."""
    if job is None:
        _show_cost(spec)
    elif not job.ended:
        event: StudyEvent = job.news or StudyEvent("waits for another run to end" if job.state is State.WAITING else "beginning")
        left = [] if event.seconds_left is None else [f"{duration(event.seconds_left)} left"]
        st.progress(min(1.0, event.share), text=" · ".join([f"{100 * event.share:.0f} %", *left, plain(event.doing)]))
        st.caption("You may leave the page, or close it: the study goes on, and what is computed is kept.")
    elif job.state is State.FAILED:
        st.error(sentence(job.error), icon=":material/error:")
    else:
        event = job.news or StudyEvent("")
        st.info(
            f"It was cancelled at {100 * event.share:.0f} %. What is computed is kept: **Resume** goes on from there.",
            icon=":material/pause_circle:",
        )


def _show_cost(spec: StudySpec) -> None:
    text = "**Run the study** computes it, model by model; what other runs have computed is taken from the store."
    if _is_own(spec):
        minutes, models = create(spec).minutes, len(resolve(spec).models)
        st.info(
            f"{text} On {'the shipped model' if models == 1 else f'the {models} shipped models'} it takes about **{minutes:g} minutes** on one core.",
            icon=":material/science:",
        )
        return
    job = _prepare(spec)
    if not job.ended:
        st.markdown(":material/hourglass_top: Estimating the cost …")
    elif isinstance(job.result, StudyPlan):
        plan = job.result
        if plan.known and not plan.missing and not plan.upper_bound:
            # Other runs have computed everything, so the study only has to read the results.
            begin(spec)
        most = "at most" if plan.upper_bound else "about"
        cost = f"{plan.missing} results are missing, {plan.known} known: {most} **{duration(plan.seconds)}**, {size(plan.nbytes)} of memory"
        st.info(f"{text} {cost}.", icon=":material/science:")
    else:
        st.error(sentence(job.error or AttrlibError("it was cancelled")), icon=":material/error:")
        st.button("Try again", on_click=job.forget, icon=":material/refresh:", key="t_again")
