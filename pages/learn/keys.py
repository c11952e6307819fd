"""The keys of a lecture and of its clicker, which act also where a control has the focus: shortcuts of buttons would not."""

from collections.abc import Callable
from pathlib import Path

import streamlit as st

KEYS = st.components.v2.component("learn_keys", js=Path(__file__).with_name("keys.js").read_text())


def listen(present: bool, move: Callable[[int], None], leave: Callable[[], None]) -> None:
    """Calls `move` with the steps that were pressed, and `leave` at the Escape key before an audience."""
    state = st.session_state

    def moved() -> None:
        steps = state.learn_keys.moved - state.learn_moved
        state.learn_moved = state.learn_keys.moved
        move(steps)

    keys = KEYS(key="learn_keys", data={"present": present}, on_moved_change=moved, on_left_change=leave)
    if "learn_moved" not in state:
        # The browser may have counted for a server that was started anew since.
        state.learn_moved = keys.moved or 0
