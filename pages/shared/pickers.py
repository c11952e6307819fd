"""The choosers that several pages have: of models, methods and data by name or as text, of few options, and of the smoothing of maps."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import streamlit as st

from attrlib.data.datasets import list_datasets
from pages.shared.widget_values import chooser, widget

METHOD_HINT = "Or type one with layer and parameters, such as IG@Middle:steps=20."
KERNELS = [0, *range(1, 258, 2)]
PHOTO_MB = 20
"""Size in MB up to which photos may be uploaded."""


class Grid(Protocol):
    """A row of cells that wraps, as `st.grid` returns it."""

    def cell(self, *, column_span: int = 1) -> AbstractContextManager[Any]:
        """Return the next cell."""


def one(label: str, options: Iterable[str], key: str, hint: str, **layout: Any) -> None:
    """Show a chooser for one of the options, or for text that is typed."""
    typed = [st.session_state[key]] if st.session_state.get(key) else []
    options = list(dict.fromkeys([*options, *typed]))
    st.selectbox(label, accept_new_options=True, help=hint, **chooser(key, options), **layout)


def several(label: str, options: Iterable[str], key: str, hint: str, most: int | None = None, **layout: Any) -> None:
    """Show a chooser for at most `most` of the options and of texts that are typed."""
    options = list(dict.fromkeys([*options, *st.session_state[key]]))
    st.multiselect(label, options, accept_new_options=True, max_selections=most, help=hint, **widget(key, default="default"), **layout)


def data(key: str, hint: str) -> None:
    """Show the chooser for a data set or a folder."""
    one("Data", (info.name for info in list_datasets()), key, hint, placeholder="Choose or type a folder")


def switch(label: str, options: Sequence[Any] | Mapping[Any, str], key: str, hint: str | None = None, **layout: Any) -> None:
    """Show few options side by side, of which one is always chosen; a mapping gives their labels."""
    labels = options.__getitem__ if isinstance(options, Mapping) else None
    st.segmented_control(label, list(options), format_func=labels, key=key, persist_state="session", required=True, help=hint, **layout)


def smoothing(key: str, hint: str, width: int) -> None:
    """Show the slider for the smoothing kernel."""
    st.select_slider("Smoothing K", KERNELS, key=key, persist_state="session", width=width, help=hint)
