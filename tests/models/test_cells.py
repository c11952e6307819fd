"""Grid views of a model against cropping by hand, plain autograd and loops without shortcuts."""

import copy
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import product
from typing import Any

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import timm
import torch
from support import method_nets, nets
from support.method_nets import ChannelsLast, Functional, GuidedReLU, made, pictures
from support.numbers import SEED, close
from torch import Tensor, nn
from torchvision.models.vgg import VGG, make_layers

from attrlib.errors import Cancelled, ImageError, LayerError, ModelError
from attrlib.methods import METHODS, AttributionOptions, attribute, perturbation
from attrlib.models.cells import crop, grid_view, stitch
from attrlib.registry import params_of
from attrlib.specs import MethodSpec

Model = attrlib.Classifier
Forward = Callable[[Tensor], Tensor]
GRADIENTS = ("Gradient", "Gradient:channels=abs-sum", "IxG", "IG:steps=3", "Grad-CAM", "Layer-CAM")
SETTINGS = ("gridpg", "difull", "dipart")


class Bottleneck(nn.Module):
    """An in-place ReLU, a residual block and a head with a convolution: layers on every side of `Final`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.stage1 = nets.Block(6)
        self.stage2 = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nets.Block(8))
        self.last = nn.Sequential(nn.Conv2d(8, 9, 1), nn.ReLU())
        self.fc = nn.Linear(9, nets.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.stage2(self.stage1(self.stem(x)))).mean((2, 3)))


def lively(module: nn.Module) -> nn.Module:
    """Weights under which activations keep their scale through many layers, so that logits depend on the image."""
    generator = torch.Generator().manual_seed(3)
    for m in module.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(m.weight, generator=generator)
            nn.init.uniform_(m.bias, -0.1, 0.1, generator=generator)
    return module.eval()


CONFIGURATION = [4, "M", 6, "M", 6, 8, "M", 8, 8, "M", 8, 8, "M"]
"""VGG11's layers with few channels."""


def narrow_vgg() -> nn.Module:
    """Torchvision's VGG11 with few channels; built without its classifier, which has 120 million weights."""
    with torch.device("meta"):
        module = VGG(nn.Identity(), init_weights=False)
    module.features = make_layers(CONFIGURATION)
    module.avgpool = nn.AdaptiveAvgPool2d((7, 7))
    middle = [nn.Linear(8 * 49, 12), nn.ReLU(True), nn.Dropout(), nn.Linear(12, 10), nn.ReLU(True), nn.Dropout()]
    module.classifier = nn.Sequential(*middle, nn.Linear(10, nets.CLASSES))
    return lively(module)


def narrow_timm_vgg() -> nn.Module:
    return lively(timm.models.vgg.VGG(CONFIGURATION, num_classes=nets.CLASSES, mlp_ratio=1 / 256))


def vit(**options: object) -> Model:
    size = {"img_size": 64, "num_classes": nets.CLASSES, "depth": 2, "embed_dim": 24, "num_heads": 2}
    return attrlib.wrap_model(made(timm.create_model, "vit_tiny_patch16_224", **size | options), 64)


def swin() -> Model:
    size = {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1), "embed_dim": 8, "num_heads": (1, 1, 2, 2)}
    return attrlib.wrap_model(made(timm.create_model, "swin_tiny_patch4_window7_224", num_classes=nets.CLASSES, **size), 64)


def residual_net() -> Model:
    return attrlib.wrap_model(nets.made(Bottleneck), 16, layers={"Middle": "stage1", "Final": "stage2"})


OWN: dict[str, Callable[[], Model]] = {
    "plain": lambda: attrlib.wrap_model(nets.made(nets.Plain), 16),
    "residual": residual_net,
    "tokens": lambda: attrlib.wrap_model(nets.made(nets.Transformer, 0), 16),
    "class_token": lambda: attrlib.wrap_model(nets.made(nets.Transformer, 1), 16),
    "vgg": lambda: attrlib.wrap_model(narrow_vgg(), 224),
    "timm_vgg": lambda: attrlib.wrap_model(narrow_timm_vgg(), 224),
    "swin": swin,
    "vit": vit,
    "dynamic_vit": lambda: vit(dynamic_img_size=True),
}


@cache
def model_of(name: str) -> Model:
    """A model shared by all tests, which no computation changes."""
    return OWN[name]() if name in OWN else method_nets.model(name)


# Oracles: plain slices, plain hooks, plain autograd ----------------------------------------------------------------------


def cut(values: Tensor, n: int, cell: int, dims: tuple[int, int] = (2, 3)) -> Tensor:
    row, column = divmod(cell, n)
    return values.chunk(n, dims[0])[row].chunk(n, dims[1])[column]


def put_together(cells: Sequence[Tensor], n: int, dims: tuple[int, int] = (2, 3)) -> Tensor:
    return torch.cat([torch.cat(list(cells[row * n : (row + 1) * n]), dims[1]) for row in range(n)], dims[0])


def output(module: nn.Module, path: str, images: Tensor) -> Tensor:
    kept: list[Tensor] = []
    handle = module.get_submodule(path).register_forward_hook(lambda _m, _args, out: kept.append(out.detach().clone()))
    try:
        with torch.no_grad():
            module(images.clone())
    finally:
        handle.remove()
    return kept[0]


def logits_when(module: nn.Module, images: Tensor, replaced: dict[str, Forward]) -> Tensor:
    """Logits when the outputs of some modules are replaced by a function of them."""
    with ExitStack() as stack:
        for path, function in replaced.items():
            hook = module.get_submodule(path).register_forward_hook(lambda _m, _args, out, function=function: function(out))
            stack.callback(hook.remove)
        return module(images.clone())


def dims_of(model: Model, layer: str) -> tuple[int, int]:
    return (1, 2) if model.layer(layer).layout.kind == "NHWC" else (2, 3)


Setup = tuple[Tensor, Forward]
"""The explained output, and the logits as a function of it."""


def difull(model: Model, module: nn.Module, layer: str, grid: Tensor, n: int, cell: int) -> Setup:
    path, dims = model.layer(layer).path, dims_of(model, layer)
    if not path:
        return grid, lambda x: module(cut(x, n, cell).clone())
    start = put_together([output(module, path, cut(grid, n, i)) for i in range(n * n)], n, dims)
    return start, lambda x: logits_when(module, cut(grid, n, cell), {path: lambda _out: cut(x, n, cell, dims).clone()})


