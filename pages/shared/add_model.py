"""The button and the dialog "Add a model", on every page that chooses a model.

A checkpoint file becomes a named model of this server, and CLIP a classifier by prompts, which its name contains.
"""

import streamlit as st

from attrlib.models import Classifier
from pages.shared import roots
from pages.shared.adding import candidate, check, describe, draft, prompts, save, weights
from pages.shared.jobs import plain
from pages.shared.polling import DIALOG, poll

_OPEN = DIALOG
"""Session key of the chooser for which the dialog is open, with the greatest number of models that it takes; None if it is closed."""
_FROM_FILE = "A checkpoint: drop the file, see what the model makes of a photo, and give it a name. "


def show_button(chooser: str, most: int | None) -> None:
    """Show the button below a chooser of models, and the dialog while it is open.

    Args:
        chooser: Session key of what is chosen.
        most: Greatest number of models in a list of them; None if the session keeps one model.
    """
    st.button(
        "Add a model",
        key=f"{chooser}_add",
        on_click=_open,
        args=(chooser, most),
        icon=":material/add_box:",
        width="stretch",
        help=f"{'' if roots.refusal_to_add() else _FROM_FILE}CLIP or SigLIP: type the classes.",
    )
    if st.session_state.get(_OPEN) == (chooser, most):
        _dialog()


def _open(chooser: str, most: int | None) -> None:
    state = st.session_state
    state[_OPEN] = chooser, most
    draft.start()
    chosen = state[chooser] if most is None else next(reversed(state[chooser]), None)
    prompts.fill(chosen or "")


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
    poll("n_waits", _body, in_dialog=True)


def _body() -> bool:
    """Show all steps; return whether a job is pending."""
    # Before the widgets, whose values are cleared.
    adding = candidate.adding()
    if adding is not None and not adding.pending and not adding.error:
        _finish(adding.name, "added")
    if draft.get("chosen"):
        _finish(draft.get("chosen"), "chosen")
    left, right = st.columns([3, 2], gap="medium")
    with left:
        source = weights.choose_source()
    return _from_prompts(left, right) if source == draft.PROMPTS else _from_file(left, right, adding)


def _from_prompts(left: describe.Place, right: describe.Place) -> bool:
    """Show the steps for CLIP and its prompts; return whether a job is pending."""
    with left:
        spec = prompts.describe()
        if spec is None:
            return False
        model = prompts.load(spec)
        full = _is_full()
        st.button(
            "Use", key=draft.key("use_prompts"), type="primary", icon=":material/check:", on_click=draft.put, args=("chosen", spec.text),
            disabled=isinstance(model, bool) or full,
        )  # fmt: skip
        if full:
            st.caption("The page has as many models as it takes; remove one there first.")
    if isinstance(model, bool):
        return model
    with right:
        return check.show_photo(model)


def _from_file(left: describe.Place, right: describe.Place, adding: candidate.Adding | None) -> bool:
    """Show the steps from the file on; return whether a job is pending."""
    with left:
        file = weights.choose_file()
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


def _is_full() -> bool:
    """Return whether the chooser takes no further model."""
    chooser, most = st.session_state[_OPEN]
    return most is not None and len(st.session_state[chooser]) >= most


def _finish(name: str, done: str) -> None:
    """Choose the model on the page, say what was done, and close the dialog."""
    state = st.session_state
    chooser, most = state[_OPEN]
    if most is None:
        state[chooser] = name
    elif name not in state[chooser] and not _is_full():
        state[chooser] = [*state[chooser], name]
    _close()
    draft.clear()
    st.toast(f"{plain(name)} is {done}", icon=":material/check:")
    st.rerun()
