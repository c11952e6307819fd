"""The user's choices on a page, kept in the session and restored from or written to a link."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import streamlit as st

from attrlib.data.pictures import is_named
from attrlib.data.samples import PREFIX
from attrlib.errors import AttrlibError
from attrlib.methods import METHODS, read_methods, resolve
from attrlib.models import EMBEDDED, NAMED, check_name, parse_model
from attrlib.registry import Value, params_of
from attrlib.specs import ExplainSpec, MethodSpec, ModelSpec, ViewSpec, parse_size, size_text

UPLOAD = "upload"
MAX_METHODS = 40
OWN_LAYER = "each method's own"
ALL_LAYERS = "Input, Middle, Final"
"""The option that shows each method at all three layers, as in ML-Att."""
DEFAULT = ExplainSpec(
    model=ModelSpec(EMBEDDED),
    image=f"{PREFIX}cat",
    methods=tuple(MethodSpec(name) for name in ("Grad-CAM", "Layer-CAM", "IxG", "Guided Backprop")),
)


def start(query: dict[str, str]) -> None:
    """Fill the session from the link on a session's first run; report invalid fields."""
    state = st.session_state
    if "image" in state:
        return
    spec, problems = ExplainSpec.read_link(query, DEFAULT)
    try:
        check_name(spec.model.architecture)
    except AttrlibError as error:
        problems.append(str(error))
        spec = replace(spec, model=DEFAULT.model)
    methods = [m for m in spec.methods if is_known(m, problems)] or (list(DEFAULT.methods) if spec.methods else [])
    if len(methods) > MAX_METHODS:
        problems.append(f"the link has {len(methods)} methods; the first {MAX_METHODS} are shown")
        methods = methods[:MAX_METHODS]
    image = spec.image
    if image.startswith(UPLOAD):
        problems.append("This link was made with an uploaded photo, which links do not carry: upload it again. A sample stands in for it.")
        image = DEFAULT.image
    if not is_named(image):
        problems.append(f"the link's picture {image[:60]!r} is neither one of the samples nor a bird; a sample stands in for it")
        image = DEFAULT.image
    state.image, state.upload = image, None
    state.architecture, state.checkpoint = spec.model.architecture, spec.model.checkpoint or ""
    state.input_size = size_text(spec.model.input_size) if spec.model.input_size else ""
    state.target, state.seed = -1 if spec.target is None else spec.target, spec.seed
    state.layer, state.methods, state.params = as_widgets(methods)
    for option in params_of(ViewSpec):
        state[option.name] = getattr(spec.view, option.name)
    state.problems = problems


def model() -> ModelSpec:
    """Return the model chosen in the session. Raises `SpecError` for an impossible input size."""
    state = st.session_state
    size = state.input_size.strip()
    return ModelSpec(state.architecture, state.checkpoint.strip() or None, parse_size(size) if size else None)


def parse_models(texts: Iterable[str], problems: list[str]) -> list[ModelSpec]:
    """Return the valid models, each once; the reason why another one is invalid is added to `problems`."""
    models = []
    for text in texts:
        try:
            models.append(parse_model(text))
        except AttrlibError as error:
            problems.append(str(error))
    return list(dict.fromkeys(models))


def is_known(method: MethodSpec, problems: list[str]) -> bool:
    """Return whether a method exists with these parameters; if not, the reason is added to `problems`."""
    try:
        resolve(method)
    except AttrlibError as error:
        problems.append(str(error))
        return False
    return True


def as_widgets(methods: Sequence[MethodSpec]) -> tuple[str, list[str], dict[str, dict[str, Value]]]:
    """Return the common layer, the method list and parameters by method; methods that do not fit this form are kept as text."""
    resolved = [resolve(m) for m in methods]
    if by_layer(resolved):
        _, at_input, values = as_widgets(resolved[::3])
        return ALL_LAYERS, [entry.replace("@Input", "", 1) for entry in at_input], values
    own = [METHODS[m.name].default_layer for m in resolved]
    layers = {m.layer for m in resolved}
    layer = OWN_LAYER if [m.layer for m in resolved] == own else layers.pop() if len(layers) == 1 else OWN_LAYER
    entries: list[str] = []
    params: dict[str, dict[str, Value]] = {}
    for method, default in zip(resolved, own, strict=True):
        plain = method.layer == (default if layer == OWN_LAYER else layer) and method.name not in entries
        entries.append(method.name if plain else str(method))
        if plain:
            params[method.name] = method.values
    return layer, entries, params


def by_layer(methods: Sequence[MethodSpec]) -> bool:
    """Return whether the resolved methods come in threes: the same method at Input, Middle and Final."""
    threes = [methods[first : first + 3] for first in range(0, len(methods), 3)]
    return bool(threes) and all(three == [replace(three[0], layer=name) for name in NAMED] for three in map(list, threes))


def chosen_methods(entries: Sequence[str], layer: str, params: dict[str, dict[str, Value]]) -> tuple[list[MethodSpec], list[str]]:
    """Return the chosen methods, resolved, and a message for each invalid entry."""
    methods: list[MethodSpec] = []
    problems: list[str] = []
    layers = NAMED if layer == ALL_LAYERS else ("" if layer == OWN_LAYER else layer,)
    for entry in entries:
        try:
            given = (MethodSpec(entry, "", tuple(params.get(entry, {}).items())),) if entry in METHODS else read_methods(entry)
            methods += [resolve(replace(m, layer=m.layer or name)) for m in given for name in layers]
        except AttrlibError as error:
            problems.append(str(error))
    return list(dict.fromkeys(methods)), problems


def view() -> ViewSpec:
    """Return the view options chosen in the session."""
    return ViewSpec.parse({option.name: st.session_state[option.name] for option in params_of(ViewSpec)})


def layer_options(paths: Sequence[str]) -> list[str]:
    """Return the layer options: `each method's own`, all three named layers at once, each of them, then all other layers."""
    named = [name for name in NAMED if name in paths]
    together = [ALL_LAYERS] if len(named) == len(NAMED) else []
    return [OWN_LAYER, *together, *named, *(p for p in paths if p not in named)]
