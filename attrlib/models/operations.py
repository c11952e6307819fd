"""Operations of a forward pass, as a torch function mode sees them: their canonical names, and the steps that fused ones consist of.

A network may write the same operation in many ways: `a + b`, `a += b`, `torch.add(a, b)` and `a.add_(b)` are all `add`. Fused kernels
(timm's fused attention, torch's MultiheadAttention) hide the matrix products and the softmax that they consist of; `STEPS` has functions
in their place that compute these one by one.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.errors import ModelError

_SAME = {
    "iadd": "add",
    "radd": "add",
    "isub": "sub",
    "subtract": "sub",
    "imul": "mul",
    "rmul": "mul",
    "multiply": "mul",
    "idiv": "div",
    "truediv": "div",
    "itruediv": "div",
    "divide": "div",
    "true_divide": "div",
    "ipow": "pow",
    "negative": "neg",
    "concat": "cat",
    "concatenate": "cat",
    "special_softmax": "softmax",
    "linalg_vector_norm": "norm",
    "vector_norm": "norm",
}

_WRITING = re.compile(r"[^_]_$|^__i[a-z]+__$|^__setitem__$")


def operation(func: Callable[..., Any]) -> str:
    """Return the canonical name of a torch function, such as `add` for `torch.Tensor.__iadd__`."""
    name = getattr(func, "__name__", "").strip("_")
    return _SAME.get(name, name)


def writes(func: Callable[..., Any]) -> bool:
    """Return whether a torch function writes its result into its first argument."""
    return _WRITING.search(getattr(func, "__name__", "")) is not None


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


def _gated(input: Tensor, dim: int = -1) -> Tensor:  # noqa: A002  the name of the argument in torch
    """Compute `glu` step by step."""
    values, gate = input.chunk(2, dim)
    return values * gate.sigmoid()


STEPS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.glu: _gated,
    F.scaled_dot_product_attention: _attend,
    F.multi_head_attention_forward: _attend_by_heads,
}
"""Functions that compute fused ones step by step. A mode calls them inside itself, so that it sees the steps."""
