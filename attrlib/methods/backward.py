"""Custom backward rules for parts of a network, without a change to the network.

`BackwardRules` is a torch function mode. Inside it, activations, maxima and layers are passed to methods that may replace their backward
pass, whether they are modules or functions, in place or not, used once or several times. All other operations keep their gradient.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

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
    ]
)
MAXIMA = frozenset(["max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d"])

TINY = 1e-30
"""Added to denominators, so that 0 / 0 becomes 0. No other quotient changes."""


class BackwardRules(TorchFunctionMode):
    """Mode that passes activations, maxima and layers of the forward pass to methods of a subclass, without a change to the network."""

    def __init__(self) -> None:
        super().__init__()
        self.backward = False
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.calls += 1
        values = args[0] if args else kwargs.get("input")
        if self.backward or not (isinstance(values, Tensor) and values.requires_grad):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "").strip("_")
        if name in ACTIVATIONS or name in MAXIMA:
            rest = {key: value for key, value in kwargs.items() if key != "input"}

            def apply(x: Tensor) -> Tensor:
                return func(x, *args[1:], **rest)

            return (self.activation if name in ACTIVATIONS else self.maximum)(values, apply, name)
        return self.layer(name, values, func, args, kwargs)

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

    def with_backward(self, values: Tensor, output: Tensor, back: Map, gives_relevance: bool = False) -> Tensor:
        """Return the output as a function of the values whose backward pass is `back`.

        Args:
            values: What the output was computed from.
            output: May be the values themselves, if the function has written into them.
            back: Maps the gradient with respect to the output to that with respect to the values.
            gives_relevance: Marks in the graph that `back` returns relevance rather than a gradient.
        """
        result = output if output is values else output.detach()
        return (_RelevanceRule if gives_relevance else _BackwardRule).apply(values, self, (result,), back)


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


class _RelevanceRule(_BackwardRule):
    pass


RULE, RELEVANCE_RULE = _BackwardRule.__name__, _RelevanceRule.__name__
"""Kinds of the graph's nodes that have a custom backward rule, as `autograd_graph.kind` names them."""
