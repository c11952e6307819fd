"""Capture attention matrices of a transformer as tensors of the autograd graph, without changing the model.

Fused kernels (timm's fused attention, torch's MultiheadAttention) never form the matrix. Inside `Attentions()` they are replaced
by matrix products and a softmax, in the calling thread only. No setting of the model changes, and no hooks are added.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attrlib.models.operations import STEPS

_SOFTMAX = (torch.softmax, F.softmax, Tensor.softmax)


class Attentions(TorchFunctionMode):
    """Collect in `matrices` the attention matrices (B,heads,T,T), or (B,T,T), of the forward passes inside, in order of execution.

    Every softmax over the last dimension counts as an attention matrix; the caller must check that it is one of tokens.
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
        if func in _SOFTMAX and result.ndim in (3, 4) and kwargs.get("dim", args[1] if len(args) > 1 else None) in (-1, result.ndim - 1):
            self.matrices.append(result)
        return result

    def compute(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Compute one function of the model; a subclass may override its derivative."""
        return func(*args, **kwargs)
