"""The bias term of an operation from its own backward pass.

The backward pass of y = f(a) turns the gradient g in y into J^T g. The term g b of the bias b = f(a) - J a is then g f(a) - (J^T g) a,
entry by entry if f is elementwise, and in the sum over all entries for every f. It costs no derivative beyond those of the pass itself.
`PendingCall` is for operations that are one step of the autograd graph, `AliasedCall` for one of several steps, whose inputs it replaces.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

Visit = Callable[[Tensor], None]
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

    def watch(self, output: Tensor, visit: Visit) -> None:
        """Call `visit` in the backward pass of the output with `term`."""
        assert output.grad_fn is not None, "the output varies"
        output.grad_fn.register_hook(lambda slopes, gradients: visit(self.term(slopes, gradients[0])))

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

    def pullbacks(self, outputs: Sequence[Tensor]) -> list[Pullback]:
        """Return the operation, if it is a single step in the autograd graph: a mode of torch may have split it."""
        output = outputs[0]
        node: Any = output.grad_fn
        if tuple(node.next_functions[: len(self.edges)]) != tuple((edge.node, edge.output_nr) for edge in self.edges):
            return []
        constant = [t.detach() if isinstance(t, Tensor) else t for t in self.args]
        result, elementwise = output.detach(), len(self.inputs) == 1
        return [Pullback(self.inputs, result, result._version, lambda: self.func(*constant, **self.kwargs), elementwise)]


@dataclass(frozen=True)
class AliasedPullback:
    """One output of an operation of several steps, the inputs of which are aliases; the gradients in these are J^T g.

    Attributes:
        aliases: Aliases of the inputs a that vary, (T,B,E) each; none for all outputs but the first, as they share the inputs.
        output: Output y (T,B,E), or attention weights; may be overwritten after the operation.
        version: Version of the output as the operation returned it.
        compute: Computes the output again.
    """

    aliases: Sequence[Tensor]
    output: Tensor
    version: int
    compute: Callable[[], Tensor]

    def watch(self, output: Tensor, visit: Visit) -> None:
        """Call `visit` in the backward pass of the output with parts of the sums of g b, summed from the third dimension on."""
        output.register_hook(self._after(visit))
        for alias in self.aliases:
            alias.register_hook(self._before(alias.detach(), visit))

    def _after(self, visit: Visit) -> Visit:
        return lambda gradient: visit(_dot(gradient, self.output if self.output._version == self.version else self.compute()))

    def _before(self, values: Tensor, visit: Visit) -> Visit:
        return lambda slopes: visit(-_dot(slopes, values))


@dataclass(frozen=True)
class AliasedCall:
    """A call of `multi_head_attention_forward` with aliases of the inputs that vary."""

    args: Any
    kwargs: Any
    aliases: Sequence[Tensor]

    @classmethod
    def of(cls, func: Any, args: Any, kwargs: Any, varying: Sequence[Tensor]) -> "AliasedCall | None":
        """Return the call if the function is this one, its inputs are (T,B,E) each, and nothing else varies; else None.

        Args:
            func: Function of torch.
            args: Its arguments.
            kwargs: Its keyword arguments.
            varying: Those of them that need a gradient.
        """
        if func is not F.multi_head_attention_forward or any(t.ndim != 3 or all(t is not a for a in args[:3]) for t in varying):
            return None
        # An input that is given several times stays one tensor, by which the function chooses its projections.
        aliases = {id(t): t.view_as(t) for t in varying}
        return cls(tuple(aliases.get(id(a), a) for a in args), kwargs, list(aliases.values()))

    def pullbacks(self, outputs: Sequence[Tensor]) -> list[AliasedPullback]:
        """Return the operation for each output: the result, and the attention weights if they are returned."""
        constant: Any = [t.detach() if isinstance(t, Tensor) else t for t in self.args]

        def again(number: int) -> Callable[[], Tensor]:
            return lambda: F.multi_head_attention_forward(*constant, **self.kwargs)[number]  # type: ignore[return-value]

        results = [output.detach() for output in outputs]
        return [AliasedPullback(() if k else self.aliases, each, each._version, again(k)) for k, each in enumerate(results)]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of a * b over all dimensions from the third on."""
    return (a * b).flatten(2).sum(2)
