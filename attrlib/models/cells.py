"""Views of a classifier on grids of cells: the localisation settings of Rao et al. (CVPR 2022, arXiv 2205.10435).

Inputs are grids (B,3,n*H,n*W) of n x n cells of the model's input size, row by row.
- `GridPG`: the backbone and the head see the whole grid; the head pools over all positions.
- `DiFull`: the model sees a single cell. A layer's output is that of the cells, computed one by one and stitched together.
- `DiPart`: the backbone sees the whole grid, the head only the features of one cell.
"""

from collections import OrderedDict
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from timm.models.vgg import ConvMlp
from torch import Tensor, nn

from attrlib.errors import AttrlibError, LayerError, ModelError
from attrlib.models.classifier import Classifier
from attrlib.models.layers import Layer, Layout
from attrlib.models.modules.probes import Behaviour
from attrlib.models.modules.tracing import first_tensor, with_first
from attrlib.models.split import Split


def grid_view(model: Classifier, setting: str, n: int, cell: int = 0) -> Classifier:
    """Return the view of a model on n x n grids; it is created once per model.

    Args:
        model: The classifier.
        setting: `gridpg`, `difull` or `dipart`.
        n: Cells per side of the grid.
        cell: Row-major index of the cell that `difull` and `dipart` use.

    Raises:
        ModelError: The setting is not defined for the model; the message gives the reason.
        LayerError: The model has no layer that the setting needs; the message gives the reason.
    """
    views, key = model.derived, (setting, n, cell)
    if key not in views:
        if setting == "gridpg":
            views[key] = _pooled(model, n)
        else:
            views[key] = {"difull": DiFullView, "dipart": DiPartView}[setting](model, n, cell)
    return views[key]


def stitch(cells: Tensor, n: int) -> Tensor:
    """Stitch cells (B,n*n,C,h,w), row by row, into grids (B,C,n*h,n*w)."""
    batch, _, channels, height, width = cells.shape
    rows = cells.view(batch, n, n, channels, height, width).permute(0, 3, 1, 4, 2, 5)
    return rows.reshape(batch, channels, n * height, n * width)


def crop(values: Tensor, n: int, cell: int) -> Tensor:
    """Crop one cell (B,C,h,w) from grids (B,C,n*h,n*w)."""
    height, width = values.shape[2] // n, values.shape[3] // n
    top, left = cell // n * height, cell % n * width
    return values[:, :, top : top + height, left : left + width]


def paste(maps: Tensor, n: int, cell: int) -> Tensor:
    """Return grids (B,C,n*h,n*w) that hold maps (B,C,h,w) in one cell, and zeros elsewhere; the inverse of `crop`."""
    height, width = maps.shape[2:]
    top, left = cell // n * height, cell % n * width
    return F.pad(maps, (left, (n - 1) * width - left, top, (n - 1) * height - top))


