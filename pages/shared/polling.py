"""Show the part of a page that changes by itself, again and again while something on it is pending."""

from collections.abc import Callable

import streamlit as st

DIALOG = "n_into"
"""Session key that is set while a dialog with an upload is open: a full rerun would cut the upload off."""


def poll(key: str, show: Callable[[], bool], seconds: float = 0.5, in_dialog: bool = False) -> None:
    """Show a part of the page in a fragment, which polls while `show` returns that something is pending.

    A late poll carries the values of widgets from before a click: `widget_values` keeps it from undoing what the click's callback has set.

    Args:
        key: Session key that keeps whether something is pending.
        show: Shows the part; returns whether something on it is pending, as seen before it was drawn: what ends while it is drawn is shown
            by one more rerun.
        seconds: Time between two polls.
        in_dialog: Whether the part is in the dialog. While that is open, all other parts poll.
    """
    held = bool(st.session_state.get(DIALOG)) and not in_dialog
    polled = held or bool(st.session_state.get(key))

    def fragment() -> None:
        waits = st.session_state[key] = show()
        # Polling starts and stops with a full rerun.
        if waits != polled and not held:
            st.rerun()

    st.fragment(run_every=seconds if polled else None)(fragment)()
