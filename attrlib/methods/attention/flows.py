"""Methods of attention alone: raw attention and rollout."""

from dataclasses import dataclass

from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.attention.base import AttentionMethod, mixed
from attrlib.methods.attention.steps import Blocks, flow
from attrlib.methods.base import METHODS, Passes
from attrlib.methods.context import AttributionContext
from attrlib.models import Layer
from attrlib.registry import Paper, param

ROLLOUT = Paper("Abnar and Zuidema 2020", "Quantifying Attention Flow in Transformers", "https://arxiv.org/abs/2005.00928")
DINO = Paper("Caron et al. 2021", "Emerging Properties in Self-Supervised Vision Transformers", "https://arxiv.org/abs/2104.14294")


@METHODS.register
@dataclass(frozen=True)
class RawAttention(AttentionMethod):
    """Raw attention: how much the token that the head reads attends to each patch in one block, mean over heads. Not class-specific.

    In a block in which this token asks nothing, before an attention pooling for example, it is the mean over all tokens that do.
    """

    name, family, paper = "Raw attention", "transformer", DINO
    class_specific = False
    block: int | None = param(None, "Block, counted from 0", low=0, high=1000, auto="the last")

    def tokens(self, context: AttributionContext, blocks: Blocks, first: int) -> Tensor:
        matrix = mixed(context, blocks)[first - blocks.first]
        return context.per_item(blocks.steps[first].rows(matrix[:, None], blocks.asked(first))[:, 0].mean(1))

    def first(self, blocks: Blocks, layer: Layer) -> int:
        block = blocks.total - 1 if self.block is None else self.block
        if not blocks.first <= block < blocks.total:
            raise MethodError(
                f"{self.name}: block={block} is not downstream of {layer.name}; choose one from {blocks.first} to {blocks.total - 1}"
            )
        return block

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=1)


@METHODS.register
@dataclass(frozen=True)
class Rollout(AttentionMethod):
    """Attention rollout: product over blocks of A + I with rows that sum to one, A the mean attention over heads. Not class-specific.

    Attention within windows (Swin) counts as zero outside of them, and merged patches as their mean. The learned query of an attention
    pooling keeps nothing of itself, so its row is that of A. IDSDS omits block 0 (`start` 1).
    """

    name, family, paper = "Rollout", "transformer", ROLLOUT
    class_specific = False
    start: int = param(1, "First block to include, counted from 0", low=0, high=1000)

    def tokens(self, context: AttributionContext, blocks: Blocks, first: int) -> Tensor:
        steps = zip(blocks.steps[first:], mixed(context, blocks)[first - blocks.first :], strict=True)
        # Rows of A sum to one, so rows of A + I sum to two.
        return context.per_item(flow([a if step.latents else a / 2 for step, a in steps], blocks, first, keep=0.5))

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=1)
