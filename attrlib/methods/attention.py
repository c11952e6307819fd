"""Transformer family: how much the tokens that the head reads attend to each patch.

At an inner layer, a map shows how much each token of that layer is attended to through the blocks downstream of it. At Input, it covers
all blocks, and every pixel has the value of its patch. The methods are defined if all blocks attend among the same tokens: ViT and
DeiT, with or without class token, distillation token and registers.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.errors import AttrlibError, MethodError
from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.context import AttributionContext
from attrlib.methods.relevance import Relevance
from attrlib.models import Classifier, Layer, Layout
from attrlib.models.attention import Attentions
from attrlib.registry import Paper, param

ROLLOUT = Paper("Abnar and Zuidema 2020", "Quantifying Attention Flow in Transformers", "https://arxiv.org/abs/2005.00928")
CHEFER_LRP = Paper("Chefer et al. 2021", "Transformer Interpretability Beyond Attention Visualization", "https://arxiv.org/abs/2012.09838")
CHEFER = Paper("Chefer et al. 2021", "Generic Attention-model Explainability", "https://arxiv.org/abs/2103.15679")
DINO = Paper("Caron et al. 2021", "Emerging Properties in Self-Supervised Vision Transformers", "https://arxiv.org/abs/2104.14294")


@dataclass(frozen=True)
class Blocks:
    """The attention blocks of a model downstream of a layer.

    Attributes:
        first: The first of these blocks, counted from 0 in the whole network.
        total: Number of blocks in the whole network.
        layout: Layout of the tokens that attend to each other.
        read: Tokens whose last state the logits depend on: the class token, with the distillation token if there is one, or all
            patches.
        unused: Number of attention matrices after the blocks that the logits do not depend on, such as that of a pooling which a
            classification head leaves aside.
    """

    first: int
    total: int
    layout: Layout
    read: tuple[int, ...]
    unused: int = 0

    def of(self, matrices: Sequence[Tensor], first: int) -> Sequence[Tensor]:
        """Return the matrices of the blocks from `first` on, among all matrices of a forward pass."""
        end = len(matrices) - self.unused
        return matrices[end - (self.total - first) : end]


_cache: WeakKeyDictionary[Classifier, dict[tuple[object, ...], Blocks | str]] = WeakKeyDictionary()


def find_blocks(model: Classifier, layer: Layer, size: tuple[int, int], mode: type[Attentions] = Attentions) -> Blocks:
    """Return the attention blocks downstream of a layer, found by a forward pass with a probe image. The result is cached.

    Args:
        model: The classifier.
        layer: The layer.
        size: Height and width of the images.
        mode: Records the attention matrices of the forward pass.

    Raises:
        MethodError: If the attention methods are not defined for the model at this layer; the message gives the reason.
    """
    cached = _cache.setdefault(model, {})
    key = (layer.path, size, mode)
    if key not in cached:
        try:
            cached[key] = _probe(model, layer, size, mode)
        except AttrlibError as error:
            cached[key] = str(error)
    blocks = cached[key]
    if isinstance(blocks, str):
        raise MethodError(blocks)
    return blocks


def _probe(model: Classifier, layer: Layer, size: tuple[int, int], mode: type[Attentions]) -> Blocks:
    whole = find_blocks(model, model.layer("Input", size), size) if layer.path else None
    probe = model.place(torch.randn(1, model.channels, *size, generator=torch.Generator().manual_seed(0)))
    with model.session():
        split = model.split(layer, torch.Size((model.channels, *size))).fresh()
        leaf = split.before(probe).detach().requires_grad_()
        with torch.enable_grad(), mode() as seen:
            raw = split.after(leaf, torch.zeros(1, dtype=torch.long, device=leaf.device))
        attentions = [a for a in seen.matrices if a.requires_grad]
        if whole is not None:
            if len(attentions) <= whole.unused:
                raise MethodError(f"{model.name} has no attention downstream of {layer.name}; choose an earlier layer, or Input")
            return replace(whole, first=whole.total - len(attentions) + whole.unused)
        gradients = torch.autograd.grad(raw.square().sum(), attentions, allow_unused=True) if attentions else ()
        used = max((i for i, g in enumerate(gradients, 1) if g is not None), default=len(attentions))
        unused, attentions = len(attentions) - used, attentions[:used]
        layout = _tokens(model, attentions, size)
        gradient = gradients[used - 1]
    rows = [] if gradient is None else gradient.abs().flatten(0, -3).amax((0, 2)).nonzero().flatten().tolist()
    # An untrained head that is all zero has no gradient. Assume the class token if there is one, else all patches.
    count = layout.prefix + layout.height * layout.width
    return Blocks(0, len(attentions), layout, tuple(rows or ([0] if layout.prefix else range(count))), unused)


def _tokens(model: Classifier, attentions: Sequence[Tensor], size: tuple[int, int]) -> Layout:
    """Return the layout of the tokens that all blocks attend among. Raise `MethodError` if the blocks differ."""
    if not attentions:
        raise MethodError(f"{model.name} has no self-attention; use a gradient, CAM or perturbation method instead")
    layouts = [model.layer(name, size).layout for name, layer in model.layers.items() if layer.layout.kind == "tokens"]
    counts = {a.shape[-1] for a in attentions} | {a.shape[-2] for a in attentions}
    fitting = [layout for layout in layouts if counts == {layout.prefix + layout.height * layout.width}]
    if not fitting or any(len(a) != 1 for a in attentions):
        raise MethodError(
            f"{model.name} does not attend among the same tokens in every block (it uses windows, channels, pooled keys or class "
            "attention); use a gradient, CAM or perturbation method instead"
        )
    return fitting[0]


def _by_heads(attention: Tensor) -> Tensor:
    return attention if attention.ndim == 4 else attention[:, None]


class AttentionMethod(Method):
    """Base class of methods that compute a value per patch from the attention downstream of a layer. A subclass defines `tokens`."""

    needs = ("self-attention among one set of tokens (ViT, DeiT)",)
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
            self._first(find_blocks(model, layer, (height, width), mode), layer)

    def attribute(self, context: AttributionContext) -> Tensor:
        blocks = find_blocks(context.classifier, context.layer, (context.images.shape[2], context.images.shape[3]))
        tokens = self.tokens(context, blocks, self._first(blocks, context.layer))
        grid = tokens[:, blocks.layout.prefix :].unflatten(1, (1, blocks.layout.height, blocks.layout.width))
        return grid if grid.shape[2:] == context.layer.shape[1:] else F.interpolate(grid, size=context.layer.shape[1:], mode="nearest")

    @abstractmethod
    def tokens(self, context: AttributionContext, blocks: Blocks, first: int) -> Tensor:
        """Return a value for each token of each item (B,T).

        Args:
            context: The context.
            blocks: The attention blocks downstream of the layer.
            first: First block to include, counted from 0 in the whole network.
        """

    def _first(self, blocks: Blocks, layer: Layer) -> int:
        """Return the first block to include, counted from 0 in the whole network."""
        start = getattr(self, "start", 0)
        if start >= blocks.total:
            raise MethodError(f"{self.name}: start={start} leaves out all of the {blocks.total} blocks; choose a smaller start")
        return max(start, blocks.first)


def _mixed(context: AttributionContext, blocks: Blocks) -> list[Tensor]:
    """Return the mean over heads of the attention of each image (U,T,T), for each block downstream of the layer; shared."""

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
            parts.append([_by_heads(a).mean(1) for a in blocks.of(seen.matrices, blocks.first)])
        return [torch.cat(block) for block in zip(*parts, strict=True)]

    return context.shared("attention", make)


@dataclass(frozen=True)
class _Slopes:
    """Gradient and attention of the blocks downstream of a layer.

    Attributes:
        products: Mean over heads of relu(dy/dA * A) of each block (B,T,T).
        attention: Attention A of the last block in the rows of the k tokens that are read (B,heads,k,T).
        gradient: Gradient dy/dA of the last block in the same rows (B,heads,k,T).
    """

    products: list[Tensor]
    attention: Tensor
    gradient: Tensor


def _slopes(context: AttributionContext, blocks: Blocks) -> _Slopes:
    """Return the gradient and attention of the blocks, from one gradient pass; shared."""

    def make() -> _Slopes:
        parts, read = [], list(blocks.read)
        for rows in context.rows.split(context.chunk):
            attentions, gradients = _differentiated(context, rows, blocks, blocks.first)
            weighted = [(g * a).relu().mean(1) for a, g in zip(attentions, gradients, strict=True)]
            parts.append((*weighted, attentions[-1][:, :, read], gradients[-1][:, :, read]))
        *products, attention, gradient = (torch.cat(part) for part in zip(*parts, strict=True))
        return _Slopes(products, attention, gradient)

    return context.shared("attention slopes", make)


def _differentiated(context: AttributionContext, rows: Tensor, blocks: Blocks, first: int) -> tuple[list[Tensor], list[Tensor]]:
    """Return the attention (N,heads,T,T) of some items in each block from `first` on, and the target logit's gradient in each."""
    with torch.enable_grad(), Attentions() as seen:
        logits = context.logits(context.inputs[rows].detach().requires_grad_(), rows)
    chosen = blocks.of(seen.matrices, first)
    return [_by_heads(a.detach()) for a in chosen], _derivatives(context, rows, logits, chosen)


