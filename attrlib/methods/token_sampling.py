"""Transformer Input Sampling: the output when the transformer is given a part of its tokens only."""

from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from attrlib.errors import LayerError, MethodError
from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.context import AttributionContext
from attrlib.models import Classifier, Layer
from attrlib.models.chunks import out_of_memory
from attrlib.models.modules.tracing import outputs, trace
from attrlib.registry import Paper, param
from attrlib.targets.inner import InnerOutputs

TIS_PAPER = Paper("Englebert et al. 2023", "Explaining through Transformer Input Sampling", "https://arxiv.org/abs/2309.03275")
ITERATIONS = 50
"""Most iterations of k-means."""


@dataclass(frozen=True)
class Stage:
    """Where tokens are left out.

    Attributes:
        place: The layer whose tokens are left out.
        blocks: Paths of the blocks whose outputs make the masks.
    """

    place: Layer
    blocks: tuple[str, ...]


_cache: WeakKeyDictionary[Classifier, dict[tuple[str, tuple[int, int]], Stage | str]] = WeakKeyDictionary()


def find_stage(model: Classifier, layer: Layer, size: tuple[int, int]) -> Stage:
    """Return where tokens can be left out for maps at a layer, found with probe images. The result is cached.

    Args:
        model: The classifier.
        layer: A layer of tokens, or Input.
        size: Height and width of the images.

    Raises:
        MethodError: If tokens cannot be left out there; the message gives the reason.
    """
    cached, key = _cache.setdefault(model, {}), (layer.path, size)
    if key not in cached:
        try:
            cached[key] = _probed(model, layer, size)
        except MethodError as error:
            cached[key] = str(error)
    stage = cached[key]
    if isinstance(stage, str):
        raise MethodError(stage)
    return stage


def _probed(model: Classifier, layer: Layer, size: tuple[int, int]) -> Stage:
    if layer.path and layer.layout.kind != "tokens":
        raise MethodError(
            f"TIS leaves out tokens, but {layer.name} of {model.name} is not a sequence of tokens; choose Input or a block of a vision "
            "transformer, or use RISE, which hides parts of any layer"
        )
    order = list(model.layers)
    blocks = [path for path in _blocks(model) if not layer.path or order.index(path) >= order.index(layer.path)]
    if not blocks:
        raise MethodError(
            f"TIS leaves out tokens, but {model.name} has no blocks that take a sequence of tokens downstream of {layer.name}; use it on a vision transformer, "
            "or use RISE, which hides parts of any layer"
        )
    images = model.place(torch.randn(2, model.channels, *size, generator=torch.Generator().manual_seed(0)))
    with model.session():
        places = [layer] if layer.path else _entries(model, blocks[0], images)
        reasons = [_reason(model, place, images) for place in places]
    if all(reasons):
        raise MethodError(f"{reasons[-1]}; use RISE or ViT-CX instead, which keep all tokens")
    return Stage(places[reasons.index("")], tuple(blocks))


def _blocks(model: Classifier) -> list[str]:
    """Return the paths of the blocks, in order: the outermost modules of a list that return tokens with the grid of the first of them."""
    found: list[str] = []
    modules = dict(model.module.named_modules())
    layers = {path: layer for path, layer in model.layers.items() if layer.layout.kind == "tokens" and path == layer.path}
    listed = [path for path in layers if isinstance(modules[path.rpartition(".")[0]], nn.Sequential | nn.ModuleList)]
    for path in listed:
        inside = any(path.startswith(f"{other}.") for other in listed)
        if not inside and (not found or layers[path].shape == layers[found[0]].shape):
            found.append(path)
    return found


def _entries(model: Classifier, block: str, images: Tensor) -> list[Layer]:
    """Return the layers at which tokens may be left out before the first block: what enters it, if a module returns it, or its output."""
    calls, _ = trace(model.module, images[:1])
    layout = model.layer(block, (images.shape[2], images.shape[3])).layout
    shape = (1, layout.prefix + layout.height * layout.width, layout.channels)
    first = next(call for call in calls if call.path == block)
    before = [call for call in calls if call.path and call.end < first.start and call.tensor is not None and call.tensor.shape == shape]
    paths = [max(before, key=lambda call: call.end).path] if before else []
    return [Layer(path, path, layout) for path in (*paths, block)]


