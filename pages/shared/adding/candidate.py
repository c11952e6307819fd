"""The jobs of the dialog: reading the file, loading the model, and adding it."""

import uuid
from dataclasses import replace

import streamlit as st

from attrlib.engine.jobs import Job, queue
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
    uploaded, key = draft.get("source") == draft.UPLOAD, _key("candidate", spec)

    def load(_progress: NewsProgress) -> Classifier:
        # An upload lies in a temporary folder, which only its session knows.
        roots.check_model(replace(spec, checkpoint=None) if uploaded else spec)
        model = load_model(spec.architecture, **spec.options())
        _ = model.layers
        jobs.digest_of(model)
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


def adding() -> tuple[Job, str] | None:
    """Return the job that adds the model, and the name that it gets; None if there is none."""
    if draft.get("adding") is None:
        return None
    key, name = draft.get("adding")
    job = queue("models").find(key)
    return None if job is None else (job, name)
