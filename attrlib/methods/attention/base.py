"""Base class of attention methods, and the attention and gradients that they share."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.attention.probe import find_blocks
from attrlib.methods.attention.steps import Blocks, Step
from attrlib.methods.base import Method
from attrlib.methods.context import AttributionContext
from attrlib.models import Classifier, Layer
from attrlib.models.attention import Attentions
from attrlib.registry import Paper

CHEFER_LRP = Paper("Chefer et al. 2021", "Transformer Interpretability Beyond Attention Visualization", "https://arxiv.org/abs/2012.09838")


def by_heads(attention: Tensor) -> Tensor:
    """Return attention (B,T,T) of one head as (B,1,T,T); that of several heads is unchanged."""
    return attention if attention.ndim == 4 else attention[:, None]


class AttentionMethod(Method):
    """Base class of methods that compute a value per patch from the attention downstream of a layer. A subclass defines `tokens`."""

    needs = ("self-attention among tokens that can be followed through the network (ViT, DeiT, SigLIP, CaiT, Swin)",)
    signed, fast, operations = False, True, True
    mode: ClassVar[type[Attentions]] = Attentions

    def check(self, model: Classifier, layer: Layer) -> None:
        if type(model) is not Classifier:
            raise MethodError(
                f"{self.name} reads the attention within one image, but in DiFull and DiPart each grid cell attends only to itself; use a "
                "gradient or perturbation method at Input, or evaluate this one on single images (idsds, sds, pointing)"
            )
        _, height, width = model.layer("Input", None if layer.path else layer.shape[1:]).shape
        for mode in (Attentions, self.mode):
            blocks = find_blocks(model, layer, (height, width), mode)
            self.first(blocks, layer)
            self.check_blocks(model, blocks)

    def check_blocks(self, model: Classifier, blocks: Blocks) -> None:
        """Raise `MethodError` with the reason if the method is not defined for these blocks."""

    def attribute(self, context: AttributionContext) -> Tensor:
        blocks = find_blocks(context.classifier, context.layer, (context.images.shape[2], context.images.shape[3]))
        first = self.first(blocks, context.layer)
        tokens, layout = self.tokens(context, blocks, first), blocks.steps[self.shown(blocks, first)].layout
        grid = tokens[:, layout.prefix : layout.prefix + layout.height * layout.width].unflatten(1, (1, layout.height, layout.width))
        return grid if grid.shape[2:] == context.layer.shape[1:] else F.interpolate(grid, size=context.layer.shape[1:], mode="nearest")

    @abstractmethod
    def tokens(self, context: AttributionContext, blocks: Blocks, first: int) -> Tensor:
        """Return a value for each token of the block `shown`, of each item (B,T).

        Args:
            context: The context.
            blocks: The attention blocks downstream of the layer.
            first: First block to include, counted from 0 in the whole network.
        """

    def shown(self, blocks: Blocks, first: int) -> int:
        """Return the block whose tokens the values are for, by default the first one that is included."""
        return first

    def first(self, blocks: Blocks, layer: Layer) -> int:
        """Return the first block to include, counted from 0 in the whole network."""
        start = getattr(self, "start", 0)
        if start >= blocks.total:
            raise MethodError(f"{self.name}: start={start} leaves out all of the {blocks.total} blocks; choose a smaller start")
        return max(start, blocks.first)


def mixed(context: AttributionContext, blocks: Blocks) -> list[Tensor]:
    """Return the mean over heads of the attention of each image (U*windows,T,T), for each block downstream of the layer; shared."""

    def make() -> list[Tensor]:
        # Attention does not depend on the class, so one item per image is enough.
        rows = (
            context.rows
            if context.owners is None
            else torch.stack([(context.owners == k).nonzero()[0, 0] for k in range(len(context.images))])
        )
        parts: list[list[Tensor]] = []
        for part in rows.split(context.chunk):
            with torch.no_grad(), Attentions() as seen:
                context.logits(context.inputs[part], part)
            parts.append([by_heads(a).mean(1) for a in blocks.of(seen.matrices, blocks.first)])
        return [torch.cat(block) for block in zip(*parts, strict=True)]

    return context.shared("attention", make)


@dataclass(frozen=True)
class Slopes:
    """Gradient and attention of the blocks downstream of a layer.

    Attributes:
        products: Mean over heads of relu(dy/dA * A) of each block (B*windows,T,T).
        attention: Attention A of the last block in the rows of the k tokens that are read (B,heads,k,T).
        gradient: Mean over the patches of the gradient dy/dA of the last block in the same rows (B,heads,k,1).
    """

    products: list[Tensor]
    attention: Tensor
    gradient: Tensor


def slopes(context: AttributionContext, blocks: Blocks) -> Slopes:
    """Return the gradient and attention of the blocks, from one gradient pass; shared."""

    def make() -> Slopes:
        parts = []
        last = blocks.steps[-1]
        for rows in context.rows.split(context.chunk):
            attentions, gradients = differentiated(context, rows, blocks, blocks.first)
            weighted = [(g * a).relu().mean(1) for a, g in zip(attentions, gradients, strict=True)]
            parts.append((*weighted, last.rows(attentions[-1], blocks.read), _over_patches(gradients[-1], last, blocks.read)))
        *products, attention, gradient = (torch.cat(part) for part in zip(*parts, strict=True))
        return Slopes(products, attention, gradient)

    return context.shared("attention slopes", make)


def _over_patches(values: Tensor, step: Step, read: Sequence[int]) -> Tensor:
    """Return the mean (B,heads,k,1) over those patches that the read tokens attend to."""
    patches = slice(step.layout.prefix, step.count - step.latents)
    rows = step.rows(values, read)[..., patches]
    if step.keys is None:
        return rows.mean(-1, keepdim=True)
    attended = step.rows(torch.ones_like(values[: step.windows, :1]), read)[..., patches]
    return rows.sum(-1, keepdim=True) / attended.sum(-1, keepdim=True)


def differentiated(context: AttributionContext, rows: Tensor, blocks: Blocks, first: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the attention (N*windows,heads,T,T) of some items in each block from `first` on, and the target's gradient in each."""
    with torch.enable_grad(), Attentions() as seen:
        logits = context.logits(context.inputs[rows].detach().requires_grad_(), rows)
    chosen = blocks.of(seen.matrices, first)
    return [by_heads(a.detach()) for a in chosen], derivatives(logits, context.slopes(logits, rows), chosen)


def derivatives(logits: Tensor, start: Tensor, attentions: Sequence[Tensor], keep: bool = False) -> list[Tensor]:
    """Return the gradient (N*windows,heads,T,T) in attention matrices, from that of the logits; `keep` keeps the graph for further passes."""
    found = torch.autograd.grad(logits, attentions, start, retain_graph=keep, allow_unused=True, materialize_grads=True)
    return [by_heads(g) for g in found]
