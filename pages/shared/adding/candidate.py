"""The jobs of the dialog: reading the file, loading the model, and adding it."""

import uuid
from dataclasses import dataclass, replace

import streamlit as st

from attrlib.engine.jobs import Job, State, queue
from attrlib.models import Classifier, add_model, load_model
from attrlib.models.bring import read_draft
from attrlib.progress import NewsProgress
from attrlib.specs import ModelSpec, digest
from pages.shared import jobs, roots
from pages.shared.adding import draft


def draft_job(file: str) -> Job:
    """Return the job that reads what the file tells of its model."""
    return queue("models").submit(_key("draft", ModelSpec("", file)), lambda _progress: read_draft(file))


def model_job(spec: ModelSpec) -> Job:
    """Return the job that loads the model; that of the choice before is forgotten, so that only one model of a session is in memory."""
    # Of this session alone: another one that describes the same file may not lose its model.
    uploaded, key = draft.get("source") == draft.UPLOAD, digest(_key("candidate", spec), draft.session())

    def load(_progress: NewsProgress) -> Classifier:
        # An upload lies in a temporary folder, which only its session knows.
        roots.check_model(replace(spec, checkpoint=None) if uploaded else spec)
        model = load_model(spec.architecture, **spec.options())
        jobs.prepare(model)
        return model

    forget(keep=key)
    draft.put("candidate", key)
    return queue("models").submit(key, load)


def forget(keep: str | None = None) -> None:
    """Forget the model that the session has loaded, unless it is the one to keep."""
    before = st.session_state.get(draft.key("candidate"))
    if before and before != keep and (job := queue("models").find(before)) is not None:
        job.cancel()
        job.forget()


def _key(purpose: str, spec: ModelSpec) -> str:
    return digest(purpose, spec, jobs.stamp(spec))


def add(model: Classifier, name: str) -> None:
    """Start the job that adds the model under a name."""
    trained_on, copy = draft.get("trained_on").strip(), draft.get("source") == draft.UPLOAD or draft.get("copy")
    key = uuid.uuid4().hex
    draft.put("adding", (key, name))
    queue("models").submit(key, lambda _progress: add_model(model, name, data=trained_on, copy=copy))


@dataclass(frozen=True)
class Adding:
    """The adding of the model under a name, as it was when it was looked at.

    Attributes:
        name: Name that the model gets.
        pending: Whether it is not ended.
        error: Why it failed, empty if it did not.
    """

    name: str
    pending: bool
    error: str = ""


def adding() -> Adding | None:
    """Return the adding of the model, None if it was not begun."""
    if draft.get("adding") is None:
        return None
    key, name = draft.get("adding")
    job = queue("models").find(key)
    if job is None:
        return None
    # The state is read once: what ends while the dialog is drawn is shown by one more rerun.
    pending = not job.ended
    failed = not pending and job.state is not State.DONE
    return Adding(name, pending, str(job.error or "It was cancelled.") if failed else "")
