"""The button and the dialog "Add a model": from a checkpoint file to a named model of this server, on every page that chooses a model."""

import streamlit as st

from attrlib.models import Classifier
from pages.shared import roots
from pages.shared.adding import candidate, check, describe, draft, save, weights
from pages.shared.polling import poll

_OPEN = "n_into"
"""Session key of the chooser for which the dialog is open, with the greatest number of models that it takes; None if it is closed."""


def show_button(chooser: str, most: int | None) -> None:
    """Show the button below a chooser of models, and the dialog while it is open.

    Args:
        chooser: Session key of what is chosen.
        most: Greatest number of models in a list of them; None if the session keeps one model.
    """
    refusal = roots.refusal_to_add()
    st.button(
        "Add a model",
        key=f"{chooser}_add",
        on_click=_open,
        args=(chooser, most),
        icon=":material/add_box:",
        width="stretch",
        disabled=bool(refusal),
        help=refusal or "From a checkpoint: drop the file, see what the model makes of a photo, and give it a name.",
    )
    if st.session_state.get(_OPEN) == (chooser, most) and not refusal:
        _dialog()


def _open(chooser: str, most: int | None) -> None:
    st.session_state[_OPEN] = chooser, most


def _close() -> None:
    """Close the dialog; what was typed stays in the session, but no file, unless it is being added."""
    st.session_state[_OPEN] = None
    adding = candidate.adding()
    if adding is None or not adding.pending:
        candidate.forget()
        draft.discard_upload()


@st.dialog("Add a model", width="large", icon=":material/add_box:", on_dismiss=_close)
def _dialog() -> None:
    draft.start()
    poll("n_waits", _body)


def _body() -> bool:
    """Show all steps; return whether a job is pending."""
    adding = candidate.adding()
    if adding is not None and not adding.pending and not adding.error:
        _finish(adding.name)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        file = weights.choose()
        if file is None:
            st.caption("The other steps follow when there is a file.")
            return False
        found = weights.read(file)
        if isinstance(found, bool):
            return found
        steps = describe.Steps.show(found)
    model = steps.load(file)
    waits = model is True
    if isinstance(model, Classifier):
        with right:
            waits |= check.show_photo(model)
            waits |= check.show_data(model)
    with left:
        return save.show(model if isinstance(model, Classifier) else None, adding) | waits


def _finish(name: str) -> None:
    """Choose the model that was added on the page, and close the dialog."""
    state = st.session_state
    chooser, most = state[_OPEN]
    if most is None:
        state[chooser] = name
    elif len(state[chooser]) < most:
        state[chooser] = [*state[chooser], name]
    _close()
    draft.clear()
    st.toast(f"{name} is added", icon=":material/check:")
    st.rerun()