def gridpg(model: Model, module: nn.Module, layer: str, grid: Tensor, n: int, cell: int) -> Setup:
    path = model.layer(layer).path
    if not path:
        return grid, lambda x: module(x.clone())
    return output(module, path, grid), lambda x: logits_when(module, grid, {path: lambda _out: x.clone()})


def explained(method: str, setup: Setup, target: int, channel: int) -> Tensor:
    """A map (1,1,h,w) by autograd alone."""
    start, forward = setup

    def gradient(point: Tensor) -> Tensor:
        leaf = point.detach().clone().requires_grad_()
        return torch.autograd.grad(forward(leaf)[0, target], leaf)[0]

    g = gradient(start)
    positions = [dim for dim in (1, 2, 3) if dim != channel]
    if method == "Gradient":
        return g.sum(channel)[None]
    if method == "Gradient:channels=abs-sum":
        return g.abs().sum(channel)[None]
    if method == "IxG":
        return (start * g).sum(channel)[None]
    if method == "Grad-CAM":
        return (g.mean(positions, keepdim=True) * start).sum(channel).relu()[None]
    if method == "Layer-CAM":
        return (g.relu() * start).sum(channel).relu()[None]
    assert method == "IG:steps=3"
    nodes, weights = np.polynomial.legendre.leggauss(3)
    parts = [w / 2 * gradient(start * (node + 1) / 2) for node, w in zip(nodes, weights, strict=True)]
    return (start * sum(parts)).sum(channel)[None]


def maps_of(
    view: Model,
    method: str,
    layer: str,
    grids: Tensor,
    targets: Sequence[int] | None,
    owners: Sequence[int] | None = None,
    **options: Any,
) -> Tensor:
    return attribute(view, MethodSpec.parse(method, layer), grids, targets, AttributionOptions(**options), owners).maps


def grids_for(model: Model, n: int, count: int = 2, seed: int = 1) -> Tensor:
    height, width = model.input_size
    return pictures(count, n * height, n * width, seed)


def agrees(model: Model, setting: str, layer: str, method: str, n: int, cell: int, oracle: Callable[..., Setup]) -> bool:
    """Whether the maps of two grids match the oracle, and not those of another cell."""
    grids, targets = grids_for(model, n), [3, 1]
    found = maps_of(grid_view(model, setting, n, cell), method, layer, grids, targets)
    channel = 3 if model.layer(layer).layout.kind == "NHWC" else 1
    name, module = method, model.module
    if method == "Guided Backprop":
        name, module = "Gradient", guided(model.module)
    setups = [oracle(model, module, layer, grid[None], n, cell) for grid in grids]
    expected = torch.cat([explained(name, setup, target, channel) for setup, target in zip(setups, targets, strict=True)])
    return close(found, expected)


def guided(module: nn.Module) -> nn.Module:
    """A copy whose rectifiers have the guided rule as their backward pass, written out."""
    twin = copy.deepcopy(module)
    for parent in list(twin.modules()):
        for child, rectifier in parent.named_children():
            if isinstance(rectifier, nn.ReLU):
                setattr(parent, child, GuidedReLU())
    return twin


# Crop and stitch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "height", "width"), [(2, 4, 6), (3, 2, 5)])
def test_cells_are_numbered_row_by_row(n: int, height: int, width: int) -> None:
    grids = torch.arange(2 * 3 * n * height * n * width).view(2, 3, n * height, n * width)
    cells = [grids[:, :, r * height : (r + 1) * height, c * width : (c + 1) * width] for r, c in product(range(n), repeat=2)]
    assert all(torch.equal(crop(grids, n, i), cell) for i, cell in enumerate(cells))
    assert torch.equal(stitch(torch.stack(cells, 1), n), grids)


# DiFull ----------------------------------------------------------------------------------------------------------------

PLACES = [(2, 0), (2, 1), (2, 2), (2, 3), (3, 1), (3, 5), (3, 8)]


@pytest.mark.parametrize(("n", "cell"), PLACES)
@pytest.mark.parametrize("name", ["plain", "residual", "channels_last", "not_square", "swin"])
def test_difull_logits_are_those_of_the_cell_alone(name: str, n: int, cell: int) -> None:
    model = model_of(name)
    grids = grids_for(model, n)
    assert close(grid_view(model, "difull", n, cell)(grids), model.module(cut(grids, n, cell)), 1e-5)


def test_difull_logits_of_a_network_that_depends_on_its_batch_are_those_of_the_cell_alone() -> None:
    class Centred(nets.Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - x.mean(0, keepdim=True) * 0.5)

    model = attrlib.wrap_model(nets.made(Centred), nets.SIZE)
    grids = grids_for(model, 2)
    expected = torch.cat([model.module(cut(grid[None], 2, 1)) for grid in grids])
    assert close(grid_view(model, "difull", 2, 1)(grids), expected, 1e-5)


@pytest.mark.parametrize("method", GRADIENTS)
@pytest.mark.parametrize(
    ("name", "layer"),
    [(name, layer) for name in ("plain", "residual", "channels_last", "not_square") for layer in ("Input", "Middle", "Final")],
)
def test_difull_maps_are_autograd_through_the_crop(name: str, layer: str, method: str) -> None:
    for n, cell in ((2, 1), (2, 2), (3, 5)):
        assert agrees(model_of(name), "difull", layer, method, n, cell, difull)


@pytest.mark.parametrize("method", ["IxG", "Grad-CAM"])
@pytest.mark.parametrize("layer", ["Middle", "Final", "layers.1.blocks.0", "layers.2.blocks.0.norm1"])
def test_difull_maps_of_an_nhwc_transformer_are_autograd_through_the_crop(layer: str, method: str) -> None:
    model = model_of("swin")
    assert model.layer(layer).layout.kind == "NHWC"
    assert agrees(model, "difull", layer, method, 2, 2, difull)


@pytest.mark.parametrize("method", GRADIENTS)
@pytest.mark.parametrize("layer", ["stage1.conv1", "stage1.bn2", "stage2.1.conv2", "stage2", "last", "last.0"])
def test_difull_maps_inside_and_downstream_of_a_residual_block_are_autograd_through_the_crop(layer: str, method: str) -> None:
    model = model_of("residual")
    with model.session():
        assert model.split(model.layer(layer)).cut == ("." not in layer or layer == "last.0")
    assert agrees(model, "difull", layer, method, 2, 2, difull)
    assert agrees(model, "difull", layer, method, 3, 4, difull)


