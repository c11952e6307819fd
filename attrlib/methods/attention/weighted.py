"""Methods that weight attention by the gradient of the target."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.methods.attention.base import CHEFER_LRP, AttentionMethod, derivatives, differentiated, slopes
from attrlib.methods.attention.relevance import Relevance, shares
from attrlib.methods.attention.steps import Blocks, flow
from attrlib.methods.base import METHODS, Passes
from attrlib.methods.context import AttributionContext
from attrlib.models import Layer
from attrlib.registry import Paper, param

CHEFER = Paper("Chefer et al. 2021", "Generic Attention-model Explainability", "https://arxiv.org/abs/2103.15679")


@METHODS.register
@dataclass(frozen=True)
class AttentionGradCAM(AttentionMethod):
    """Attention Grad-CAM: relu of the mean over heads of the last block's attention times its mean gradient over patches.

    The attention is that of the token that the head reads, and the patches are those in its window. The gradient is that of the target
    logit.
    """

    name, family, paper = "Attention Grad-CAM", "transformer", CHEFER_LRP

    def tokens(self, context: AttributionContext, blocks: Blocks, first: int) -> Tensor:
        found = slopes(context, blocks)
        return (found.attention * found.gradient).mean((1, 2)).relu()

    def first(self, blocks: Blocks, layer: Layer) -> int:
        return blocks.total - 1

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=1)


@METHODS.register
@dataclass(frozen=True)
class Chefer(AttentionMethod):
    """Chefer's generic attention explainability: product over blocks of I + mean over heads of relu(dy/dA * A), A the attention.

    Attention within windows (Swin) counts as zero outside of them, and merged patches as their mean.
    """

    name, family, paper = "Chefer", "transformer", CHEFER
    start: int = param(0, "First block to include, counted from 0", low=0, high=1000)

    def tokens(self, context: AttributionContext, blocks: Blocks, first: int) -> Tensor:
        return flow(slopes(context, blocks).products[first - blocks.first :], blocks, first)

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=1)


@METHODS.register
@dataclass(frozen=True)
class CheferLRP(AttentionMethod):
    """Chefer's transformer attribution: product over blocks of I + mean over heads of relu(dy/dA * R), R the relevance of attention A.

    The relevance is that of layer-wise relevance propagation with alpha 1, starting from the target, whose relevance is 1; see
    `attrlib.methods.attention.relevance`. Windows and merged patches count as in Chefer. IDSDS omits block 0 (`start` 1).
    """

    name, family, paper = "CheferLRP", "transformer", CHEFER_LRP
    mode, linear = Relevance, True
    start: int = param(1, "First block to include, counted from 0", low=0, high=1000)

    def tokens(self, context: AttributionContext, blocks: Blocks, first: int) -> Tensor:
        return torch.cat([self._some(context, rows, blocks, first) for rows in context.rows.split(context.chunk)])

    def _some(self, context: AttributionContext, rows: Tensor, blocks: Blocks, first: int) -> Tensor:
        _, gradients = differentiated(context, rows, blocks, first)
        with torch.enable_grad(), Relevance() as seen:
            logits = context.logits(context.inputs[rows].detach().requires_grad_(), rows)
        relevances = derivatives(logits, shares(context.slopes(logits, rows), logits), blocks.of(seen.matrices, first))
        return flow([(g * r).relu().mean(1) for g, r in zip(gradients, relevances, strict=True)], blocks, first)

    def passes(self, layer: Layer) -> Passes:
        # Every product is computed again for positive and for negative parts, forwards and backwards.
        return Passes(forward=5, gradient=1)
