"""Which methods a study runs, and at which settings, so that it takes minutes."""

from collections.abc import Callable, Iterable
from typing import Any

from attrlib.errors import AttrlibError
from attrlib.methods import METHODS, Passes
from attrlib.models import Classifier, Layer
from attrlib.registry import params_of
from attrlib.specs import MethodSpec

COUNTS = ("samples", "steps", "masks", "evaluations", "permutations", "iterations", "designs")
"""Parameters that say how often something is done: halved until a map is cheap enough."""
CHANNELS = "top"
"""Parameter that says how many of a layer's channels are used, None for all: halved, too."""
STRIDES = ("window", "stride")
"""Parameters whose doubling leaves fewer places: doubled together."""
LEAST, FIRST_WINDOW, MOST_WINDOW = 4, {"Input": 16}, 64
OF_INPUT = 8
"""Windows in each direction at Input at least: single deletion takes a quarter away, and a window like that would be the score itself."""


def cost_of(passes: Passes) -> int:
    """Passes through the model for a map, of either kind."""
    return passes.forward + passes.gradient


def affordable(name: str, model: Classifier, most: int, layer: str = "") -> MethodSpec:
    """A method with its counts halved, and its windows doubled, until a map of it takes no more than `most` passes at the layer.

    What cannot be made cheaper stays as it is, as does a method that is not defined there: the engine says why.
    """
    cls = METHODS[name]
    own = {p.name: p for p in params_of(cls) if p.kind is int}
    values: dict[str, Any] = {}
    try:
        at = model.layer(layer or cls.default_layer)
        while cost_of(cls(**values).passes(at)) > most:
            cheaper = _cheaper(values, own, at)
            if cheaper == values:
                break
            cls(**cheaper).passes(at)
            values = cheaper
    except AttrlibError:
        pass
    return MethodSpec(name, layer, tuple(values.items()))


def _cheaper(values: dict[str, Any], own: dict[str, Any], at: Layer) -> dict[str, Any]:
    found = dict(values)
    for name in (*COUNTS, CHANNELS):
        if name in own:
            now = values.get(name, at.shape[0] if name == CHANNELS else own[name].default)
            if now is not None:
                found[name] = max(int(own[name].low or 1), LEAST, int(now) // 2) if now > LEAST else now
    wide = [name for name in STRIDES if name in own]
    if wide:
        first = FIRST_WINDOW.get("" if at.path else "Input", 2)
        most = min(MOST_WINDOW, *(side if at.path else max(1, side // OF_INPUT) for side in at.shape[1:]))
        side = min(2 * int(values[wide[0]]) if wide[0] in values else first, most)
        found |= dict.fromkeys(wide, side)
    return found


def every(
    model: Classifier, most: int, layers: Iterable[str] = ("",), keep: Callable[[str], bool] = lambda _name: True
) -> tuple[MethodSpec, ...]:
    """All registered methods that `keep` lets pass, cheap enough, at each of the layers (empty: their own)."""
    return tuple(affordable(name, model, most, layer) for name in METHODS if keep(name) for layer in layers)


def some(names: Iterable[str], model: Classifier, most: int) -> tuple[MethodSpec, ...]:
    """Those of some methods that are registered, cheap enough, at their own layers."""
    return tuple(affordable(name, model, most) for name in names if name in METHODS)


def is_post_hoc(name: str) -> bool:
    """Whether a method explains any network, rather than being the explanation that some are built to give."""
    return METHODS[name].family != "intrinsic"


def is_signed(method: MethodSpec) -> bool:
    """Whether its maps have both signs."""
    return METHODS[method.name].signed
