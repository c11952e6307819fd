"""What a user takes away: the link, command line and Python of a view, and its files."""

import dataclasses
from collections.abc import Callable, Sequence

import streamlit as st

from attrlib.engine.explain import ARRAYS, MANIFEST, PANEL, Explanation
from attrlib.specs import ExplainSpec
from pages.shared import selection

FILES = (
    ("Panel (PNG)", PANEL, "image/png"),
    ("Arrays (NPZ)", ARRAYS, "application/zip"),
    ("Manifest (JSON)", MANIFEST, "application/json"),
)


def reproduce(spec: ExplainSpec, beyond: str = "", further: Sequence[ExplainSpec] = ()) -> None:
    """Link, command line and Python snippet of exactly this view.

    `beyond` is what the link says beyond the spec; `further` rows, of other models, get a command line each.
    """
    uploaded = spec.image.startswith(selection.UPLOAD)
    with st.popover("Reproduce", icon=":material/link:"):
        st.caption("Link to exactly this view" + (", without the uploaded photo" if uploaded else ""))
        st.code((st.context.url or "").split("?")[0] + spec.link() + beyond, language=None, wrap_lines=True)
        shown = dataclasses.replace(spec, image=spec.image.removeprefix(f"{selection.UPLOAD}:"))
        st.caption("Command line: panel, arrays and manifest")
        others = [dataclasses.replace(shown, model=own.model, target=own.target).cli(f"explained-{k}") for k, own in enumerate(further, 2)]
        st.code("\n".join([shown.cli(), *others]), language="bash", wrap_lines=True)
        st.caption("Python: the maps")
        st.code(shown.snippet(), language="python", wrap_lines=True)


def save(explanation: Explanation | None) -> None:
    """Download buttons; the files are made when one is pressed."""
    with st.popover("Save", icon=":material/download:"):
        if explanation is None:
            st.caption("Nothing to save yet: no map is ready.")
            return
        for label, name, mime in FILES:
            st.download_button(label, _maker(explanation, name), name, mime, on_click="ignore", icon=":material/download:", width="stretch")


def _maker(explanation: Explanation, name: str) -> Callable[[], bytes]:
    def make() -> bytes:
        return explanation.files()[name]

    return make
