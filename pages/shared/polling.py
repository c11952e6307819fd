"""Show the part of a page that changes by itself, again and again while something on it is pending."""

from collections.abc import Callable

import streamlit as st


def poll(key: str, show: Callable[[], bool], seconds: float = 0.5) -> None:
    """Show a part of the page in a fragment, which polls while `show` returns that something is pending.

    Args:
        key: Session key that keeps whether something is pending.
        show: Shows the part; returns whether something on it is pending, as seen before it was drawn: what ends while it is drawn is shown
            by one more rerun.
        seconds: Time between two polls.
    """
    polled = bool(st.session_state.get(key))

    def fragment() -> None:
        waits = st.session_state[key] = show()
        # Polling starts and stops with a full rerun.
        if waits != polled:
            st.rerun()

    st.fragment(run_every=seconds if polled else None)(fragment)()
