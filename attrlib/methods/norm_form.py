"""Norms of each image in one form: y = c r w + b, c = x - mean x (or x), r = (mean c^2 + eps)^(-1/2), means over groups of values."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.methods.backward import FunctionCall
from attrlib.models.operations import operation


@dataclass(frozen=True, eq=False)
class NormForm:
    """What LayerNorm, GroupNorm, InstanceNorm, RMSNorm and L2 normalisation differ in.

    Attributes:
        dims: Dimensions that are averaged over, of grouped values.
        weight: Weight, in a shape that broadcasts against the values, or None.
        inverse: Returns r of grouped and centred values.
        count: Number of values that c^2 is divided by.
        centres: Whether the mean is subtracted.
        groups: Number of groups of channels, or 0 if the values are averaged as they are.
    """

    dims: tuple[int, ...]
    weight: Tensor | None
    inverse: Callable[[Tensor], Tensor]
    count: int = 1
    centres: bool = False
    groups: int = 0

    @classmethod
    def of(cls, call: FunctionCall) -> "NormForm":
        """Return the form of a call of a norm."""
        x, name = call.argument(0, "input"), operation(call.func)
        if name == "normalize":
            p, dim, least = call.argument(1, "p", 2.0), call.argument(2, "dim", 1), call.argument(3, "eps", 1e-12)
            return cls((dim,), None, lambda c: 1 / c.norm(p, dim, keepdim=True).clamp_min(least))
        if name in ("layer_norm", "rms_norm"):
            shape, centres = call.argument(1, "normalized_shape"), name == "layer_norm"
            eps = call.argument(4, "eps", 1e-5) if centres else call.argument(3, "eps")
            eps = torch.finfo(x.dtype).eps if eps is None else eps
            dims = tuple(range(-len(shape), 0))
            return cls(dims, call.argument(2, "weight"), _inverse(dims, eps), torch.Size(shape).numel(), centres)
        weight, eps = (call.argument(3, "weight"), call.argument(7, "eps", 1e-5)) if name == "instance_norm" else (None, None)
        groups = x.shape[1]
        if name == "group_norm":
            weight, eps, groups = call.argument(2, "weight"), call.argument(4, "eps", 1e-5), call.argument(1, "num_groups")
        by_channel = None if weight is None else weight.view(-1, *[1] * (x.ndim - 2))
        return cls((-1,), by_channel, _inverse((-1,), eps), x[0].numel() // groups, True, groups)

    def grouped(self, values: Tensor) -> Tensor:
        """Return values (B,...) in groups, over whose dimensions `dims` they are averaged."""
        return values.unflatten(1, (self.groups, -1)).flatten(2) if self.groups else values

    def centred(self, grouped: Tensor) -> Tensor:
        """Return grouped values less their mean, if the norm subtracts it."""
        return grouped - grouped.mean(self.dims, keepdim=True) if self.centres else grouped


def _inverse(dims: tuple[int, ...], eps: float) -> Callable[[Tensor], Tensor]:
    return lambda c: torch.rsqrt(c.square().mean(dims, keepdim=True) + eps)
