"""Relevance propagation: applies the rules of a composite during the forward pass, without a change to the network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attrlib.methods.backward import ACTIVATION_RULE, RELEVANCE_RULE, RULE, TINY, BackwardRules, Map, OperationRule
from attrlib.methods.graph_roles import are_weights
from attrlib.methods.lrp.composite import CONVOLUTIONS, Composite
from attrlib.methods.lrp.rules import GradientRule, LayerCall, PropagationRule, RedistributionRule
from attrlib.methods.operation_rules import WeightsConstant, by_function
from attrlib.models.operations import writes


@dataclass(frozen=True, eq=False)
class _Foldable:
    """The last convolution, into which a BatchNorm that follows directly is folded."""

    call: LayerCall
    rule: PropagationRule
    output: Tensor
    version: int

    def folded(self, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> LayerCall:
        """Return the call with the weight and bias of the convolution and the BatchNorm together."""
        call = self.call
        scale = (1 if weight is None else weight) / (variance + eps).sqrt()
        shift = (0 if bias is None else bias) - mean * scale
        weight_folded = call.weight * scale.view(-1, *[1] * (call.weight.ndim - 1))
        return replace(call, weight=weight_folded, bias=shift + (0 if call.bias is None else scale * call.bias))


@dataclass(frozen=True, eq=False)
class _Pending:
    """The last layer with a gradient rule, including its BatchNorm, whose denominator is not yet determined.

    `size` is empty until the magnitude of the denominator is added, or None if the activation that follows applies the rule. `number` is
    the number of the call that computed the output, by which an activation detects that it follows directly.
    """

    rule: GradientRule
    output: Tensor
    version: int
    number: int
    size: list[Tensor | None]


class RelevancePropagation(BackwardRules):
    """Mode that applies the rules of a composite as a modified gradient: relevance over activation, g_i = R_i / a_i.

    Args:
        composite: Rules of convolutions and linear layers.
        rules: Rules of other operations, by the keys of `OPERATIONS`.
    """

    def __init__(self, composite: Composite, rules: Mapping[str, OperationRule]):
        super().__init__(by_function(rules))
        self._composite = composite
        self._weights_constant = isinstance(rules.get("matrix_product"), WeightsConstant)
        self._foldable: _Foldable | None = None
        self._pending: _Pending | None = None

    def settle(self) -> None:
        """Apply the rule of the last layer to its output. Called before anything writes into the output, and after the forward pass."""
        pending = self._pending
        if pending is not None:
            pending.size.append(pending.rule.size(pending.output.detach()))
        self._foldable = self._pending = None

    def activation(self, values: Tensor, function: Map, name: str) -> Tensor:
        # One position is enough, because activations have at most one parameter per channel.
        zero = torch.zeros_like(values.detach()[_first_position(values)])
        at_zero = function(zero)
        zero_at_zero = not bool(at_zero.any())
        # If an in-place activation follows directly, nothing else reads the values that it overwrites.
        pending = self._pending if zero_at_zero and at_zero is zero and self._follows_directly(values) else None
        if pending is not None:
            pending.size.append(None)
            self._foldable = self._pending = None
        else:
            self.settle()
            if name == "relu" or not zero_at_zero:
                # The gradient of ReLU is its rule. Activations that are not zero at zero have none: the check of the graph refuses them.
                return function(values)
        with torch.no_grad():
            # All relevance passes, R_in = R_out, so g_in = g_out f(z) / z. If the layer's rule is pending, its denominator replaces z.
            ratio = values + TINY if pending is None else pending.rule.stabilised(values)
            output = function(values)
            torch.div(output, ratio, out=ratio)
        return self.with_backward(values, output, ratio.mul_, ACTIVATION_RULE)

    def _follows_directly(self, values: Tensor) -> bool:
        pending = self._pending
        return pending is not None and pending.output is values and pending.version == values._version and pending.number + 1 == self.calls

    def maximum(self, values: Tensor, function: Map, name: str) -> Tensor:
        self.settle()
        return super().maximum(values, function, name)

    def layer(self, name: str, values: Tensor, func: Any, args: Any, kwargs: Any) -> Any:
        if name == "batch_norm":
            return self._batch_norm(values, func, args, kwargs)
        rule = self._composite.rule(name, values)
        # Attention weights that are mixed across heads are constants, which have no relevance to pass on.
        if rule is None or (self._weights_constant and are_weights(values)):
            if writes(func):
                self.settle()
            return func(*args, **kwargs)
        self.settle()
        call = _layer_call(func, args, kwargs)
        output = self._apply(rule, call)
        if name in CONVOLUTIONS:
            self._foldable = _Foldable(call, rule, output, output._version)
        return output

    def _batch_norm(self, values: Tensor, func: Any, args: Any, kwargs: Any) -> Tensor:
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        arguments = {"weight": None, "bias": None, "training": False, "eps": 1e-5} | dict(zip(names, args, strict=False)) | kwargs
        last, output = self._foldable, func(*args, **kwargs)
        if last is None or last.output is not values or last.version != values._version or arguments["training"]:
            self.settle()
            return output
        self._foldable = None
        if self._pending is not None:
            self._pending = replace(self._pending, output=output, version=output._version, number=self.calls)
            return output
        assert isinstance(last.rule, RedistributionRule), "else its output would be pending"
        call = last.folded(arguments["running_mean"], arguments["running_var"], arguments["weight"], arguments["bias"], arguments["eps"])
        return self._redistributed(last.rule, call, output)

    def _apply(self, rule: PropagationRule, call: LayerCall) -> Tensor:
        """Return the output of a layer, whose backward pass is its rule."""
        if isinstance(rule, RedistributionRule):
            return self._redistributed(rule, call, call.run(call.inputs.detach(), call.weight, call.bias))
        assert isinstance(rule, GradientRule), "there are two kinds of rules"
        output, size = call.run(call.inputs, call.weight, call.bias), list[Tensor | None]()
        output.register_hook(lambda gradient: gradient if size[0] is None else rule.damped(gradient, size[0]))
        self._pending = _Pending(rule, output, output._version, self.calls, size)
        return output

    def _redistributed(self, rule: RedistributionRule, call: LayerCall, output: Tensor) -> Tensor:
        # Copies, because later operations may write into either.
        call_of_copy = replace(call, inputs=call.inputs.detach().clone().requires_grad_())
        z = output.detach().clone()

        def back(gradient: Tensor) -> Tensor:
            with torch.enable_grad():
                return rule.redistribute(call_of_copy, gradient * z)

        return self.with_backward(call.inputs, output, back, RELEVANCE_RULE if rule.reads_pixels else RULE)


def _first_position(values: Tensor) -> tuple[slice, ...]:
    """Return the index of all channels at one position of the first image."""
    return (slice(1), slice(None), *[slice(1)] * (values.ndim - 2))[: values.ndim]


def _layer_call(func: Callable[..., Tensor], args: Any, kwargs: Any) -> LayerCall:
    arguments = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    rest = {key: value for key, value in kwargs.items() if key not in ("input", "weight", "bias")}

    def run(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return func(inputs, weight, bias, *args[3:], **rest)

    return LayerCall(arguments["input"], arguments["weight"], arguments.get("bias"), run)