@pytest.mark.parametrize("layer", ["Input", "Middle", "Final", "stage2.1.conv2"])
def test_difull_guided_backprop_is_the_gradient_of_guided_rectifiers(layer: str) -> None:
    assert agrees(model_of("residual"), "difull", layer, "Guided Backprop", 2, 1, difull)


@pytest.mark.parametrize("layer", ["Middle", "Final"])
def test_difull_at_tokens_that_all_belong_to_positions_is_autograd_through_the_crop(layer: str) -> None:
    model, n, cell = model_of("tokens"), 2, 2
    grid, path, side = grids_for(model, n, 1), model.layer(layer).path, 4
    # Before the LayerNorm after the last block, the plain sum over channels is zero.
    found = maps_of(grid_view(model, "difull", n, cell), "IxG:channels=abs-sum", layer, grid, [3])
    tokens = output(model.module, path, cut(grid, n, cell)).requires_grad_()
    logits = logits_when(model.module, cut(grid, n, cell), {path: lambda _out: tokens.clone()})
    (gradient,) = torch.autograd.grad(logits[0, 3], tokens)
    terms = (tokens * gradient).detach()
    assert close(cut(found, n, cell), terms.abs().sum(2).view(1, 1, side, side), 1e-5)
    assert torch.equal(found != 0, inside_only(found, n, cell))


def inside_only(maps: Tensor, n: int, cell: int) -> Tensor:
    """True inside the cell."""
    return put_together([torch.full_like(cut(maps, n, i), i == cell, dtype=torch.bool) for i in range(n * n)], n)


LOCAL = ("Gradient", "Gradient:channels=abs-sum", "Guided Backprop", "IxG", "IG:steps=3", "Layer-CAM")


@pytest.mark.parametrize("method", LOCAL)
@pytest.mark.parametrize("layer", ["Input", "Middle", "Final", "stage2.1.conv2", "last"])
def test_difull_pixels_outside_the_cell_cannot_matter(layer: str, method: str) -> None:
    model, n = model_of("residual"), 2
    grids = grids_for(model, n)
    for cell in range(n * n):
        view = grid_view(model, "difull", n, cell)
        others = torch.where(inside_only(grids, n, cell), grids, 5 * grids_for(model, n, seed=9))
        found, again = (maps_of(view, method, layer, g, [3, 1]) for g in (grids, others))
        assert torch.equal(cut(found, n, cell), cut(again, n, cell))
        assert cut(found, n, cell).abs().sum() > 0
        for maps in (found, again):
            assert not maps[~inside_only(maps, n, cell)].any()


def test_difull_cams_also_attribute_to_the_other_cells() -> None:
    model = model_of("residual")
    found = maps_of(grid_view(model, "difull", 2, 0), "Grad-CAM", "Final", grids_for(model, 2), [3, 1])
    assert all(cut(found, 2, cell).sum() > 0 for cell in range(4))


