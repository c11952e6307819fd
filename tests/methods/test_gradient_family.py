"""The gradient family against Captum, closed forms, completeness and plain loops."""

import copy
import re
from collections.abc import Callable
from functools import partial

import attrlib  # before captum and torchvision: it declares the operators that torchvision may lack

# isort: split
import captum.attr
import captum.attr._utils.lrp_rules as captum_rules
import numpy as np
import pytest
import scipy.stats
import timm
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
import zennit.canonizers
import zennit.composites
import zennit.core
import zennit.layer
import zennit.rules
import zennit.torchvision
import zennit.types
from support import method_nets
from support.method_nets import CLASSES, Linear, Modules, Quadratic, Rectified, made, pictures
from support.nets import Dense, Residual, SharedActivation
from support.nets import made as made_net
from support.numbers import close
from torch import Tensor, nn

from attrlib.errors import MethodError
from attrlib.methods import METHODS, AttributionContext, AttributionOptions, attribute_all, create
from attrlib.methods.baselines import BACKGROUNDS, BASELINES, background, baseline
from attrlib.methods.gradients import quadrature
from attrlib.methods.noise import draw
from attrlib.specs import MethodSpec

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")
Model = attrlib.Classifier
TARGETS = [0, 3, 1]


def maps(model: Model, images: Tensor, method: str, targets: object = TARGETS, layer: str | None = None, **params: object) -> Tensor:
    return attrlib.explain(model, images, method, targets, layer, **params).maps


def summed(values: Tensor) -> Tensor:
    return values.detach().float().sum(1, keepdim=True)


def task_of(model: Model, images: Tensor, targets: list[int], seed: int = 0, layer: str = "Input") -> AttributionContext:
    return AttributionContext(model, model.layer(layer), model.place(images), torch.tensor(targets), seed=seed)


def noise_of(model: Model, images: Tensor, count: int, layer: str = "Input") -> list[Tensor]:
    """The noise that methods add, which is the same for all of them."""
    with model.session():
        context = task_of(model, images, [0] * len(images), layer=layer)
        return [draw(context, i) for i in range(count)]


def gradient_of(model: Model, images: Tensor, targets: list[int]) -> Tensor:
    leaf = images.clone().requires_grad_()
    logits = model.module(leaf.clone())
    return torch.autograd.grad(logits[range(len(images)), targets].sum(), leaf)[0]


@pytest.fixture(scope="module")
def net() -> Model:
    return attrlib.wrap_model(made(Rectified, F.relu), 16)


# Reductions and baselines ---------------------------------------------------------------------------------------------

BY_CHANNEL = [info.name for info in attrlib.list_methods() if any(p.name == "channels" for p in info.params) and info.name != "XRAI"]
"""Methods that reduce channels last; XRAI does so before it orders regions."""


@pytest.mark.parametrize("method", BY_CHANNEL)
@pytest.mark.parametrize("layer", ["Input", "conv1"])
def test_the_magnitude_of_the_sum_is_that_of_the_signed_map_and_below_the_sum_of_magnitudes(net: Model, method: str, layer: str) -> None:
    small = {p: 3 for p in ("samples", "steps") if hasattr(METHODS[method], p)}
    signed, magnitude, of_each = (
        maps(net, pictures(3, 16), method, layer=layer, channels=c, **small) for c in ("sum", "sum-abs", "abs-sum")
    )
    assert torch.equal(magnitude, signed.abs())
    assert (of_each >= magnitude * (1 - 1e-5)).all()
    # Two of the rules pass only positive values back through the ReLU after conv1.
    assert close(of_each, magnitude, 0.01) == (layer == "conv1" and method in ("Guided Backprop", "Deconvolution"))


def test_variants_that_differ_only_in_channels_take_the_passes_of_one(net: Model) -> None:
    calls = []
    handle = net.module.fc.register_forward_hook(lambda *_: calls.append(1))
    texts = [f"IG:steps=4:channels={c}" for c in ("sum", "abs-sum", "sum-abs")]
    texts += [f"{name}:samples=5:of=IxG" for name in ("SmoothGrad", "SmoothGrad Squared", "VarGrad")] + [
        "SmoothGrad:samples=5:of=IxG:channels=sum-abs"
    ]
    try:
        together = attribute_all(net, [MethodSpec.parse(t) for t in texts], pictures(1, 16), [0], options=AttributionOptions(batch_size=1))
    finally:
        handle.remove()
    # Four steps with two forward passes for the convergence, five noisy copies, and what finding the layer took.
    assert len(calls) <= 4 + 2 + 5
    for text, found in zip(texts, together, strict=True):
        assert torch.equal(found.maps, attrlib.explain(net, pictures(1, 16), text, [0], batch_size=1).maps)


