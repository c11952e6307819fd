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

Edge = tuple[Any, int]
"""A node of the graph, and which of its outputs: a node that splits values has several."""

WEIGHTS = frozenset(("Softmax", "Sigmoid", "Hardsigmoid"))
_LENGTHS = frozenset(("LinalgVectorNorm", "Norm", "Std", "Var", "StdMean", "VarMean"))
_ROOTS = frozenset(("Sqrt", "Rsqrt", "Pow"))
_REDUCED = _LENGTHS | {"Mean", "Sum", "AvgPool2D"}
_AROUND_SCALES = frozenset(
    ["Add", "Clamp", "ClampMin", "Clone", "Div", "Expand", "Mean", "Mul", "Reciprocal", "Squeeze", "ToCopy", "Unsqueeze", "View"]
)
_SCALED = frozenset(["Clone", "Div", "Mul", "Neg", "ToCopy"])
_OF_EACH_VALUE = (
    _SCALED | frozenset(["Add", "Erf", "Exp", "Hardsigmoid", "Pow", "Reciprocal", "Rsub", "Sigmoid", "Sub", "Tanh"]) | {ACTIVATION_RULE}
)


def are_weights(values: Tensor) -> bool:
    """Return whether values depend on the explained ones only through a softmax or a sigmoid, and are linear in its outputs."""
    return _all_end_in(
        _edge(values), lambda edge: kind(edge[0]) in WEIGHTS, lambda node: _is_linear(node) and kind(node) != "AccumulateGrad"
    )


def are_scale(values: Tensor) -> bool:
    """Return whether values are the scale of a norm: a length, a deviation, or a root of a mean or a sum, inverse or not."""

    def is_scale(edge: Edge) -> bool:
        name = kind(edge[0])
        return name in _LENGTHS or (name in _ROOTS and _all_end_in(_before(edge[0])[0], lambda e: kind(e[0]) in _REDUCED, _is_around))

    return _all_end_in(_edge(values), is_scale, _is_around)


def is_gate_of(gate: Tensor, values: Tensor) -> bool:
    """Return whether a gate is a function of each of the values that it multiplies alone, as in a SiLU or a GELU that is written out."""
    root = _without_factors(_edge(values))
    if _without_factors(_edge(gate)) == root:
        return False
    return _all_end_in(_edge(gate), lambda edge: edge == root, lambda node: kind(node) in _OF_EACH_VALUE)


def _edge(values: Tensor) -> Edge:
    edge = get_gradient_edge(values)
    return edge.node, edge.output_nr


def _before(node: Any) -> list[Edge]:
    return [edge for edge in node.next_functions if edge[0] is not None]


def _all_end_in(edge: Edge, ends: Callable[[Edge], bool], passes: Callable[[Any], bool]) -> bool:
    """Return whether every path from an edge upstream leads through nodes that pass to an edge at which it ends."""
    seen, queue = {edge}, [edge]
    while queue:
        edge = queue.pop()
        if ends(edge):
            continue
        before = _before(edge[0])
        if not before or not passes(edge[0]):
            return False
        queue += [e for e in before if e not in seen]
        seen.update(before)
    return True


def _is_linear(node: Any) -> bool:
    name = kind(node)
    return name in LINEAR and (name not in PRODUCTS or len(_before(node)) == 1)


def _is_around(node: Any) -> bool:
    return kind(node) in _AROUND_SCALES and len(_before(node)) == 1


def _without_factors(edge: Edge) -> Edge:
    """Return the edge whose values an edge only multiplies by constants."""
    while kind(edge[0]) in _SCALED and len(_before(edge[0])) == 1:
        (edge,) = _before(edge[0])
    return edge
