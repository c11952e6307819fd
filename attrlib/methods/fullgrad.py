"""FullGrad: input times gradient, and the same of every bias of the network."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.context import AttributionContext
from attrlib.methods.implicit_bias import BiasTerms, Term
from attrlib.models import Classifier, Layer, Layout
from attrlib.models.cells import CellView, paste
from attrlib.models.modules.tracing import batch_dim
from attrlib.postprocess import resize
from attrlib.registry import Paper, param

FULLGRAD = Paper(
    "Srinivas and Fleuret 2019", "Full-Gradient Representation for Neural Network Visualization", "https://arxiv.org/abs/1905.00780"
)


@METHODS.register
@dataclass(frozen=True)
class FullGrad(Method):
    """FullGrad: the sum of psi(x * dy/dx) and psi(b_l * dy/dz_l) over all layers l, psi(t) = sum over channels of |t|, from 0 to 1.

    b_l is the bias of layer l: what its output z_l holds besides the linear part in its input a, b_l = z_l - J a. For convolutions and
    linear layers this is their bias, for norms and activations that of their linear approximation at a. Each |t| is scaled to
    [0, 1] per image, over all channels of its layer as in the authors' code or in each channel as in the formula, and resized
    bilinearly.

    The terms themselves add up to the target. What has no position, such as the bias of the head, of attention or of products, is
    part of this sum and not of the map. The error |sum - f(x)| / |f(x)| is returned in the diagnostics as `convergence`: it is
    rounding, unless the model computes in operations that torch does not show.
    """

    name, family, paper, signed, fast = "FullGrad", "gradient", FULLGRAD, False, True
    operations = True
    rescale: str = param(
        "layer",
        "Scaling of each |t| to [0, 1]: over all channels of a layer (the authors' code), or in each channel (the formula, pytorch-grad-cam)",
        choices=("layer", "channel"),
    )

    def attribute(self, context: AttributionContext) -> Tensor:
        parts = context.shared(("full gradient", self.rescale), lambda: _shared(context, self.rescale == "channel"))
        context.diagnostics["convergence"] = (parts.total - parts.scores).abs() / parts.scores.abs().clamp_min(1e-12)
        return parts.maps

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=1, gradient=1)


@dataclass(frozen=True)
class _Decomposition:
    """Maps (B,1,h,w), sums of all terms (B,), target values (B,), and gradients in the layer's output (B,...)."""

    maps: Tensor
    total: Tensor
    scores: Tensor
    gradient: Tensor


def _shared(context: AttributionContext, by_channel: bool) -> _Decomposition:
    """Return the decomposition, whose pass also yields the gradient that IxG and the CAMs share."""
    parts: list[_Decomposition] = []

    def gradient() -> Tensor:
        parts.append(_decompose(context, by_channel))
        return parts[0].gradient

    context.shared("gradient", gradient)
    return parts[0] if parts else _decompose(context, by_channel)


def _decompose(context: AttributionContext, by_channel: bool) -> _Decomposition:
    places, size = _places(context), context.layer.shape[1:]
    parts: list[tuple[Tensor, ...]] = []
    for rows in context.rows.split(1 if context.classifier.behaviour.one_by_one else context.chunk):
        inputs = context.inputs[rows]
        maps, total = _Maps(), inputs.new_zeros(len(rows))

        def add(term: Term, maps: _Maps = maps, total: Tensor = total) -> None:
            place, cell = places[term.number], context.cell

            def visit(values: Tensor) -> None:
                values = values.transpose(0, place.batch)
                # Windows and heads are rows of their own, those of an item one after the other.
                total.add_(values.sum(tuple(range(1, values.ndim))).view(len(total), -1).sum(1))
                if place.layout is not None:
                    maps.add(_psi(place.layout.spatial(values.abs_()), by_channel), cell)

            term.watch(visit)

        with BiasTerms(add, _channels(context.layer)):
            scores, slopes = context.scored_gradient(inputs, rows)
        products = inputs * slopes
        total += products.flatten(1).sum(1)
        parts.append((_psi(context.spatial(products.abs_()), by_channel) + maps.total(size), total, scores, slopes))
    return _Decomposition(*(torch.cat(part) for part in zip(*parts, strict=True)))


