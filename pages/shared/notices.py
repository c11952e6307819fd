"""Messages of a page: problems with a link or a choice, errors, and notes."""

from collections.abc import Iterable

import streamlit as st

from pages.shared.jobs import plain, sentence

UNFOLDED = 2
"""Greatest number of notes that are shown without a click."""


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


def folded(messages: Iterable[str], on: str = "") -> None:
    """Show notes of the library, each once; many are folded under their number, and what they are on."""
    found = list(dict.fromkeys(messages))
    if len(found) <= UNFOLDED:
        notes(found)
        return
    with st.expander(f"{len(found)} notes{f' on {plain(on)}' if on else ''}", icon=":material/info:"):
        notes(found)


def notes(messages: Iterable[str]) -> None:
    """Show notes of the library, each once."""
    for message in dict.fromkeys(messages):
        st.caption(f":material/info: {sentence(message)}")
