"""Every method against an independent computation of the same thing: Captum, SciPy, a closed form or a plain loop."""

import copy
import re
from collections.abc import Callable, Sequence
from itertools import product

import attrlib  # before captum and torchvision: it declares the operators that torchvision may lack

# isort: split
import captum.attr
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import skimage.transform
import torch
import torch.nn.functional as F  # noqa: N812
from support import method_nets
from support.method_nets import ChannelsLast, GuidedReLU, Linear, Modules, Quadratic, Rectified, made, pictures
from support.numbers import close
from support.refusals import CANCELS
from torch import Tensor, nn

from attrlib.errors import MethodError, SpecError
from attrlib.methods import perturbation
from attrlib.methods.perturbation import cover, magnify, windows
from attrlib.postprocess import apply_sign, defect

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")
Model = attrlib.Classifier


def maps(model: Model, images: Tensor, method: str, targets: object = None, layer: str | None = None, **params: object) -> Tensor:
    return attrlib.explain(model, images, method, targets, layer, **params).maps


def summed(values: Tensor) -> Tensor:
    return values.detach().sum(1, keepdim=True)


def captured(model: Model, path: str, images: Tensor, targets: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A module's output and the gradient of the target logits in it, by a plain forward hook."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        kept.append(output.detach().clone().requires_grad_())
        return kept[0].clone()

    handle = model.module.get_submodule(path).register_forward_hook(keep)
    try:
        logits = model.module(images)
    finally:
        handle.remove()
    score = sum(logits[i, t] for i, t in enumerate(targets))
    return kept[0].detach(), torch.autograd.grad(score, kept[0])[0]


# Captum --------------------------------------------------------------------------------------------------------------

TARGETS = [282, 967]


@pytest.fixture(scope="module")
def networks() -> dict[str, Model]:
    return {
        "resnet18": attrlib.load_model("torchvision:resnet18", "cpu", pretrained=False),
        "efficientnet_lite0": attrlib.load_model(device="cpu"),
    }


@pytest.fixture(params=["resnet18", "efficientnet_lite0"])
def network(request: pytest.FixtureRequest, networks: dict[str, Model]) -> Model:
    return networks[request.param]


@pytest.fixture(scope="module")
def photos(networks: dict[str, Model]) -> Tensor:
    """A cat and a cup of coffee."""
    return torch.stack([networks["resnet18"].preprocess(attrlib.open_image(f"sample:{name}").image) for name in ("cat", "coffee")])


@pytest.mark.parametrize("channels", ["sum", "abs-sum"])
def test_gradient_matches_the_saliency_of_captum(network: Model, photos: Tensor, channels: str) -> None:
    expected = captum.attr.Saliency(network.module).attribute(photos.clone(), TARGETS, abs=channels == "abs-sum")
    assert close(maps(network, photos, "Gradient", TARGETS, channels=channels), summed(expected))


def test_ixg_matches_the_input_x_gradient_of_captum(network: Model, photos: Tensor) -> None:
    expected = captum.attr.InputXGradient(network.module).attribute(photos.clone(), TARGETS)
    assert close(maps(network, photos, "IxG", TARGETS), summed(expected))


@pytest.mark.parametrize(("baseline", "colour"), [("zeros", None), ("black", 0.0), ("white", 1.0)])
def test_ig_matches_the_integrated_gradients_of_captum(network: Model, photos: Tensor, baseline: str, colour: float | None) -> None:
    images = photos[:1]
    start = torch.zeros_like(images) if colour is None else network.preprocessing.normalise(torch.full_like(images, colour))
    expected = captum.attr.IntegratedGradients(network.module).attribute(images, start, TARGETS[0], n_steps=4, method="gausslegendre")
    assert close(maps(network, images, "IG", TARGETS[0], steps=4, baseline=baseline), summed(expected).float(), 1e-3)


@pytest.mark.parametrize("layer", ["Middle", "Final"])
@pytest.mark.parametrize("network", ["resnet18"], indirect=True)
def test_inner_ixg_matches_the_layer_gradient_x_activation_of_captum(network: Model, photos: Tensor, layer: str) -> None:
    module = network.module.get_submodule(network.layer(layer).path)
    expected = captum.attr.LayerGradientXActivation(network.module, module).attribute(photos, TARGETS)
    assert close(maps(network, photos, "IxG", TARGETS, layer=layer), summed(expected))


@pytest.mark.parametrize("layer", ["Middle", "Final"])
def test_inner_ig_from_a_black_picture_matches_the_layer_integrated_gradients_of_captum(network: Model, photos: Tensor, layer: str) -> None:
    images = photos[:1]
    black = network.preprocessing.normalise(torch.zeros_like(images))
    module = network.module.get_submodule(network.layer(layer).path)
    method = captum.attr.LayerIntegratedGradients(network.module, module)
    expected = method.attribute(images, black, TARGETS[0], n_steps=4, method="gausslegendre")
    assert close(maps(network, images, "IG", TARGETS[0], layer=layer, steps=4, baseline="black"), summed(expected).float(), 1e-3)


@pytest.mark.parametrize("layer", ["Middle", "Final"])
def test_grad_cam_matches_the_layer_grad_cam_of_captum(network: Model, photos: Tensor, layer: str) -> None:
    module = network.module.get_submodule(network.layer(layer).path)
    expected = captum.attr.LayerGradCam(network.module, module).attribute(photos, TARGETS, relu_attributions=True)
    assert close(maps(network, photos, "Grad-CAM", TARGETS, layer=layer), expected.detach())


def test_inner_ixg_of_a_vit_matches_the_layer_gradient_x_activation_of_captum_without_the_class_token() -> None:
    model, images = method_nets.model("vit_tiny"), pictures(2, 64)
    expected = captum.attr.LayerGradientXActivation(model.module, model.module.get_submodule("blocks.1")).attribute(images, [0, 3])
    assert close(maps(model, images, "IxG", [0, 3], layer="blocks.1")[:, 0].flatten(1), expected.detach().sum(2)[:, 1:])


def captum_occlusion(model: Model, images: Tensor, targets: object, window: int, stride: int) -> Tensor:
    """Captum's mean drop over the windows that cover a position; the same in every channel."""
    method = captum.attr.Occlusion(model.module)
    with torch.no_grad():
        found = method.attribute(images, (3, window, window), (3, stride, stride), target=targets, perturbations_per_eval=8)
    return found[:, :1].float()


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows start: every `stride`, until one reaches the border."""
    found = [0]
    while found[-1] + window < length:
        found.append(found[-1] + stride)
    return found


def covering(height: int, width: int, window: int, stride: int) -> Tensor:
    """How many windows cover each position."""
    count = torch.zeros(height, width)
    for top, left in product(starts(height, window, stride), starts(width, window, stride)):
        count[top : top + window, left : left + window] += 1
    return count


def test_occlusion_is_captums_divided_by_the_area_if_windows_do_not_overlap(network: Model, photos: Tensor) -> None:
    area = torch.full((224, 224), 64.0 * 64)
    area[192:] = area[:, 192:] = 32 * 64
    area[192:, 192:] = 32 * 32
    images = photos[1:]
    expected = captum_occlusion(network, images, TARGETS[1], 64, 64) / area
    assert close(maps(network, images, "Occlusion", TARGETS[1], window=64, stride=64), expected)


def test_occlusion_is_captums_times_the_overlap_divided_by_the_area(network: Model, photos: Tensor) -> None:
    images = photos[:1]
    expected = captum_occlusion(network, images, TARGETS[0], 96, 64) * covering(224, 224, 96, 64) / 96**2
    assert close(maps(network, images, "Occlusion", TARGETS[0], window=96, stride=64), expected)


def test_occlusion_matches_captum_where_no_window_is_cut_off() -> None:
    model, images = method_nets.model("functional"), pictures(2, 64)
    expected = captum_occlusion(model, images, [0, 3], 16, 10) * covering(64, 64, 16, 10) / 16**2
    found = maps(model, images, "Occlusion", [0, 3], window=16, stride=10)
    # The last window starts at 50 and would end at 66.
    assert close(found[..., :50, :50], expected[..., :50, :50])
    assert not close(found, expected)


# Closed forms ----------------------------------------------------------------------------------------------------------

LINEAR_SIZE = (12, 20)


@pytest.fixture(scope="module")
def linear() -> Model:
    return attrlib.wrap_model(made(Linear, *LINEAR_SIZE), LINEAR_SIZE)


def weights(model: Model, targets: Sequence[int]) -> Tensor:
    return model.module.weight.detach()[list(targets)]


def blurred(images: Tensor) -> Tensor:
    """Gaussian blur of a quarter of the width, normalised at the border."""
    size = images.shape[-1] // 4 * 4 + 1
    kernel = scipy.stats.norm.pdf(np.arange(size) - size // 2, scale=size / 4)

    def along_both(values: np.ndarray) -> np.ndarray:
        for axis in (-2, -1):
            values = scipy.ndimage.convolve1d(values, kernel, axis=axis, mode="constant")
        return values

    return torch.from_numpy(along_both(images.double().numpy()) / along_both(np.ones(images.shape))).float()


def plain(model: Model, images: Tensor, colour: float) -> Tensor:
    """A picture of one shade of grey from 0 to 1, normalised."""
    values = [(colour - mean) / std for mean, std in zip(model.preprocessing.mean, model.preprocessing.std, strict=True)]
    return torch.tensor(values).view(3, 1, 1).expand_as(images)


BASELINES: dict[str, Callable[[Model, Tensor], Tensor]] = {
    "zeros": lambda model, x: torch.zeros_like(x),
    "black": lambda model, x: plain(model, x, 0),
    "white": lambda model, x: plain(model, x, 1),
    "blur": lambda model, x: blurred(x),
}
LINEAR_TARGETS = (2, 0, 4)


@pytest.mark.parametrize("method", ["Gradient", "SmoothGrad", "SmoothGrad:noise=2:samples=3"])
@pytest.mark.parametrize("channels", ["sum", "abs-sum"])
def test_gradients_of_a_linear_model_are_its_weights(linear: Model, method: str, channels: str) -> None:
    w = weights(linear, LINEAR_TARGETS)
    found = maps(linear, pictures(3, *LINEAR_SIZE), method, LINEAR_TARGETS, channels=channels)
    assert close(found, summed(w.abs() if channels == "abs-sum" else w), 1e-5)


def test_ixg_of_a_linear_model_is_weight_times_input(linear: Model) -> None:
    images = pictures(3, *LINEAR_SIZE)
    assert close(maps(linear, images, "IxG", LINEAR_TARGETS), summed(weights(linear, LINEAR_TARGETS) * images), 1e-5)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("steps", [1, 7])
def test_ig_of_a_linear_model_is_weight_times_difference(linear: Model, baseline: str, steps: int) -> None:
    images = pictures(3, *LINEAR_SIZE)
    found = attrlib.explain(linear, images, "IG", LINEAR_TARGETS, steps=steps, baseline=baseline)
    assert close(found.maps, summed(weights(linear, LINEAR_TARGETS) * (images - BASELINES[baseline](linear, images))), 1e-5)
    assert max(found.diagnostics["convergence"]) < 1e-4


def test_occlusion_of_a_linear_model_is_the_mean_of_weight_times_input_in_the_window(linear: Model) -> None:
    images = pictures(3, *LINEAR_SIZE)
    means = F.avg_pool2d(summed(weights(linear, LINEAR_TARGETS) * images), 4)
    found = maps(linear, images, "Occlusion", LINEAR_TARGETS, window=4, stride=4)
    assert close(found, means.repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_occlusion_by_single_positions_is_ixg_on_a_linear_model(linear: Model) -> None:
    images = pictures(1, *LINEAR_SIZE)
    assert close(maps(linear, images, "Occlusion", 1, window=1, stride=1), maps(linear, images, "IxG", 1), 1e-3)


@pytest.mark.parametrize("samples", [4, 25])
def test_smoothgrad_adds_noise_of_a_share_of_each_images_range(samples: int) -> None:
    model = attrlib.wrap_model(Quadratic(), 32)
    images = pictures(2, 32) * torch.tensor([1.0, 5.0]).view(2, 1, 1, 1)
    found = maps(model, images, "SmoothGrad", [1, 3], samples=samples, noise=0.2)
    # The gradient (k+1)(x + noise) leaves the mean noise over the samples, summed over three channels.
    left = found / torch.tensor([2.0, 4.0]).view(2, 1, 1, 1) - summed(images)
    expected = 0.2 * (images.amax((1, 2, 3)) - images.amin((1, 2, 3))) * (3 / samples) ** 0.5
    assert left.std((1, 2, 3)).tolist() == pytest.approx(expected.tolist(), rel=0.1)
    assert (left.mean((1, 2, 3)).abs() < 0.15 * expected).all()


# Completeness --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smooth_net() -> Model:
    return attrlib.wrap_model(made(Rectified, nn.Tanh()), 16)


@pytest.fixture(scope="module")
def kinked_net() -> Model:
    return attrlib.wrap_model(made(Rectified, F.relu), 16)


@pytest.mark.parametrize("steps", [1, 3])
def test_ig_is_ixg_on_a_relu_net_without_biases(steps: int) -> None:
    model, images = attrlib.wrap_model(made(Rectified, F.relu, bias=False), 16), pictures(2, 16)
    assert close(maps(model, images, "IG", [0, 3], steps=steps), maps(model, images, "IxG", [0, 3]), 1e-5)


@pytest.mark.parametrize("baseline", BASELINES)
def test_ig_sums_to_the_change_of_the_logit_on_a_smooth_net(smooth_net: Model, baseline: str) -> None:
    images, targets = pictures(3, 16), [0, 3, 1]
    with torch.no_grad():
        change = smooth_net(images) - smooth_net(BASELINES[baseline](smooth_net, images))
    found = attrlib.explain(smooth_net, images, "IG", targets, steps=32, baseline=baseline)
    assert close(found.maps.sum((1, 2, 3)), change[range(3), targets])
    assert max(found.diagnostics["convergence"]) < 1e-3


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("layer", ["Input", "conv1"])
def test_the_reported_convergence_is_the_relative_error_of_the_sum(kinked_net: Model, baseline: str, layer: str) -> None:
    images, targets, module = 3 * pictures(3, 16), [0, 3, 1], kinked_net.module
    start = BASELINES[baseline](kinked_net, images)
    with torch.no_grad():
        before = module(start)
        if layer == "conv1" and baseline == "zeros":
            before = module.fc(F.relu(module.conv2(torch.zeros(3, 8, 16, 16))).mean((2, 3)))
        change = (module(images) - before)[range(3), targets]
    found = attrlib.explain(kinked_net, images, "IG", targets, layer, steps=2, baseline=baseline)
    errors = (found.maps.sum((1, 2, 3)) - change).abs() / change.abs()
    assert found.diagnostics["convergence"] == pytest.approx(errors.tolist(), rel=1e-2, abs=1e-5)
    assert max(found.diagnostics["convergence"]) > 1e-3


def test_convergence_at_a_token_layer_includes_the_class_token_which_is_not_in_the_map() -> None:
    model, images = method_nets.model("vit_tiny"), pictures(2, 64)
    with torch.no_grad():
        change = (model(images) - model(plain(model, images, 0)))[range(2), [0, 3]]
    found = attrlib.explain(model, images, "IG", [0, 3], "blocks.1", steps=20, baseline="black")
    assert max(found.diagnostics["convergence"]) < 1e-3
    assert not close(found.maps.sum((1, 2, 3)), change, 0.1)


# Class activation maps -----------------------------------------------------------------------------------------------

CAM_LAYERS = [("resnet18", p) for p in ("bn1", "layer1", "layer2.0.conv1", "layer3", "layer4")] + [
    ("functional", "stem"),
    ("functional", "stage2"),
    ("not_square", "stage3"),
    ("efficientnet_lite0", "blocks.1"),
]


def images_for(name: str, count: int = 2) -> Tensor:
    return pictures(count, *method_nets.model(name).input_size)


@pytest.mark.parametrize(("name", "path"), CAM_LAYERS)
def test_cams_gradient_and_ixg_follow_their_formulas_at_a_layer(name: str, path: str) -> None:
    model, images = method_nets.model(name), images_for(name)
    a, g = captured(model, path, images, [0, 3])
    per_channel = [[g[i, c].mean() * a[i, c] for c in range(a.shape[1])] for i in range(2)]
    assert close(maps(model, images, "Grad-CAM", [0, 3], path), torch.stack([sum(c).clamp(min=0)[None] for c in per_channel]))
    assert close(maps(model, images, "Layer-CAM", [0, 3], path), summed(g.clamp(min=0) * a).clamp(min=0))
    assert close(maps(model, images, "Gradient", [0, 3], path), summed(g))
    assert close(maps(model, images, "IxG", [0, 3], path), summed(g * a))


@pytest.mark.parametrize("path", ["blocks.1", "blocks.2"])
def test_cams_of_a_vit_use_the_patch_tokens_row_by_row(path: str) -> None:
    model, images = method_nets.model("vit_tiny"), pictures(2, 64)
    a, g = captured(model, path, images, [0, 3])
    assert a.shape == (2, 17, 192)
    grad_cam, layer_cam = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    for i, row, column in product(range(2), range(4), range(4)):
        token = 1 + 4 * row + column
        grad_cam[i, 0, row, column] = (g[i, 1:].mean(0) * a[i, token]).sum().clamp(min=0)
        layer_cam[i, 0, row, column] = (g[i, token].clamp(min=0) * a[i, token]).sum().clamp(min=0)
    assert close(maps(model, images, "Grad-CAM", [0, 3], path), grad_cam)
    assert close(maps(model, images, "Layer-CAM", [0, 3], path), layer_cam)


def test_cams_of_a_channels_last_layer_average_over_its_positions() -> None:
    model, images = attrlib.wrap_model(made(ChannelsLast), (16, 40)), pictures(2, 16, 40)
    a, g = captured(model, "blocks.1", images, [0, 3])
    assert a.shape == (2, 4, 10, 10)
    assert close(maps(model, images, "Grad-CAM", [0, 3], "blocks.1"), (g.mean((1, 2), keepdim=True) * a).sum(3).relu()[:, None])
    assert close(maps(model, images, "Layer-CAM", [0, 3], "blocks.1"), (g.relu() * a).sum(3).relu()[:, None])


def test_before_a_layer_norm_the_gradient_sums_to_zero_over_channels() -> None:
    # A pre-norm transformer ignores values added to all channels of its stream, so only rounding errors are left of the sum.
    model, images = method_nets.model("vit_tiny"), pictures(2, 64)
    outputs: list[Tensor] = []
    handle = model.module.blocks[1].register_forward_hook(lambda _module, _args, output: outputs.append(output))
    logits = model.module(images)
    handle.remove()
    gradient = torch.autograd.grad(logits[[0, 1], [0, 3]].sum(), outputs)[0]
    assert gradient.sum(2).abs().max() < 1e-5 * gradient.abs().sum(2).max()
    with pytest.raises(MethodError, match=CANCELS):
        maps(model, images, "Gradient", [0, 3], "blocks.1")
    magnitude = maps(model, images, "Gradient", [0, 3], "blocks.1", channels="abs-sum")
    torch.testing.assert_close(
        magnitude.flatten(1), gradient.abs().sum(2)[:, model.layer("blocks.1").layout.prefix :], rtol=1e-4, atol=1e-7
    )


# Facts of the reference ----------------------------------------------------------------------------------------------


def test_before_global_pooling_and_a_linear_head_the_gradient_is_constant_over_positions() -> None:
    found = maps(method_nets.model("resnet18"), images_for("resnet18"), "Gradient", [0, 3], "Final")
    assert close(found, found[..., :1, :1].expand_as(found).contiguous(), 1e-5)


def test_before_global_pooling_and_a_linear_head_ig_is_ixg() -> None:
    model, images = method_nets.model("resnet18"), images_for("resnet18")
    assert close(maps(model, images, "IG", [0, 3], "Final", steps=3), maps(model, images, "IxG", [0, 3], "Final"), 1e-5)


def test_before_global_pooling_and_a_linear_head_grad_cam_is_the_positive_part_of_ixg() -> None:
    model, images = method_nets.model("resnet18"), images_for("resnet18")
    assert close(maps(model, images, "Grad-CAM", [0, 3], "Final"), maps(model, images, "IxG", [0, 3], "Final").relu(), 1e-5)


# Occlusion and RISE --------------------------------------------------------------------------------------------------


def resnet_tail(module: nn.Module, activations: Tensor) -> Tensor:
    return module.fc(activations.mean((2, 3)))


def vit_tail(module: nn.Module, tokens: Tensor) -> Tensor:
    return module.head(module.norm(module.blocks[3](tokens))[:, 0])


def channels_last_tail(module: nn.Module, activations: Tensor) -> Tensor:
    return module.fc(activations.relu().mean((1, 2)))


TAILS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "functional": lambda module, images: module(images),
    "resnet18": resnet_tail,
    "vit_tiny": vit_tail,
    "channels_last": channels_last_tail,
}


def hand_masked(name: str, values: Tensor, mask: Tensor) -> Tensor:
    """A layer's tensor times a mask (h,w), in the layer's layout; the class token stays."""
    if name == "vit_tiny":
        return values * torch.cat([torch.ones(1), mask.flatten()])[None, :, None]
    return values * (mask[None, :, :, None] if name == "channels_last" else mask)


@pytest.mark.parametrize(
    ("name", "layer", "window", "stride"),
    [
        ("functional", "Input", None, None),
        ("functional", "Input", 20, 13),
        ("resnet18", "Final", 1, 1),
        ("resnet18", "Final", None, None),
        ("vit_tiny", "Final", 3, 1),
        ("vit_tiny", "Final", 3, 2),
        ("channels_last", "Final", None, None),
    ],
)
def test_occlusion_matches_a_plain_loop_over_windows(name: str, layer: str, window: int | None, stride: int | None) -> None:
    model, images, targets = method_nets.model(name), images_for(name), [0, 3]
    values = images if layer == "Input" else captured(model, model.layer(layer).path, images, targets)[0]
    _, height, width = model.layer(layer).shape
    w, s = window or (16 if layer == "Input" else 5), stride or (8 if layer == "Input" else 2)
    expected = torch.zeros(2, 1, height, width)
    with torch.no_grad():
        full = TAILS[name](model.module, values)[range(2), targets]
        for top, left in product(starts(height, w, s), starts(width, w, s)):
            kept = torch.ones(height, width)
            kept[top : top + w, left : left + w] = 0
            drop = full - TAILS[name](model.module, hand_masked(name, values, kept))[range(2), targets]
            expected += (1 - kept) / (1 - kept).sum() * drop.view(2, 1, 1, 1)
    assert close(maps(model, images, "Occlusion", targets, layer, window=window, stride=stride), expected, 1e-3)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (14, 20), (5, 33), (1, 1), (60, 60)])
@pytest.mark.parametrize(("window", "stride"), [(1, 1), (5, 2), (5, 5), (16, 8), (9, 7)])
def test_windows_with_a_stride_of_at_most_their_width_cover_every_position(height: int, width: int, window: int, stride: int) -> None:
    masks = cover(windows(height, width, window, stride), window, height, width)
    assert torch.equal(masks.sum(0).long(), covering(height, width, window, stride).long())
    assert masks.any(0).all()
    assert masks.flatten(1).any(1).all()


@pytest.mark.parametrize(
    ("name", "layer"), [("functional", "Input"), ("resnet18", "Final"), ("vit_tiny", "Final"), ("channels_last", "Final")]
)
def test_rise_matches_a_plain_loop_over_its_masks(name: str, layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Tensor] = []

    def recording(*args: object) -> Tensor:
        used.append(magnify(*args))
        return used[-1]

    monkeypatch.setattr(perturbation, "magnify", recording)
    model, images, targets = method_nets.model(name), images_for(name), [0, 3]
    found = maps(model, images, "RISE", targets, layer, samples=20, cells=4, p=0.4)
    masks = torch.cat(used)[:, 0]
    assert len(masks) == 20
    values = images if layer == "Input" else captured(model, model.layer(layer).path, images, targets)[0]
    expected = np.zeros(found.shape)
    for mask in masks:
        with torch.no_grad():
            probabilities = TAILS[name](model.module, hand_masked(name, values, mask)).softmax(1)
        for i, target in enumerate(targets):
            expected[i, 0] += float(probabilities[i, target]) * mask.numpy() / (20 * 0.4)
    assert close(found, torch.from_numpy(expected).float())


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_the_masks_of_rise_are_binary_grids_with_a_share_p_of_ones(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, list[list[float]]]] = []

    def recording(grids: Tensor, shifts: list[list[float]], *size: int) -> Tensor:
        seen.append((grids, shifts))
        return magnify(grids, shifts, *size)

    monkeypatch.setattr(perturbation, "magnify", recording)
    model = attrlib.wrap_model(made(Linear, 8, 8), 8)
    attrlib.explain(model, pictures(1, 8), "RISE", 0, samples=400, cells=5, p=p, batch_size=100)
    grids, shifts = torch.cat([g for g, _ in seen]), np.concatenate([s for _, s in seen])
    assert grids.shape == (400, 1, 5, 5)
    assert set(grids.unique().tolist()) == {0.0, 1.0}
    assert float(grids.mean()) == pytest.approx(p, abs=0.02)
    assert len(grids.flatten(1).unique(dim=0)) > 200
    assert min(scipy.stats.kstest(shifts[:, k], "uniform").pvalue for k in (0, 1)) > 0.01


def random_grids(count: int, cells: int, p: float) -> Tensor:
    return (torch.rand(count, 1, cells, cells, generator=torch.Generator().manual_seed(0)) < p).float()


@pytest.mark.parametrize(("cells", "height", "width"), [(4, 32, 32), (8, 60, 100), (6, 7, 7)])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, 0.25), (0.999, 0.999)])
def test_magnified_grids_are_shifted_crops_of_bilinearly_resized_ones(
    cells: int, height: int, width: int, shift: tuple[float, float]
) -> None:
    grids = random_grids(3, cells, 0.4)
    tall, wide = -(-height // cells), -(-width // cells)
    top, left = int(shift[0] * tall), int(shift[1] * wide)
    for grid, found in zip(grids[:, 0].numpy(), magnify(grids, [list(shift)] * 3, height, width)[:, 0], strict=True):
        large = skimage.transform.resize(grid, ((cells + 1) * tall, (cells + 1) * wide), order=1, mode="edge", anti_aliasing=False)
        assert close(found, torch.from_numpy(large[top : top + height, left : left + width]).float(), 1e-4)


def test_masks_are_smooth_lie_between_0_and_1_and_show_a_share_p() -> None:
    grids = random_grids(500, 8, 0.3)
    shifts = torch.rand(500, 2, generator=torch.Generator().manual_seed(1)).tolist()
    masks = magnify(grids, shifts, 64, 64)
    assert masks.shape == (500, 1, 64, 64)
    assert masks.min() == 0
    assert masks.max() == 1
    assert float(masks.mean()) == pytest.approx(0.3, abs=0.02)
    # A step takes as many pixels as a cell has, so no two neighbours differ by more than that.
    assert max(float(masks.diff(dim=d).abs().max()) for d in (2, 3)) < 1.01 / 8


# Guided Backprop -------------------------------------------------------------------------------------------------------

RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "nn.ReLU used twice": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "F.threshold": lambda x: F.threshold(x, 0, 0),
    "clamp(min=0)": lambda x: x.clamp(min=0),
    "clamp_(min=0)": lambda x: x.clamp_(min=0),
    "clamp(min=tensor)": lambda x: x.clamp(min=torch.tensor(0.0)),
    "torch.clamp_min": lambda x: torch.clamp_min(x, 0),
}
CAPPED: dict[str, Callable[[Tensor], Tensor]] = {
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6 in place": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "F.hardtanh(0, 6)": lambda x: F.hardtanh(x, 0, 6),
    "F.hardtanh_(0, 6)": lambda x: F.hardtanh_(x, 0.0, 6.0),
    "clamp(0, 6)": lambda x: x.clamp(0, 6),
    "clamp_(0, 6)": lambda x: x.clamp_(0, 6),
}


def guided_maps(
    rectify: Callable[[Tensor], Tensor], late: Callable[[Tensor], Tensor] | None = None, method: str = "Guided Backprop"
) -> Tensor:
    # Large inputs, so that some activations are above 6.
    return maps(attrlib.wrap_model(made(Rectified, rectify, late), 16), 20 * pictures(3, 16), method, [0, 3, 1])


@pytest.mark.parametrize("channels", ["sum", "abs-sum"])
def test_guided_backprop_matches_captum_on_plain_relu_modules(channels: str) -> None:
    module, images = made(Modules), pictures(3, 16)
    expected = captum.attr.GuidedBackprop(copy.deepcopy(module)).attribute(images.clone().requires_grad_(), [0, 3, 1])
    found = maps(attrlib.wrap_model(module, 16), images, "Guided Backprop", [0, 3, 1], channels=channels)
    assert close(found, summed(expected.abs() if channels == "abs-sum" else expected))


@pytest.mark.parametrize("rectifier", RECTIFIERS)
def test_every_form_of_relu_is_guided(rectifier: str) -> None:
    expected = guided_maps(GuidedReLU(), method="Gradient")
    assert close(guided_maps(RECTIFIERS[rectifier]), expected)
    assert not close(guided_maps(RECTIFIERS[rectifier], method="Gradient"), expected, 0.01)


@pytest.mark.parametrize("rectifier", CAPPED)
def test_every_form_of_relu6_is_guided(rectifier: str) -> None:
    expected = guided_maps(GuidedReLU(6), method="Gradient")
    assert close(guided_maps(CAPPED[rectifier]), expected)
    assert not close(guided_maps(nn.ReLU()), expected, 0.01)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "functional", "channels_last"])
@pytest.mark.parametrize("layer", ["Input", "Middle"])
def test_guided_backprop_of_a_whole_network_is_its_gradient_with_guided_rectifiers(
    name: str, layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = method_nets.model(name), images_for(name)
    found = maps(model, images, "Guided Backprop", [0, 3], layer)
    oracle = copy.deepcopy(model.module)
    for module in list(oracle.modules()):
        for child, rectifier in module.named_children():
            if isinstance(rectifier, nn.ReLU | nn.ReLU6):
                setattr(module, child, GuidedReLU(6 if isinstance(rectifier, nn.ReLU6) else float("inf")))
    for owner, function in [(F, "relu"), (F, "relu_"), (Tensor, "relu"), (Tensor, "clamp_")]:
        monkeypatch.setattr(owner, function, lambda x, *_args, **_options: GuidedReLU()(x))
    images = images.clone().requires_grad_(layer == "Input")
    if layer == "Input":
        (gradient,) = torch.autograd.grad(oracle(images)[range(2), [0, 3]].sum(), images)
    else:
        wrapped = attrlib.wrap_model(oracle, model.input_size)
        gradient = captured(wrapped, model.layer(layer).path, images, [0, 3])[1]
    monkeypatch.undo()
    assert close(found, summed(model.layer(layer).layout.spatial(gradient)))


OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "GELU": nn.GELU(),
    "GELU by tanh": nn.GELU("tanh"),
    "SiLU": nn.SiLU(),
    "LeakyReLU": nn.LeakyReLU(),
    "LeakyReLU in place": nn.LeakyReLU(inplace=True),
    "PReLU": nn.PReLU(),
    "ELU": nn.ELU(),
    "SELU": nn.SELU(),
    "CELU": nn.CELU(),
    "Softplus": nn.Softplus(),
    "Mish": nn.Mish(),
    "Hardswish": nn.Hardswish(),
    "Hardtanh": nn.Hardtanh(),
    "clamp(-1, 1)": lambda x: x.clamp(-1, 1),
    "maximum": lambda x: torch.maximum(x, 0.1 * x),
    "Tanh": nn.Tanh(),
    "sigmoid": torch.sigmoid,
    "sigmoid in place": lambda x: x.sigmoid_(),
    "sigmoid times a gate that is made of it": lambda x: (y := x.sigmoid()) * y.mean((2, 3), keepdim=True).sigmoid(),
    "Hardsigmoid": nn.Hardsigmoid(),
    "LogSigmoid": nn.LogSigmoid(),
    "SiLU written out": lambda x: x * x.sigmoid(),
    "Softsign": nn.Softsign(),
    "Softshrink": nn.Softshrink(),
    "Hardshrink": nn.Hardshrink(),
    "GELU written out": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "GELU written out by tanh": lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3))),
}


@pytest.mark.parametrize("method", ["Guided Backprop", "Deconvolution"])
@pytest.mark.parametrize("activation", OTHERS)
def test_guided_backprop_is_refused_where_there_is_another_activation(activation: str, method: str) -> None:
    with pytest.raises(MethodError, match=f"{method} is defined for ReLU networks"):
        guided_maps(OTHERS[activation], F.relu, method)


GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "squeeze-and-excitation": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "hard": lambda x: x * F.hardsigmoid(x.mean((2, 3), keepdim=True)),
    "flattened and expanded": lambda x: x.mean((2, 3)).sigmoid()[:, :, None, None].expand_as(x) * x,
    "one for each axis": lambda x: x * x.mean(2, keepdim=True).sigmoid() * x.mean(3, keepdim=True).sigmoid(),
    "smaller than the activations": lambda x: x * F.interpolate(F.avg_pool2d(x, 2).sigmoid(), size=x.shape[2:]),
}


@pytest.mark.parametrize("gate", GATES)
def test_gates_next_to_rectifiers_keep_their_gradient(gate: str) -> None:
    expected = guided_maps(lambda x: GATES[gate](GuidedReLU()(x)), method="Gradient")
    assert close(guided_maps(lambda x: GATES[gate](F.relu(x))), expected)


def test_a_sigmoid_that_ends_the_model_keeps_its_gradient() -> None:
    found, expected = (
        maps(attrlib.wrap_model(nn.Sequential(made(Rectified, rectify), nn.Sigmoid()), 16), pictures(3, 16), method, [0, 3, 1])
        for rectify, method in ((F.relu, "Guided Backprop"), (GuidedReLU(), "Gradient"))
    )
    assert close(found, expected)


@pytest.mark.parametrize("activation", ["GELU", "LeakyReLU", "PReLU", "ELU", "SELU", "Hardswish", "Softsign", "Softshrink", "LogSigmoid"])
def test_the_refusal_of_guided_backprop_names_the_activation(activation: str) -> None:
    # A SELU is an ELU to autograd.
    words = re.sub("(?<=[a-z])(?=[A-Z])", " ?", activation) if activation != "PReLU" else activation
    with pytest.raises(MethodError, match=rf"(?i) has S?{words.removeprefix('S')} downstream"):
        guided_maps(OTHERS[activation], F.relu)


def test_guided_backprop_is_refused_only_upstream_of_another_activation() -> None:
    model, images = attrlib.wrap_model(made(Rectified, nn.GELU(), F.relu), 16), pictures(3, 16)
    guided = attrlib.wrap_model(made(Rectified, nn.GELU(), GuidedReLU()), 16)
    assert close(maps(model, images, "Guided Backprop", [0, 3, 1], "conv2"), maps(guided, images, "Gradient", [0, 3, 1], "conv2"))
    with pytest.raises(MethodError, match=r"(?i)gelu"):
        attrlib.explain(model, images, "Guided Backprop", 0, "conv1")


def test_guided_backprop_with_tensor_bounds_fails_with_a_method_error_or_is_guided() -> None:
    expected = guided_maps(GuidedReLU(), method="Gradient")
    try:
        found = guided_maps(lambda x: x.clamp(min=torch.zeros(8, 1, 1)))
    except MethodError:
        return
    assert close(found, expected)


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "Final"), ("efficientnet_lite0", "Final")])
def test_guided_backprop_is_the_gradient_where_no_relu_follows(name: str, layer: str) -> None:
    model, images = method_nets.model(name), images_for(name)
    assert close(maps(model, images, "Guided Backprop", [0, 3], layer), maps(model, images, "Gradient", [0, 3], layer), 1e-6)


# Sanity baselines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "cell"), [("Input", 1), ("Middle", 8)])
def test_sobel_is_the_edge_strength_of_scipy_averaged_over_cells(layer: str, cell: int) -> None:
    model = method_nets.model("not_square")
    colours = torch.rand(2, 3, 48, 80, generator=torch.Generator().manual_seed(0))
    grey = (0.299 * colours[:, 0] + 0.587 * colours[:, 1] + 0.114 * colours[:, 2]).double().numpy()
    edges = np.stack([np.hypot(*(scipy.ndimage.sobel(g, axis=a, mode="nearest") for a in (0, 1))) for g in grey])
    expected = edges.reshape(2, 48 // cell, cell, 80 // cell, cell).mean((2, 4))
    found = maps(model, model.preprocessing.normalise(colours), "Sobel", 0, layer)
    assert close(found[:, 0], torch.from_numpy(expected).float())


def test_random_is_uniform_between_0_and_1() -> None:
    found = maps(method_nets.model("functional"), pictures(3, 64), "Random", 0, "Input").numpy()
    assert found.min() >= 0
    assert found.max() < 1
    assert scipy.stats.kstest(found.ravel(), "uniform").pvalue > 0.01


def test_random_depends_on_the_picture_and_the_seed_but_not_on_the_batch() -> None:
    model, images = method_nets.model("functional"), pictures(3, 64)
    first, second, third = maps(model, images, "Random", 0)
    again = maps(model, images[[2, 0, 0]], "Random", 0, batch_size=2)
    assert torch.equal(again, torch.stack([third, first, first]))
    others = [second, third, maps(model, images[:1], "Random", 0, seed=1)[0]]
    assert all(abs(np.corrcoef(first.flatten(), other.flatten())[0, 1]) < 0.1 for other in others)


# Smoothing, resizing, signs, defects -------------------------------------------------------------------------------------


def kernel(size: int) -> np.ndarray:
    """K x K Gaussian, sigma = K/4, of sum 1."""
    row, column = np.indices((size, size)) - size // 2
    values = np.exp(-(row**2 + column**2) / (2 * (size / 4) ** 2))
    return values / values.sum()


@pytest.mark.parametrize("size", [3, 5, 9, 17, 33, 129])
@pytest.mark.parametrize("shape", [(14, 23), (70, 150)])
def test_smooth_is_a_zero_padded_convolution_with_a_gaussian(size: int, shape: tuple[int, int]) -> None:
    given = pictures(2, *shape)[:, :1]
    expected = [scipy.ndimage.convolve(m[0].double().numpy(), kernel(size), mode="constant", cval=0) for m in given]
    assert close(attrlib.smooth(given, size)[:, 0], torch.from_numpy(np.stack(expected)).float(), 1e-5)


@pytest.mark.parametrize("size", [5, 33])
def test_smooth_is_symmetric(size: int) -> None:
    given = pictures(2, 14, 23)[:, :1]
    for dims in ([2], [3], [2, 3]):
        assert close(attrlib.smooth(given.flip(dims), size), attrlib.smooth(given, size).flip(dims), 1e-5)
    assert close(attrlib.smooth(given.mT, size), attrlib.smooth(given, size).mT, 1e-5)


def test_smooth_is_linear_in_the_signed_map() -> None:
    one, other = pictures(2, 14, seed=1)[:, :1], pictures(2, 14, seed=2)[:, :1]
    assert close(attrlib.smooth(2 * one - 3 * other, 9), 2 * attrlib.smooth(one, 9) - 3 * attrlib.smooth(other, 9), 1e-5)


@pytest.mark.parametrize("size", [0, 1])
def test_smooth_with_a_kernel_of_0_or_1_changes_nothing(size: int) -> None:
    given = pictures(2, 14)[:, :1]
    assert torch.equal(attrlib.smooth(given, size), given)


@pytest.mark.parametrize("size", [2, 128, -1, -3])
def test_smooth_refuses_an_even_or_negative_kernel(size: int) -> None:
    with pytest.raises(SpecError, match=f"kernel size {size} is not valid"):
        attrlib.smooth(torch.ones(1, 1, 8, 8), size)


def test_smooth_does_not_change_its_argument() -> None:
    given = pictures(1, 14)[:, :1]
    before = given.clone()
    attrlib.smooth(given, 5)
    assert torch.equal(given, before)


def test_resize_is_bilinear_between_the_centres_of_positions() -> None:
    assert attrlib.resize(torch.tensor([[[[0.0, 1.0]]]]), (1, 4)).flatten().tolist() == [0, 0.25, 0.75, 1]


@pytest.mark.parametrize("size", [(28, 46), (7, 60), (14, 23)])
def test_resize_matches_torch_without_aligned_corners(size: tuple[int, int]) -> None:
    given = pictures(2, 14, 23)[:, :1]
    assert torch.equal(attrlib.resize(given, size), F.interpolate(given, size=size, mode="bilinear", align_corners=False))


@pytest.mark.parametrize(("sign", "expected"), [("signed", [-2, 0, 3]), ("positive", [0, 0, 3]), ("absolute", [2, 0, 3])])
def test_apply_sign_keeps_clips_or_rectifies(sign: str, expected: list[float]) -> None:
    assert apply_sign(torch.tensor([-2.0, 0, 3]), sign).tolist() == expected


def test_apply_sign_refuses_an_unknown_sign() -> None:
    with pytest.raises(SpecError, match="signed, positive, absolute"):
        apply_sign(torch.zeros(1), "negative")


BASE = torch.rand(10, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (torch.full((10, 10), torch.nan), "100% of the values are NaN or infinite"),
        (BASE.where(BASE > 0.25, torch.inf), f"{int((BASE <= 0.25).sum())}% of the values are NaN or infinite"),
        (torch.zeros(10, 10), "All zero"),
        (-torch.zeros(10, 10), "All zero"),
        (torch.full((10, 10), -0.3), r"Constant \(-0.3\)"),
        (5 + 1e-6 * BASE, r"Constant \(5\)"),
        (-5 - 1e-6 * BASE, r"Constant \(-5\)"),
    ],
)
def test_a_map_without_information_has_a_defect(values: Tensor, said: str) -> None:
    assert re.match(said, defect(values) or "")


@pytest.mark.parametrize("values", [BASE, -BASE, 1e-20 * BASE, 5 + 1e-3 * BASE, BASE.where(BASE > 0.99, 0)])
def test_a_valid_map_has_no_defect(values: Tensor) -> None:
    assert defect(values) is None


def test_a_single_nan_is_not_reported_as_0_percent() -> None:
    values = torch.ones(224, 224)
    values[3, 4] = torch.nan
    assert not (defect(values) or "").startswith("0%")
