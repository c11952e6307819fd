"""Choose methods and settings that keep a study within minutes."""

from collections.abc import Callable, Iterable
from typing import Any

from attrlib.errors import AttrlibError
from attrlib.methods import METHODS, Passes
from attrlib.models import Classifier, Layer
from attrlib.protocols import PROTOCOLS
from attrlib.registry import params_of
from attrlib.specs import MethodSpec, ProtocolSpec

COUNTS = ("samples", "steps", "masks", "evaluations", "permutations", "iterations", "designs")
"""Parameters that count repetitions. They are halved until a map is cheap enough."""
CHANNELS = "top"
"""Parameter that sets how many of a layer's channels are used, None for all. It is also halved."""
STRIDES = ("window", "stride")
"""Parameters whose doubling leaves fewer positions. They are doubled together."""
LEAST, FIRST_WINDOW, MOST_WINDOW = 4, {"Input": 16}, 64
REPETITIONS = 6
"""Most samples, steps and other repetitions of a protocol."""
OF_INPUT = 8
"""Fewest windows per side at Input. A patch of single deletion is a quarter of the side; a window of that size would repeat the score."""


def cost_of(passes: Passes) -> int:
    """Return the number of passes through the model for a map, forward and gradient passes together."""
    return passes.forward + passes.gradient


def affordable(name: str, model: Classifier, most: int, layer: str = "") -> MethodSpec:
    """Return a method with counts halved and windows doubled until a map is cheap enough.

    A method that cannot be made cheaper is returned unchanged. So is a method that is not defined at the layer; the engine reports why.

    Args:
        name: Name of the method.
        model: The model.
        most: Most passes for a map.
        layer: Layer of the map; empty for the method's default.
    """
    cls = METHODS[name]
    params = {p.name: p for p in params_of(cls) if p.kind is int}
    values: dict[str, Any] = {}
    try:
        at = model.layer(layer or cls.default_layer)
        while cost_of(cls(**values).passes(at)) > most:
            cheaper = _cheaper(values, params, at)
            if cheaper == values:
                break
            cls(**cheaper).passes(at)
            values = cheaper
    except AttrlibError:
        pass
    return MethodSpec(name, layer, tuple(values.items()))


def _cheaper(values: dict[str, Any], params: dict[str, Any], at: Layer) -> dict[str, Any]:
    cheaper = dict(values)
    for name in (*COUNTS, CHANNELS):
        if name in params:
            now = values.get(name, at.shape[0] if name == CHANNELS else params[name].default)
            if now is not None:
                cheaper[name] = max(int(params[name].low or 1), LEAST, int(now) // 2) if now > LEAST else now
    wide = [name for name in STRIDES if name in params]
    if wide:
        first = FIRST_WINDOW.get("" if at.path else "Input", 2)
        most = min(MOST_WINDOW, *(side if at.path else max(1, side // OF_INPUT) for side in at.shape[1:]))
        side = min(2 * int(values[wide[0]]) if wide[0] in values else first, most)
        cheaper |= dict.fromkeys(wide, side)
    return cheaper


def every(
    model: Classifier, most: int, layers: Iterable[str] = ("",), keep: Callable[[str], bool] = lambda _name: True
) -> tuple[MethodSpec, ...]:
    """Return all registered methods, made cheap enough by `affordable`.

    Args:
        model: The model.
        most: Most passes for a map.
        layers: Layers of each method; empty for the method's default.
        keep: Whether to keep a method, by its name.
    """
    return tuple(affordable(name, model, most, layer) for name in METHODS if keep(name) for layer in layers)


def some(names: Iterable[str], model: Classifier, most: int) -> tuple[MethodSpec, ...]:
    """Return those of the named methods that are registered, made cheap enough by `affordable`, at their default layers.

    Args:
        names: Names of methods.
        model: The model.
        most: Most passes for a map.
    """
    return tuple(affordable(name, model, most) for name in names if name in METHODS)


def is_post_hoc(name: str) -> bool:
    """Return whether a method is post hoc, that is, not the intrinsic explanation of a network."""
    return METHODS[name].family != "intrinsic"


def is_signed(method: MethodSpec) -> bool:
    """Return whether a method's maps have both signs."""
    return METHODS[method.name].signed


def cheap(name: str) -> str:
    """Return a protocol in text form, with fewer samples, steps or stages, and a confidence that small models reach.

    Args:
        name: Name of the protocol.
    """
    cls = PROTOCOLS[name]
    values: list[tuple[str, Any]] = [("confidence", 0.9)] if cls.items == "grids" else []
    for field in params_of(cls):
        most = 2 if field.name == "stages" else REPETITIONS if field.name in COUNTS and field.kind is int else None
        if most is not None and int(field.default or 0) > most:
            values.append((field.name, max(most, int(field.low or 0))))
    return str(ProtocolSpec(name, tuple(values)))
