"""Custom backward rules for parts of a network, without a change to the network.

`BackwardRules` is a torch function mode. Inside it, activations, maxima, layers and the operations of a table of rules are passed to
methods that may replace their backward pass, whether they are modules or functions, in place or not, used once or several times. Fused
attention is computed step by step, so that its products and its softmax have rules too. All other operations keep their gradient.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attrlib.errors import MethodError, ModelError
from attrlib.models.operations import STEPS, operation

Map = Callable[[Tensor], Tensor]
ACTIVATIONS = frozenset(
    [
        "relu",
        "relu6",
        "hardtanh",
        "threshold",
        "clamp",
        "clamp_min",
        "clamp_max",
        "clip",
        "leaky_relu",
        "prelu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "hardswish",
        "hardsigmoid",
        "sigmoid",
        "logsigmoid",
        "softplus",
        "softsign",
        "tanh",
        "tanhshrink",
        "hardshrink",
        "softshrink",
        "pow",
        "square",
    ]
)
MAXIMA = frozenset(["max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d"])

RULE, ACTIVATION_RULE, RELEVANCE_RULE = "_BackwardRule", "_ActivationRule", "_RelevanceRule"
"""Kinds of the graph's nodes that have a custom backward rule, as `autograd_graph.kind` names them."""

TINY = 1e-30
"""Added to denominators, so that 0 / 0 becomes 0. No other quotient changes."""


@dataclass(frozen=True, eq=False)
class FunctionCall:
    """One call of a torch function.

    Attributes:
        func: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """

    func: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    @property
    def active(self) -> list[Tensor]:
        """Return the arguments that depend on the explained values, in order; those in lists too."""
        return [a for a in _flat((*self.args, *self.kwargs.values())) if isinstance(a, Tensor) and a.requires_grad]

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument that may be given by position or by name."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    def run(self) -> Any:
        """Return the result of the function."""
        return self.func(*self.args, **self.kwargs)

    def of(self, *active: Tensor) -> "FunctionCall":
        """Return the call with other tensors in place of `active`, in their order."""
        rest = iter(active)

        def replaced(value: Any) -> Any:
            if isinstance(value, tuple | list):
                return [replaced(v) for v in value]
            return next(rest) if isinstance(value, Tensor) and value.requires_grad else value

        return FunctionCall(self.func, [replaced(a) for a in self.args], {k: replaced(v) for k, v in self.kwargs.items()})


class OperationRule(ABC):
    """Base class of rules that say how one kind of operation passes a gradient, or a relevance, to its inputs.

    Attributes:
        summary: The rule in words, for the table of rules.
    """

    summary: ClassVar[str]

    @abstractmethod
    def apply(self, rules: "BackwardRules", call: FunctionCall) -> Any:
        """Return the result of a call, of which at least one argument depends on the explained values, with the rule's backward pass."""


class BackwardRules(TorchFunctionMode):
    """Mode that passes operations of the forward pass to methods of a subclass or to rules, without a change to the network.

    Attributes:
        rules: Rules by the canonical names of the operations that they are for, besides activations, maxima and layers.
        handled: Nodes of the autograd graph that are not linear, but have a rule all the same.
        elementwise: Names of the functions that are activations.
    """

    elementwise: ClassVar[frozenset[str]] = ACTIVATIONS

    def __init__(self, rules: Mapping[str, OperationRule] = MappingProxyType({})) -> None:
        super().__init__()
        self.rules = rules
        self.handled: set[Any] = set()
        self.backward = False
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.calls += 1
        if self.backward or not torch.is_grad_enabled():
            # Without gradients there is nothing to pass back, as within `no_grad` or an autograd function of the user.
            return func(*args, **kwargs)
        if func in STEPS and FunctionCall(func, args, kwargs).active:
            return self._step_by_step(STEPS[func], args, kwargs)
        name = operation(func)
        rule = self.rules.get(name)
        if rule is not None:
            call = FunctionCall(func, args, kwargs)
            return rule.apply(self, call) if call.active else func(*args, **kwargs)
        values = args[0] if args else kwargs.get("input")
        if not (isinstance(values, Tensor) and values.requires_grad):
            return func(*args, **kwargs)
        if (name in self.elementwise and _is_elementwise(name, args)) or name in MAXIMA:
            rest = {key: value for key, value in kwargs.items() if key != "input"}

            def apply(x: Tensor) -> Tensor:
                return func(x, *args[1:], **rest)

            return (self.maximum if name in MAXIMA else self.activation)(values, apply, name)
        return self.layer(name, values, func, args, kwargs)

    def _step_by_step(self, steps: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        try:
            with self:
                return steps(*args, **kwargs)
        except ModelError as error:
            raise MethodError(
                "there are no rules for attention with grouped queries, nor for MultiheadAttention with masks, extra keys or separate "
                "projections; use IxG or IG instead"
            ) from error

    @abstractmethod
    def activation(self, values: Tensor, function: Map, name: str) -> Tensor:
        """Return an elementwise activation of the values, with its backward rule.

        Args:
            values: Input of the activation, of any shape.
            function: The activation; it may write into the values.
            name: Its name in `torch.nn.functional`.
        """

    def maximum(self, values: Tensor, function: Map, name: str) -> Tensor:
        """Return the maxima of the values. By default, they keep their gradient, which goes to the largest value only."""
        return function(values)

    def layer(self, name: str, values: Tensor, func: Any, args: Any, kwargs: Any) -> Any:
        """Return the output of any other function for the values; `name` is its name. By default, it keeps its gradient."""
        return func(*args, **kwargs)

    def settle(self) -> None:
        """Prepare for a function that writes into one of its arguments."""

    def with_backward(self, values: Tensor, output: Tensor, back: Map, kind: str = RULE) -> Tensor:
        """Return the output as a function of the values whose backward pass is `back`.

        Args:
            values: What the output was computed from.
            output: May be the values themselves, if the function has written into them.
            back: Maps the gradient with respect to the output to that with respect to the values.
            kind: Kind of the node in the graph: `RULE`; `ACTIVATION_RULE` for a function of each value alone; `RELEVANCE_RULE` if
                `back` returns relevance rather than a gradient.
        """
        result = output if output is values else output.detach()
        return _KINDS[kind].apply(values, self, (result,), back)


class _BackwardRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rules: BackwardRules, output: tuple[Tensor], back: Map) -> Tensor:
        ctx.rules, ctx.back = rules, back
        if output[0] is values:
            ctx.mark_dirty(values)
        # In a tuple, because an output that is itself an argument would become a view, which cannot be written into.
        return output[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.rules.backward = True
        try:
            return ctx.back(gradients[0]), None, None, None
        finally:
            ctx.rules.backward = False


class _ActivationRule(_BackwardRule):
    pass


class _RelevanceRule(_BackwardRule):
    pass


_KINDS = {RULE: _BackwardRule, ACTIVATION_RULE: _ActivationRule, RELEVANCE_RULE: _RelevanceRule}


def _is_elementwise(name: str, args: Sequence[Any]) -> bool:
    """Return whether an activation is a function of its first argument alone. A root is not one: it is the scale of a norm."""
    if name == "pow":
        return len(args) > 1 and isinstance(args[1], int | float) and args[1] >= 1
    return not any(isinstance(a, Tensor) and a.requires_grad for a in args[1:])


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _flat(value)
        else:
            yield value