def _derivatives(context: AttributionContext, rows: Tensor, logits: Tensor, attentions: Sequence[Tensor]) -> list[Tensor]:
    start = context.slopes(logits, rows)
    return [_by_heads(g) for g in torch.autograd.grad(logits, attentions, start, allow_unused=True, materialize_grads=True)]


def _flow(matrices: Sequence[Tensor], blocks: Blocks, keep: float = 1.0) -> Tensor:
    """Return how much the tokens that are read receive from each token (N,T).

    These are rows of the product of M + `keep` I over the blocks, the last block leftmost, averaged over the tokens that are read.
    """
    rows = torch.eye(matrices[0].shape[-1], dtype=matrices[0].dtype, device=matrices[0].device)[list(blocks.read)]
    for matrix in reversed(matrices):
        rows = rows @ matrix + keep * rows
    return rows.mean(1)


@METHODS.register
@dataclass(frozen=True)
class RawAttention(AttentionMethod):
    """Raw attention: how much the token that the head reads attends to each patch in one block, mean over heads. Not class-specific."""

    name, family, paper = "Raw attention", "transformer", DINO
    class_specific = False
    block: int | None = param(None, "Block, counted from 0", low=0, high=1000, auto="the last")

    def tokens(self, context: AttributionContext, blocks: Blocks, first: int) -> Tensor:
        return context.per_item(_mixed(context, blocks)[first - blocks.first][:, list(blocks.read)].mean(1))

    def _first(self, blocks: Blocks, layer: Layer) -> int:
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

    IDSDS omits block 0 (`start` 1).
    """

    name, family, paper = "Rollout", "transformer", ROLLOUT
    class_specific = False
    start: int = param(1, "First block to include, counted from 0", low=0, high=1000)

    def tokens(self, context: AttributionContext, blocks: Blocks, first: int) -> Tensor:
        # Rows of A sum to one, so rows of A + I sum to two.
        return context.per_item(_flow([a / 2 for a in _mixed(context, blocks)[first - blocks.first :]], blocks, keep=0.5))

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=1)


@METHODS.register
@dataclass(frozen=True)
class AttentionGradCAM(AttentionMethod):
    """Attention Grad-CAM: relu of the mean over heads of the last block's attention times its mean gradient over patches.

    The attention is that of the token that the head reads. The gradient is that of the target logit.
    """

    name, family, paper = "Attention Grad-CAM", "transformer", CHEFER_LRP

    def tokens(self, context: AttributionContext, blocks: Blocks, first: int) -> Tensor:
        slopes = _slopes(context, blocks)
        weights = slopes.gradient[..., blocks.layout.prefix :].mean(-1, keepdim=True)
        return (slopes.attention * weights).mean((1, 2)).relu()

    def _first(self, blocks: Blocks, layer: Layer) -> int:
        return blocks.total - 1

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=1)


@METHODS.register
@dataclass(frozen=True)
class Chefer(AttentionMethod):
    """Chefer's generic attention explainability: product over blocks of I + mean over heads of relu(dy/dA * A), A the attention."""

    name, family, paper = "Chefer", "transformer", CHEFER
    start: int = param(0, "First block to include, counted from 0", low=0, high=1000)

    def tokens(self, context: AttributionContext, blocks: Blocks, first: int) -> Tensor:
        return _flow(_slopes(context, blocks).products[first - blocks.first :], blocks)

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=1)


