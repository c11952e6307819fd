"""Extremal perturbation against a NumPy transcription of its masks and loss, a plain optimisation, and regions known beforehand."""

import math

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F  # noqa: N812
from support import method_nets
from support.method_nets import TARGETS, maps, pictures
from support.numbers import SEED, close
from torch import Tensor, nn

from attrlib.methods import AttributionContext
from attrlib.methods.extremal import area_loss, blended, blurred
from attrlib.methods.smooth_masks import SmoothMasks

SIDE = 64


def smooth_maximum(values: np.ndarray, step: int, sigma: float, row: int, column: int) -> float:
    """The mask at one position, by the definition: over the nodes around it, those outside the grid with parameter 0."""
    reach = 1 + math.ceil(sigma / step)
    terms = []
    for i in range(row // step - reach, row // step + reach + 1):
        for j in range(column // step - reach, column // step + reach + 1):
            inside = 0 <= i < values.shape[0] and 0 <= j < values.shape[1]
            distance = math.hypot(row - step * i, column - step * j) / sigma
            terms.append(math.exp(-2 * max(distance - 0.5, 0) ** 2) * (values[i, j] if inside else 0.0))
    z = np.array(terms)
    share = np.exp(20 * (z - z.max()))
    return float((z * share).sum() / share.sum())


@pytest.mark.parametrize(("size", "step", "sigma"), [((12, 20), 2, 6.0), ((9, 10), 3, 4.0), ((4, 4), 1, 0.375)])
def test_a_mask_is_the_smooth_maximum_over_the_nodes(size: tuple[int, int], step: int, sigma: float) -> None:
    masks = SmoothMasks(size, step, sigma)
    values = torch.rand(2, 1, *masks.nodes, generator=torch.Generator().manual_seed(SEED))
    full = masks.make(values)
    found, start = masks.cropped(full), step * math.ceil(sigma / step)
    assert masks.nodes == (math.ceil(size[0] / step), math.ceil(size[1] / step))
    assert full.shape[2] == step * masks.nodes[0] + 2 * start
    for k in range(2):
        grid = values[k, 0].double().numpy()
        expected = [[smooth_maximum(grid, step, sigma, i, j) for j in range(size[1])] for i in range(size[0])]
        assert close(found[k, 0], torch.tensor(expected), 1e-5)
        assert float(full[k, 0, 0, 0]) == pytest.approx(smooth_maximum(grid, step, sigma, -start, -start), abs=1e-5)


def test_the_derivative_of_a_mask_is_that_of_finite_differences() -> None:
    masks = SmoothMasks((6, 9), 2, 3.0)
    values = torch.rand(2, 1, *masks.nodes, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(masks.make, values)


def test_the_area_loss_is_that_of_the_sorted_values() -> None:
    masks = torch.rand(3, 1, 6, 7, generator=torch.Generator().manual_seed(SEED))
    found = area_loss(masks, (0.1, 0.5, 0.99))
    for mask, area, loss in zip(masks.numpy(), (0.1, 0.5, 0.99), found.tolist(), strict=True):
        target = np.ones(42)
        target[: int(42 * (1 - area))] = 0
        assert loss == pytest.approx(float(((np.sort(mask.ravel()) - target) ** 2).mean()), rel=1e-5)
    exact = torch.zeros(1, 1, 4, 5)
    exact[0, 0, 2, :3] = 1
    assert float(area_loss(exact, (0.15,))) == pytest.approx(0, abs=1e-7)


def test_levels_are_interpolated() -> None:
    levels = torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(SEED))
    mask = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(SEED))
    mask[0, 0, 0, 0], mask[0, 0, 0, 1] = 0, 1
    found = blended(levels, mask)
    for k, c, i, j in np.ndindex(2, 3, 5, 5):
        expected = np.interp(3 * float(mask[k, 0, i, j]), range(4), levels[k, :, c, i, j].numpy())
        assert float(found[k, c, i, j]) == pytest.approx(float(expected), abs=1e-5)


def test_the_blur_is_a_gaussian_and_keeps_a_constant() -> None:
    values = pictures(2, 40)
    expected = scipy.ndimage.gaussian_filter(values.double().numpy(), (0, 0, 2, 2), mode="constant", truncate=8)
    assert close(blurred(values, 2.0)[:, :, 16:24, 16:24], torch.from_numpy(expected)[:, :, 16:24, 16:24], 1e-5)
    assert torch.allclose(blurred(torch.full((1, 1, 6, 9), 0.7), 3.0), torch.tensor(0.7))


@pytest.mark.parametrize(("name", "layer"), [("functional", "Input"), ("not_square", "Middle"), ("vit_tiny", "blocks.1")])
@pytest.mark.parametrize("perturbation", ["blur", "fade"])
def test_a_mask_is_that_of_a_plain_gradient_ascent(name: str, layer: str, perturbation: str) -> None:
    model, steps, areas = method_nets.model(name), 6, (0.2, 0.1)
    images = pictures(2, *model.input_size)
    found = maps(
        model, images, "Extremal perturbation", layer, steps=steps, area=0.2, areas=2, cells=8, sigma=0.2, perturbation=perturbation
    )
    place = model.layer(layer)
    height, width = place.shape[1:]
    masks = SmoothMasks((height, width), math.ceil(min(height, width) / 8), 0.2 * min(height, width))
    expected = torch.zeros_like(found)
    with model.session():
        context = AttributionContext(model, place, model.place(images), torch.tensor(TARGETS))
        for k in range(2):
            clean = context.inputs[k : k + 1]
            values = place.layout.spatial(clean)
            spread = 20 / 224 * min(height, width)
            shares = torch.linspace(0, 1, 8)
            levels = [
                s * values if perturbation == "fade" else values if s == 1 else blurred(values, float(1 - s) * spread) for s in shares
            ]
            for area in areas:
                parameters, momentum, weight = torch.ones(1, 1, *masks.nodes), None, 300.0
                for _ in range(steps):
                    parameters = parameters.detach().requires_grad_()
                    with torch.enable_grad():
                        full = masks.make(parameters)
                        mask = masks.cropped(full)
                        # Hat functions of the levels; the sum over them is the linear interpolation.
                        hats = [(1 - (7 * mask - level).abs()).clamp_min(0) for level in range(8)]
                        shown = sum(hat * level for hat, level in zip(hats, levels, strict=True))
                        row = place.layout.native(shown)
                        if place.layout.prefix:
                            row = torch.cat([clean[:, : place.layout.prefix], row[:, place.layout.prefix :]], 1)
                        score = context.logits(row, torch.tensor([k]))[0, TARGETS[k]]
                        ordered = full.flatten().sort().values
                        target = torch.ones_like(ordered)
                        target[: int(len(ordered) * (1 - area))] = 0
                        loss = weight * (ordered - target).square().mean() - score
                        slope = torch.autograd.grad(loss, parameters)[0]
                    momentum = slope if momentum is None else 0.9 * momentum + 0.1 * slope
                    parameters = (parameters.detach() - 0.01 * momentum).clamp(0, 1)
                    weight *= 1.0035
                expected[k] += mask.detach()[0] / 2
    assert close(found, expected, 1e-3)
    assert SEED or float(expected.std()) > 1e-4


class Region(nn.Module):
    """The first logit is the mean brightness of one region of the image; the second that of the rest."""

    def __init__(self, top: int, left: int) -> None:
        super().__init__()
        self.register_buffer("inside", F.pad(torch.ones(16, 20), (left, SIDE - left - 20, top, SIDE - top - 16)))

    def forward(self, x: Tensor) -> Tensor:
        brightness = x.mean(1)
        return torch.stack([(brightness * w).sum((1, 2)) / w.sum() for w in (self.inside, 1 - self.inside)], 1)


@pytest.mark.parametrize(("top", "left"), [(8, 30), (40, 2)])
def test_a_mask_finds_the_region_that_the_target_depends_on(top: int, left: int) -> None:
    model = attrlib.wrap_model(Region(top, left), SIDE)
    inside = model.module.inside.bool()  # type: ignore[union-attr]
    # The frame is 64 px with a margin of 8 on both sides; the region has a share of 0.05 of it.
    found = maps(
        model,
        100 * torch.ones(1, 3, SIDE, SIDE),
        "Extremal perturbation",
        targets=[0],
        steps=400,
        area=0.08,
        cells=16,
        perturbation="fade",
    )[0, 0]
    assert float(found[inside].min()) > 0.8
    assert float((found > 0.5).float().mean()) < 0.2
    far = scipy.ndimage.distance_transform_edt(~inside.numpy()) > 12
    assert float(found[torch.from_numpy(far)].max()) < 0.2


def test_masks_do_not_depend_on_how_many_are_made_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = method_nets.model("functional")
    images = pictures(2, 64)
    together = maps(model, images, "Extremal perturbation", steps=3, cells=4, areas=3)
    monkeypatch.setattr("attrlib.methods.extremal.ENTRIES", 1)
    assert close(maps(model, images, "Extremal perturbation", steps=3, cells=4, areas=3), together, 1e-5)
