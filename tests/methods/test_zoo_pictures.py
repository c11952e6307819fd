"""Checks that find quietly wrong maps, for all methods at once on the members of the zoo, against the model itself or another copy of it."""

import copy
from collections.abc import Callable
from functools import cache

import pytest
import torch
from support import zoo
from support.numbers import SEED
from support.zoo_maps import INFOS, LAYERS, TARGETS, by_class, cheap, errors, hooked, reference, same, working
from torch import Tensor, nn

import attrlib
from attrlib.errors import MethodError
from attrlib.methods import METHODS, attribute, check_defined, create, resolve
from attrlib.specs import MethodSpec

SHIFTED = ("Ablation-CAM", "AttnLRP")
"""Methods whose map depends on a constant that is added to all logits: one divides by the logit, one spreads it by a rule with gamma."""
SAME_FOR_ALL_IMAGES = {"Gaussian", "Deconvolution"}
"""Methods whose map may be the same for all images: Deconvolution reads the input of a max pooling alone."""

on_every_member = pytest.mark.parametrize("family", zoo.FAMILIES)
on_every_layer = pytest.mark.parametrize("layer", LAYERS)


@on_every_member
@on_every_layer
def test_gradients_and_cams_are_those_of_a_hook_on_the_layer(family: str, layer: str) -> None:
    images = zoo.pictures(family, len(TARGETS))
    activation, gradient = hooked(family, layer, images, TARGETS)
    wanted = {
        "Gradient:channels=abs-sum": gradient.abs().sum(1, keepdim=True),
        "IxG:channels=abs-sum": (activation * gradient).abs().sum(1, keepdim=True),
        "Grad-CAM": (activation * gradient.mean((2, 3), keepdim=True)).sum(1, keepdim=True).relu(),
        "Layer-CAM": (activation * gradient.relu()).sum(1, keepdim=True).relu(),
    }
    for text, expected in wanted.items():
        spec = MethodSpec.parse(text)
        found = attribute(zoo.member(family), resolve(MethodSpec(spec.name, layer, spec.params)), images, TARGETS).maps
        assert errors(family, layer, found, expected).max() < 1e-4, text


@on_every_member
def test_occlusion_and_the_sums_of_ig_and_kernelshap_are_what_the_model_says(family: str) -> None:
    model, images = zoo.member(family), zoo.pictures(family, len(TARGETS))

    def scores(inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return model.module(inputs)[range(len(TARGETS)), TARGETS]

    def found(text: str) -> Tensor:
        return attribute(model, MethodSpec.parse(text), images, TARGETS).maps[:, 0]

    side = images.shape[-1] // 2
    occluded = images.clone()
    occluded[:, :, :side, :side] = 0
    drop = (scores(images) - scores(occluded)) / side**2
    windows = found(f"Occlusion@Input:window={side}:stride={side}")[:, :side, :side]
    assert torch.allclose(windows, drop[:, None, None].expand_as(windows), rtol=1e-3, atol=1e-6)
    change = scores(images) - scores(torch.zeros_like(images))
    rounding = 1e-5 * (scores(images).abs() + change.abs())
    # At a kink the gradient jumps, and the quadrature of IG has an error.
    for text, tolerance in (("KernelSHAP@Input:segments=grid:cells=2:samples=14", 1e-5), ("IG@Input:steps=200", 0.02)):
        maps = found(text).flatten(1)
        assert ((maps.sum(1) - change).abs() < tolerance * maps.abs().sum(1) + rounding).all(), text


@on_every_member
@pytest.mark.parametrize("layer", LAYERS[1:])
def test_no_map_shows_rounding_errors(family: str, layer: str) -> None:
    images = zoo.pictures(family, len(TARGETS))
    activation, gradient = hooked(family, layer, images, TARGETS)
    for method, values in (("Gradient", gradient), ("IxG", activation * gradient), ("HiRes-CAM", activation * gradient)):
        share = float(values.sum(1).abs().max() / values.abs().sum(1).max())
        try:
            check_defined(create(MethodSpec(method, layer)), zoo.member(family), zoo.member(family).layer(layer))
        except MethodError:
            assert share < 1e-5, method
        else:
            assert share > 1e-2, method
    moved = images * (1 + 1e-6 * torch.randn(images.shape, generator=torch.Generator().manual_seed(SEED)))
    for method in working(family, layer):
        if method == "Random":
            continue
        one, other = reference(family, method, layer), attribute(zoo.member(family), cheap(method, layer), moved, TARGETS).maps
        distance = (one - other).flatten(1).norm(dim=1) / one.flatten(1).norm(dim=1).clamp_min(1e-12)
        assert distance.median() < 0.03, method


def with_head(family: str, change: Callable[[nn.Linear], object]) -> attrlib.Classifier:
    """Return a copy of a member whose head is changed."""
    module = copy.deepcopy(zoo.member(family).module)
    with torch.no_grad():
        change(module.get_classifier())
    return attrlib.wrap_model(module, zoo.size(family))


@cache
def permuted(family: str, constant: float) -> attrlib.Classifier:
    """Return a copy of a member in which class k is the former class k - 1, with a constant added to all logits."""
    return with_head(family, lambda head: (head.weight.copy_(head.weight.roll(1, 0)), head.bias.copy_(head.bias.roll(1, 0) + constant)))


@on_every_member
@on_every_layer
def test_maps_follow_their_class_to_another_index_and_ignore_a_constant_added_to_all_logits(family: str, layer: str) -> None:
    images, targets = zoo.pictures(family, len(TARGETS)), [t + 1 for t in TARGETS]
    for method in working(family, layer):
        model = permuted(family, 0 if method in SHIFTED else 3)
        found = attribute(model, cheap(method, layer), images, targets).maps
        assert same(family, method, layer, found, reference(family, method, layer)), method


@on_every_member
@on_every_layer
def test_maps_depend_on_the_image_and_if_the_method_does_on_the_class(family: str, layer: str) -> None:
    for method in working(family, layer):
        maps = by_class(family, method, layer)
        by_image, of_class = (bool(maps.std(dim).amax() > 1e-4 * maps.abs().amax()) for dim in (0, 1))
        assert of_class == INFOS[method].class_specific, method
        assert by_image or method in SAME_FOR_ALL_IMAGES, method


@on_every_member
def test_equal_images_have_equal_maps(family: str) -> None:
    images = zoo.pictures(family, 2)[[0, 1, 0]]
    for method in METHODS:
        layer = INFOS[method].default_layer
        if method in working(family, layer):
            one, _, twin = attribute(zoo.member(family), cheap(method, layer), images, [1, 1, 1]).maps
            assert same(family, method, layer, one[None], twin[None]), method
