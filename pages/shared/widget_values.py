"""Values of widgets that callbacks set, and that no poll undoes.

With every message, a poll included, a browser sends the values of all its widgets. A poll that it sends between a click and the answer to
it carries the value from before the click: if the click's callback has set a widget's value, that poll would set it back, and call the
widget's own callback as if the user had done so. So the session keeps such a value under a key of its own, and each `put` gives it a new
widget. What the browser still sends of the old widget is ignored; the new one is sent only by a browser that has received its value.
"""

from collections.abc import Callable
from typing import Any

import streamlit as st


def put(key: str, value: object) -> None:
    """Set the value that the session keeps under `key` and that a widget with the arguments of `widget` shows."""
    state = st.session_state
    state[key] = value
    state[_count(key)] = state.get(_count(key), 0) + 1


def widget(key: str, on_change: Callable[[], None] | None = None) -> dict[str, Any]:
    """Return the arguments of the widget that shows and changes the value that the session keeps under `key`.

    Args:
        key: Session key of the value, which is not that of the widget.
        on_change: Called after the user has changed the value.
    """
    state, name = st.session_state, _name(key)
    if name not in state or state[name] != state[key]:
        state[name] = state[key]
    return {"key": name, "on_change": _take, "args": (key, name, on_change)}


def _take(key: str, name: str, on_change: Callable[[], None] | None) -> None:
    if name != _name(key):
        return
    st.session_state[key] = st.session_state[name]
    if on_change is not None:
        on_change()


def _name(key: str) -> str:
    return f"{key}-{st.session_state.get(_count(key), 0)}"


def _count(key: str) -> str:
    return f"{key}-put"
