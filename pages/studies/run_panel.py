"""A study as a job of the device's queue: pages that ask for the same study share the job, and it outlives them."""

import time

import streamlit as st

from attrlib.engine.jobs import Job, Priority, State, queue
from attrlib.models import Classifier
from attrlib.progress import NewsProgress
from attrlib.specs import ModelSpec, StudySpec, digest
from attrlib.store import open_store
from attrlib.studies import StudyEvent, StudyPlan, StudyResult, create, plan_study, resolve, run_study
from attrlib.studies.runner import is_done
from pages.shared import job_panel, job_status, jobs
from pages.shared.roots import load_data
from pages.shared.times import duration, size

FRESH = 20
"""Seconds for which a look-up in the store is reused."""


def find(spec: StudySpec) -> Job | None:
    """Return the job of this study in this process, if there is one."""
    return jobs.device_queue().find(_key(spec))


def find_or_read(spec: StudySpec) -> Job | None:
    """Return the job; a study whose results are all cached is started, which only reads them."""
    if find(spec) is None and _look(spec).result is True:
        begin(spec)
    return find(spec)


def begin(spec: StudySpec) -> None:
    """Start the study, or resume it where it was stopped; a study in progress continues unchanged."""

    def do(on_progress: NewsProgress) -> StudyResult:
        def on_event(event: StudyEvent) -> None:
            on_progress(round(1000 * event.share), 1000, event)

        data = load_data(spec.data)
        return run_study(spec, open_store(), on_event, lambda model, tuned: _load(model, tuned, on_progress), data)

    jobs.restart(jobs.device_queue(), _key(spec), do, Priority.LONG)


def _load(model: ModelSpec, tuned: bool, on_progress: NewsProgress) -> Classifier:
    return jobs.result_of(jobs.model_job(model, tuned and model.checkpoint is not None), on_progress)


def _key(spec: StudySpec) -> str:
    return digest("study", resolve(spec), [jobs.stamp(model) for model in spec.models])


def _look(spec: StudySpec) -> Job:
    """Return the job that looks up whether the study is in the store; it has a separate queue, so that no page waits for a disk."""

    def look(_progress: NewsProgress) -> bool:
        return is_done(spec, open_store())

    key = digest("study done", _key(spec), str(open_store().folder), int(time.time() / FRESH))
    job = queue("store").submit(key, look)
    job.wait(0.3)
    return job


def _may_be_done(spec: StudySpec) -> bool:
    """Return whether the study is in the store, or is still being looked up."""
    looking = _look(spec)
    return not looking.ended or looking.result is True


def _prepare(spec: StudySpec) -> Job:
    """Return the job that estimates the cost of the study."""

    def plan(on_progress: NewsProgress) -> StudyPlan:
        data = load_data(spec.data)
        return plan_study(spec, open_store(), lambda model, tuned: _load(model, tuned, on_progress), data)

    return jobs.device_queue().submit(digest("study plan", _key(spec)), plan, jobs.PATIENCE)


def _is_own(spec: StudySpec) -> bool:
    """Return whether the study has its default inputs, for which the budget is known."""
    return spec == StudySpec(spec.study)


def show_button(spec: StudySpec, job: Job | None) -> None:
    """Show the button that starts, resumes, cancels or repeats the study."""
    job_panel.show_button("t", [job], lambda: begin(spec), job_panel.Labels(start="Run the study"))


def show_state(spec: StudySpec, job: Job | None) -> bool:
    """Show the progress of the study, why it failed, or what it would cost; return whether anything is pending."""
    if job is None:
        return _show_cost(spec)
    event: StudyEvent = job.news or StudyEvent("waiting for another run to end" if job.state is State.WAITING else "starting")
    if not job.ended:
        job_panel.show_progress(event.share, event.doing, f"{100 * event.share:.0f} %", seconds_left=event.seconds_left)
        st.caption("You can leave or close this page: the study continues, and its results are kept.")
        return True
    job_panel.show_ended(job, f"{100 * event.share:.0f} % computed")
    # It may have ended just now: the next rerun shows its result.
    return job.state is State.DONE


def _show_cost(spec: StudySpec) -> bool:
    """Show what the study will cost; return whether that is still being estimated."""
    text = "Press **Run the study** to compute it model by model. Cached results of other runs are reused."
    if _is_own(spec):
        minutes, models = create(spec).minutes, len(resolve(spec).models)
        st.info(
            f"{text} On {'the shipped model' if models == 1 else f'the {models} shipped models'} it takes about **{minutes:g} minutes** on one core.",
            icon=":material/science:",
        )
        return _may_be_done(spec)
    job = _prepare(spec)
    if not job.ended:
        job_status.pending("Estimating the cost …")
        return True
    job_status.show_failure(job)
    if not isinstance(job.result, StudyPlan):
        return False
    plan = job.result
    if plan.cached and not plan.missing and not plan.upper_bound:
        # Other runs have computed everything, so the study only has to read the results.
        begin(spec)
        return True
    most = "at most" if plan.upper_bound else "about"
    cost = (
        f"{plan.missing} results are missing, {plan.cached} are cached: {most} **{duration(plan.seconds)}**, {size(plan.nbytes)} of memory"
    )
    st.info(f"{text} {cost}.", icon=":material/science:")
    return _may_be_done(spec)
