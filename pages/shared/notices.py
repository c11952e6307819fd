"""Messages of a page: problems with a link or a choice, errors, and notes."""

from collections.abc import Iterable

import streamlit as st

from attrlib.models import Classifier
from pages.shared.jobs import plain, sentence

UNFOLDED = 2
"""Greatest number of notes on models that are shown without a click."""


def problems(key: str, current: Iterable[str] = ()) -> None:
    """Show the problems that the session keeps under `key`, which can be dismissed, and those of the current choice."""
    stored = st.session_state[key]
    warn([*stored, *current])
    if stored:
        st.button("Dismiss", on_click=dismiss, args=(key,), type="tertiary", icon=":material/check:")


def dismiss(key: str) -> None:
    """Clear the problems that the session keeps under `key`."""
    st.session_state[key] = []


def warn(messages: Iterable[str]) -> None:
    """Show warnings of the library, each once."""
    for message in dict.fromkeys(messages):
        st.warning(sentence(message), icon=":material/error:")


def error(message: object) -> None:
    """Show an error of the library."""
    st.error(sentence(message), icon=":material/error:")


def of_models(models: Iterable[Classifier]) -> None:
    """Show what was assumed or left out when models were loaded, folded if it is much."""
    models = list(models)
    found = list(dict.fromkeys(note if len(models) == 1 else f"{model.name}: {note}" for model in models for note in model.notes))
    if len(found) <= UNFOLDED:
        notes(found)
        return
    name = f" on {plain(models[0].name)}" if len(models) == 1 else ""
    with st.expander(f"{len(found)} notes{name}", icon=":material/info:"):
        notes(found)


def notes(messages: Iterable[str]) -> None:
    """Show notes of the library, each once."""
    for message in dict.fromkeys(messages):
        st.caption(f":material/info: {sentence(message)}")
