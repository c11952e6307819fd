"""Whether what lies behind a layer is affine in it, as a pooling and a linear head are: then one gradient says all."""

import torch

from attrlib.methods.autograd_graph import undefined
from attrlib.methods.context import AttributionContext


def is_affine(context: AttributionContext) -> bool:
    """Whether the logits are an affine function of the layer's output: of nothing but affine operations, by the autograd graph.

    What code takes out of the graph (`detach`) it does not show, so the logits are compared, too, with what an affine function would
    be on random parts of the inputs.
    """
    return context.shared("affine", lambda: _of_affine_operations(context) and _adds_up(context))


def _of_affine_operations(context: AttributionContext) -> bool:
    leaf = context.inputs[:1].detach().requires_grad_()
    with torch.enable_grad():
        return not undefined(context.logits(leaf, context.rows[:1]))


def _adds_up(context: AttributionContext) -> bool:
    """f(x m) + f(x (1 - m)) = f(x) + f(0), for one random m, of both signs, of each position and channel."""
    inputs, rows = context.inputs[:1], context.rows[:1]
    mask = torch.randn(inputs.shape, generator=context.generator("affine")).to(inputs)
    with torch.no_grad():
        one, other, whole, nothing = (context.logits(part, rows) for part in (inputs * mask, inputs * (1 - mask), inputs, 0 * inputs))
    scale = torch.stack([one, other, whole, nothing]).abs().amax()
    return bool((one + other - whole - nothing).abs().amax() <= 1e-4 * scale)
