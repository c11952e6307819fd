"""Capture attention matrices of a transformer as tensors of the autograd graph, without changing the model.

Fused kernels (timm's fused attention, torch's MultiheadAttention) never form the matrix. Inside `Attentions()` they are replaced
by matrix products and a softmax, in the calling thread only. No setting of the model changes, and no hooks are added.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attrlib.errors import ModelError

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
        apart = _APART.get(func)
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
        if getattr(func, "__name__", "").strip("_") in ("matmul", "bmm") and len(args) == 2:
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


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001  that of the function it stands for
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute `scaled_dot_product_attention` in evaluation mode, step by step."""
    if enable_gqa:
        raise ModelError(
            "attention methods are not defined for grouped queries, which hide the attention of each head; use a gradient or perturbation method instead"
        )
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        scores = scores.masked_fill(scores.new_ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1) @ value


def _attend_by_heads(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,  # noqa: ARG001
    add_zero_attn: bool,
    dropout_p: float,  # noqa: ARG001
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Compute `multi_head_attention_forward` of (T,B,E) in evaluation mode, step by step; return no weights, as nothing reads them."""
    masks = [others.get(name) for name in ("key_padding_mask", "attn_mask", "static_k", "static_v")]
    if in_proj_weight is None or bias_k is not None or add_zero_attn or any(m is not None for m in masks) or query.ndim != 3:
        raise ModelError(
            "attention methods are not defined for MultiheadAttention with masks, extra keys or separate projections; use a gradient or "
            "perturbation method instead"
        )
    width = embed_dim_to_check // num_heads
    weights = in_proj_weight.chunk(3)
    biases: Sequence[Tensor | None] = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    projected = (F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    # (T,B,E) to (B,heads,T,E/heads).
    attended = _attend(*(x.unflatten(-1, (num_heads, width)).permute(1, 2, 0, 3) for x in projected))
    return F.linear(attended.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias), None


_APART: dict[Callable[..., Any], Callable[..., Any]] = {
    F.scaled_dot_product_attention: _attend,
    F.multi_head_attention_forward: _attend_by_heads,
}
