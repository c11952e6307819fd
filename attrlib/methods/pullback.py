"""The bias term of an operation from its own backward pass.

The backward pass of y = f(a) turns the gradient g in y into J^T g. The term g b of the bias b = f(a) - J a is then g f(a) - (J^T g) a,
entry by entry if f is elementwise, and in the sum over all entries for every f. It costs no derivative beyond those of the pass itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

ELEMENTWISE = frozenset({"gelu", "silu", "mish", "hardswish", "hardsigmoid"})
"""Elementwise functions that keep their input for their backward pass, so that torch reports if it is overwritten."""


@dataclass(frozen=True)
class Pullback:
    """An operation whose backward pass yields the term of its bias.

    Attributes:
        inputs: Inputs a that vary.
        output: Output y; may be overwritten after the operation.
        version: Version of the output as the operation returned it.
        compute: Computes the output again.
        elementwise: Whether the operation is elementwise; else it is attention (B,heads,T,d).
    """

    inputs: Sequence[Tensor]
    output: Tensor
    version: int
    compute: Callable[[], Tensor]
    elementwise: bool

    def term(self, slopes: Sequence[Tensor], gradient: Tensor) -> Tensor:
        """Return g b, of the shape of the output; of attention, only its sums (B,heads).

        Args:
            slopes: J^T g for each input.
            gradient: Gradient g in the output.
        """
        output = self.output if self.output._version == self.version else self.compute()
        if self.elementwise:
            return (gradient * output).addcmul_(slopes[0], self.inputs[0], value=-1)
        after, *before = (_dot(*pair) for pair in ((gradient, output), *zip(slopes, self.inputs, strict=False)))
        return after - sum(before)


@dataclass(frozen=True)
class PendingCall:
    """Inputs of an operation that is about to run, and their places in the autograd graph."""

    func: Any
    args: Any
    kwargs: Any
    inputs: Sequence[Tensor]
    edges: Sequence[GradientEdge]

    @classmethod
    def of(cls, func: Any, args: Any, kwargs: Any, varying: Sequence[Tensor]) -> "PendingCall | None":
        """Return the inputs of an operation that may have a `Pullback` and does not write into them; else None.

        Args:
            func: Function of torch.
            args: Its arguments.
            kwargs: Its keyword arguments.
            varying: Those of them that need a gradient.
        """
        count = 1 if getattr(func, "__name__", "") in ELEMENTWISE else 3 if func is F.scaled_dot_product_attention else 0
        if not count or [id(t) for t in varying] != [id(t) for t in args[:count]] or (count == 3 and varying[0].ndim != 4):
            return None
        return cls(func, args, kwargs, [t.detach() for t in varying], [get_gradient_edge(t) for t in varying])

    def pullback(self, output: Tensor) -> Pullback | None:
        """Return the operation, if it is a single step in the autograd graph: a mode of torch may have split it."""
        node: Any = output.grad_fn
        if tuple(node.next_functions[: len(self.edges)]) != tuple((edge.node, edge.output_nr) for edge in self.edges):
            return None
        constant = [t.detach() if isinstance(t, Tensor) else t for t in self.args]
        result, elementwise = output.detach(), len(self.inputs) == 1
        return Pullback(self.inputs, result, result._version, lambda: self.func(*constant, **self.kwargs), elementwise)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of a * b over all dimensions from the third on."""
    return (a * b).flatten(2).sum(2)
