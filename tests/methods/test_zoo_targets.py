"""Every target on four members of the zoo with every method: the map is that of a network whose logits are the target."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from support import zoo
from support.zoo_maps import INFOS, TARGETS, cheap, same, working
from torch import Tensor

import attrlib
from attrlib.errors import MethodError, TargetError
from attrlib.methods import attribute, check_defined, create, resolve
from attrlib.specs import MethodSpec, TargetSpec
from attrlib.targets import TARGETS as REGISTERED
from attrlib.targets import create as create_target

MEMBERS = ("ResNet", "MobileNetV4", "DINOv2", "Swin")
"""Convolutions, convolutions with other blocks, tokens with prefixes, and windows."""
ONE = torch.eye(zoo.CLASSES)
COMBINED = {
    "contrast:k=3": ONE - (1 - ONE) / 3,
    "versus:other=3": ONE - ONE[3],
    "labels:classes=0+2": (ONE[0] + ONE[2]).expand(zoo.CLASSES, -1),
    "negative": -ONE,
}
"""Weights of the logits (class of the item, class) of the targets that are sums of logits."""
OTHERS = ("logit", "probability", "channel", "neuron", "similarity")
"""Targets that are not: `logit` is that of all other tests, and `similarity` needs a backbone without classes."""
NOT_BY_LOGITS = ("RISE", "RISE-U", "TIS", "ViT-CX", "CheferLRP", "AttnLRP")
"""Methods that weight masks by probabilities, or whose rules treat the head's weights of each class by their sign."""

on_four = pytest.mark.parametrize("family", MEMBERS)


def spec(method: str, layer: str, target: str) -> MethodSpec:
    return resolve(replace(by_logits(method, layer), target=TargetSpec.parse(target)))


def by_logits(method: str, layer: str) -> MethodSpec:
    """Return a cheap spec that reads the target itself rather than a probability, if the method has the choice."""
    plain = cheap(method, layer)
    return replace(plain, params=(*plain.params, ("output", "logit"))) if method in ("HSIC", "Sobol") else plain


def default_layer(method: str) -> str:
    return INFOS[method].default_layer


def defined(family: str) -> list[str]:
    """Return the methods that work on a member at their default layer."""
    return [method for method in INFOS if method in working(family, default_layer(method))]


@cache
def combined(family: str, target: str) -> attrlib.Classifier:
    """Return a copy of a member whose logits are the target of each class."""
    module, weights = copy.deepcopy(zoo.member(family).module), COMBINED[target]
    head = module.get_classifier()
    with torch.no_grad():
        head.weight.copy_(weights @ head.weight)
        head.bias.copy_(weights @ head.bias)
    return attrlib.wrap_model(module, zoo.size(family))


def test_every_target_is_tested() -> None:
    assert set(REGISTERED) <= {text.partition(":")[0] for text in COMBINED} | set(OTHERS)


@on_four
@pytest.mark.parametrize("target", COMBINED)
def test_a_sum_of_logits_is_explained_as_the_logit_of_a_network_that_computes_it(family: str, target: str) -> None:
    images = zoo.pictures(family, len(TARGETS))
    for method in defined(family):
        layer = default_layer(method)
        if method in NOT_BY_LOGITS:
            continue
        found = attribute(zoo.member(family), spec(method, layer, target), images, TARGETS).maps
        expected = attribute(combined(family, target), by_logits(method, layer), images, TARGETS).maps
        assert same(family, method, layer, found, expected), method


@on_four
@pytest.mark.parametrize("target", ["probability", "channel:layer=Final:index=1", "neuron:layer=Final:index=1:row=1:column=0"])
def test_the_gradient_of_other_targets_is_that_of_their_definition(family: str, target: str) -> None:
    model, images = zoo.member(family), zoo.pictures(family, len(TARGETS))
    place, outputs = model.layer("Final"), list[Tensor]()
    read: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "probability": lambda logits, _values: logits.softmax(1)[range(len(TARGETS)), TARGETS],
        "channel": lambda _logits, values: values[:, 1].mean((1, 2)),
        "neuron": lambda _logits, values: values[:, 1, 1, 0],
    }
    leaf = images.clone().requires_grad_()
    with model.module.get_submodule(place.path).register_forward_hook(lambda _module, _args, output: outputs.append(output)):
        logits = model.module(leaf)
    value = read[target.partition(":")[0]](logits, place.layout.spatial(outputs[0]))
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    for text, expected in (("Gradient", gradient), ("IxG", gradient * images)):
        found = attribute(model, spec(text, "Input", target), images, TARGETS).maps
        scale = float(gradient.abs().max())
        assert torch.allclose(found, expected.sum(1, keepdim=True), rtol=1e-3, atol=1e-4 * scale), text


@on_four
@pytest.mark.parametrize("target", ["probability", "channel:layer=Final:index=1", "neuron:layer=Final:index=1:row=1:column=0"])
def test_other_targets_work_with_every_method_or_are_refused_before_anything_runs(family: str, target: str) -> None:
    model, images, runs = zoo.member(family), zoo.pictures(family, 2), list[int]()
    for method in defined(family):
        layer = default_layer(method)
        request, reason = spec(method, layer, target), ""
        try:
            check_defined(create(request), model, model.layer(layer), create_target(request.target))
        except (MethodError, TargetError) as error:
            reason = str(error)
        if reason:
            assert len(reason.split()) > 8, reason
            runs.clear()
            counter = model.module.register_forward_pre_hook(lambda *_: runs.append(1))
            with counter, pytest.raises((MethodError, TargetError)):
                attribute(model, request, images, [0, 1])
            assert not runs, method
            continue
        both = attribute(model, request, images, [0, 1]).maps
        alone = torch.cat([attribute(model, request, images[k : k + 1], [k]).maps for k in range(2)])
        assert both.isfinite().all(), method
        assert same(family, method, layer, alone, both), method
