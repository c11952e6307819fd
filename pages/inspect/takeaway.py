"""Show what a user can take away from a view: its link, command line and Python snippet, and its files."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import streamlit as st

from attrlib.engine.explain import ARRAYS, MANIFEST, PANEL, Explanation
from attrlib.specs import ExplainSpec
from pages.inspect import choice
from pages.shared import downloads
from pages.shared import reproduce as reproduction

FILES = {PANEL: "Panel (PNG)", ARRAYS: "Arrays (NPZ)", MANIFEST: "Manifest (JSON)"}


def reproduce(spec: ExplainSpec, beyond: str = "", further: Sequence[ExplainSpec] = ()) -> None:
    """Show the link, command line and Python snippet of exactly this view.

    `beyond` is the part of the link that the spec does not cover. Each spec in `further`, one per further model, gets a command line.
    """
    uploaded = spec.image.startswith(choice.UPLOAD)
    with reproduction.popover(spec.link() + beyond, "Link to exactly this view" + (", without the uploaded photo" if uploaded else "")):
        shown = dataclasses.replace(spec, image=spec.image.removeprefix(f"{choice.UPLOAD}:"))
        others = [
            dataclasses.replace(shown, model=each.model, target=each.target, methods=each.methods).cli(f"explained-{k}")
            for k, each in enumerate(further, 2)
            if each.methods
        ]
        reproduction.command_line("\n".join([shown.cli(), *others]), "Command line: panel, arrays and manifest")
        reproduction.python(shown.snippet(), "Python: the maps")


def save(explanation: Explanation | None) -> None:
    """Show download buttons; the files are made when a button is pressed."""
    with st.popover("Save", icon=":material/download:"):
        if explanation is None:
            st.caption("Nothing to save yet: no map is ready.")
            return
        for name, label in FILES.items():
            downloads.button(label, partial(_file, explanation, name), name, width="stretch")


def _file(explanation: Explanation, name: str) -> bytes:
    return explanation.files()[name]