class Passes:
    """Counts the rows that go through a module."""

    def __init__(self, module: nn.Module):
        self.rows = 0
        self._handle = module.register_forward_pre_hook(self._count)

    def _count(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.rows += len(args[0])

    def __enter__(self) -> "Passes":
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


@contextmanager
def recorded_masks() -> Iterator[list[Tensor]]:
    """The masks that RISE draws, rounded, because bilinear resizing makes 0.9999999 of ones on some machines."""
    seen: list[Tensor] = []
    original = perturbation.magnify

    def recording(*args: object) -> Tensor:
        seen.append((original(*args) * 1024).round() / 1024)  # type: ignore[arg-type]
        return seen[-1]

    perturbation.magnify = recording  # type: ignore[assignment]
    try:
        yield seen
    finally:
        perturbation.magnify = original


WINDOW, STRIDE = 3, 2


def windows(height: int, width: int) -> list[Tensor]:
    """Masks that are 1 in a window, cut off at the border, one every few positions until one reaches it."""

    def starts(length: int) -> list[int]:
        found = [0]
        while found[-1] + WINDOW < length:
            found.append(found[-1] + STRIDE)
        return found

    masks = []
    for top, left in product(starts(height), starts(width)):
        masks.append(torch.zeros(height, width))
        masks[-1][top : top + WINDOW, left : left + WINDOW] = 1
    return masks


INNER = [("residual", "Input"), ("residual", "Middle"), ("residual", "Final"), ("residual", "stage2.1.conv2"), ("channels_last", "Final")]


def warm(view: Model, layer: str, grid: Tensor) -> None:
    """Everything that is done once for a layer, so that it is not counted."""
    maps_of(view, "IxG", layer, grid, [0])


@pytest.mark.parametrize(("n", "cell"), [(2, 3), (3, 4)])
@pytest.mark.parametrize(("name", "layer"), INNER)
def test_difull_occlusion_is_that_of_all_windows_but_runs_only_those_that_touch_the_cell(name: str, layer: str, n: int, cell: int) -> None:
    model = model_of(name)
    grid, view, dims = grids_for(model, n, 1), grid_view(model, "difull", n, cell), dims_of(model, layer)
    start, forward = difull(model, model.module, layer, grid, n, cell)
    height, width = (start.shape[dim] for dim in dims)
    expected, touching = torch.zeros(height, width), 0
    with torch.no_grad():
        full = forward(start)[0, 3]
        for mask in windows(height, width):
            factors = 1 - mask[None, :, :, None] if dims == (1, 2) else 1 - mask
            expected += (full - forward(start * factors)[0, 3]) / mask.sum() * mask
            touching += bool(cut(mask[None, None], n, cell).any())
    warm(view, layer, grid)
    with Passes(model.module) as before:
        warm(view, layer, grid)
    with Passes(model.module) as passes:
        found = maps_of(view, f"Occlusion:window={WINDOW}:stride={STRIDE}", layer, grid, [3])
    assert close(found[0, 0], expected)
    # Besides the windows: the pass of IxG is that of the whole cell, and one more may stand for all windows elsewhere.
    assert touching < len(windows(height, width))
    assert touching <= passes.rows - (before.rows - 1) <= touching + 2


@pytest.mark.parametrize(("n", "cell"), [(2, 1), (3, 4)])
@pytest.mark.parametrize(("name", "layer"), INNER)
def test_difull_rise_is_that_of_all_masks_but_runs_only_those_that_hide_part_of_the_cell(name: str, layer: str, n: int, cell: int) -> None:
    model, samples, p = model_of(name), 24, 0.92
    grid, view, dims = grids_for(model, n, 1), grid_view(model, "difull", n, cell), dims_of(model, layer)
    start, forward = difull(model, model.module, layer, grid, n, cell)
    warm(view, layer, grid)
    with Passes(model.module) as before:
        warm(view, layer, grid)
    with Passes(model.module) as passes, recorded_masks() as drawn:
        found = maps_of(view, f"RISE:samples={samples}:cells={n}:p={p}", layer, grid, [3], batch_size=5)
    masks = torch.cat(drawn)[:, 0]
    expected, hidden = torch.zeros_like(masks[0]), 0
    with torch.no_grad():
        for mask in masks:
            factors = mask[None, :, :, None] if dims == (1, 2) else mask
            expected += forward(start * factors).softmax(1)[0, 3] * mask / (samples * p)
            hidden += bool((cut(mask[None, None], n, cell) != 1).any())
    assert close(found[0, 0], expected)
    assert 0 < hidden < samples
    assert hidden <= passes.rows - (before.rows - 1) <= hidden + 1


# GridPG ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("name", ["plain", "residual", "functional", "channels_last", "not_square", "resnet18", "efficientnet_lite0"])
def test_gridpg_of_a_head_that_pools_is_the_model_itself(name: str, n: int) -> None:
    model = model_of(name)
    grids = grids_for(model, n)
    # Two ways through up to 50 layers, each of sums of some thousand terms.
    assert close(grid_view(model, "gridpg", n)(grids), model.module(grids), 1e-5)


@pytest.mark.parametrize("method", [*GRADIENTS, "Guided Backprop"])
@pytest.mark.parametrize("layer", ["Input", "Middle", "Final", "stage2.1.conv2", "last"])
def test_gridpg_maps_are_autograd_on_the_grid(layer: str, method: str) -> None:
    assert agrees(model_of("residual"), "gridpg", layer, method, 2, 0, gridpg)
    if method != "Guided Backprop":
        assert agrees(model_of("residual"), "gridpg", layer, method, 3, 0, gridpg)


@pytest.mark.parametrize("layer", ["Input", "Middle", "Final"])
def test_gridpg_maps_of_an_nhwc_network_are_autograd_on_the_grid(layer: str) -> None:
    assert agrees(model_of("channels_last"), "gridpg", layer, "IxG", 2, 0, gridpg)


def over_windows(head: Forward, features: Tensor) -> Tensor:
    """The mean of a fully connected head's logits over all windows of 7 x 7."""
    places = product(range(features.shape[2] - 6), range(features.shape[3] - 6))
    return torch.stack([head(features[:, :, top : top + 7, left : left + 7]) for top, left in places]).mean(0)


def vgg_features(module: nn.Module, layer: int, after: Tensor) -> Tensor:
    """The output of VGG's convolutions, given the output of one of them, or the image (-1)."""
    for m in list(module.features)[layer + 1 :]:
        after = m(after.clone())
    return after


def vgg_head(name: str, module: nn.Module) -> Forward:
    if name == "vgg":
        return lambda window: module.classifier(window.flatten(1))
    return lambda window: module.head(module.pre_logits(window))


VGG_LAYERS = {"Input": -1, "Middle": 12, "Final": 19}


@pytest.mark.parametrize("name", ["vgg", "timm_vgg"])
def test_gridpg_of_vgg_averages_its_fully_connected_head_over_all_windows(name: str) -> None:
    model = model_of(name)
    view, grids = grid_view(model, "gridpg", 2), grids_for(model, 2)
    features = vgg_features(model.module, -1, grids)
    assert features.shape[2:] == (14, 14)
    found = view(grids)
    assert close(found, over_windows(vgg_head(name, model.module), features), 1e-5)
    assert not close(found, torch.stack([model.module(cut(grids, 2, i)) for i in range(4)]).mean(0), 0.01), "the seams are seen too"
    assert close(view(cut(grids, 2, 1)), model.module(cut(grids, 2, 1)), 1e-5)


@pytest.mark.parametrize("layer", VGG_LAYERS)
@pytest.mark.parametrize("name", ["vgg", "timm_vgg"])
def test_gridpg_maps_of_vgg_are_autograd_through_its_head_over_all_windows(name: str, layer: str) -> None:
    model, number = model_of(name), VGG_LAYERS[layer]
    grid, view = grids_for(model, 2, 1), grid_view(model, "gridpg", 2)
    start = grid
    with torch.no_grad():
        for m in list(model.module.features)[: number + 1]:
            start = m(start.clone())
    leaf = start.clone().requires_grad_()
    logits = over_windows(vgg_head(name, model.module), vgg_features(model.module, number, leaf))
    (gradient,) = torch.autograd.grad(logits[0, 2], leaf)
    assert view.layer(layer, (448, 448)).shape == (start.shape[1:] if number >= 0 else (3, 448, 448))
    assert close(maps_of(view, "IxG", layer, grid, [2]), (start * gradient).sum(1, keepdim=True))


def test_gridpg_of_vgg_in_bfloat16_keeps_the_last_layer_in_float32() -> None:
    view = grid_view(model_of("vgg"), "gridpg", 2)
    try:
        with view.session(fast=True), torch.no_grad():
            logits = view.module(view.place(grids_for(model_of("vgg"), 2, 1)))
    except ModelError:
        pytest.skip("no bfloat16 here")
    assert logits.dtype == torch.float32


def test_gridpg_of_vgg_shares_the_weights() -> None:
    model = model_of("vgg")
    own = {p.data_ptr() for p in model.module.parameters()}
    assert {p.data_ptr() for p in grid_view(model, "gridpg", 2).module.parameters()} == own


class Uneven(nets.Plain):
    """Pools over positions, but a grid has fewer of them than its cells have together: 5 for 18 px, 9 for 36."""


def test_gridpg_needs_a_head_that_pools_any_number_of_positions() -> None:
    model = attrlib.wrap_model(nets.made(Uneven), 18)
    assert (model.layer("Final").shape[1], model.layer("Final", (36, 36)).shape[1]) == (5, 9)
    grids = grids_for(model, 2)
    assert close(grid_view(model, "gridpg", 2)(grids), model.module(grids), 1e-5)


class Summed(nets.Plain):
    """A head that adds up the positions: the more there are, the larger the logits."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).sum((2, 3)))


def test_gridpg_is_refused_for_a_head_whose_logits_grow_with_the_number_of_positions() -> None:
    with pytest.raises(ModelError, match="GridPG needs a head that pools"):
        grid_view(attrlib.wrap_model(nets.made(Summed), 16), "gridpg", 2)


# DiPart ----------------------------------------------------------------------------------------------------------------


@cache
def resnet() -> Model:
    return method_nets.model("resnet18")


def resnet_part(module: nn.Module, first: str, last: str, x: Tensor) -> Tensor:
    """The output of the stages of torchvision's ResNet from one to another, given x."""
    stages = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    for stage in stages[stages.index(first) : stages.index(last) + 1]:
        x = getattr(module, stage)(x.clone())
    return x


def resnet_head(module: nn.Module, features: Tensor) -> Tensor:
    return module.fc(module.avgpool(features).flatten(1))


def residual_block(block: nn.Module, x: Tensor, first: Tensor) -> Tensor:
    """A basic block from the output of its first convolution on."""
    out = block.bn2(block.conv2(torch.relu(block.bn1(first))))
    return torch.relu(out + x)


def dipart_of_resnet(_model: Model, module: nn.Module, layer: str, grid: Tensor, n: int, cell: int) -> Setup:
    def head(features: Tensor) -> Tensor:
        return resnet_head(module, cut(features, n, cell))

    if layer == "Input":
        return grid, lambda x: head(resnet_part(module, "conv1", "layer4", x))
    with torch.no_grad():
        if layer == "Final":
            return resnet_part(module, "conv1", "layer4", grid), head
        if layer == "maxpool":
            start = resnet_part(module, "conv1", "maxpool", grid)
            return start, lambda x: head(resnet_part(module, "layer1", "layer4", x))
        stage3 = resnet_part(module, "conv1", "layer3", grid)
        if layer == "layer4.0":
            return module.layer4[0](stage3.clone()), lambda x: head(module.layer4[1](x.clone()))
        if layer == "layer4.1.conv1":
            inner = module.layer4[0](stage3.clone())
            return module.layer4[1].conv1(inner.clone()), lambda x: head(residual_block(module.layer4[1], inner, x))
    following = {"layer1": "layer2", "Middle": "layer3", "layer3": "layer4"}
    name = "layer2" if layer == "Middle" else layer
    with torch.no_grad():
        start = resnet_part(module, "conv1", name, grid)
    return start, lambda x: head(resnet_part(module, following[layer], "layer4", x))


RESNET_LAYERS = ("Input", "Middle", "Final", "maxpool", "layer1", "layer3", "layer4.0", "layer4.1.conv1")


@pytest.mark.parametrize(("n", "cell"), [(2, 0), (2, 1), (2, 2), (2, 3), (3, 5)])
def test_dipart_logits_are_the_head_on_the_cropped_final_features(n: int, cell: int) -> None:
    model = resnet()
    grids = grids_for(model, n)
    features = resnet_part(model.module, "conv1", "layer4", grids)
    found = grid_view(model, "dipart", n, cell)(grids)
    assert close(found, resnet_head(model.module, cut(features, n, cell)), 1e-5)
    assert not close(found, model.module(cut(grids, n, cell)), 1e-3), "the backbone sees the whole grid"


@pytest.mark.parametrize("layer", RESNET_LAYERS)
def test_dipart_maps_are_autograd_through_the_crop_of_the_final_features(layer: str) -> None:
    for method in ("Gradient:channels=abs-sum", "IxG", "Grad-CAM"):
        assert agrees(resnet(), "dipart", layer, method, 2, 1, dipart_of_resnet)


def test_dipart_of_an_nhwc_network_crops_its_final_features() -> None:
    model, n, cell = model_of("channels_last"), 2, 2
    net, grid = model.module, grids_for(model, n, 1)
    view = grid_view(model, "dipart", n, cell)

    def head(features: Tensor) -> Tensor:
        return net.fc(cut(features, n, cell, (1, 2)).relu().mean((1, 2)))

    with torch.no_grad():
        first = net.blocks[0](net.patch(grid).permute(0, 2, 3, 1))
        middle = net.blocks[1](first)
        final = net.blocks[2](middle)
    assert close(view(grid), head(final), 1e-5)
    assert (model.layer("Middle").path, model.layer("Final").path) == ("blocks.1", "blocks.2")
    for layer, setup in {
        "blocks.0": (first, lambda x: head(net.blocks[2](net.blocks[1](x)))),
        "Middle": (middle, lambda x: head(net.blocks[2](x))),
        "Final": (final, head),
    }.items():
        assert close(maps_of(view, "IxG", layer, grid, [3]), explained("IxG", setup, 3, 3)), layer


def test_dipart_at_tokens_that_all_belong_to_positions_crops_them() -> None:
    model, n, cell = model_of("tokens"), 2, 1
    net, grid = model.module, grids_for(model, n, 1)
    with torch.no_grad():
        x = net.patch(grid).flatten(2).transpose(1, 2)
        for block in net.blocks:
            x = block(x)
        expected = net.head(net.norm(cut(x.view(1, 8, 8, 8), n, cell, (1, 2)).flatten(1, 2)).mean(1))
    assert close(grid_view(model, "dipart", n, cell)(grid), expected, 1e-5)


VGG_BEHIND = {"features.16": 16, "Final": 19, "features.20": 20}


@pytest.mark.parametrize("layer", ["Input", "Middle", *VGG_BEHIND])
@pytest.mark.parametrize("name", ["vgg", "timm_vgg"])
def test_dipart_maps_of_vgg_are_autograd_through_the_crop_before_its_last_pooling(name: str, layer: str) -> None:
    model, n, cell = model_of(name), 2, 1
    module, grid, number = model.module, grids_for(model, n, 1), (VGG_LAYERS | VGG_BEHIND)[layer]
    layers = list(module.features)
    start = grid
    with torch.no_grad():
        for m in layers[: number + 1]:
            start = m(start.clone())

    def forward(x: Tensor) -> Tensor:
        for m in layers[number + 1 : 20]:
            x = m(x.clone())
        x = cut(x, n, cell)
        return vgg_head(name, module)(x if number == 20 else layers[20](x))

    view = grid_view(model, "dipart", n, cell)
    assert close(view(grid), forward(start).detach(), 1e-5)
    for method in ("IxG", "Gradient:channels=abs-sum"):
        assert close(maps_of(view, method, layer, grid, [2]), explained(method, (start, forward), 2, 1))


@pytest.mark.parametrize("layer", ["Final", "last", "last.0"])
def test_dipart_occlusion_from_the_final_layer_on_skips_windows_elsewhere(layer: str) -> None:
    model, n, cell = model_of("residual"), 2, 3
    grid, view = grids_for(model, n, 1), grid_view(model, "dipart", n, cell)
    path = model.layer(layer).path
    start = output(model.module, path, grid)

    def forward(x: Tensor) -> Tensor:
        return logits_when(model.module, cut(grid, n, cell), {path: lambda _out: cut(x, n, cell)})

    expected, touching = torch.zeros(start.shape[2:]), 0
    with torch.no_grad():
        for mask in windows(*start.shape[2:]):
            expected += (forward(start) - forward(start * (1 - mask)))[0, 3] / mask.sum() * mask
            touching += bool(cut(mask[None, None], n, cell).any())
    warm(view, layer, grid)
    with Passes(model.module) as before:
        warm(view, layer, grid)
    with Passes(model.module) as passes:
        found = maps_of(view, f"Occlusion:window={WINDOW}:stride={STRIDE}", layer, grid, [3])
    assert close(found[0, 0], expected)
    assert touching < len(windows(*start.shape[2:]))
    assert passes.rows - (before.rows - 1) <= touching + 2


@pytest.mark.parametrize("layer", ["Input", "Middle"])
def test_dipart_occlusion_before_the_final_layer_skips_nothing(layer: str) -> None:
    model, n, cell = model_of("residual"), 2, 3
    grid, view = grids_for(model, n, 1), grid_view(model, "dipart", n, cell)
    path = model.layer(layer).path
    start = output(model.module, path, grid) if path else grid

    def forward(x: Tensor) -> Tensor:
        replaced: dict[str, Forward] = {path: lambda _out: x} if path else {}
        return logits_when(model.module, grid if path else x, replaced | {"stage2": lambda out: cut(out, n, cell)})

    expected = torch.zeros(start.shape[2:])
    with torch.no_grad():
        for mask in windows(*start.shape[2:]):
            expected += (forward(start) - forward(start * (1 - mask)))[0, 3] / mask.sum() * mask
    found = maps_of(view, f"Occlusion:window={WINDOW}:stride={STRIDE}", layer, grid, [3])
    assert close(found[0, 0], expected)
    assert expected[: expected.shape[0] // 2, : expected.shape[1] // 2 + 2].any(), "the backbone looks beyond the cell"


class Wide(nn.Module):
    """Downstream of its final layer, a convolution reads neighbours, and a residual block bypasses others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.final = nn.Conv2d(6, 6, 3, padding=1)
        self.wide = nn.Conv2d(6, 6, 3, padding=1)
        self.block = nets.Block(6)
        self.fc = nn.Linear(6, nets.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.wide(self.final(self.stem(x)))).mean((2, 3)))


@pytest.mark.parametrize("layer", ["wide", "block.conv1", "block.bn2"])
def test_dipart_is_refused_downstream_of_the_final_layer_if_cells_mix(layer: str) -> None:
    model = attrlib.wrap_model(nets.made(Wide), 16, layers={"Middle": "stem", "Final": "final"})
    with pytest.raises(LayerError, match=f"{layer}.*DiPart"):
        maps_of(grid_view(model, "dipart", 2, 1), "IxG", layer, grids_for(model, 2, 1), [3])


# Targets that share a grid ---------------------------------------------------------------------------------------------

SMALL = {"steps": 3, "samples": 4, "cells": 4, "p": 0.5}
OF_TOKENS = ("TIS", "ViT-CX")
ORDINARY = [name for name, method in METHODS.items() if method.family not in ("intrinsic", "transformer") and name not in OF_TOKENS]
"""Methods that do not need a special network."""


def small(method: str, layer: str) -> str:
    """The method with small settings."""
    params = {p.name for p in params_of(METHODS[method])}
    chosen = {name: value for name, value in SMALL.items() if name in params}
    if {"window", "stride"} <= params:
        chosen = {"window": 24, "stride": 20} if layer == "Input" else {}
    return ":".join([method, *(f"{name}={value}" for name, value in chosen.items())])


@pytest.mark.parametrize("layer", ["Input", "Middle", "stage1"])
@pytest.mark.parametrize("method", ORDINARY)
def test_targets_that_share_a_grid_have_the_same_maps_as_alone(method: str, layer: str) -> None:
    model = model_of("functional")
    view, grids, spec = grid_view(model, "gridpg", 2), grids_for(model, 2, 3), small(method, layer)
    owners, targets = [0, 0, 0, 0, 2, 2], [3, 1, 0, 4, 2, 1]
    each = torch.cat([maps_of(view, spec, layer, grids[[owner]], [target]) for owner, target in zip(owners, targets, strict=True)])
    for batch_size in (1, 3, 5, 16):
        found = maps_of(view, spec, layer, grids, targets, owners=owners, batch_size=batch_size)
        assert close(found, each, 1e-3), batch_size


@pytest.mark.parametrize("layer", ["Middle", "stage1.conv2", "stage2"])
def test_targets_that_share_a_grid_have_the_same_maps_as_alone_in_difull_and_dipart(layer: str) -> None:
    model, owners, targets = model_of("residual"), [0, 0, 1], [3, 1, 4]
    grids = grids_for(model, 2)
    for setting, spec in product(("difull", "dipart"), ("IG:steps=3", "RISE:samples=6:cells=2:p=0.8", "Occlusion:window=5:stride=5")):
        view = grid_view(model, setting, 2, 3)
        each = torch.cat([maps_of(view, spec, layer, grids[[owner]], [target]) for owner, target in zip(owners, targets, strict=True)])
        assert close(maps_of(view, spec, layer, grids, targets, owners=owners, batch_size=2), each, 1e-3), (setting, spec)


@pytest.mark.parametrize("batch_size", [2, 4, 16])
@pytest.mark.parametrize("count", [4, 9])
def test_targets_that_share_a_grid_share_the_passes_of_rise_and_occlusion(count: int, batch_size: int) -> None:
    model = model_of("functional")
    view, grids = grid_view(model, "gridpg", 2), grids_for(model, 2, 2)
    owners = [0] * count + [1] * count
    targets = [k % 5 for k in range(2 * count)]
    with Passes(model.module) as rise:
        maps_of(view, "RISE:samples=12", "Input", grids, targets, owners=owners, batch_size=batch_size)
    assert rise.rows == 2 * 12
    with Passes(model.module) as occlusion:
        maps_of(view, "Occlusion:window=32:stride=32", "Input", grids, targets, owners=owners, batch_size=batch_size)
    # One pass for each target besides, of the whole grid, is all that may come on top.
    assert 2 * 16 < occlusion.rows <= 2 * 16 + len(targets)


def test_grids_without_a_target_take_no_passes() -> None:
    model = model_of("functional")
    grids = grids_for(model, 2, 6)
    with Passes(model.module) as passes:
        found = maps_of(grid_view(model, "gridpg", 2), "RISE:samples=12", "Input", grids, [1, 2], owners=[0, 5])
    assert passes.rows == 2 * 12
    assert close(found[1:], maps_of(model, "RISE:samples=12", "Input", grids[5:], [2]), 1e-5)


def test_no_more_rows_run_at_once_than_allowed() -> None:
    model, most = model_of("functional"), 0

    def watch(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal most
        most = max(most, len(args[0]))

    handle = model.module.register_forward_pre_hook(watch)
    view, grids = grid_view(model, "gridpg", 2), grids_for(model, 2, 2)
    try:
        for method in ORDINARY:
            maps_of(view, small(method, "Input"), "Input", grids, list(range(5)) * 2, owners=[0] * 5 + [1] * 5, batch_size=3)
    finally:
        handle.remove()
    assert most == 3


def test_without_a_target_the_class_that_the_view_predicts_is_explained() -> None:
    model = model_of("residual")
    colours = 6 * torch.randn(40, 3, 2, 2, generator=torch.Generator().manual_seed(5))
    grids = grids_for(model, 2, 40) + colours.repeat_interleave(16, 2).repeat_interleave(16, 3)
    for setting in SETTINGS:
        view = grid_view(model, setting, 2, 3)
        predicted = view(grids).argmax(1)
        assert SEED or bool((predicted != model(grids).argmax(1)).any()) == (setting != "gridpg")
        assert attribute(view, MethodSpec("IxG", "Final"), grids).target == tuple(predicted.tolist())


# Refusals --------------------------------------------------------------------------------------------------------------


def reason(model: Model, setting: str, layer: str) -> str:
    """Return why a view of the model cannot be explained at a layer; empty if it can."""
    try:
        grid_view(model, setting, 2, 1).layer(layer, (2 * model.input_size[0], 2 * model.input_size[1]))
        maps_of(grid_view(model, setting, 2, 1), "IxG", layer, grids_for(model, 2, 1), [1])
    except (ModelError, LayerError, ImageError) as error:
        return str(error)
    return ""


REFUSED = [
    *(("vit", "gridpg", layer, "64 x 64 px") for layer in ("Input", "Middle", "Final")),
    *(("dynamic_vit", "gridpg", layer, "class token") for layer in ("Input", "Middle", "Final")),
    *(("class_token", "gridpg", layer, "class token") for layer in ("Input", "Middle", "Final")),
    *(("vit", "dipart", layer, "64 x 64 px") for layer in ("Input", "Middle", "Final")),
    *(("dynamic_vit", "dipart", layer, "DiPart is not defined") for layer in ("Input", "Middle", "Final")),
    *(("class_token", "dipart", layer, "DiPart is not defined") for layer in ("Input", "Middle", "Final")),
    *((name, "difull", layer, r"1 token\(s\).*use DiFull at Input") for name in ("vit", "dynamic_vit") for layer in ("Middle", "Final")),
    *(("swin", setting, "Input", "64 x 64 px") for setting in ("gridpg", "dipart")),
]


@pytest.mark.parametrize(("name", "setting", "layer", "why"), REFUSED)
def test_undefined_views_are_refused_with_the_reason(name: str, setting: str, layer: str, why: str) -> None:
    assert re.search(why, reason(model_of(name), setting, layer))


@pytest.mark.parametrize("name", ["vit", "dynamic_vit", "class_token", "swin"])
def test_difull_at_input_works_on_every_model(name: str) -> None:
    assert reason(model_of(name), "difull", "Input") == ""
    if name == "class_token":
        assert agrees(model_of(name), "difull", "Input", "IxG", 2, 2, difull)


def without_final() -> Model:
    return attrlib.wrap_model(made(method_nets.Linear, 16, 16), 16)


@pytest.mark.parametrize("setting", ["gridpg", "dipart"])
def test_a_model_without_a_final_layer_is_refused(setting: str) -> None:
    assert "has no layer Final" in reason(without_final(), setting, "Input")


def test_a_model_without_a_final_layer_has_difull_at_input() -> None:
    model = without_final()
    assert agrees(model, "difull", "Input", "IxG", 2, 1, difull)
    assert "has no layer Final" in reason(model, "difull", "Final")


class Flattened(nn.Module):
    """A head with a different weight for every position."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(4) if pooled else nn.AvgPool2d(2)
        self.fc = nn.Linear(64, nets.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.conv(x)).flatten(1))


@pytest.mark.parametrize(("pooled", "why"), [(True, "distinguishes positions"), (False, "16 x 16 px")])
def test_gridpg_is_refused_for_a_head_that_does_more_than_pool(pooled: bool, why: str) -> None:
    assert why in reason(attrlib.wrap_model(nets.made(Flattened, pooled), 16), "gridpg", "Input")


HEADS: dict[str, Callable[[], nn.Sequential]] = {
    "flatten first": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5)),
    "flatten last": lambda: nn.Sequential(nn.Linear(64, 5), nn.Flatten()),
    "norm": lambda: nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)),
    "layer norm": lambda: nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 5)),
    "softmax": lambda: nn.Sequential(nn.Linear(64, 8), nn.Softmax(1), nn.Linear(8, 5)),
}


