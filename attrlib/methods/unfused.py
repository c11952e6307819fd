"""Attention in single steps: fused kernels have neither second nor forward derivatives."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode


class Unfused(TorchFunctionMode):
    """Mode that computes attention in single steps, in the calling thread only. Values change by rounding."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        return unfused(func, args, kwargs or {})


def unfused(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call a function of torch; if it is attention, in single steps."""
    if func is F.multi_head_attention_forward:
        # The path that returns the weights uses no fused kernel.
        output, weights = func(*args, **{**kwargs, "need_weights": True})
        return output, weights if kwargs.get("need_weights", True) else None
    if func is not F.scaled_dot_product_attention:
        return func(*args, **kwargs)
    named = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), args, strict=False)) | dict(kwargs)
    mask = named.get("attn_mask")
    if mask is not None and mask.dtype == torch.bool:
        named["attn_mask"] = torch.zeros_like(mask, dtype=named["query"].dtype).masked_fill(~mask, -torch.inf)
    return torch._scaled_dot_product_attention_math(**named)[0]
