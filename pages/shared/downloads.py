"""Offer files to download."""

import mimetypes
from collections.abc import Callable
from typing import Any

import streamlit as st


def button(label: str, make: Callable[[], bytes], name: str, **layout: Any) -> None:
    """Show a button that downloads a file, which is made when the button is pressed."""
    mime = mimetypes.guess_type(name)[0] or "application/octet-stream"
    st.download_button(label, make, name, mime, on_click="ignore", icon=":material/download:", **layout)
