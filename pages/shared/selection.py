"""The user's choice of models, methods and layers, as the controls of several pages keep it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from attrlib.errors import AttrlibError
from attrlib.methods import METHODS, named_methods, read_methods, resolve
from attrlib.models import NAMED
from attrlib.registry import Value
from attrlib.specs import MethodSpec, ModelSpec, TargetSpec
from attrlib.specs.maps import are_maps, maps_spec, path_of
from pages.shared.roots import check_maps, check_target, parse_model

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


class Widgets(NamedTuple):
    """A list of methods as controls keep it: a common layer and target, entries, and parameters by method."""

    layer: str
    entries: list[str]
    params: dict[str, dict[str, Value]]
    target: TargetSpec


def as_widgets(methods: Sequence[MethodSpec]) -> Widgets:
    """Return the controls of a list of methods. Methods that do not fit the common layer and target are kept as text or by their own name."""
    resolved = [resolve(m) for m in methods]
    if by_layer(resolved):
        at_input = as_widgets(resolved[::3])
        return at_input._replace(layer=ALL_LAYERS, entries=[entry.replace("@Input", "", 1) for entry in at_input.entries])
    named = {resolve(spec): name for name, spec in named_methods().items()}
    targets = {m.target for m in resolved if m not in named}
    target = targets.pop() if len(targets) == 1 else TargetSpec()
    default_layers = [METHODS[m.name].default_layer for m in resolved]
    layers = {m.layer for m in resolved}
    layer = DEFAULT_LAYER if [m.layer for m in resolved] == default_layers else layers.pop() if len(layers) == 1 else DEFAULT_LAYER
    entries: list[str] = []
    params: dict[str, dict[str, Value]] = {}
    for method, default in zip(resolved, default_layers, strict=True):
        if are_maps(method):
            entries.append(str(maps_spec(path_of(method))))
            continue
        fits = method.layer == (default if layer == DEFAULT_LAYER else layer) and method.target == target
        plain = fits and method.name not in entries
        entries.append(method.name if plain else str(method) if fits else named.get(method, str(method)))
        if plain:
            params[method.name] = method.values
    return Widgets(layer, entries, params, target)


def by_layer(methods: Sequence[MethodSpec]) -> bool:
    """Return whether the resolved methods come in threes: the same method at Input, Middle and Final."""
    threes = [methods[first : first + 3] for first in range(0, len(methods), 3)]
    return bool(threes) and all(three == [replace(three[0], layer=name) for name in NAMED] for three in map(list, threes))


def chosen_methods(
    entries: Sequence[str], layer: str, params: dict[str, dict[str, Value]], target: TargetSpec
) -> tuple[list[MethodSpec], list[str]]:
    """Return the chosen methods, resolved, and the different messages on invalid entries. The target is that of methods that name none."""
    methods: list[MethodSpec] = []
    problems: list[str] = []
    layers = NAMED if layer == ALL_LAYERS else ("" if layer == DEFAULT_LAYER else layer,)
    for entry in entries:
        try:
            specs = (
                (MethodSpec(entry, "", tuple(params.get(entry, {}).items()), target),)
                if entry in METHODS
                else read_methods(entry, "", target)
            )
            for spec in specs:
                check_target(spec.target)
                check_maps(spec)
            # Maps made elsewhere have neither the common layer nor the common target.
            methods += [
                resolve(maps_spec(path_of(m)) if are_maps(m) else replace(m, layer=m.layer or name)) for m in specs for name in layers
            ]
        except AttrlibError as error:
            problems.append(str(error))
    return list(dict.fromkeys(methods)), list(dict.fromkeys(problems))


def layer_options(paths: Sequence[str]) -> list[str]:
    """Return the layer options: the default of each method, all three named layers at once, each of them, then all other layers."""
    named = [name for name in NAMED if name in paths]
    together = [ALL_LAYERS] if len(named) == len(NAMED) else []
    return [DEFAULT_LAYER, *together, *named, *(p for p in paths if p not in named)]
