"""The user's choice of models, methods and layers, as the controls of several pages keep it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from attrlib.errors import AttrlibError
from attrlib.methods import METHODS, read_methods, resolve
from attrlib.models import NAMED, parse_model
from attrlib.registry import Value
from attrlib.specs import MethodSpec, ModelSpec

DEFAULT_LAYER = "method's default"
ALL_LAYERS = "Input, Middle, Final"
"""The option that shows each method at all three layers, as in ML-Att."""


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
    default_layers = [METHODS[m.name].default_layer for m in resolved]
    layers = {m.layer for m in resolved}
    layer = DEFAULT_LAYER if [m.layer for m in resolved] == default_layers else layers.pop() if len(layers) == 1 else DEFAULT_LAYER
    entries: list[str] = []
    params: dict[str, dict[str, Value]] = {}
    for method, default in zip(resolved, default_layers, strict=True):
        plain = method.layer == (default if layer == DEFAULT_LAYER else layer) and method.name not in entries
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
    layers = NAMED if layer == ALL_LAYERS else ("" if layer == DEFAULT_LAYER else layer,)
    for entry in entries:
        try:
            specs = (MethodSpec(entry, "", tuple(params.get(entry, {}).items())),) if entry in METHODS else read_methods(entry)
            methods += [resolve(replace(m, layer=m.layer or name)) for m in specs for name in layers]
        except AttrlibError as error:
            problems.append(str(error))
    return list(dict.fromkeys(methods)), problems


def layer_options(paths: Sequence[str]) -> list[str]:
    """Return the layer options: the default of each method, all three named layers at once, each of them, then all other layers."""
    named = [name for name in NAMED if name in paths]
    together = [ALL_LAYERS] if len(named) == len(NAMED) else []
    return [DEFAULT_LAYER, *together, *named, *(p for p in paths if p not in named)]
