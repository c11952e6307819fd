"""Smooth masks: the smooth maximum of kernels around the nodes of a grid, with its derivative."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

COLDNESS = 20
"""Inverse temperature of the smooth maximum."""


@dataclass(frozen=True)
class SmoothMasks:
    """Masks that are the smooth maximum over the nodes of a grid, m(u) = smax_i k(|u - u_i| / sigma) p_i, one node every `step` positions.

    smax(z) = sum z softmax(20 z), k(d) = exp(-2 max(d - 1/2, 0)^2), and p_i from 0 to 1 are the parameters.

    Attributes:
        size: Height and width of the masks.
        step: Distance of the nodes in positions.
        sigma: Radius of the kernel in positions.
    """

    size: tuple[int, int]
    step: int
    sigma: float

    @classmethod
    def of(cls, size: tuple[int, int], cells: int, sigma: float) -> "SmoothMasks":
        """Return masks with `cells` nodes along the shorter side, of which the radius is a share `sigma`."""
        return cls(size, math.ceil(min(size) / cells), sigma * min(size))

    @property
    def nodes(self) -> tuple[int, int]:
        """Return the number of nodes down and right."""
        return math.ceil(self.size[0] / self.step), math.ceil(self.size[1] / self.step)

    @property
    def margin(self) -> int:
        """Return the width of the margin in steps."""
        return math.ceil(self.sigma / self.step)

    @property
    def reach(self) -> int:
        """Return the number of nodes to each side of a position that count."""
        return self.margin + 1

    def make(self, values: Tensor) -> Tensor:
        """Return the masks with their margin (n,1,H,W), for the parameters of the nodes (n,1,hn,wn)."""
        return _SmoothMaximum.apply(values, self)

    def cropped(self, masks: Tensor) -> Tensor:
        """Return masks without their margin (n,1,h,w)."""
        start = self.margin * self.step
        return masks[:, :, start : start + self.size[0], start : start + self.size[1]]

    def unfolded(self, values: Tensor) -> Tensor:
        """Return the parameters of the nodes around each node, (n, rows of nodes, nodes in a row, tall, wide)."""
        across = 2 * self.reach + 1
        near = F.unfold(values, across, padding=self.reach + self.margin)
        return near.view(len(values), across, across, *(count + 2 * self.margin for count in self.nodes))

    def folded(self, near: Tensor) -> Tensor:
        """Return the sums (n,1,hn,wn) of what belongs to each node; the transpose of `unfolded`."""
        return F.fold(near.flatten(3).flatten(1, 2), self.nodes, 2 * self.reach + 1, padding=self.reach + self.margin)

    def weights(self) -> Tensor:
        """Return the kernel between positions and the nodes around them, (rows of nodes, nodes in a row, 1, step, 1, step)."""
        offsets = torch.arange(self.step)[:, None] - self.step * torch.arange(-self.reach, self.reach + 1)
        squares = offsets.square().float()
        distances = (squares.T[:, None, :, None] + squares.T[None, :, None, :]).sqrt()
        return (-2 * (distances / self.sigma - 0.5).clamp_min(0) ** 2).exp()[:, :, None, :, None, :]


class _SmoothMaximum(torch.autograd.Function):
    """The smooth maximum, computed for one mask and one row of nodes at a time, which fit into the cache of a processor."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, masks: SmoothMasks) -> Tensor:
        near, weights = masks.unfolded(values), masks.weights().to(values)
        shape = (near.shape[3], masks.step, near.shape[4], masks.step)
        above, below = values.new_zeros(2, len(values), *shape)
        for k, row in _tiles(near):
            terms, powers = _terms(near[k, row], weights[row])
            below[k] += powers.sum(0)
            above[k] += terms.mul_(powers).sum(0)
        ctx.masks = masks
        ctx.save_for_backward(values, above / below, below)
        return (above / below).view(len(values), 1, shape[0] * shape[1], shape[2] * shape[3])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        masks, (values, maxima, below) = ctx.masks, ctx.saved_tensors
        near, weights = masks.unfolded(values), masks.weights().to(values)
        factor, slopes = gradients[0].reshape(below.shape) / below, torch.empty_like(near)
        for k, row in _tiles(near):
            # d smax / d z_i = softmax_i (1 + 20 (z_i - smax))
            terms, powers = _terms(near[k, row], weights[row])
            powers *= terms.sub_(maxima[k]).mul_(COLDNESS).add_(1)
            slopes[k, row] = (powers.mul_(weights[row]).mul_(factor[k])).sum((2, 4))
        return masks.folded(slopes), None


def _tiles(near: Tensor) -> Iterator[tuple[int, int]]:
    return ((k, row) for k in range(near.shape[0]) for row in range(near.shape[1]))


def _terms(near: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return k p and exp(20 k p) of the nodes in a row (n, tall, step, wide, step); p is at most 1, so that nothing overflows."""
    terms = near[:, :, None, :, None] * weights
    return terms, (COLDNESS * terms).exp_()