class LikeVGG(nn.Module):
    """The form of VGG with any head."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.avgpool = nn.AdaptiveAvgPool2d(4)
        self.classifier = HEADS[head]()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


@pytest.mark.parametrize("head", HEADS)
def test_a_vgg_with_another_head_is_handled_correctly_or_refused_with_the_reason(head: str) -> None:
    model = attrlib.wrap_model(nets.made(LikeVGG, head), 16)
    said = reason(model, "gridpg", "Input")
    if said:
        assert "distinguishes positions" in said
    else:
        grids = grids_for(model, 2)
        features = model.module.features(grids)
        parts = [features[:, :, t : t + 4, s : s + 4] for t, s in product(range(5), repeat=2)]
        expected = torch.stack([model.module.classifier(part.flatten(1)) for part in parts]).mean(0)
        assert close(grid_view(model, "gridpg", 2)(grids), expected, 1e-4)


def test_vgg_whose_features_are_resized_for_its_head_is_refused() -> None:
    assert "distinguishes positions" in reason(attrlib.wrap_model(narrow_vgg(), 96), "gridpg", "Input")


def test_dipart_is_refused_if_a_path_bypasses_the_final_layer() -> None:
    assert "DiPart is not defined" in reason(attrlib.wrap_model(nets.made(nets.Dense), 16), "dipart", "Input")


def test_dipart_is_refused_if_a_grid_does_not_have_n_times_the_positions() -> None:
    assert "DiPart is not defined" in reason(attrlib.wrap_model(nets.made(nets.Plain), 18), "dipart", "Input")


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_unknown_layer_is_refused(setting: str) -> None:
    assert "unknown layer" in reason(model_of("residual"), setting, "nowhere")


# Side effects -------------------------------------------------------------------------------------------

HOOKS = [name for name in nn.Module().__dict__ if "hook" in name]


def fingerprint(module: nn.Module) -> list[object]:
    """Everything that a computation could change."""
    tensors = [(k, t.detach().clone().numpy().tobytes(), t.requires_grad, t.data_ptr(), t.grad) for k, t in all_tensors(module)]
    own = [(path, m.training, sorted(m.__dict__), [id(getattr(m, h)) for h in HOOKS], hooks(m)) for path, m in module.named_modules()]
    return [tensors, own]


def all_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def hooks(module: nn.Module) -> list[object]:
    return [sorted(getattr(module, name)) if isinstance(getattr(module, name), dict) else getattr(module, name) for name in HOOKS]


def disordered(module: nn.Module) -> nn.Module:
    """Partly in training mode, with some frozen parameters and a custom hook."""
    parts = list(module.children())
    parts[0].train()
    next(module.parameters()).requires_grad_(False)
    parts[0].register_forward_hook(lambda _m, _args, out: out * 1)
    return module


def test_no_view_leaves_a_trace() -> None:
    for module, size in ((nets.made(Bottleneck), 16), (made(Functional), 64), (made(ChannelsLast), 24), (narrow_vgg(), 224)):
        disordered(module)
        before = fingerprint(module)
        model = attrlib.wrap_model(module, size)
        grids = grids_for(model, 2)
        for setting, method, layer in product(SETTINGS, ("IxG", "Grad-CAM", "RISE:samples=3:p=0.7"), ("Input", "Middle", "Final")):
            view = grid_view(model, setting, 2, 1)
            maps_of(view, method, layer, grids, [1, 2])
            view(grids)
        assert fingerprint(module) == before
        assert grid_view(model, "difull", 2, 1).digest == model.digest


class Bomb(nn.Module):
    """Returns its input a given number of times, then raises."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 1 << 40

    def forward(self, x: Tensor) -> Tensor:
        if not self.left:
            raise RuntimeError("boom")
        self.left -= 1
        return x * 1


