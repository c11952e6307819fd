"""Keyboard and clicker navigation. Unlike button shortcuts, it also works while a control has the focus."""

from collections.abc import Callable
from pathlib import Path

import streamlit as st

KEYS = st.components.v2.component("learn_keys", js=Path(__file__).with_name("keys.js").read_text())


def listen(present: bool, move: Callable[[int], None], leave: Callable[[], None]) -> None:
    """Call `move` with the number of steps pressed, and `leave` when Escape is pressed in presenter view."""
    state = st.session_state

    def moved() -> None:
        steps = state.learn_keys.moved - state.learn_moved
        state.learn_moved = state.learn_keys.moved
        move(steps)

    keys = KEYS(key="learn_keys", data={"present": present}, on_moved_change=moved, on_left_change=leave)
    if "learn_moved" not in state:
        # After a restart of the server, the browser may already have counted some steps.
        state.learn_moved = keys.moved or 0
