"""Tools for a closer look at the computed maps, shown one at a time below the tiles."""

from collections.abc import Callable, Sequence

import streamlit as st

from attrlib.specs import ViewSpec
from pages.inspect import compare, deletion, patches, sanity
from pages.inspect.choice import TOOLS
from pages.inspect.tile_rows import Ready
from pages.shared import job_status
from pages.shared.polling import poll

Tool = Callable[[Sequence[Ready], ViewSpec], bool]
"""A function that shows a tool for the computed maps and returns whether a job is pending."""
SHOW: dict[str, Tool] = {
    "Compare": compare.show,
    "Patches": patches.show,
    "Deletion": deletion.show,
    "Sanity": sanity.show,
}


def choose() -> str | None:
    """Return the open tool, if any."""
    return st.segmented_control(
        "Look closer",
        list(TOOLS),
        format_func=lambda name: f"{TOOLS[name]} {name}",
        key="tool",
        persist_state="session",
        help="Compare: the difference of two maps. Patches: output drop and attribution per patch. Deletion: the output as pixels are deleted in "
        "order of a map. Sanity: the same method on a model with shuffled weights. Click the open tool again to close it.",
    )


def show(tool: str, maps: Sequence[Ready], view: ViewSpec, waiting: bool) -> None:
    """Show the tool in a separate fragment, so that its controls redraw nothing else; it polls while a job is pending."""
    poll("tool_waits", lambda: _body(tool, maps, view, waiting), seconds=0.4)


def _body(tool: str, maps: Sequence[Ready], view: ViewSpec, waiting: bool) -> bool:
    with st.container(border=True, key="tool-box"):
        if maps:
            return SHOW[tool](maps, view)
        if waiting:
            job_status.pending("Waiting for the first map")
        else:
            st.info("No map is available. Choose methods above, for example Grad-CAM and IxG.", icon=":material/arrow_upward:")
    return False
