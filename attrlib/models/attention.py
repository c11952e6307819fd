"""Capture attention matrices of a transformer as tensors of the autograd graph, without changing the model.

Fused kernels (timm's fused attention, torch's MultiheadAttention) never form the matrix. Inside `Attentions()` they are replaced
by matrix products and a softmax, in the calling thread only. No setting of the model changes, and no hooks are added.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attrlib.models.operations import STEPS, operation

_SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax)


class Attentions(TorchFunctionMode):
    """Collect in `matrices` the attention matrices (B,heads,T,T), or (B,T,T), of the forward passes inside, in order of execution.

    With windows, the first dimension is that of all windows of all images. Every softmax over the last dimension counts as an attention matrix; the caller must check that it is one of tokens.
    """

    def __init__(self) -> None:
        super().__init__()
        self.matrices: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        apart = STEPS.get(func)
        if apart is not None:
            with self:
                return apart(*args, **kwargs)
        result = self.compute(func, args, kwargs)
        if func in _SOFTMAX and result.ndim >= 3 and kwargs.get("dim", args[1] if len(args) > 1 else None) in (-1, result.ndim - 1):
            self.matrices.append(result)
        return result

    def compute(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Compute one function of the model; a subclass may override its derivative."""
        return func(*args, **kwargs)


@dataclass(frozen=True)
class Product:
    """A matrix product of a forward pass: its factors, its result, and how many attention matrices had been computed before it."""

    left: Tensor
    right: Tensor
    result: Tensor
    after: int


class Operands(Attentions):
    """Collect the matrix products of the forward passes inside as well, to find queries, keys and values of each attention matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def compute(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Compute one function of the model, and keep its operands if it is a matrix product."""
        result = func(*args, **kwargs)
        if operation(func) in ("matmul", "bmm") and len(args) == 2:
            self.products.append(Product(args[0], args[1], result, len(self.matrices)))
        return result

    def scores(self, index: int) -> Product | None:
        """Return the product of queries and transposed keys that an attention matrix was computed from, if there is one."""
        matrix = self.matrices[index]
        found = [p for p in self.products if p.after == index and _alike(p.result, matrix)]
        return found[-1] if found and _depends(matrix, found[-1].result) else None

    def attended(self, index: int) -> Product | None:
        """Return the product of an attention matrix and the values, if there is one."""
        matrix = self.matrices[index]
        found = [p for p in self.products if p.after == index + 1 and _alike(p.left, matrix)]
        return found[0] if found and _depends(found[0].left, matrix) else None


def _alike(one: Tensor, other: Tensor) -> bool:
    """Return whether tensors have the same rows, columns and size, however many dimensions windows and heads take."""
    return one.shape[-2:] == other.shape[-2:] and one.numel() == other.numel()


def _depends(output: Tensor, source: Tensor) -> bool:
    if output is source:
        return True
    if not (output.requires_grad and source.requires_grad):
        return False
    return torch.autograd.grad(output.sum(), source, retain_graph=True, allow_unused=True)[0] is not None
