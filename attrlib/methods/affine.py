"""Test whether a model is affine downstream of a layer, as pooling and a linear head are. One gradient then describes it completely."""

import torch

from attrlib.methods.autograd_graph import undefined
from attrlib.methods.context import AttributionContext


def is_affine(context: AttributionContext) -> bool:
    """Return whether the logits are an affine function of the layer's output.

    The autograd graph must contain affine operations only. It does not show what the code takes out of it (`detach`), so additivity
    is also tested on a random split of the inputs.
    """
    return context.shared("affine", lambda: _of_affine_operations(context) and _adds_up(context))


def _of_affine_operations(context: AttributionContext) -> bool:
    leaf = context.inputs[:1].detach().requires_grad_()
    with torch.enable_grad():
        return not undefined(context.logits(leaf, context.rows[:1]))


def _adds_up(context: AttributionContext) -> bool:
    """Return whether f(x m) + f(x (1 - m)) = f(x) + f(0) for a random mask m of both signs, drawn per position and channel."""
    inputs, rows = context.inputs[:1], context.rows[:1]
    mask = torch.randn(inputs.shape, generator=context.generator("affine")).to(inputs)
    with torch.no_grad():
        one, other, whole, nothing = (context.logits(part, rows) for part in (inputs * mask, inputs * (1 - mask), inputs, 0 * inputs))
    scale = torch.stack([one, other, whole, nothing]).abs().amax()
    return bool((one + other - whole - nothing).abs().amax() <= 1e-4 * scale)
