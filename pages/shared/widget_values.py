"""Widgets whose values callbacks and pages may set. Late polls do not undo it.

With every message, a poll included, a browser sends the values of all its widgets. A poll that it sends between a click and the answer to
it carries the value from before the click: if the click's callback has set the value of a widget, that poll would set it back, and call
the widget's own callback as if the user had done so. So the session keeps such a value under a key of its own, and a value that the user
has not chosen in the widget gets a new widget: whatever the browser still sends of the old one is ignored. The value is the default of
the new widget, not set through its key: the server may drop an answer for a later one, and only a default is part of both.
"""

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st


def widget(key: str, on_change: Callable[[], None] | None = None, default: str = "value") -> dict[str, Any]:
    """Return the arguments of the widget that shows and changes the value that the session keeps under `key`.

    Args:
        key: Session key of the value, which is not that of the widget.
        on_change: Called after the user has changed the value.
        default: Name of the argument that takes the widget's default.
    """
    state = st.session_state
    name = _name(key)
    if name in state and state[name] != state[key]:
        state[_count(key)] = state.get(_count(key), 0) + 1
        name = _name(key)
    return {"key": name, default: state[key], "on_change": _take, "args": (key, name, on_change)}


def chooser(key: str, options: Sequence[Any], on_change: Callable[[], None] | None = None) -> dict[str, Any]:
    """Return the arguments of a selectbox with these options: see `widget`."""
    arguments = widget(key, on_change, "index")
    value = arguments["index"]
    return arguments | {"options": options, "index": options.index(value) if value in options else None}


def _take(key: str, name: str, on_change: Callable[[], None] | None) -> None:
    if name != _name(key):
        return
    st.session_state[key] = st.session_state[name]
    if on_change is not None:
        on_change()


def _name(key: str) -> str:
    return f"{key}-{st.session_state.get(_count(key), 0)}"


def _count(key: str) -> str:
    return f"{key}-widgets"
