"""The part of an Inspect link beyond the picture and its maps: models of further rows, and the open tool."""

from collections.abc import Mapping
from urllib.parse import urlencode

import streamlit as st

from attrlib.errors import unknown
from attrlib.models import list_models
from attrlib.specs import ModelSpec
from pages.shared import pickers, selection
from pages.shared.jobs import sentence

MAX_MODELS = 3
TOOLS = {
    "Compare": ":material/compare_arrows:",
    "Patches": ":material/grid_on:",
    "Deletion": ":material/backspace:",
    "Sanity": ":material/psychology_alt:",
}
"""The tools for a closer look at the computed maps, each with an icon."""


def start(query: Mapping[str, str]) -> None:
    """Fill the session from the link on a session's first run; report invalid fields."""
    state = st.session_state
    selection.start({name: value for name, value in query.items() if name not in ("also", "tool")})
    if "also" in state:
        return
    texts = [text for text in query.get("also", "").split(",") if text.strip()]
    models = selection.parse_models(texts, state.problems)
    if len(models) >= MAX_MODELS:
        state.problems.append(f"the link has {len(models) + 1} models; the first {MAX_MODELS} are shown")
    state.also = [model.text for model in models[: MAX_MODELS - 1]]
    tool = query.get("tool")
    if tool and tool not in TOOLS:
        state.problems.append(unknown("tool of the link", tool, TOOLS))
    state.tool = tool if tool in TOOLS else None


def link_fields() -> str:
    """Return these choices as link fields, to be appended to those of the spec."""
    state = st.session_state
    fields = {"also": ",".join(state.also), "tool": state.tool}
    return "".join(f"&{urlencode({name: value}, safe='@:,=')}" for name, value in fields.items() if value)


def choose_more_models(first: ModelSpec) -> list[ModelSpec]:
    """Show the sidebar's model list and return all valid models except the first; invalid entries get a message."""
    state = st.session_state
    with st.sidebar:
        pickers.several(
            "More models, one row each",
            (info.name for info in list_models()),
            "also",
            f"Each is explained for the class that it predicts itself. {pickers.MODEL_HINT}",
            MAX_MODELS - 1,
            placeholder="Add a model",
        )
        problems: list[str] = []
        models = selection.parse_models(state.also, problems)
        for problem in problems:
            st.warning(sentence(problem), icon=":material/error:")
    return [model for model in models if model != first]