def _reason(model: Classifier, place: Layer, images: Tensor) -> str:
    """Return why tokens of a layer cannot be left out; empty if they can."""
    rows = torch.arange(len(images), device=images.device)
    try:
        split = model.split(place, images.shape[1:]).fresh()
    except LayerError as error:
        return str(error)
    tokens, prefix = split.before(images).float(), place.layout.prefix
    order = torch.randperm(tokens.shape[1] - prefix, generator=torch.Generator().manual_seed(0)).to(tokens.device)
    mixed = torch.cat([tokens[:, :prefix], tokens[:, prefix:][:, order]], 1)
    with torch.no_grad():
        logits, other = (split.after(part, rows).float() for part in (tokens, mixed))
        change, spread = (logits - other).abs().max(), (logits[0] - logits[1]).abs().max()
        if change > torch.maximum(1e-2 * spread, 1e-5 * logits.abs().max()):
            return (
                f"TIS leaves out tokens, but {model.name} identifies those of {place.name} by their place in the sequence (it has windows, rotary "
                "embeddings or relative positions, mixes tokens by fixed weights, or adds them to those of another layer)"
            )
        try:
            fewer = split.after(mixed[:, : prefix + (len(order) + 1) // 2], rows)
        except Exception as error:
            if out_of_memory(error):
                raise
            return f"TIS leaves out tokens, but {model.name} does not run with a part of those of {place.name}"
    return "" if fewer.shape == logits.shape else f"TIS leaves out tokens, but then {model.name} returns outputs of another shape"


@METHODS.register
@dataclass(frozen=True)
class TIS(Method):
    """TIS: sum_i P_i M_i / sum_i M_i, P_i the probability when the transformer is given the tokens of mask M_i only.

    The tokens left out do not take part in any block. A mask keeps the share `keep` of the tokens with the largest values in a k-means
    centre; there are `samples` centres of the channels of all block outputs, each channel a vector over the tokens. Prefix tokens are kept.
    At Input, tokens are left out where they enter the first block, with their position embeddings, or behind it if no module of the network
    returns them; every pixel has the value of its patch. At an inner layer, they are left out there, and the masks are made of the blocks
    from there on. It is not defined if the network identifies tokens by their place in the sequence: windows, rotary embeddings, relative
    positions, token mixing.
    """

    name, family, paper = "TIS", "perturbation", TIS_PAPER
    needs, signed, seeded = ("tokens that can be left out (ViT, DeiT)",), False, True
    samples: int = param(1024, "Number of masks; at most one for each channel of a block output", low=1, high=8192)
    keep: float = param(0.5, "Share of the tokens that a mask keeps", low=0.01, high=0.99)

    def check(self, model: Classifier, layer: Layer) -> None:
        if type(model) is not Classifier:
            raise MethodError(
                f"{self.name} leaves out tokens of one image, but in DiFull and DiPart each grid cell has its own; use RISE or a gradient "
                "method at Input, or evaluate this one on single images (idsds, sds, pointing)"
            )
        if isinstance(model.outputs, InnerOutputs) and not model.outputs.of_input:
            raise MethodError(
                f"{self.name} leaves out tokens, but the target reads a layer at all of its positions; use RISE or ViT-CX instead, which keep "
                "all tokens, or explain an output of the whole model"
            )
        _, height, width = model.layer("Input", None if layer.path else layer.shape[1:]).shape
        find_stage(model, layer, (height, width))

    def attribute(self, context: AttributionContext) -> Tensor:
        stage = find_stage(context.classifier, context.layer, (context.images.shape[2], context.images.shape[3]))
        place = stage.place
        at_place = (
            context
            if place.path == context.layer.path
            else context.shared(("tokens", place.path), lambda: replace(context, layer=place, _memo={}, readout=context.readout))
        )
        prefix, tokens = place.layout.prefix, place.layout.height * place.layout.width
        kept = max(1, int(self.keep * tokens))
        chosen = torch.stack([self._chosen(context, stage, image, kept) for image in context.images.split(1)], 1)
        sources, total = at_place.sources, context.images.new_zeros(2, len(context), tokens)
        images = torch.arange(len(sources), device=sources.device)[:, None]
        for which, _ in context.variants(len(chosen)):
            index = chosen[which.start : which.stop]
            rows = torch.cat([sources[:, :prefix].expand(len(index), -1, -1, -1), sources[images, prefix + index]], 2)
            values = at_place.outputs(rows, probability=True)
            masks = context.images.new_zeros(*index.shape[:2], tokens).scatter_(2, index, 1.0).transpose(0, 1)
            masks = context.per_item(masks).transpose(0, 1)
            total += torch.stack([(values[..., None] * masks).sum(0), masks.sum(0)])
        grid = (total[0] / total[1].clamp_min(1)).view(-1, 1, place.layout.height, place.layout.width)
        return grid if context.layer.path else F.interpolate(grid, size=context.layer.shape[1:], mode="nearest")

    def _chosen(self, context: AttributionContext, stage: Stage, image: Tensor, kept: int) -> Tensor:
        """Return the indices of the tokens that each mask of one image keeps, (n,kept)."""
        with torch.no_grad(), outputs(context.classifier.module, stage.blocks) as found:
            context.classifier.module(image.clone())
        channels = torch.cat([found[path].flatten(0, 1)[stage.place.layout.prefix :] for path in stage.blocks], 1).T.float()
        return centres(channels, self.samples, context.generator("tis")).topk(kept, 1).indices

    def passes(self, layer: Layer) -> Passes:
        # The block outputs take one more pass through the whole model.
        return Passes(forward=1 + self.samples, before=3)


def centres(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the centres of the clusters of vectors (n,d) that k-means finds, (min(n,count),d), started at random vectors."""
    found = vectors[torch.randperm(len(vectors), generator=generator)[:count].to(vectors.device)]
    for _ in range(ITERATIONS):
        nearest = torch.cdist(vectors, found).argmin(1)
        members = F.one_hot(nearest, len(found)).to(vectors).T
        sizes = members.sum(1, keepdim=True)
        moved = torch.where(sizes > 0, members @ vectors / sizes.clamp_min(1), found)
        if torch.equal(moved, found):
            break
        found = moved
    return found