@METHODS.register
@dataclass(frozen=True)
class CheferLRP(AttentionMethod):
    """Chefer's transformer attribution: product over blocks of I + mean over heads of relu(dy/dA * R), R the relevance of attention A.

    The relevance is that of layer-wise relevance propagation with alpha 1, starting from the target logit; see
    `attrlib.methods.relevance`. IDSDS omits block 0 (`start` 1).
    """

    name, family, paper = "CheferLRP", "transformer", CHEFER_LRP
    mode, linear = Relevance, True
    start: int = param(1, "First block to include, counted from 0", low=0, high=1000)

    def tokens(self, context: AttributionContext, blocks: Blocks, first: int) -> Tensor:
        return torch.cat([self._some(context, rows, blocks, first) for rows in context.rows.split(context.chunk)])

    def _some(self, context: AttributionContext, rows: Tensor, blocks: Blocks, first: int) -> Tensor:
        _, gradients = _differentiated(context, rows, blocks, first)
        with torch.enable_grad(), Relevance() as seen:
            logits = context.logits(context.inputs[rows].detach().requires_grad_(), rows)
        relevances = _derivatives(context, rows, logits, blocks.of(seen.matrices, first))
        return _flow([(g * r).relu().mean(1) for g, r in zip(gradients, relevances, strict=True)], blocks)

    def passes(self, layer: Layer) -> Passes:
        # Every product is computed again for positive and for negative parts, forwards and backwards.
        return Passes(forward=5, gradient=1)
