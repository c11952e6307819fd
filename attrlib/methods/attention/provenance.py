"""Which position of a layer each row of a later tensor is computed from, measured by gradients of one forward pass.

A tensor has slots, such as the keys of an attention matrix. Two cotangents are sent back from it to the layer: random numbers u, and u
times a number per slot. At a position that feeds a single slot, the second gradient is the first one times the number of that slot.
Where a position feeds several slots, the two gradients are not proportional. Numbers are sent digit by digit, so that rounding does not
matter.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from attrlib.models import Layout

_BASE = 64
_TOLERANCE = 0.01
"""Distance of a digit from a whole number, and of the second gradient from the first times the digit; rounding leaves some 1e-3."""


def slots_of(output: Tensor, slots: Tensor, layer: Tensor, layout: Layout) -> Tensor | None:
    """Return the slot of a tensor that each position of a layer feeds, -1 where it feeds none.

    Args:
        output: Tensor that was computed from the layer's output for one image.
        slots: Number of the slot that each entry of the tensor belongs to; broadcasts against the tensor.
        layer: The layer's output for the image, in the graph of the tensor.
        layout: Layout of the layer.

    Returns:
        Slots (T,) of the layer's positions, prefix tokens first; None if a position feeds several slots.
    """
    return fed(output, slots, layer, lambda gradient: positions(gradient, layout))


def positions(values: Tensor, layout: Layout) -> Tensor:
    """Return values of one image in a layer's layout as (T,C), prefix tokens first."""
    if layout.kind == "tokens":
        # The batch may be the second dimension.
        return values.flatten(0, 1)
    return layout.spatial(values)[0].flatten(1).T


def fed(output: Tensor, slots: Tensor, source: Tensor, rows: Callable[[Tensor], Tensor]) -> Tensor | None:
    """Return the slot of a tensor that each row of an earlier tensor feeds, -1 where it feeds none; None if one feeds several.

    Args:
        output: Tensor that was computed from the source for one image.
        slots: Number of the slot that each entry of the tensor belongs to; broadcasts against the tensor.
        source: The earlier tensor.
        rows: Returns a tensor of the shape of the source as (T,C).
    """
    if not (output.requires_grad and source.requires_grad):
        return torch.full((len(rows(source.detach())),), -1, device=source.device)
    u = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)

    def back(cotangent: Tensor) -> Tensor | None:
        (gradient,) = torch.autograd.grad(output, source, cotangent, retain_graph=True, allow_unused=True)
        return None if gradient is None else rows(gradient).double()

    first = back(u)
    if first is None:
        return torch.full((len(rows(source.detach())),), -1, device=source.device)
    square = first.square().sum(1)
    feeds = square > 0
    number, place, rest = torch.zeros_like(square), 1, slots
    while True:
        digit = back(u * (rest % _BASE).to(u))
        assert digit is not None, "the first gradient exists"
        ratio = (digit * first).sum(1) / square.where(feeds, 1)
        error = (digit - ratio[:, None] * first).square().sum(1)
        exact = (ratio - ratio.round()).abs() < _TOLERANCE
        if not bool((~feeds | (exact & (error <= _TOLERANCE**2 * square))).all()):
            return None
        number += place * ratio.round()
        rest, place = rest // _BASE, place * _BASE
        if not bool(rest.any()):
            return number.long().where(feeds, -1)
