"""Maps of the members of the zoo, with few passes, and how closely they must agree."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

import attrlib
from attrlib.methods import attribute, resolve
from attrlib.specs import MethodSpec
from support import refusals, zoo
from support.method_nets import small

INFOS = {info.name: info for info in attrlib.list_methods()}
TARGETS = [0, 1, 2]
LAYERS = ("Input", "Middle", "Final")
PLACES = [(name, layer) for name, info in INFOS.items() for layer in dict.fromkeys((info.default_layer, "Middle"))]
"""Every method at its default layer, and at one between Input and Final."""


def working(family: str, layer: str) -> list[str]:
    """Return the methods that are tested at a layer and that work there on a member."""
    return [method for method, at in PLACES if at == layer and not refusals.expected(method, layer, family)]


def cheap(method: str, layer: str) -> MethodSpec:
    """Return the spec of a method with few passes."""
    params = dict(small(method, layer).params)
    if "top" in params:
        params["top"] = 8
    if method == "Occlusion":
        params["window"] = params["stride"] = 8 if layer == "Input" else 2
    if method == "IG" and layer != "Input":
        # Before a LayerNorm the gradient is along the path near zero alone, which few steps miss.
        params["steps"] = 16
    if method == "Extremal perturbation" and layer != "Input":
        # A blur hides little of so few positions, and the first steps are those of the area alone.
        params |= {"steps": 30, "perturbation": "fade"}
    return resolve(MethodSpec(method, layer, tuple(params.items())))


@cache
def reference(family: str, method: str, layer: str) -> Tensor:
    """Return the maps of three pictures, one for each of `TARGETS`."""
    return attribute(zoo.member(family), cheap(method, layer), zoo.pictures(family, len(TARGETS)), TARGETS).maps


@cache
def by_class(family: str, method: str, layer: str) -> Tensor:
    """Return the maps (3,classes,1,h,w) of the same pictures for every class."""
    count = len(TARGETS)
    owners = [k for k in range(count) for _ in range(zoo.CLASSES)]
    classes = [*range(zoo.CLASSES)] * count
    maps = attribute(zoo.member(family), cheap(method, layer), zoo.pictures(family, count), classes, owners=owners).maps
    return maps.unflatten(0, (count, zoo.CLASSES))


def hooked(family: str, layer: str, images: Tensor, targets: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the output (B,C,h,w) of a layer and the gradient of the target logits there, from a hook on the module."""
    model, outputs = zoo.member(family), [images.clone().requires_grad_()]
    place = model.layer(layer)
    handle = None
    if place.path:
        handle = model.module.get_submodule(place.path).register_forward_hook(lambda _module, _args, output: outputs.append(output))
    try:
        logits = model.module(outputs[0])
    finally:
        if handle is not None:
            handle.remove()
    (gradient,) = torch.autograd.grad(logits[range(len(targets)), list(targets)].sum(), outputs[-1])
    return place.layout.spatial(outputs[-1].detach()), place.layout.spatial(gradient)


@cache
def _terms(family: str, layer: str) -> float:
    """Return the largest sums over channels of |gradient| and of |activation x gradient|: what maps add up."""
    activation, gradient = hooked(family, layer, zoo.pictures(family, len(TARGETS)), TARGETS)
    return float(gradient.abs().sum(1).max() + (activation * gradient).abs().sum(1).max())


def errors(family: str, layer: str, actual: Tensor, expected: Tensor) -> Tensor:
    """Return the distance of each map from the expected one as a share of its norm, beyond what rounding leaves of the terms."""
    rounding = 3e-6 * _terms(family, layer) * expected[0].numel() ** 0.5
    return ((actual - expected).flatten(1).norm(dim=1) - rounding).clamp_min(0) / expected.flatten(1).norm(dim=1).clamp_min(1e-12)


def same(family: str, method: str, layer: str, actual: Tensor, expected: Tensor) -> bool:
    """Return whether maps agree but for the order of summation: one may move if an activation or a denominator is near zero."""
    distances = errors(family, layer, actual, expected)
    # From zeros, at which a LayerNorm is singular, the multipliers of DeepLIFT are large and cancel. If masks change the output of such a
    # layer little, so do the differences of Sobol.
    return bool(distances.max() < 0.02 and distances.median() < (1e-2 if "++" in method or method in ("DeepLIFT", "Sobol") else 1e-3))
