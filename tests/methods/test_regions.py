"""XRAI against the authors' package `saliency`, and against its defining properties."""

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import saliency.core
import torch
import torch.nn.functional as F  # noqa: N812
from saliency.core import xrai
from support import method_nets
from support.method_nets import TARGETS, Linear, made, maps, pictures
from support.numbers import close
from torch import Tensor

from attrlib.methods import AttributionContext, attribute_all
from attrlib.methods.regions import by_density
from attrlib.methods.segments import regions
from attrlib.specs import MethodSpec

Model = attrlib.Classifier


def photos(model: Model, count: int = 2) -> Tensor:
    """Normalised pictures with edges, at the size of the model's input."""
    names = ("sample:cat", "birds:test/3")[:count]
    return torch.stack([model.preprocess(attrlib.open_image(name).image) for name in names])


def context_of(model: Model, images: Tensor, layer: str = "Input") -> AttributionContext:
    return AttributionContext(model, model.layer(layer), model.place(images), torch.tensor(TARGETS[: len(images)]))


def peer(attribution: np.ndarray, masks: list[np.ndarray], least: int) -> np.ndarray:
    """The map of the authors' package for given attributions (h,w,C) and regions."""
    settings = saliency.core.XRAIParameters()
    settings.experimental_params["min_pixel_diff"] = least
    return saliency.core.XRAI().GetMask(attribution, None, segments=masks, base_attribution=attribution, extra_parameters=settings)


@pytest.mark.parametrize("name", ["functional", "not_square"])
def test_regions_are_those_of_the_authors_package(name: str) -> None:
    model = method_nets.model(name)
    images = photos(model)
    with model.session():
        found = regions(context_of(model, images), "felzenszwalb", 1)
        inside = regions(context_of(model, images, "Middle"), "felzenszwalb", 1)
    for own, at_layer, image in zip(found, inside, model.preprocessing.denormalise(images), strict=True):
        expected = np.stack(xrai._get_segments_felzenszwalb(image.clamp(0, 1).permute(1, 2, 0).numpy()))
        assert own.shape[0] > 6, "more than one segment at a scale"
        assert {m.tobytes() for m in own.numpy()} == {m.tobytes() for m in expected if m.any()}
        step = own.shape[1] // at_layer.shape[1]
        centres = own[:, step // 2 :: step, step // 2 :: step]
        assert torch.equal(at_layer, centres[centres.any(2).any(1)])


def test_a_plain_image_has_regions_that_cover_it() -> None:
    model = method_nets.model("functional")
    with model.session():
        (found,) = regions(context_of(model, torch.zeros(1, 3, 64, 64)), "felzenszwalb", 1)
    assert found.any(0).all()


@pytest.mark.parametrize("least", [1, 4, 20])
def test_densities_are_those_of_the_authors_package(least: int) -> None:
    generator = np.random.default_rng(0)
    for _ in range(5):
        attribution = generator.normal(size=(12, 17))
        masks = [np.zeros((12, 17), bool) for _ in range(25)]
        for mask in masks:
            top, left, tall, wide = generator.integers([0, 0, 2, 2], [10, 15, 7, 7])
            mask[top : top + tall, left : left + wide] = True
        found = by_density(torch.from_numpy(attribution), torch.from_numpy(np.stack(masks)), least)
        assert close(found, torch.from_numpy(peer(attribution, masks, least)), 1e-9)


@pytest.mark.parametrize(("layer", "channels"), [("Input", "max"), ("Middle", "max"), ("Input", "sum"), ("Middle", "abs-sum")])
def test_xrai_is_the_peers_map_of_the_mean_of_two_igs(layer: str, channels: str) -> None:
    model = method_nets.model("functional")
    images = photos(model)
    found = maps(model, images, "XRAI", layer, steps=6, channels=channels)
    with model.session():
        context = context_of(model, images, layer)
        masks = regions(context, "felzenszwalb", 1)
        inputs = context.inputs
        starts = [context.before(model.preprocessing.normalise(torch.full_like(images, level))) for level in (0.0, 1.0)]
        nodes, weights = np.polynomial.legendre.leggauss(6)
        total = torch.zeros_like(inputs)
        for start in starts:
            for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
                total += weight / 2 * (inputs - start) * context.gradient(start + node * (inputs - start), context.rows)
    values = context.spatial(total)
    reduced = {"max": values.amax(1), "sum": values.sum(1), "abs-sum": values.abs().sum(1)}[channels]
    least = max(1, round(0.001 * reduced[0].numel()))
    for own, value, mask in zip(found, reduced, masks, strict=True):
        expected = peer(value.double().numpy(), list(mask.numpy()), least)
        # Where two regions have nearly the same density, the last bit decides which comes first.
        agree = np.isclose(own[0].numpy(), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
        assert agree.mean() > 0.97


def test_the_map_has_the_sum_of_ig() -> None:
    model = attrlib.wrap_model(made(Linear, 16, 16), 16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    images = F.interpolate(pictures(2, 4), scale_factor=4.0)
    found = maps(model, images, "XRAI", segments="grid", cells=3, steps=1)
    # From black (-1) and white (1), whose mean is zero.
    ends = (model(images) - model(torch.zeros_like(images)))[range(2), TARGETS]
    assert close(found.sum((1, 2, 3)), ends, 1e-3)


def test_in_a_grid_every_cell_has_its_own_mean() -> None:
    model = attrlib.wrap_model(made(Linear, 16, 16), 16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    images, weight = pictures(1, 16), next(model.module.parameters())
    found = maps(model, images, "XRAI", segments="grid", cells=4, steps=1, targets=[2])
    means = F.avg_pool2d((images * weight[2]).sum(1, keepdim=True), 4)
    assert close(found, means.repeat_interleave(4, 2).repeat_interleave(4, 3).detach(), 1e-4)


def test_xrai_shares_the_passes_of_ig(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    own = AttributionContext._logits

    def counted(context: AttributionContext, inputs: Tensor, owners: Tensor) -> Tensor:
        rows.append(len(owners))
        return own(context, inputs, owners)

    monkeypatch.setattr(AttributionContext, "_logits", counted)
    texts = ["IG:steps=4:baseline=black", "IG:steps=4:baseline=white", "XRAI:steps=4:segments=grid", "XRAI:steps=4:channels=max"]
    attribute_all(method_nets.model("functional"), [MethodSpec.parse(text) for text in texts], pictures(1, 64), [0])
    assert sum(rows) == 2 * 4 + 3
