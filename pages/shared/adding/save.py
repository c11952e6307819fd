"""The last step of the dialog: the name under which the model is added."""

import streamlit as st

from attrlib.errors import AttrlibError
from attrlib.models import Classifier
from attrlib.models.added import check_new
from pages.shared import job_status, notices, roots
from pages.shared.adding import candidate, draft
from pages.shared.widget_values import widget


def show(model: Classifier | None, adding: candidate.Adding | None) -> bool:
    """Show name and button, and the state of the adding; return whether it is pending. Without a model, the button cannot be pressed."""
    running = adding is not None and adding.pending
    with st.grid(min_column_width=170, gap="small", vertical_alignment="bottom", key="n_save") as row:
        with row.cell():
            st.text_input("Name", **widget(draft.key("name")), placeholder="my_model", help="Letters, digits, '_', '-' and '.'.")
        with row.cell():
            hint = "Name of the data that the model was trained on, for its card."
            st.text_input("Trained on", **widget(draft.key("trained_on")), placeholder="for its card", help=hint)
    if draft.get("source") == draft.PATH:
        hint = "Otherwise the card names the present place of the file, which must stay there."
        st.checkbox("Copy the file", **widget(draft.key("copy")), help=hint)
    st.checkbox(
        "Fine-tuned on images with deleted patches",
        **widget(draft.key("tuned")),
        help="As IDSDS requires. Do not set it for another model: its scores would not be those of IDSDS.",
    )
    problem = _problem(draft.get("name").strip(), running) if model is not None else ""
    if problem:
        notices.warn([problem])
    st.button(
        "Add", key=draft.key("add"), type="primary", icon=":material/add:", on_click=_add, args=(model,),
        disabled=model is None or bool(problem) or running,
    )  # fmt: skip
    if running:
        job_status.pending("Adding the model")
    elif adding is not None and adding.error:
        notices.error(adding.error)
    return running


def _problem(name: str, running: bool) -> str:
    """Return why the model cannot be added under this name, or an empty text."""
    if not name:
        return "give the model a name"
    try:
        if not running:
            check_new(name)
    except AttrlibError as error:
        return str(error)
    return ""


def _add(model: Classifier) -> None:
    if not roots.refusal_to_add():
        candidate.add(model, draft.get("name").strip())