def test_the_uniform_baseline_is_one_picture_between_minus_one_and_one_for_all_images() -> None:
    model = attrlib.wrap_model(made(Linear, 12, 20), (12, 20))
    images, w = pictures(3, 12, 20), model.module.weight.detach()[[0, 0, 0]]
    found, again, seeded = (maps(model, images, "IG:baseline=uniform", [0, 0, 0], steps=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(found, again)
    assert not close(found, seeded, 0.1)
    # Of a linear model it is w * (x - b): what the weights make of b is the same for all images.
    of_baseline = summed(w * images) - found
    assert close(of_baseline, of_baseline[:1].expand(3, -1, -1, -1).contiguous(), 1e-4)
    with model.session():
        start = baseline(task_of(model, images, [0, 0, 0]), "uniform")
    assert close(of_baseline, summed(w * start))
    assert -1 <= start.min() < -0.98
    assert 0.98 < start.max() <= 1
    assert scipy.stats.kstest(start[0].flatten(), "uniform", args=(-1, 2)).pvalue > 0.01


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_backgrounds_depend_only_on_the_seed_and_their_number(net: Model, kind: str) -> None:
    with net.session():
        context, other = (task_of(net, pictures(2, 16), [0, 1], seed) for seed in (0, 1))
        drawn = [background(context, kind, i) for i in range(4)]
        again, seeded = background(context, kind, 2), background(other, kind, 2)
    assert all(d.shape == (1, 3, 16, 16) for d in drawn)
    assert torch.equal(drawn[2], again)
    assert not torch.equal(drawn[2], seeded)
    assert len({d.numpy().tobytes() for d in drawn}) == 4
    colours = net.preprocessing.denormalise(torch.cat(drawn))
    if kind == "uniform":
        assert -1 <= torch.cat(drawn).min() < -0.9
        assert 0.9 < torch.cat(drawn).max() <= 1
    else:
        assert colours.min() >= -1e-5
        assert colours.max() <= 1 + 1e-5
        assert (colours.std((1, 2, 3)) < 1e-5).all() == (kind == "greys")


# SmoothGrad, its square and its variance ---------------------------------------------------------------------------------


def attributions(model: Model, copies: Tensor, targets: list[int], of: str, steps: int) -> Tensor:
    """The attribution of every copy, written out."""
    if of == "Gradient":
        return gradient_of(model, copies, targets)
    if of == "IxG":
        return copies * gradient_of(model, copies, targets)
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return copies * sum(
        float(w) / 2 * gradient_of(model, (float(n) + 1) / 2 * copies, targets) for n, w in zip(nodes, weights, strict=True)
    )


@pytest.mark.parametrize("of", ["Gradient", "IxG", "IG"])
@pytest.mark.parametrize(("unit", "noise"), [("range", 0.2), ("absolute", 1.0)])
def test_smoothgrad_its_square_and_its_variance_match_numpy(net: Model, of: str, unit: str, noise: float) -> None:
    images = pictures(3, 16) * torch.tensor([1.0, 2.0, 0.5]).view(3, 1, 1, 1)
    std = noise * (images.amax((1, 2, 3)) - images.amin((1, 2, 3))) if unit == "range" else torch.full((3,), noise)
    drawn = noise_of(net, images, 5)
    values = np.stack([attributions(net, images + std.view(3, 1, 1, 1) * n, TARGETS, of, 3).double().numpy() for n in drawn])
    expected = {"SmoothGrad": values.mean(0), "SmoothGrad Squared": (values**2).mean(0), "VarGrad": values.var(0)}
    for method, value in expected.items():
        found = maps(net, images, method, of=of, samples=5, noise=noise, unit=unit, steps=3)
        assert close(found, summed(torch.from_numpy(value)), 1e-3), method


@pytest.mark.parametrize(
    ("method", "kind"), [("SmoothGrad", "smoothgrad"), ("SmoothGrad Squared", "smoothgrad_sq"), ("VarGrad", "vargrad")]
)
def test_they_match_the_noise_tunnel_of_captum_with_the_same_noise(
    net: Model, method: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, drawn = pictures(1, 16), torch.cat(noise_of(net, pictures(1, 16), 6))
    monkeypatch.setattr(torch, "normal", lambda _mean, std: std * drawn.view_as(std))
    tunnel = captum.attr.NoiseTunnel(captum.attr.InputXGradient(net.module))
    expected = tunnel.attribute(images, nt_type=kind, nt_samples=6, stdevs=0.7, target=3)
    monkeypatch.undo()
    found = maps(net, images, method, [3], of="IxG", samples=6, noise=0.7, unit="absolute")
    assert close(found, summed(expected), 1e-3)


def test_the_variance_of_a_constant_gradient_has_no_rounding_error_of_large_numbers() -> None:
    model = attrlib.wrap_model(made(Linear, 8, 8), 8)
    found = maps(model, 100 * pictures(3, 8), "VarGrad", samples=9, noise=1.0)
    assert found.abs().max() < 1e-9


# GradientSHAP and Expected Gradients ------------------------------------------------------------------------------------


def test_gradient_shap_of_a_linear_model_is_weight_times_difference_to_the_baseline() -> None:
    model = attrlib.wrap_model(made(Linear, 12, 20), (12, 20))
    images, w = pictures(3, 12, 20), model.module.weight.detach()[TARGETS]
    for name in ("zeros", "black", "white"):
        start = (
            torch.zeros_like(images) if name == "zeros" else model.preprocessing.normalise(torch.full_like(images, float(name == "white")))
        )
        assert close(maps(model, images, "GradientSHAP", baseline=name, noise=0.0, samples=3), summed(w * (images - start)), 1e-5)


@pytest.mark.parametrize("layer", ["Input", "conv1"])
def test_gradient_shap_matches_a_plain_loop_over_its_points(net: Model, layer: str) -> None:
    images, samples = pictures(3, 16), 7
    noise = noise_of(net, images, samples, layer)
    with net.session():
        context = task_of(net, images, TARGETS, layer=layer)
        shares = torch.rand(samples, generator=context.generator("paths"))
        inputs, total = context.inputs, 0
        std = 0.3 * (inputs.amax((1, 2, 3), keepdim=True) - inputs.amin((1, 2, 3), keepdim=True))
        for i in range(samples):
            start, end = background(context, "greys", i), inputs + std * noise[i]
            point = (start + shares[i] * (end - start)).requires_grad_()
            logits = net.module(point) if layer == "Input" else net.module.fc(F.relu(net.module.conv2(F.relu(point))).mean((2, 3)))
            total = total + (end - start) * torch.autograd.grad(logits[range(3), TARGETS].sum(), point)[0]
    found = maps(net, images, "GradientSHAP", layer=layer, samples=samples, noise=0.3)
    assert close(found, summed(total / samples), 1e-3)


def test_gradient_shap_matches_captum_on_average(net: Model) -> None:
    # Independent draws of both: means of many samples agree as far as their spread allows.
    images = pictures(3, 16)
    torch.manual_seed(0)
    method = captum.attr.GradientShap(net.module)
    expected = method.attribute(images, torch.zeros(1, 3, 16, 16), n_samples=400, stdevs=0.2, target=TARGETS).float()
    found = maps(net, images, "GradientSHAP", baseline="zeros", samples=400, noise=0.2, unit="absolute")
    assert np.corrcoef(found.flatten(), summed(expected).flatten())[0, 1] > 0.98
    assert float((found - summed(expected)).norm() / summed(expected).norm()) < 0.2


def test_expected_gradients_of_a_linear_model_are_the_weight_times_the_difference_to_the_mean_reference() -> None:
    model = attrlib.wrap_model(made(Linear, 12, 20), (12, 20))
    images, w = pictures(3, 12, 20), model.module.weight.detach()[TARGETS]
    for kind in BACKGROUNDS:
        with model.session():
            context = task_of(model, images, TARGETS)
            mean = torch.cat([background(context, kind, i) for i in range(5)]).mean(0)
        assert close(maps(model, images, "Expected Gradients", samples=5, background=kind), summed(w * (images - mean)), 1e-4)


def test_expected_gradients_sum_to_the_difference_to_the_mean_output_of_the_references() -> None:
    model, images = attrlib.wrap_model(made(Rectified, nn.Tanh()), 16), pictures(3, 16)
    with model.session(), torch.no_grad():
        context = task_of(model, images, TARGETS)
        references = torch.cat([background(context, "greys", i) for i in range(400)])
        change = model.module(images)[range(3), TARGETS] - model.module(references).mean(0)[TARGETS]
    found = maps(model, images, "Expected Gradients", samples=400, background="greys").sum((1, 2, 3))
    assert close(found, change, 0.1)


# Deconvolution --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", ["sum", "abs-sum"])
def test_deconvolution_matches_captum_on_plain_relu_modules(channels: str) -> None:
    module, images = made(Modules), pictures(3, 16)
    expected = captum.attr.Deconvolution(copy.deepcopy(module)).attribute(images.clone().requires_grad_(), TARGETS)
    found = maps(attrlib.wrap_model(module, 16), images, "Deconvolution", channels=channels)
    assert close(found, summed(expected.abs() if channels == "abs-sum" else expected))
    assert not close(found, maps(attrlib.wrap_model(module, 16), images, "Guided Backprop", channels=channels), 0.05)


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "nn.ReLU used twice": nn.ReLU(),
    "in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "Tensor.relu": lambda x: x.relu(),
    "torch.relu_": torch.relu_,
    "clamp(min=0)": lambda x: x.clamp(min=0),
    "clamp_(min=0)": lambda x: x.clamp_(min=0),
    "threshold": nn.Threshold(0, 0),
    "threshold in place": nn.Threshold(0, 0, inplace=True),
    "a view in place": lambda x: (x[:, :].relu_(), x)[1],
}


@pytest.mark.parametrize("form", [f for f in FORMS if f != "a view in place"])
def test_every_form_of_relu_is_deconvolved(form: str) -> None:
    images = pictures(3, 16)
    expected = maps(attrlib.wrap_model(made(Rectified, F.relu), 16), images, "Deconvolution")
    assert close(maps(attrlib.wrap_model(made(Rectified, FORMS[form]), 16), images, "Deconvolution"), expected, 1e-5)


# DeepLIFT -------------------------------------------------------------------------------------------------------------


class Pooled(nn.Sequential):
    """Modules that Captum knows. Its maxima must not overlap or be next to a ReLU, which would then get a gradient without rules."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1, bias=bias),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * 16, 12, bias=bias),
            nn.ReLU(),
            nn.Linear(12, CLASSES, bias=bias),
        )


def reference_of(model: Model, images: Tensor, name: str) -> Tensor:
    """The baseline of that name, of which the tests of IG have an oracle."""
    with model.session():
        return baseline(task_of(model, images, [0] * len(images)), name).clone()


# Of a plain picture all values in a window of maxima are the same but for rounding.
@pytest.mark.parametrize(("net_class", "baseline"), [*((Modules, b) for b in BASELINES), *((Pooled, b) for b in ("uniform", "blur"))])
def test_deeplift_matches_captum_on_plain_modules(net_class: type[nn.Module], baseline: str) -> None:
    module, images = made(net_class), pictures(3, 16)
    model = attrlib.wrap_model(module, 16)
    start = reference_of(model, images, baseline)
    expected = captum.attr.DeepLift(copy.deepcopy(module)).attribute(images, start, TARGETS)
    assert close(maps(model, images, "DeepLIFT", baseline=baseline), summed(expected))
    assert not close(maps(model, images, "IG", baseline=baseline, steps=4), summed(expected), 0.01)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["DeepLIFT:baseline=black", "LRP:epsilon=0.1", "LRP:rule=alpha2beta1"])
def test_every_form_of_relu_follows_the_rule(form: str, method: str) -> None:
    images = pictures(3, 16)
    expected = maps(attrlib.wrap_model(made(Rectified, nn.ReLU()), 16), images, method)
    assert close(maps(attrlib.wrap_model(made(Rectified, FORMS[form]), 16), images, method), expected, 1e-5)
    assert not close(maps(attrlib.wrap_model(made(Rectified, FORMS[form]), 16), images, "IxG"), expected, 0.01)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "GELU": nn.GELU(),
    "SiLU in place": nn.SiLU(inplace=True),
    "Hardswish": nn.Hardswish(),
    "Mish": nn.Mish(),
    "ELU in place": nn.ELU(inplace=True),
    "LeakyReLU": nn.LeakyReLU(0.3),
    "PReLU": nn.PReLU(8),
    "ReLU6": nn.ReLU6(),
    "softsign": F.softsign,
    "hardtanh in place": lambda x: F.hardtanh(x, -0.2, 0.2, True),
}
UNEVEN = {"sigmoid": torch.sigmoid, "Softplus": nn.Softplus(), "Hardsigmoid": nn.Hardsigmoid()}


@pytest.mark.parametrize("activation", ACTIVATIONS | UNEVEN)
@pytest.mark.parametrize("layer", ["Input", "conv1"])
def test_deeplift_sums_to_the_change_of_the_logit_with_every_activation(activation: str, layer: str) -> None:
    function = (ACTIVATIONS | UNEVEN)[activation]
    module = made(Rectified, function.requires_grad_(False) if isinstance(function, nn.Module) else function)
    model, images = attrlib.wrap_model(module, 16), 3 * pictures(3, 16)
    with torch.no_grad():
        change = model(images) - model(model.preprocessing.normalise(torch.ones_like(images)))
    found = attrlib.explain(model, images, "DeepLIFT", TARGETS, layer, baseline="white")
    assert close(found.maps.sum((1, 2, 3)), change[range(3), TARGETS])
    assert max(found.diagnostics["convergence"]) < 1e-4


WHOLE: dict[str, Callable[[], Model]] = {
    "residual": lambda: attrlib.wrap_model(made_net(Residual), 16),
    "shared activation": lambda: attrlib.wrap_model(made_net(SharedActivation), 16),
    "dense": lambda: attrlib.wrap_model(made_net(Dense), 16),
    "resnet18": lambda: method_nets.model("resnet18"),
    "efficientnet_lite0": lambda: method_nets.model("efficientnet_lite0"),
    "functional": lambda: method_nets.model("functional"),
    "channels_last": lambda: method_nets.model("channels_last"),
    "bagnet": lambda: method_nets.model("bagnet"),
    "densenet": lambda: attrlib.wrap_model(made(timm.create_model, "densenet121", num_classes=CLASSES), 32),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("baseline", ["zeros", "blur"])
def test_deeplift_sums_to_the_change_of_the_logit_on_whole_networks(name: str, baseline: str) -> None:
    model = WHOLE[name]()
    images = pictures(2, *model.input_size)
    start = reference_of(model, images, baseline)
    change = (model(images) - model(start))[range(2), [0, 3]].detach()
    found = attrlib.explain(model, images, "DeepLIFT", [0, 3], baseline=baseline)
    assert torch.allclose(found.maps.sum((1, 2, 3)), change, rtol=1e-3, atol=1e-5 * float(model(images).abs().max()))
    assert len(found.diagnostics["convergence"]) == 2


def test_contributions_of_overlapping_windows_of_maxima_are_added() -> None:
    class Overlapping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.max_pool2d(F.relu(self.conv(x)), 3, 1).mean((2, 3)))

    model, images = attrlib.wrap_model(made(Overlapping), 16), pictures(3, 16)
    change = (model(images) - model(torch.zeros_like(images)))[range(3), TARGETS].detach()
    assert close(maps(model, images, "DeepLIFT").sum((1, 2, 3)), change)


def test_deeplift_through_a_relu_and_a_maximum_by_hand() -> None:
    convolution, head = made(nn.Conv2d, 3, 8, 3, padding=1), made(nn.Linear, 512, CLASSES)
    model = attrlib.wrap_model(nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), head), 16)
    x, images = pictures(1, 16)[0], pictures(1, 16)
    start = reference_of(model, images, "uniform")
    with torch.no_grad():
        before, of_start = convolution(x[None]), convolution(start)
        (top, where), (other, there) = (F.max_pool2d(z.relu(), 2, return_indices=True) for z in (before, of_start))
        weight, larger = head.weight[3].view(1, 8, 8, 8), torch.maximum(top, other)
        given = F.max_unpool2d(weight * (larger - other), where, 2) + F.max_unpool2d(weight * (top - larger), there, 2)
        # The multiplier of the maximum times that of the ReLU is what is given over the difference before both.
        multiplier = torch.where(given == 0, 0, given / (before - of_start))
        expected = (images - start) * F.conv_transpose2d(multiplier, convolution.weight, padding=1)
    assert close(maps(model, images, "DeepLIFT", [3], baseline="uniform"), summed(expected))


# LRP ------------------------------------------------------------------------------------------------------------------


class Flattening(nn.Module):
    """A chain whose flattening is not a module, for which Captum's LRP has no rule."""

    def __init__(self, chain: nn.Sequential) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer for layer in copy.deepcopy(chain) if not isinstance(layer, nn.Flatten))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
        return x


def captum_lrp(chain: nn.Sequential, images: Tensor, convolutions: Callable[[], object], linear: Callable[[], object]) -> Tensor:
    module = Flattening(chain)
    for layer in module.layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.rule = convolutions() if isinstance(layer, nn.Conv2d) else linear()
    return captum.attr.LRP(module).attribute(images, TARGETS)


@pytest.mark.parametrize("net_class", [Modules, Pooled])
@pytest.mark.parametrize("epsilon", [1e-6, 0.05])
def test_lrp_epsilon_matches_captum(net_class: type[nn.Module], epsilon: float) -> None:
    module, images = made(net_class), pictures(3, 16)

    def rule() -> object:
        return captum_rules.EpsilonRule(epsilon)

    expected = captum_lrp(module, images, rule, rule)
    found = maps(attrlib.wrap_model(module, 16), images, "LRP", epsilon=epsilon)
    assert close(found, summed(expected), 1e-3)
    assert epsilon < 0.01 or not close(found, maps(attrlib.wrap_model(module, 16), images, "LRP"), 0.05)


class Read(nn.Module):
    """A convolution and its BatchNorm, read by an activation, in place or not, and optionally by another operation before it."""

    def __init__(self, activation: Callable[..., Tensor], inplace: bool, twice: bool) -> None:
        super().__init__()
        self.activation, self.inplace, self.twice = activation, inplace, twice
        self.convolution, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        z = self.norm(self.convolution(5 * x))
        aside = 0.5 * z if self.twice else 0
        return self.head((self.activation(z, inplace=self.inplace) + aside).mean((2, 3)))


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("activation", [F.relu, F.relu6, F.leaky_relu, F.silu])
def test_lrp_epsilon_is_the_same_for_activations_that_write_in_place(activation: Callable[..., Tensor], twice: bool) -> None:
    images = pictures(3, 16)
    inside, outside = (made(lambda inplace=inplace: Read(activation, inplace, twice)) for inplace in (True, False))
    found, expected = (maps(attrlib.wrap_model(module, 16), images, "LRP", epsilon=0.3) for module in (inside, outside))
    assert close(found, expected, 1e-5)
    assert not close(found, maps(attrlib.wrap_model(inside, 16), images, "LRP"), 0.05)


class ZennitVGG(nn.Sequential):
    """Convolutions with BatchNorm, maxima, and two linear layers."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(12 * 16, 10), nn.ReLU(), nn.Linear(10, CLASSES)),
        )


ZENNIT: dict[str, tuple[zennit.core.Hook, zennit.core.Hook]] = {
    "epsilon:epsilon=0.01": (zennit.rules.Epsilon(0.01), zennit.rules.Epsilon(0.01)),
    "gamma": (zennit.rules.Gamma(0.25), zennit.rules.Epsilon(1e-6)),
    "gamma:gamma=1:gamma_linear=0.1": (zennit.rules.Gamma(1.0), zennit.rules.Gamma(0.1)),
    "epsilon:epsilon=0.01:gamma_linear=10": (zennit.rules.Epsilon(0.01), zennit.rules.Gamma(10.0, 0.01)),
    "alpha2beta1": (zennit.rules.AlphaBeta(2, 1), zennit.rules.Epsilon(1e-6)),
}


@pytest.mark.parametrize("rule", ZENNIT)
@pytest.mark.parametrize(
    ("net_class", "canonizer"),
    [
        (partial(torchvision.models.resnet18, num_classes=CLASSES), zennit.torchvision.ResNetCanonizer),
        (ZennitVGG, zennit.canonizers.SequentialMergeBatchNorm),
        (Modules, zennit.canonizers.SequentialMergeBatchNorm),
    ],
    ids=["ResNet-18", "VGG", "inputs of both signs"],
)
def test_lrp_matches_zennit(net_class: Callable[[], nn.Module], canonizer: Callable[[], zennit.canonizers.Canonizer], rule: str) -> None:
    module, images = made_net(net_class), pictures(3, 16)
    convolutions, linear = ZENNIT[rule]
    layers = [(zennit.types.Activation, zennit.rules.Pass()), (zennit.types.Convolution, convolutions), (zennit.types.Linear, linear)]
    sums = [(zennit.layer.Sum, zennit.rules.Norm()), (zennit.types.AvgPool, zennit.rules.Norm())]
    leaf = images.clone().requires_grad_()
    with zennit.composites.LayerMapComposite([*layers, *sums], [canonizer()]).context(copy.deepcopy(module)) as changed:
        logits = changed(leaf)
        start = torch.zeros_like(logits)
        start[range(3), TARGETS] = logits.detach()[range(3), TARGETS]
        (expected,) = torch.autograd.grad(logits, leaf, start)
    found = maps(attrlib.wrap_model(module, 16), images, f"LRP:rule={rule}")
    assert close(found, summed(expected), 2e-3)
    assert not close(found, maps(attrlib.wrap_model(module, 16), images, "IxG"), 0.05)


class Positive(nn.Sequential):
    """As Captum's alpha-beta rule needs it, which neglects negative inputs and counts negative biases as positive."""

    def __init__(self) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 64, CLASSES),
        )


