"""LIME, KernelSHAP and RISE-U against Shapley's formula, scikit-learn, scikit-image and plain loops."""

from collections.abc import Callable
from itertools import combinations
from math import comb, factorial

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F  # noqa: N812
from skimage.segmentation import slic
from sklearn.linear_model import Ridge
from support import method_nets
from support.method_nets import TARGETS, Linear, Rectified, made, maps, pictures
from support.numbers import SEED, close
from torch import Tensor, nn

from attrlib.methods import AttributionContext, attribute, perturbation
from attrlib.methods.baselines import common_baseline
from attrlib.methods.segments import segments
from attrlib.methods.surrogates import LIME, coalitions
from attrlib.specs import MethodSpec

Model = attrlib.Classifier


def images_for(name: str, count: int = 2) -> Tensor:
    return blocks(count, *method_nets.model(name).input_size)


def blocks(count: int, height: int, width: int) -> Tensor:
    """Pictures of plain blocks, because SLIC returns a single superpixel for noise."""
    return F.interpolate(pictures(count, -(-height // 8), -(-width // 8)), scale_factor=8.0)[:, :, :height, :width]


def masked(model: Model, layer: str, images: Tensor, masks: Tensor, fill: Tensor | float = 0.0) -> Tensor:
    """Logits (B,C) while the layer's output is m x + (1 - m) fill, by a forward hook; masks (B|1,1,h,w), and prefix tokens stay."""
    own = model.layer(layer)

    def change(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        changed = output.clone()
        positions = own.layout.spatial(changed)
        positions.copy_(positions * masks + (1 - masks) * fill)
        return changed

    with torch.no_grad():
        if not own.path:
            return model.module(change(model.module, (), images))
        handle = model.module.get_submodule(own.path).register_forward_hook(change)
        try:
            return model.module(images)
        finally:
            handle.remove()


def task_of(model: Model, images: Tensor, layer: str = "Input", seed: int = 0) -> AttributionContext:
    """To be used inside `model.session()`."""
    return AttributionContext(model, model.layer(layer), model.place(images), torch.tensor(TARGETS[: len(images)]), seed=seed)


def grid(height: int, width: int, cells: int) -> Tensor:
    """Labels (h,w) of a grid, written out."""
    tall, wide = min(cells, height), min(cells, width)
    return torch.tensor([[(i * tall // height) * wide + j * wide // width for j in range(width)] for i in range(height)])


# Segments ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "cells"), [("Input", 3), ("Input", 1), ("Middle", 2), ("Middle", 32)])
def test_a_grid_has_cells_of_nearly_one_size(layer: str, cells: int) -> None:
    model = method_nets.model("not_square")
    with model.session():
        found = segments(task_of(model, images_for("not_square"), layer), "grid", cells)
    height, width = model.layer(layer).shape[1:]
    assert torch.equal(found, grid(height, width, cells).expand(2, -1, -1))
    areas = found[0].flatten().bincount()
    assert len(areas) == min(cells, height) * min(cells, width)
    assert areas.max() <= (height // min(cells, height) + 1) * (width // min(cells, width) + 1)


def test_superpixels_match_scikit_image() -> None:
    model = method_nets.model("not_square")
    colours = torch.rand(2, 3, 6, 10, generator=torch.Generator().manual_seed(0)).repeat_interleave(8, 2).repeat_interleave(8, 3)
    images = model.preprocessing.normalise(colours)
    with model.session():
        found = segments(task_of(model, images), "slic", 5)
        inside = segments(task_of(model, images, "Middle"), "slic", 5)
    for own, at_layer, picture in zip(found, inside, colours, strict=True):
        expected = slic(picture.permute(1, 2, 0).numpy(), n_segments=25, compactness=10, start_label=0)
        pairs = {*zip(own.flatten().tolist(), expected.ravel().tolist(), strict=True)}
        assert len(pairs) == len(np.unique(expected)) == int(own.max()) + 1
        step = 48 // at_layer.shape[0]
        centres = own[step // 2 :: step, step // 2 :: step]
        assert len({*zip(centres.flatten().tolist(), at_layer.flatten().tolist(), strict=True)}) == len(at_layer.unique())
        assert sorted(at_layer.unique().tolist()) == list(range(int(at_layer.max()) + 1))


# KernelSHAP ----------------------------------------------------------------------------------------------------------------


def kernel(count: int, size: int) -> float:
    return (count - 1) / (comb(count, size) * size * (count - size))


@pytest.mark.parametrize("count", [2, 3, 4, 7, 8])
def test_with_enough_samples_every_coalition_occurs_once_with_its_weight(count: int) -> None:
    kept, weights = coalitions(count, 2**count - 2, torch.Generator().manual_seed(0))
    assert len(kept) == 2**count - 2 == len(kept.unique(dim=0))
    assert set(kept.sum(1).tolist()) == set(range(1, count))
    expected = torch.tensor([kernel(count, int(size)) for size in kept.sum(1)], dtype=torch.float64)
    assert torch.allclose(weights / weights[0], expected / expected[0])


@pytest.mark.parametrize(("count", "samples", "whole"), [(10, 200, 1), (49, 1000, 1), (16, 4, 0), (300, 501, 0), (12, 4095, 6)])
def test_with_few_samples_sizes_from_the_outside_are_complete_and_the_rest_is_drawn_in_pairs(count: int, samples: int, whole: int) -> None:
    kept, weights = coalitions(count, samples, torch.Generator().manual_seed(0))
    assert len(kept) == len(weights) == min(samples, 2**count - 2)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    sizes = kept.sum(1).long()
    assert sizes.min() >= 1
    assert sizes.max() <= count - 1
    mass = torch.zeros(count + 1, dtype=torch.float64).index_add_(0, sizes, weights)
    expected = torch.tensor([0.0] + [1 / (s * (count - s)) for s in range(1, count)] + [0.0], dtype=torch.float64)
    inside = torch.tensor([whole < s < count - whole for s in range(count + 1)])
    assert torch.allclose(mass[~inside], expected[~inside])
    assert float(mass.sum()) == pytest.approx(float(expected.sum()))
    for size in range(1, whole + 1):
        assert int((sizes == size).sum()) == comb(count, size)
    drawn = kept[inside[sizes]]
    assert torch.equal(drawn[0 : len(drawn) // 2 * 2 : 2], 1 - drawn[1::2])


def test_drawn_coalitions_have_the_sizes_of_the_kernel() -> None:
    kept, _ = coalitions(40, 20001, torch.Generator().manual_seed(0))
    sizes = kept.sum(1).long()
    inner = range(3, 38)
    shares = np.array([1 / (s * (40 - s)) for s in inner])
    counts = np.array([int((sizes == s).sum()) for s in inner])
    assert scipy.stats.chisquare(counts, shares / shares.sum() * counts.sum()).pvalue > 1e-3
    assert float(kept.mean()) == pytest.approx(0.5, abs=0.01)


def shapley(value: Callable[[frozenset[int]], np.ndarray], count: int) -> np.ndarray:
    """By the formula: the mean gain over all orders, (count, ...)."""
    known = {frozenset(s): value(frozenset(s)) for size in range(count + 1) for s in combinations(range(count), size)}
    found = []
    for player in range(count):
        others = [p for p in range(count) if p != player]
        total = 0.0
        for size in range(count):
            for rest in combinations(others, size):
                weight = factorial(size) * factorial(count - size - 1) / factorial(count)
                total = total + weight * (known[frozenset((*rest, player))] - known[frozenset(rest)])
        found.append(total)
    return np.stack(found)


@pytest.mark.parametrize(
    ("name", "layer", "cells"),
    [("functional", "Input", 2), ("not_square", "Middle", 3), ("vit_tiny", "blocks.2", 2), ("channels_last", "Middle", 2)],
)
@pytest.mark.parametrize("output", ["logit", "probability"])
def test_kernel_shap_gives_the_shapley_values_of_a_grid(name: str, layer: str, cells: int, output: str) -> None:
    model, images = method_nets.model(name), images_for(name)
    height, width = model.layer(layer).shape[1:]
    labels = grid(height, width, cells)
    count = int(labels.max()) + 1

    def value(kept: frozenset[int]) -> np.ndarray:
        mask = sum(((labels == s).float() for s in kept), torch.zeros(labels.shape))
        logits = masked(model, layer, images, mask[None, None]).double()
        return (logits if output == "logit" else logits.softmax(1))[range(2), TARGETS].numpy()

    values = shapley(value, count)
    areas = labels.flatten().bincount().numpy()
    expected = torch.from_numpy(np.stack([(values[:, k] / areas)[labels.numpy()] for k in range(2)]))[:, None].float()
    found = maps(model, images, "KernelSHAP", layer, segments="grid", cells=cells, output=output, samples=2**count - 2)
    assert close(found, expected, 1e-3)


@pytest.mark.parametrize("fill", ["zeros", "uniform", "black"])
@pytest.mark.parametrize("kind", ["slic", "grid"])
def test_a_map_of_kernel_shap_sums_to_the_effect_of_all_segments(kind: str, fill: str) -> None:
    model, images = method_nets.model("functional"), images_for("functional")
    with model.session():
        instead = common_baseline(task_of(model, images), fill)
    with torch.no_grad():
        change = (model(images) - model(instead))[range(2), TARGETS]
    found = maps(model, images, "KernelSHAP", segments=kind, fill=fill, samples=30)
    assert close(found.sum((1, 2, 3)), change, 1e-4)


@pytest.fixture(scope="module")
def linear() -> Model:
    return attrlib.wrap_model(made(Linear, 12, 20), (12, 20))


@pytest.mark.parametrize(
    ("method", "params"),
    [("KernelSHAP", {"samples": 200}), ("KernelSHAP", {"samples": 60}), ("LIME", {"ridge": 0.0, "samples": 60})],
)
@pytest.mark.parametrize("kind", ["slic", "grid"])
def test_for_a_linear_model_the_value_of_a_segment_is_the_sum_of_weight_times_input(
    linear: Model, method: str, params: dict[str, object], kind: str
) -> None:
    images = blocks(2, 12, 20)
    products = (linear.module.weight[TARGETS].detach() * images).sum(1)
    with linear.session():
        labels = segments(task_of(linear, images), kind, 4)
    for found, own, product in zip(maps(linear, images, method, segments=kind, cells=4, **params), labels, products, strict=True):
        count = int(own.max()) + 1
        assert count > 3
        sums = torch.zeros(count).index_add_(0, own.flatten(), product.flatten())
        assert close(found[0], (sums / own.flatten().bincount())[own], 1e-3)


# LIME ----------------------------------------------------------------------------------------------------------------------


def test_lime_matches_the_weighted_ridge_regression_of_scikit_learn() -> None:
    model, images = method_nets.model("functional"), images_for("functional")
    with model.session():
        context = task_of(model, images)
        labels = segments(context, "slic", 4)
        designs = [LIME(samples=40).design(context, int(own.max()) + 1) for own in labels]
    expected = []
    assert SEED or len({len(kept.T) for kept, _ in designs}) == 2, "images with as many superpixels prove less"
    for k, (own, (kept, weights)) in enumerate(zip(labels, designs, strict=True)):
        assert kept.shape == (40, int(own.max()) + 1)
        assert (kept[0] == 1).all()
        distance = [scipy.spatial.distance.cosine(row, np.ones(len(row))) if row.any() else 1.0 for row in kept.numpy()]
        assert np.allclose(weights, np.sqrt(np.exp(-(np.array(distance) ** 2) / 0.25**2)), atol=1e-7)
        outputs = [float(masked(model, "Input", images[k : k + 1], row.float()[own][None, None])[0, TARGETS[k]]) for row in kept]
        slopes = Ridge(alpha=1.0).fit(kept.numpy(), outputs, sample_weight=weights.numpy()).coef_
        expected.append(torch.from_numpy(slopes / own.flatten().bincount().numpy())[own].float())
    assert close(maps(model, images, "LIME", samples=40, cells=4)[:, 0], torch.stack(expected), 1e-3)


def test_lime_keeps_a_random_half_of_the_segments() -> None:
    model = method_nets.model("functional")
    with model.session():
        context = task_of(model, images_for("functional"))
        kept, _ = LIME(samples=2000).design(context, 30)
        other, _ = LIME(samples=2000).design(task_of(model, images_for("functional"), seed=1), 30)
    assert float(kept[1:].mean()) == pytest.approx(0.5, abs=0.01)
    assert abs(np.corrcoef(kept[1:].flatten(), other[1:].flatten())[0, 1]) < 0.02


class Corner(nn.Module):
    """Reads only the top left quarter."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Rectified(F.relu)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x[:, :, :8, :8])


@pytest.mark.parametrize("method", ["LIME", "KernelSHAP"])
def test_a_segment_that_the_model_ignores_has_value_zero(method: str) -> None:
    model, images = attrlib.wrap_model(made(Corner), 16), pictures(2, 16)
    found = maps(model, images, method, segments="grid", cells=2, samples=200, **({"ridge": 0.0} if method == "LIME" else {}))
    assert (found[:, :, :8, :8].abs() > 0).all()
    assert close(F.pad(found[:, :, :8, :8], (0, 8, 0, 8)), found, 1e-4)


class Rows(nn.Module):
    """Counts its input images."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.rows = Rectified(F.relu), 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.net(x)


@pytest.mark.parametrize(("method", "passes"), [("LIME", 20), ("KernelSHAP", 22), ("RISE-U", 20)])
def test_all_targets_of_an_image_share_the_passes(method: str, passes: int) -> None:
    module, images = made(Rows), pictures(2, 16)
    model, spec = attrlib.wrap_model(module, 16), MethodSpec(method, "", (("samples", 20),))
    single = attribute(model, spec, images, [0, 3])
    module.rows = 0
    found = attribute(model, spec, images, [0, 1, 2, 3, 4], owners=[0, 0, 0, 1, 1])
    assert module.rows <= 2 * passes + 2
    assert close(found.maps[[0, 3]], single.maps, 1e-5)


# RISE-U --------------------------------------------------------------------------------------------------------------------


def test_the_fill_of_rise_u_is_one_image_of_uniform_values_drawn_from_the_seed() -> None:
    model, images = method_nets.model("functional"), images_for("functional")
    with model.session():
        one, two, other = (
            common_baseline(task_of(model, images[own], seed=seed), "uniform")
            for own, seed in ((slice(2), 0), (slice(1), 0), (slice(2), 1))
        )
    assert one.shape == (1, 3, 64, 64)
    assert torch.equal(one, two)
    assert scipy.stats.kstest(one.flatten().numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
    assert abs(np.corrcoef(one.flatten(), other.flatten())[0, 1]) < 0.05


@pytest.mark.parametrize(("name", "layer"), [("functional", "Input"), ("resnet18", "Final"), ("vit_tiny", "blocks.1")])
@pytest.mark.parametrize(("method", "fill"), [("RISE-U", "uniform"), ("RISE", "white"), ("RISE", "zeros")])
def test_rise_with_a_fill_matches_a_plain_loop(name: str, layer: str, method: str, fill: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Tensor] = []
    original = perturbation.magnify

    def recording(*args: object) -> Tensor:
        used.append(original(*args))
        return used[-1]

    monkeypatch.setattr(perturbation, "magnify", recording)
    model, images = method_nets.model(name), images_for(name)
    with model.session():
        instead = model.layer(layer).layout.spatial(common_baseline(task_of(model, images, layer), fill))
    found = maps(model, images, method, layer, samples=12, cells=4, p=0.4, **({} if method == "RISE-U" else {"fill": fill}))
    expected = torch.zeros(found.shape)
    for mask in torch.cat(used):
        probabilities = masked(model, layer, images, mask[None], instead).softmax(1)[range(2), TARGETS]
        expected += probabilities.view(2, 1, 1, 1) * mask / (12 * 0.4)
    assert close(found, expected)