class _Maps:
    """Sums of maps (N,1,h,w) of the same size and cell, which are resized once for all terms."""

    def __init__(self) -> None:
        self._sums: dict[tuple[torch.Size, tuple[int, int] | None], Tensor] = {}

    def add(self, maps: Tensor, cell: tuple[int, int] | None) -> None:
        """Add maps that are those of an image, or of one cell of a grid."""
        key = maps.shape, cell
        self._sums[key] = self._sums[key] + maps if key in self._sums else maps

    def total(self, size: tuple[int, int]) -> Tensor | float:
        """Return the sum of all maps at the layer's size, 0 if there are none."""
        return sum((_spread(maps, size, cell) for (_, cell), maps in self._sums.items()), start=0.0)


def _psi(magnitudes: Tensor, by_channel: bool) -> Tensor:
    """Return the sum over channels (N,1,h,w) of magnitudes (N,C,h,w), scaled to [0, 1] in each image."""
    dims = (2, 3) if by_channel else (1, 2, 3)
    low, high = magnitudes.amin(dims, keepdim=True), magnitudes.amax(dims, keepdim=True)
    factor = torch.where(high > low, 1 / (high - low), 0.0)
    if by_channel:
        above = (magnitudes * factor).sum(1, keepdim=True) - (low * factor).sum(1, keepdim=True)
    else:
        above = (magnitudes.sum(1, keepdim=True) - magnitudes.shape[1] * low) * factor
    return above.clamp_min(0)


def _spread(maps: Tensor, size: tuple[int, int], cell: tuple[int, int] | None) -> Tensor:
    """Resize maps (N,1,h,w) to the layer's size, or, if they are those of one cell of a grid, to this cell, with zeros around it."""
    if cell is None:
        return resize(maps, size)
    grid, index = cell
    return paste(resize(maps, (size[0] // grid, size[1] // grid)), grid, index)


@dataclass(frozen=True)
class _Place:
    """Dimension of the batch in the output of an operation, and the layout of its positions, None if it has none."""

    batch: int
    layout: Layout | None


_cache: WeakKeyDictionary[Classifier, dict[object, list[_Place]]] = WeakKeyDictionary()


def _places(context: AttributionContext) -> list[_Place]:
    """Return the place of every bias term, those of the target included, found by passes of one item, alone and twice; cached.

    Raises:
        MethodError: If the operations of the model change from pass to pass.
    """
    cached, key = _cache.setdefault(context.classifier, {}), (context.layer, context.images.shape[1:], type(context.readout))
    if key not in cached:
        one, two = (_terms(context, count) for count in (1, 1 if context.classifier.behaviour.one_by_one else 2))
        if len(one) != len(two):
            raise MethodError(
                f"FullGrad is not defined for {context.classifier.name}: its operations depend on the number of images in a pass, so "
                "their biases cannot be assigned to the images; choose IxG or IG"
            )
        tokens = _token_layouts(context)
        cached[key] = [_place(a, b, dim, tokens) for (a, dim), (b, _) in zip(one, two, strict=True)]
    return cached[key]


def _terms(context: AttributionContext, count: int) -> list[tuple[torch.Size, int | None]]:
    """Return the shape of the output and the dimension of the channels of every bias term in a pass of `count` equal rows."""
    found: list[tuple[torch.Size, int | None]] = []
    with BiasTerms(lambda term: found.append((term.output.shape, term.channel_dim)), _channels(context.layer)):
        context.scored_gradient(context.inputs[:1].expand(count, *context.inputs.shape[1:]), context.rows[:1].expand(count))
    return found


def _token_layouts(context: AttributionContext) -> dict[int, Layout]:
    """Return the layouts of the model's token layers by their number of tokens."""
    view, size = context.classifier, (context.images.shape[2], context.images.shape[3])
    model = view.model if isinstance(view, CellView) else view
    size = model.input_size if context.cell is not None else size
    layouts = [model.layer(name, size).layout for name, layer in model.layers.items() if layer.layout.kind == "tokens"]
    return {layout.prefix + layout.height * layout.width: layout for layout in layouts}


def _channels(layer: Layer) -> int:
    return {"NCHW": 1, "NHWC": 3, "tokens": 2}[layer.layout.kind]


def _place(one: torch.Size, two: torch.Size, channel_dim: int | None, tokens: dict[int, Layout]) -> _Place:
    batch = batch_dim(one, two)
    shape = (one[1 - batch], *one[2:]) if len(one) > 1 else ()
    if channel_dim is None or len(one) < 3 or one[batch] != 1:
        return _Place(batch, None)
    if len(one) == 3:
        return _Place(batch, tokens.get(shape[0]) if channel_dim == 2 else None)
    layout = Layout("NCHW", *shape) if channel_dim == 1 else Layout("NHWC", shape[2], shape[0], shape[1])
    return _Place(batch, layout if channel_dim in (1, 3) and layout.height * layout.width >= 4 else None)
