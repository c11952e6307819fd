"""What a factor of a product is, as the autograd graph shows: weights, a scale, or a gate of the other factor.

Rules of relevance propagation treat such factors as constants. Attention weights are found behind a projection over heads too, and norms
and activations that are written out operation by operation are found as those that are one function.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from attrlib.methods.autograd_graph import LINEAR, PRODUCTS, kind
from attrlib.methods.backward import ACTIVATION_RULE

WEIGHTS = frozenset(("Softmax", "Sigmoid", "Hardsigmoid"))
_LENGTHS = frozenset(("LinalgVectorNorm", "Norm", "Std", "Var", "StdMean", "VarMean"))
_ROOTS = frozenset(("Sqrt", "Rsqrt", "Pow"))
_REDUCED = _LENGTHS | {"Mean", "Sum", "AvgPool2D"}
_AROUND_SCALES = frozenset(
    ["Add", "Clamp", "ClampMin", "Clone", "Div", "Expand", "Mul", "Reciprocal", "Squeeze", "ToCopy", "Unsqueeze", "View"]
)
_SCALED = frozenset(["Clone", "Div", "Mul", "Neg", "ToCopy"])
_OF_EACH_VALUE = (
    _SCALED | frozenset(["Add", "Erf", "Exp", "Hardsigmoid", "Pow", "Reciprocal", "Rsub", "Sigmoid", "Sub", "Tanh"]) | {ACTIVATION_RULE}
)


def are_weights(values: Tensor) -> bool:
    """Return whether values depend on the explained ones only through a softmax or a sigmoid, and are linear in its outputs."""
    return _all_end_in(_node(values), lambda node: kind(node) in WEIGHTS, lambda node: _is_linear(node) and kind(node) != "AccumulateGrad")


def are_scale(values: Tensor) -> bool:
    """Return whether values are the scale of a norm: a length, a deviation, or a root of a mean or a sum, inverse or not."""

    def is_root(node: Any) -> bool:
        return kind(node) in _ROOTS and _all_end_in(node.next_functions[0][0], lambda n: kind(n) in _REDUCED, _is_around)

    return _all_end_in(_node(values), lambda node: kind(node) in _LENGTHS or is_root(node), _is_around)


def is_gate_of(gate: Tensor, values: Tensor) -> bool:
    """Return whether a gate is a function of each of the values that it multiplies alone, as in a SiLU or a GELU that is written out."""
    root = _without_factors(_node(values))
    if _without_factors(_node(gate)) is root:
        return False
    return _all_end_in(_node(gate), lambda node: node is root, lambda node: kind(node) in _OF_EACH_VALUE)


def _node(values: Tensor) -> Any:
    return get_gradient_edge(values).node


def _before(node: Any) -> list[Any]:
    return [following for following, _ in node.next_functions if following is not None]


def _all_end_in(node: Any, ends: Callable[[Any], bool], passes: Callable[[Any], bool]) -> bool:
    """Return whether every path from a node upstream leads through nodes that pass to one at which it ends."""
    seen, queue = {node}, [node]
    while queue:
        node = queue.pop()
        if ends(node):
            continue
        if not passes(node) or not _before(node):
            return False
        following = [n for n in _before(node) if n not in seen]
        seen.update(following)
        queue += following
    return True


def _is_linear(node: Any) -> bool:
    name = kind(node)
    return name in LINEAR and (name not in PRODUCTS or len(_before(node)) == 1)


def _is_around(node: Any) -> bool:
    return kind(node) in _AROUND_SCALES and len(_before(node)) == 1


def _without_factors(node: Any) -> Any:
    """Return the node whose values a node only multiplies by constants."""
    while kind(node) in _SCALED and len(_before(node)) == 1:
        (node,) = _before(node)
    return node
