"""The user's choices on the Inspect page, kept in the session and restored from or written to a link."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlencode

import streamlit as st

from attrlib.data.pictures import is_named
from attrlib.data.samples import PREFIX
from attrlib.errors import AttrlibError, unknown
from attrlib.models import EMBEDDED
from attrlib.registry import params_of
from attrlib.specs import ExplainSpec, MethodSpec, ModelSpec, ViewSpec
from pages.shared import forms, selection, targets
from pages.shared.roots import parse_model

UPLOAD = "upload"
MAX_METHODS = 40
MAX_MODELS = 3
DEFAULT = ExplainSpec(
    model=ModelSpec(EMBEDDED),
    image=f"{PREFIX}cat",
    methods=tuple(MethodSpec(name) for name in ("Grad-CAM", "Layer-CAM", "IxG", "Guided Backprop")),
)
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
    _start_maps({name: value for name, value in query.items() if name not in ("also", "tool")})
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


def _start_maps(query: Mapping[str, str]) -> None:
    """Fill the session with the picture, its maps and their view."""
    state = st.session_state
    if "image" in state:
        return
    spec, problems = ExplainSpec.read_link(query, DEFAULT)
    try:
        parse_model(spec.model.text)
    except AttrlibError as error:
        problems.append(str(error))
        spec = replace(spec, model=DEFAULT.model)
    methods = [m for m in spec.methods if selection.is_known(m, problems)] or (list(DEFAULT.methods) if spec.methods else [])
    if len(methods) > MAX_METHODS:
        problems.append(f"the link has {len(methods)} methods; the first {MAX_METHODS} are shown")
        methods = methods[:MAX_METHODS]
    image = spec.image
    if image.startswith(UPLOAD):
        problems.append(
            "This link was created with an uploaded photo, which links do not contain. A sample photo is shown instead; upload the photo again."
        )
        image = DEFAULT.image
    if not is_named(image):
        problems.append(f"the link's image {image[:60]!r} is neither a sample nor a bird; a sample photo is shown instead")
        image = DEFAULT.image
    state.image, state.upload = image, None
    state.model = spec.model.text
    state.target, state.seed = -1 if spec.target is None else spec.target, spec.seed
    fill_methods(methods)
    forms.fill(params_of(ViewSpec), spec.view)
    state.problems = problems


def fill_methods(methods: Sequence[MethodSpec]) -> None:
    """Set the controls of methods, their layer, parameters and target."""
    state = st.session_state
    state.layer, state.methods, state.params, explained = selection.as_widgets(methods)
    targets.fill(explained)


def model() -> ModelSpec:
    """Return the model chosen in the session. Raises `AttrlibError` for one that is unknown or not valid."""
    return parse_model(st.session_state.model or "")


def view() -> ViewSpec:
    """Return the view options chosen in the session."""
    return ViewSpec.parse(forms.values(params_of(ViewSpec)))


def link_fields() -> str:
    """Return the models of further rows and the open tool as link fields, to append to those of the spec."""
    state = st.session_state
    fields = {"also": ",".join(state.also), "tool": state.tool}
    return "".join(f"&{urlencode({name: value}, safe='@:,=')}" for name, value in fields.items() if value)
