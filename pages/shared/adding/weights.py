"""The first step of the dialog: where the model comes from, and its file, uploaded or on the server."""

import streamlit as st

from attrlib.engine.jobs import State
from attrlib.errors import AttrlibError
from attrlib.models.bring import Draft
from attrlib.models.checkpoints import SUFFIXES
from attrlib.models.files.safe import INDEX
from pages.shared import job_status, notices, pickers, roots
from pages.shared.adding import candidate, draft
from pages.shared.widget_values import widget

# The index of a checkpoint in several files is useless without these.
ENDINGS = [suffix.removeprefix(".") for suffix in SUFFIXES if suffix != INDEX]
FILES = {draft.UPLOAD: "Upload a file", draft.PATH: "A file on the server"}
PROMPTS = {draft.PROMPTS: "CLIP and prompts"}


def choose_source() -> str:
    """Show the choice of the source, and return it. Visitors who may not add models to the server have prompts alone."""
    refusal = roots.refusal_to_add()
    sources = PROMPTS if refusal else FILES | PROMPTS
    if draft.get("source") not in sources:
        draft.put("source", draft.PROMPTS)
    pickers.switch("Weights", sources, draft.key("source"), "Files are read as plain data: no code in them is run.")
    if refusal:
        st.caption(refusal)
    return str(draft.get("source"))


def choose_file() -> str | None:
    """Show the choice of the file; return its path, or None after showing what is missing or wrong."""
    if draft.get("source") == draft.UPLOAD:
        limit = roots.upload_limit()
        st.file_uploader(
            f"Checkpoint, up to {limit} MB",
            ENDINGS,
            key=draft.key("file"),
            on_change=_take,
            max_upload_size=limit,
            help="safetensors, pth, pt, ckpt, bin or tar. Give a larger one as a file on the server; its operator sets the limit.",
        )
        notices.warn(st.session_state.get(draft.key("upload_problem"), ()))
    else:
        st.text_input("Path", **widget(draft.key("path")), placeholder="/data/my_model.safetensors", help=_help())
    if draft.get("part") or draft.get("has_parts"):
        hint = "Which of several sets of weights in the file is used, as in model_ema."
        st.text_input("Key in the file", **widget(draft.key("part")), help=hint)
    try:
        return draft.location()
    except AttrlibError as error:
        notices.error(error)
        return None


def _help() -> str:
    return f"{roots.readable_text()} A model card or a list of classes beside the file is read, too."


def _take() -> None:
    state = st.session_state
    file = state[draft.key("file")]
    draft.put("part", "")
    draft.put("has_parts", False)
    state[draft.key("upload_problem")] = []
    try:
        draft.take_upload(file, "" if file is None else file.name)
    except AttrlibError as error:
        state[draft.key("upload_problem")] = [str(error)]


def read(file: str) -> Draft | bool:
    """Return what the file tells of its model; else whether it is still being read, after showing that, or what is wrong with it."""
    job = candidate.draft_job(file)
    if not job.ended:
        job_status.pending("Reading the file")
        return True
    if job.state is not State.DONE:
        notices.error(job.error or "It was cancelled.")
        draft.offer_key(job.error)
        return False
    found: Draft = job.result
    if draft.get("suggested_for") != job.key:
        draft.put("suggested_for", job.key)
        draft.take_suggestions(found, file)
    st.caption(f"{found.parameters / 1e6:.2f} M parameters{f', {len(found.class_names)} class names' if found.class_names else ''}")
    return found
