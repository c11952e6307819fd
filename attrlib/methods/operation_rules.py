"""Rules for the operations of transformers and gates, and the registry of operations: which functions are one kind.

A rule modifies the gradient that an operation passes back. Relevance travels as relevance over activation, R / a, so that an operation
which is linear in the explained values needs no rule: its gradient shares relevance in proportion to the contributions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.autograd_graph import PRODUCTS, kind
from attrlib.methods.backward import BackwardRules, FunctionCall, OperationRule
from attrlib.methods.graph_roles import are_scale, are_weights, is_gate_of
from attrlib.methods.norm_form import NormForm
from attrlib.models.operations import operation, writes


@dataclass(frozen=True)
class Operation:
    """One kind of operation, a row of the table of rules.

    Attributes:
        title: Its name in the table.
        found: Where networks have it.
        functions: Canonical names of the functions that a rule for it is applied to; empty if a mode treats them itself.
    """

    title: str
    found: str
    functions: tuple[str, ...] = ()


OPERATIONS: dict[str, Operation] = {
    "linear": Operation("Linear layers", "`Linear`, transposed convolutions"),
    "convolution": Operation("Convolutions", "`Conv2d`, patch embeddings, token mixing by depthwise convolutions"),
    "batch_norm": Operation("BatchNorm", "with the statistics of training"),
    "norm": Operation(
        "Norms of each image",
        "LayerNorm, GroupNorm, InstanceNorm, RMSNorm and L2 normalisation, also written out",
        ("layer_norm", "group_norm", "instance_norm", "rms_norm", "normalize"),
    ),
    "rectifier": Operation("Piecewise linear activations", "ReLU, ReLU6, LeakyReLU, clamps"),
    "activation": Operation("Smooth activations that are 0 at 0", "GELU, SiLU, Hardswish, Mish, tanh, squares, also written out"),
    "sigmoid": Operation("Sigmoids", "of squeeze-excitation and gated units"),
    "softmax": Operation("Softmax", "attention weights", ("softmax",)),
    "product": Operation("Products of activations", "SwiGLU, GEGLU, squeeze-excitation, gated token mixing", ("mul",)),
    "quotient": Operation("Quotients of activations", "norms that are written out", ("div",)),
    "matrix_product": Operation(
        "Matrix products of activations",
        "queries by keys, attention by values, class attention, attention pooling; fused or not",
        ("matmul", "bmm", "mm", "einsum"),
    ),
    "maximum": Operation("Maxima", "max pooling"),
    "sum": Operation(
        "Sums, means, moved and resized values",
        "residual connections, concatenation, LayerScale, rotary embeddings, position bias, windows and shifts, average pooling, resizing",
    ),
}
"""The kinds of operations that a network may consist of, by key: the rows of the table of rules."""
GRADIENT = "gradient"
"""Summary of the rule of an operation that keeps its gradient."""


class OfRules:
    """Base class of methods that treat every kind of operation by a rule.

    Attributes:
        rules: Rules of operations besides layers and activations, by the keys of `OPERATIONS`.
        summaries: The other rules in words, by the keys of `OPERATIONS`. An operation in neither is refused.
    """

    rules: ClassVar[Mapping[str, OperationRule]] = MappingProxyType({})
    summaries: ClassVar[Mapping[str, str]]

    @classmethod
    def described(cls) -> dict[str, str]:
        """Return all rules in words, by the keys of `OPERATIONS`; empty for an operation that is refused."""
        by_key = dict(cls.summaries) | {key: rule.summary for key, rule in cls.rules.items()}
        return {key: by_key.get(key, "") for key in OPERATIONS}


def by_function(rules: Mapping[str, OperationRule]) -> dict[str, OperationRule]:
    """Return rules by the canonical names of functions, from rules by the keys of `OPERATIONS`."""
    return {function: rule for key, rule in rules.items() for function in OPERATIONS[key].functions}


class HalfToEach(OperationRule):
    """Pass half of the relevance to each of two factors, R_a = R_b = R / 2 in total; all to the other if one only scales or gates it."""

    summary = "half to each factor; a scale, and the gate of an activation that is written out, count as constants"

    def apply(self, rules: BackwardRules, call: FunctionCall) -> Any:
        if writes(call.func):
            rules.settle()
        if len(call.active) != 2:
            return call.run()
        for factor, other in zip(call.active, call.active[::-1], strict=True):
            if self.is_constant(factor, other) and not self.is_constant(other, factor):
                return _with_constant(call, factor)
        output = call.run()
        output.register_hook(lambda gradient: gradient / 2)
        rules.handled.add(_product(output))
        return output

    def is_constant(self, factor: Tensor, other: Tensor) -> bool:
        """Return whether a factor counts as a constant."""
        return are_scale(factor) or is_gate_of(factor, other)


class WeightsConstant(HalfToEach):
    """As `HalfToEach`, but attention weights and sigmoid gates count as constants: what they weight gets all relevance."""

    summary = "all to what is weighted: attention weights, sigmoid gates and scales count as constants; else half to each factor"

    def is_constant(self, factor: Tensor, other: Tensor) -> bool:
        return super().is_constant(factor, other) or are_weights(factor)


class DenominatorConstant(OperationRule):
    """Treat the scale that values are divided by as a constant. Other quotients of activations have no rule."""

    summary = "all to the numerator, if the denominator is the scale of a norm"

    def apply(self, rules: BackwardRules, call: FunctionCall) -> Any:
        if writes(call.func):
            rules.settle()
        denominator = call.argument(1, "other")
        if isinstance(denominator, Tensor) and denominator.requires_grad and denominator is not call.args[0] and are_scale(denominator):
            return _with_constant(call, denominator)
        return call.run()


class ScaleConstant(OperationRule):
    """Treat the scale of a norm as a constant: for y = (x - mean x) s w + b, the gradient at constant s."""

    summary = "linear, as the scale (deviation, root mean square, length) counts as constant"

    def apply(self, rules: BackwardRules, call: FunctionCall) -> Any:
        if operation(call.func) == "instance_norm" and not call.argument(5, "use_input_stats", True):
            return call.run()
        values, form = call.argument(0, "input"), NormForm.of(call)
        scale = form.inverse(form.centred(form.grouped(values.detach())))

        def back(gradient: Tensor) -> Tensor:
            weighted = gradient if form.weight is None else gradient * form.weight
            return (form.centred(form.grouped(weighted)) * scale).view_as(gradient)

        return rules.with_backward(values, call.run(), back)


def _with_constant(call: FunctionCall, constant: Tensor) -> Any:
    if writes(call.func) and call.args[0] is constant:
        if constant._is_view():
            raise MethodError("there is no rule for a view of weights that is multiplied by activations in place; use IG or IxG instead")
        constant.detach_()
        return call.run()
    return call.of(*(a.detach() if a is constant else a for a in call.active)).run()


def _product(output: Tensor) -> Any:
    """Return the node of the product in the graph; matrix products are reshaped."""
    node: Any = output.grad_fn
    while kind(node) not in PRODUCTS and node.next_functions:
        node = node.next_functions[0][0]
    return node
