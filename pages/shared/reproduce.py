"""Show what restores a view: its link, and the command line and Python that compute the same."""

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st


@contextmanager
def popover(link: str, caption: str = "Link to exactly this view") -> Iterator[None]:
    """Open the popover Reproduce with a link, given as the query string of this page; the caller fills the rest."""
    with st.popover("Reproduce", icon=":material/link:"):
        st.caption(caption)
        st.code((st.context.url or "").split("?")[0] + link, language=None, wrap_lines=True)
        yield


def command_line(code: str, caption: str = "Command line") -> None:
    """Show a command line to copy."""
    st.caption(caption)
    st.code(code, language="bash", wrap_lines=True)


def python(code: str, caption: str = "Python") -> None:
    """Show Python to copy."""
    st.caption(caption)
    st.code(code, language="python", wrap_lines=True)