def test_lrp_alpha1_beta0_matches_captum() -> None:
    module, images = made(Positive), pictures(3, 16)
    expected = captum_lrp(module, images, captum_rules.Alpha1_Beta0_Rule, lambda: captum_rules.EpsilonRule(1e-6))
    assert close(maps(attrlib.wrap_model(module, 16), images, "LRP", rule="alpha1beta0"), summed(expected), 1e-3)


def loop_lrp(module: Modules, x: Tensor, target: int, alpha: float, first: str, low: float, high: float) -> np.ndarray:
    """Alpha-beta in convolutions, epsilon in the head, on one image (3,4,4), as sums over all pairs of an input and an output."""

    def dense(convolution: nn.Conv2d, shape: tuple[int, int, int]) -> np.ndarray:
        unit = torch.eye(int(np.prod(shape))).view(-1, *shape)
        return F.conv2d(unit, convolution.weight, None, convolution.stride, convolution.padding).flatten(1).double().detach().numpy()

    def spread(a: np.ndarray, w: np.ndarray, bias: np.ndarray, relevance: np.ndarray) -> np.ndarray:
        z = a[:, None] * w
        plus, minus = np.maximum(z, 0), np.minimum(z, 0)
        up, down = plus.sum(0) + np.maximum(bias, 0), minus.sum(0) + np.minimum(bias, 0)
        return (alpha * plus / (up + 1e-6) - (alpha - 1) * minus / (down - 1e-6)) @ relevance

    one, two, head = module[0], module[2], module[6]
    x0 = x.flatten().double().numpy()
    w1, w2 = dense(one, tuple(x.shape)), dense(two, (8, *x.shape[1:]))
    b1, b2 = (np.repeat(c.bias.double().detach().numpy(), w.shape[1] // 8) for c, w in ((one, w1), (two, w2)))
    a1 = np.maximum(x0 @ w1 + b1, 0)
    a2 = np.maximum(a1 @ w2 + b2, 0)
    pooled = a2.reshape(8, -1).mean(1)
    weight, bias = head.weight.double().detach().numpy()[target], float(head.bias.detach()[target])
    logit = pooled @ weight + bias
    of_pooled = pooled * weight * logit / (logit + 1e-6 * np.sign(logit))
    share = a2.reshape(8, -1) / np.maximum(a2.reshape(8, -1).sum(1, keepdims=True), 1e-30)
    of_a1 = spread(a1, w2, b2, (share * of_pooled[:, None]).ravel())
    if first == "same":
        return spread(x0, w1, b1, of_a1).reshape(x.shape)
    if first == "flat":
        touched = dense_ones(one, tuple(x.shape))
        return (touched / touched.sum(0) @ of_a1).reshape(x.shape)
    z = x0[:, None] * w1 - low * np.maximum(w1, 0) - high * np.minimum(w1, 0)
    total = z.sum(0)
    return (z / (total + 1e-6 * np.where(total < 0, -1, 1)) @ of_a1).reshape(x.shape)


def dense_ones(convolution: nn.Conv2d, shape: tuple[int, int, int]) -> np.ndarray:
    unit = torch.eye(int(np.prod(shape))).view(-1, *shape)
    return F.conv2d(unit, torch.ones_like(convolution.weight), None, convolution.stride, convolution.padding).flatten(1).double().numpy()


@pytest.mark.parametrize(("rule", "alpha"), [("alpha1beta0", 1), ("alpha2beta1", 2)])
@pytest.mark.parametrize("first", ["same", "box", "flat"])
def test_lrp_alpha_beta_and_the_rules_for_pixels_are_sums_over_all_pairs_of_input_and_output(rule: str, alpha: int, first: str) -> None:
    module, images = made(Modules), pictures(3, 4)
    model = attrlib.wrap_model(module, 4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    expected = np.stack([loop_lrp(module, x, t, alpha, first, -2.0, 2.0) for x, t in zip(images, TARGETS, strict=True)])
    found = maps(model, images, "LRP", rule=rule, first=first)
    assert close(found, summed(torch.from_numpy(expected)), 1e-3)


@pytest.mark.parametrize("name", ["resnet18", "residual", "functional"])
@pytest.mark.parametrize("method", ["LRP:rule=alpha2beta1", "LRP:epsilon=0.01"])
def test_a_batch_norm_after_a_convolution_matches_the_convolution_with_folded_weights(name: str, method: str) -> None:
    model = WHOLE[name]()
    fused = copy.deepcopy(model.module)
    for owner in list(fused.modules()):
        for one, other in [("stem", "bn"), ("conv1", "bn1"), ("conv2", "bn2")]:
            if hasattr(owner, one) and hasattr(owner, other):
                setattr(owner, one, torch.nn.utils.fuse_conv_bn_eval(getattr(owner, one), getattr(owner, other)))
                setattr(owner, other, nn.Identity())
    images = pictures(2, *model.input_size)
    expected = maps(attrlib.wrap_model(fused, model.input_size), images, method, [0, 3])
    assert sum(isinstance(m, nn.Identity) for m in fused.modules()) >= 1
    assert close(maps(model, images, method, [0, 3]), expected, 2e-3)


@pytest.mark.parametrize("net_class", [Pooled, lambda bias: Rectified(F.relu, bias=bias)])
@pytest.mark.parametrize("layer", ["Input", "conv1"])
def test_without_biases_lrp_epsilon_sums_to_the_logit_and_is_ixg(net_class: Callable[..., nn.Module], layer: str) -> None:
    model, images = attrlib.wrap_model(made(net_class, bias=False), 16), pictures(3, 16)
    layer = "0" if net_class is Pooled and layer == "conv1" else layer
    found = maps(model, images, "LRP", layer=layer, epsilon=1e-9)
    assert close(found.sum((1, 2, 3)), model(images)[range(3), TARGETS].detach())
    assert close(found, maps(model, images, "IxG", layer=layer), 1e-3)


@pytest.mark.parametrize("rule", ["epsilon", "alpha1beta0", "alpha2beta1"])
@pytest.mark.parametrize("first", ["box", "flat"])
def test_without_biases_every_rule_conserves_relevance(rule: str, first: str) -> None:
    model, images = attrlib.wrap_model(made(Pooled, False), 16), pictures(3, 16)
    found = maps(model, images, "LRP", rule=rule, first=first, epsilon=1e-9)
    assert close(found.sum((1, 2, 3)), model(images)[range(3), TARGETS].detach(), 1e-2)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_without_biases_relevance_passes_every_activation(activation: str) -> None:
    function = ACTIVATIONS[activation]
    module = made(Rectified, function.requires_grad_(False) if isinstance(function, nn.Module) else function, bias=False)
    model, images = attrlib.wrap_model(module, 16), 3 * pictures(3, 16)
    assert close(maps(model, images, "LRP", epsilon=1e-9).sum((1, 2, 3)), model(images)[range(3), TARGETS].detach(), 1e-3)


# Undefined operations -----------------------------------------------------------------------------------------------------


class Quotient(nn.Module):
    """Activations over others computed from them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        return self.fc((x / (1 + self.other(x).relu())).mean((2, 3)))


class Hidden(torch.autograd.Function):
    """A custom rectifier."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x > 0)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0]


class Normalising(nn.Module):
    """The pixels are read by an operation that is not a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(2 * x - 1)).mean((2, 3)))


@pytest.mark.parametrize(
    ("net_class", "methods", "said"),
    [
        (Quotient, ["LRP", "AttnLRP", "CP-LRP", "LibraGrad"], "quotients of activations"),
        (lambda: Rectified(Hidden.apply), ["DeepLIFT", "LRP"], "hidden"),
        (lambda: Rectified(nn.Softplus()), ["LRP", "AttnLRP"], "softplus"),
        (lambda: Rectified(lambda x: x.where(x > 0, 0 * x)), ["DeepLIFT", "LRP"], "where"),
        (lambda: Rectified(lambda x: 1 / (1 + x * x)), ["LRP"], "reciprocal"),
        (lambda: Rectified(lambda x: torch.exp(x)), ["LRP"], "exp"),
        (lambda: Rectified(lambda x: x.cumsum(1)), ["DeepLIFT", "LRP"], "cumsum"),
        (Normalising, ["LRP:first=box"], "choose first=same"),
    ],
)
def test_operations_without_a_rule_are_named_before_anything_runs(
    net_class: Callable[[], nn.Module], methods: list[str], said: str
) -> None:
    model = attrlib.wrap_model(made(net_class), 16)
    for text in methods:
        method = create(MethodSpec.parse(text))
        for _ in range(2):
            with pytest.raises(MethodError, match=f"^{method.name}.* {said}"):
                method.check(model, model.layer("Input"))
        with pytest.raises(MethodError, match=re.escape(said)):
            maps(model, pictures(3, 16), text)
    assert maps(model, pictures(3, 16), "IG", steps=2).isfinite().all()


@pytest.mark.parametrize("method", ["DeepLIFT", "LRP", "AttnLRP", "LibraGrad"])
def test_downstream_of_an_undefined_operation_the_rules_are_defined(method: str) -> None:
    model = attrlib.wrap_model(made(Rectified, lambda x: x.where(x > 0, 0 * x), F.relu), 16)
    for layer in ("Input", "conv1"):
        with pytest.raises(MethodError, match=f"{method} is not defined for where"):
            maps(model, pictures(3, 16), method, layer=layer)
    assert maps(model, pictures(3, 16), method, layer="conv2").isfinite().all()


def test_a_failed_trial_is_tried_again() -> None:
    class Failing(nn.Module):
        left = 0

        def forward(self, x: Tensor) -> Tensor:
            if Failing.left:
                raise ArithmeticError("blown")
            return x.mean((2, 3))

    model = attrlib.wrap_model(Failing(), 8)
    Failing.left = 1
    with pytest.raises(ArithmeticError):
        maps(model, pictures(1, 8), "LRP", [0])
    Failing.left = 0
    assert maps(model, pictures(1, 8), "LRP", [0]).isfinite().all()


def test_quadrature_integrates_polynomials_exactly() -> None:
    nodes, weights = quadrature(4)
    assert sum(w * n**7 for n, w in zip(nodes, weights, strict=True)) == pytest.approx(1 / 8)


def test_smoothgrad_over_ig_of_a_quadratic_has_a_closed_form() -> None:
    # y = (k+1)/2 |x|^2 has IG x_i (k+1) x_i / 2 from zeros, for one node already.
    model, images = attrlib.wrap_model(Quadratic(), 8), pictures(1, 8)
    copies = [images + 0.5 * n for n in noise_of(model, images, 4)]
    expected = torch.stack([4 / 2 * c.square() for c in copies]).mean(0)
    assert close(maps(model, images, "SmoothGrad", [3], of="IG", samples=4, noise=0.5, unit="absolute", steps=2), summed(expected), 1e-5)