class Armed(Bottleneck):
    """With a bomb between its final layer and its head."""

    def __init__(self) -> None:
        super().__init__()
        self.bomb = Bomb()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.bomb(self.stage2(self.stage1(self.stem(x))))).mean((2, 3)))


@pytest.mark.parametrize("layer", ["Input", "stage1.conv2", "Final"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_no_view_leaves_a_trace_after_an_error_in_the_middle(setting: str, layer: str) -> None:
    module = disordered(nets.made(Armed))
    model = attrlib.wrap_model(module, 16, layers={"Middle": "stage1", "Final": "stage2"})
    view, grids = grid_view(model, setting, 2, 2), grids_for(model, 2)
    expected = maps_of(view, "RISE:samples=20", layer, grids, [1, 2], batch_size=2)
    before = fingerprint(module)
    module.bomb.left = 3
    with pytest.raises(RuntimeError, match="boom"):
        maps_of(view, "RISE:samples=20", layer, grids, [1, 2], batch_size=2)
    module.bomb.left = 1 << 40
    assert fingerprint(module) == before
    with pytest.raises(Cancelled):
        maps_of(view, "RISE:samples=20", layer, grids, [1, 2], batch_size=2, on_progress=stop_after(3))
    assert fingerprint(module) == before
    assert torch.equal(maps_of(view, "RISE:samples=20", layer, grids, [1, 2], batch_size=2), expected)


def stop_after(count: int) -> Callable[[int, int], None]:
    left = iter(range(count))

    def progress(_done: int, _total: int) -> None:
        if next(left, None) is None:
            raise Cancelled("enough")

    return progress


def test_a_view_is_created_once_and_has_the_size_of_the_grid() -> None:
    model = model_of("not_square")
    for setting in ("difull", "dipart"):
        view = grid_view(model, setting, 3, 2)
        assert view is grid_view(model, setting, 3, 2)
        assert view is not grid_view(model, setting, 3, 1)
        assert view is not grid_view(model, setting, 2, 2)
        assert view.input_size == (3 * 48, 3 * 80)
        assert view.layer("Middle").shape == (8, 18, 30)
        assert view.layer("Middle", (144, 240)).shape == (8, 18, 30)


def test_the_layers_of_a_view_do_not_depend_on_earlier_uses_of_the_model() -> None:
    for asked in (False, True):
        model = attrlib.wrap_model(made(Functional), 64)
        if asked:
            _ = model.layers
        for setting in ("difull", "dipart"):
            view = grid_view(model, setting, 2, 1)
            assert {name: layer.shape for name, layer in view.layers.items()} == {name: view.layer(name).shape for name in model.layers}


def test_nothing_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = residual_net()
        for setting in SETTINGS:
            maps = maps_of(grid_view(model, setting, 2, 1), "IxG", "Final", grids_for(model, 2), [1, 2])
            assert bool(maps.isfinite().all())
            assert bool((maps != 0).flatten(1).any(1).all())