class CellView(Classifier):
    """A classifier that shares everything with another one except its layers and what runs downstream of them."""

    def __init__(self, model: Classifier, n: int, cell: int):
        self.__dict__ |= model.__dict__
        self.model, self._n, self._cell = model, n, cell

    def over(self, model: Classifier) -> "CellView":
        """Return the same view of another model."""
        return self if model is self.model else type(self)(model, self._n, self._cell)

    @property
    def behaviour(self) -> Behaviour:
        """Return the behaviour of the model, which does not accept grids in every setting."""
        return self.model.behaviour

    @property
    def input_size(self) -> tuple[int, int]:
        """Return the height and width of the grid in pixels."""
        height, width = self.model.input_size
        return height * self._n, width * self._n

    @property
    def layers(self) -> dict[str, Layer]:
        """Return the model's layers on grids, without those that the setting is not defined for."""
        layers = {}
        for name in self.model.layers:
            with suppress(LayerError):
                layers[name] = self.layer(name)
        return layers

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (B,C) of the cell in grids (B,3,n*H,n*W)."""
        with self.session():
            split, placed = self.split(self.layer("Input"), images.shape[1:]), self.place(images)
            parts = placed.split(1) if self.behaviour.one_by_one else (placed,)
            return self.outputs.logits(torch.cat([split.after(part, torch.arange(len(part))) for part in parts]))

    def _crop(self, values: Tensor, layout: Layout) -> Tensor:
        return layout.native(crop(layout.spatial(values), self._n, self._cell))


class DiFullView(CellView):
    """A view of one cell only: pixels outside it provably have no effect."""

    def layer(self, name: str, size: tuple[int, int] | None = None) -> Layer:
        """Return the layer with the maps of the cells stitched together. Raises `LayerError` for tokens without a position."""
        layer = self.model.layer(name)
        if layer.layout.prefix:
            raise LayerError(
                f"layer {name!r} of {self.name} has {layer.layout.prefix} token(s) without a position, so the tokens of the cells cannot be "
                "stitched together; use DiFull at Input"
            )
        layout = replace(layer.layout, height=layer.layout.height * self._n, width=layer.layout.width * self._n)
        return Layer(layer.name, layer.path, layout)

    def split(self, layer: Layer, size: torch.Size | None = None) -> Split:
        """Return f_explain o f_pre, with f_pre applied to every cell separately."""
        inner = self.model.split(self.model.layer(layer.name))
        return _DiFullSplit(self, layer, inner)


class _DiFullSplit(Split):
    def __init__(self, view: DiFullView, layer: Layer, inner: Split):
        super().__init__(inner.module, inner.path, cut=inner.cut, memory_format=inner.memory_format)
        self._view, self._layer, self._inner = view, layer, inner
        self.cell = view._n, view._cell

    def fresh(self) -> Split:
        return _DiFullSplit(self._view, self._layer, self._inner.fresh())

    def before(self, images: Tensor) -> Tensor:
        if not self.path:
            return images
        n, cell, layout = self._view._n, self._view._cell, self._layer.layout
        # The visible cell comes last: if the layer is not a cut, the recorded values must be those of that cell.
        order = [i for i in range(n * n) if i != cell] + [cell]
        maps = {i: layout_of(layout, n).spatial(self._inner.before(self._view.place(crop(images, n, i)))) for i in order}
        return layout.native(stitch(torch.stack([maps[i] for i in range(n * n)], dim=1), n)).contiguous()

    def after(self, output: Tensor, rows: Tensor | None = None) -> Tensor:
        return self._inner.after(self._view._crop(output, self._layer.layout), rows)

    def seen(self, factors: Tensor) -> Tensor:
        return crop(factors, self._view._n, self._view._cell)


def layout_of(grid: Layout, n: int) -> Layout:
    """Return the layout of one cell in a grid's layout."""
    return replace(grid, height=grid.height // n, width=grid.width // n)


class DiPartView(CellView):
    """A view whose backbone sees the whole grid, and whose head sees the cell's part of the `Final` layer."""

    def __init__(self, model: Classifier, n: int, cell: int):
        super().__init__(model, n, cell)
        self._sound: set[str] = set()
        if "Final" not in model.layers:
            raise LayerError(f"{model.name} has no layer Final with a map to crop, so DiPart is not defined; use DiFull at Input")
        layout = model.layer("Final").layout
        self._final = model.layer("Final", self.input_size)
        grid = self._final.layout
        cut = not grid.prefix and model.split(self._final, torch.Size(self.input_shape)).cut
        if not cut or (grid.height, grid.width) != (layout.height * n, layout.width * n):
            raise LayerError(
                f"the head of {self.name} does not read one map with {n} x {n} times the positions, so DiPart is not defined; use DiFull at Input"
            )

    def layer(self, name: str, size: tuple[int, int] | None = None) -> Layer:
        """Return the layer on the whole grid."""
        return self.model.layer(name, size or self.input_size)

    def split(self, layer: Layer, size: torch.Size | None = None) -> Split:
        """Return f_explain o f_pre with everything outside the cell cropped away from the `Final` layer on.

        Raises `LayerError` for a layer downstream of `Final` whose cells have read their neighbours.
        """
        size = size or torch.Size(self.input_shape)
        split = _DiPartSplit(self, layer, self.model.split(layer, size))
        if split.downstream and layer.path != self._final.path and layer.path not in self._sound:
            with self.session():
                self._check(layer, split, size)
            self._sound.add(layer.path)
        return split

    def _check(self, layer: Layer, split: Split, size: torch.Size) -> None:
        grids = self._probe(2, size)
        with torch.no_grad():
            expected = self.split(self.layer("Input", (size[1], size[2])), size).fresh().after(grids)
            part = split.fresh()
            features = part.before(grids)
            try:
                logits = part.after(features)
            except RuntimeError:
                # A path bypasses the layer and has the size of the whole grid.
                logits = torch.full_like(expected, torch.nan)
        if not torch.allclose(logits, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
            raise LayerError(
                f"layer {layer.name!r} of {self.name} is downstream of Final and mixes the grid cells; use DiPart at Final or an earlier layer"
            )


class _DiPartSplit(Split):
    def __init__(self, view: DiPartView, layer: Layer, inner: Split):
        super().__init__(inner.module, inner.path, cut=inner.cut, memory_format=inner.memory_format)
        self._view, self._layer, self._inner = view, layer, inner
        finished = [name for name, layer in view.model.layers.items() if name == layer.path]
        self.downstream = bool(layer.path) and finished.index(layer.path) >= finished.index(view._final.path)

    def fresh(self) -> Split:
        return _DiPartSplit(self._view, self._layer, self._inner.fresh())

    def before(self, images: Tensor) -> Tensor:
        return self._inner.before(images)

    def seen(self, factors: Tensor) -> Tensor:
        return crop(factors, self._view._n, self._view._cell) if self.downstream else factors

    def after(self, output: Tensor, rows: Tensor | None = None) -> Tensor:
        view = self._view
        self.cell = (view._n, view._cell) if self.downstream else None
        if self.downstream:
            return self._inner.after(view._crop(output, self._layer.layout), rows)

        def cut(_module: nn.Module, _args: Any, result: Any) -> Any:
            features = first_tensor(result)
            assert features is not None, "Final is a layer"
            # (tokens,B,C), where `len(output)` is B.
            dim = int(len(features) != len(output))
            self.cell = view._n, view._cell
            return with_first(result, view._crop(features.transpose(0, dim), view._final.layout).transpose(0, dim))

        with ExitStack() as stack:
            stack.callback(self.module.get_submodule(view._final.path).register_forward_hook(cut).remove)
            return self._inner.after(output, rows)


def _pooled(model: Classifier, n: int) -> Classifier:
    """Return the model itself if its head pools over positions; for VGG-like models, a view with a convolutional head."""
    reason = _not_pooled(model, n)
    if not reason:
        return model
    if isinstance(getattr(model.module, "pre_logits", None), ConvMlp):
        # timm's VGG already has convolutions as fully connected layers and pools their output.
        return model
    convolutional = _convolutionalised(model)
    if convolutional is None:
        raise ModelError(f"GridPG needs a head that pools over all positions of the grid: {reason}. Use DiFull at Input instead")
    return convolutional


def _not_pooled(model: Classifier, n: int) -> str:
    """Return why the head does more than pool over the positions of the `Final` layer; empty if it pools.

    The logits of a pooling head depend neither on the order of the positions nor, if all are alike, on their number.
    """
    try:
        if "Final" not in model.layers:
            return f"{model.name} has no layer Final with a map"
        height, width = model.input_size
        size = torch.Size((model.channels, height * n, width * n))
        small, large = model.layer("Final"), model.layer("Final", (size[1], size[2]))
        if small.layout.prefix:
            return f"that of {model.name} reads a class token"
        with model.session(), torch.no_grad():
            on_grid, on_image = model.split(large, size).fresh(), model.split(small).fresh()
            features = large.layout.spatial(on_grid.before(model._probe(2, size)))
            on_image.before(model._probe(2))
            order = torch.randperm(features[0, 0].numel(), generator=torch.Generator().manual_seed(0)).to(features.device)
            shuffled = features.flatten(2)[:, :, order].view(features.shape)
            alike = features[:, :, :1, :1]
            first, second, all_alike, nothing = (
                on_grid.after(large.layout.native(values.expand(features.shape)).contiguous())
                for values in (features, shuffled, alike, torch.zeros_like(alike))
            )
            fewer = on_image.after(small.layout.native(alike.expand(-1, -1, *small.shape[1:])).contiguous())
    except AttrlibError as error:
        return str(error)
    # Relative to the effect of the features, not to the bias, and above rounding errors.
    pairs = ((first, second), (all_alike, fewer))
    pooled = all(bool((a - b).abs().amax() <= 1e-2 * (a - nothing).abs().amax() + 2e-6 * a.abs().amax()) for a, b in pairs)
    return "" if pooled else f"that of {model.name} distinguishes positions"


class _ConvolutionalHead(nn.Module):
    """Fully connected layers as convolutions that share their weights, averaged over positions."""

    def __init__(self, layers: nn.Sequential, side: int):
        super().__init__()
        self.layers = nn.Sequential()
        for layer in layers:
            if isinstance(layer, nn.Linear):
                convolution = nn.Conv2d(1, 1, side, bias=False, device="meta")
                convolution.weight = nn.Parameter(layer.weight.detach().view(layer.out_features, -1, side, side), requires_grad=False)
                convolution.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)
                layer, side = convolution, 1
            self.layers.append(layer)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits (B,C) of features (B,c,h,w)."""
        return self.layers(features).mean((2, 3))


def _convolutionalised(model: Classifier) -> Classifier | None:
    """Convolutionalise a model like VGG or AlexNet (features, pooling to a fixed side, fully connected layers); None for any other."""
    features, pool, head = (getattr(model.module, name, None) for name in ("features", "avgpool", "classifier"))
    if not (isinstance(features, nn.Module) and isinstance(pool, nn.AdaptiveAvgPool2d) and isinstance(head, nn.Sequential)):
        return None
    size: Any = pool.output_size
    side = size if isinstance(size, int) else size[0]
    if not side or not any(isinstance(layer, nn.Linear) for layer in head):
        return None
    module = nn.Sequential(OrderedDict(features=features, classifier=_ConvolutionalHead(head, side)))
    names: dict[str, str] = {name: model.layer(name).path for name in ("Middle", "Final") if name in model.layers}
    view = model.with_module(module, names)
    probe = torch.randn(1, *model.input_shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            same = torch.allclose(view(probe), model(probe), rtol=1e-3, atol=1e-4)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None
    return view if same else None
