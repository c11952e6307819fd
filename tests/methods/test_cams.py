"""The CAM family against pytorch-grad-cam, Captum, SciPy and plain loops over channels."""

import copy
from collections.abc import Callable, Iterator
from itertools import product

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import captum.attr
import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F  # noqa: N812
from pytorch_grad_cam import AblationCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, ScoreCAM, XGradCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from support import method_nets
from support.method_nets import CLASSES, TARGETS, Modules, Rectified, made, maps, pictures
from support.numbers import close
from torch import Tensor, nn

from attrlib.errors import LayerError, MethodError
from attrlib.methods import AttributionContext, cams, channel_cams
from attrlib.methods.affine import is_affine

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")
Model = attrlib.Classifier


def images_for(name: str, count: int = 2) -> Tensor:
    return pictures(count, *method_nets.model(name).input_size)


def captured(model: Model, path: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """A module's output and the gradient of the target logits in it as (B,C,h,w), by a plain forward hook."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        kept.append(output.detach().clone().requires_grad_())
        return kept[0].clone()

    if not path:
        kept.append(images.clone().requires_grad_())
        logits = model.module(kept[0])
    else:
        handle = model.module.get_submodule(path).register_forward_hook(keep)
        try:
            logits = model.module(images)
        finally:
            handle.remove()
    (gradient,) = torch.autograd.grad(logits[range(len(images)), TARGETS].sum(), kept[0])
    layout = model.layer(path or "Input").layout
    return layout.spatial(kept[0].detach()), layout.spatial(gradient)


# pytorch-grad-cam ------------------------------------------------------------------------------------------------------


def rival(kind: type[BaseCAM], module: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    """The library's map at the layer's size, before it is normalised."""
    targets = [ClassifierOutputTarget(target) for target in TARGETS]
    with kind(model=module, target_layers=[layer]) as cam:
        cam(input_tensor=images, targets=targets)
        kept = cam.activations_and_grads
        gradient = kept.gradients[0].numpy() if kept.gradients else None
        image = cam.get_cam_image(images, layer, targets, kept.activations[0].numpy(), gradient, False)
    return torch.from_numpy(np.maximum(image, 0)).float()[:, None]


def steep() -> nn.Module:
    """A network whose gradients are large beside the constants that the library adds to denominators."""
    module = copy.deepcopy(method_nets.model("resnet18").module)
    module.fc.weight.data *= 1e4
    return module


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("Grad-CAM", GradCAM),
        ("Grad-CAM++", GradCAMPlusPlus),
        ("XGrad-CAM", XGradCAM),
        ("HiRes-CAM", HiResCAM),
        ("Layer-CAM", LayerCAM),
    ],
)
@pytest.mark.parametrize("layer", ["layer2", "layer4"])
def test_cams_match_pytorch_grad_cam(method: str, kind: type[BaseCAM], layer: str) -> None:
    module, images = steep(), images_for("resnet18")
    found = maps(attrlib.wrap_model(module, 64), images, method, layer)
    own = copy.deepcopy(module)
    assert close(found, rival(kind, own, own.get_submodule(layer), images), 1e-3)


@pytest.mark.parametrize("layer", ["1", "3"])
def test_ablation_cam_matches_pytorch_grad_cam(layer: str) -> None:
    module, images = made(Modules), pictures(2, 16)
    own = copy.deepcopy(module)
    found = maps(attrlib.wrap_model(module, 16), images, "Ablation-CAM", layer)
    assert close(found, rival(AblationCAM, own, own.get_submodule(layer), images), 1e-3)


def test_score_cam_matches_pytorch_grad_cam_if_maps_have_the_size_of_the_image() -> None:
    # Elsewhere the library aligns the corners of the maps and the image, which moves the masks.
    module, images = made(Modules), pictures(2, 16)
    expected = rival(ScoreCAM, module, module[1], images)
    assert close(maps(attrlib.wrap_model(module, 16), images, "Score-CAM", "1"), expected)


# Formulas ----------------------------------------------------------------------------------------------------------------

LAYERS = [
    ("resnet18", "layer2.0.conv1"),
    ("resnet18", "layer4"),
    ("functional", ""),
    ("functional", "stage2"),
    ("not_square", "stage3"),
    ("vit_tiny", "blocks.1"),
    ("vit_tiny", "blocks.2"),
    ("channels_last", "blocks.1"),
]


def plain_cam(method: str, a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The map (h,w) of activations and gradients (C,h,w), channel by channel and position by position."""
    channels, height, width = a.shape
    total = np.zeros((height, width))
    for c in range(channels):
        weight = np.zeros((height, width))
        for i, j in product(range(height), range(width)):
            if method == "HiRes-CAM":
                weight[i, j] = g[c, i, j]
            elif method == "Layer-CAM":
                weight[i, j] = max(g[c, i, j], 0)
            elif method == "Grad-CAM":
                weight += g[c, i, j] / (height * width)
            elif method == "XGrad-CAM":
                weight += g[c, i, j] * a[c, i, j] / a[c].sum()
            elif g[c, i, j] > 0:
                alpha = g[c, i, j] ** 2 / (2 * g[c, i, j] ** 2 + a[c].sum() * g[c, i, j] ** 3)
                weight += alpha * max(g[c, i, j], 0)
        total += weight * a[c]
    return np.maximum(total, 0)


@pytest.mark.parametrize(("name", "path"), [own for own in LAYERS if own[0] != "resnet18" and own[1] != "blocks.2"])
@pytest.mark.parametrize("method", ["Grad-CAM", "Grad-CAM++", "XGrad-CAM", "HiRes-CAM", "Layer-CAM"])
def test_gradient_cams_follow_their_formulas_at_every_layout(method: str, name: str, path: str) -> None:
    model, images = method_nets.model(name), images_for(name)
    a, g = (values.double().numpy() for values in captured(model, path, images))
    expected = np.stack([plain_cam(method, a[k], g[k]) for k in range(2)])[:, None]
    assert close(maps(model, images, method, path or "Input"), torch.from_numpy(expected).float(), 1e-3)


def test_before_pooling_and_a_linear_head_cams_use_the_weights_of_the_head() -> None:
    model, images = method_nets.model("resnet18"), images_for("resnet18")
    activations, _ = captured(model, "layer4", images)
    expected = torch.einsum("bchw,bc->bhw", activations, model.module.fc.weight[TARGETS].detach())[:, None].relu()
    for method in ("Grad-CAM", "XGrad-CAM", "HiRes-CAM"):
        found = maps(model, images, method, "Final")
        assert close(found / found.amax(), expected / expected.amax(), 1e-5)
    assert close(maps(model, images, "HiRes-CAM", "Final"), maps(model, images, "IxG", "Final").relu(), 1e-6)


@pytest.mark.parametrize(("name", "path"), [("resnet18", "layer2"), ("functional", "stage2"), ("channels_last", "blocks.1")])
def test_hires_cam_is_the_positive_part_of_ixg(name: str, path: str) -> None:
    model, images = method_nets.model(name), images_for(name)
    assert close(maps(model, images, "HiRes-CAM", path), maps(model, images, "IxG", path).relu(), 1e-6)


class Dead(Rectified):
    """A channel of the first layer is never active."""

    def forward(self, x: Tensor) -> Tensor:
        alive = torch.ones(8).index_fill(0, torch.tensor([3]), 0)[:, None, None]
        return self.fc(F.relu(self.conv2(self.conv1(x) * alive)).mean((2, 3)))


@pytest.fixture(scope="module")
def dead() -> Model:
    module = made(Dead, F.relu)
    module.conv1.weight.data[3], module.conv1.bias.data[3] = 0, 0
    return attrlib.wrap_model(module, 16)


@pytest.mark.parametrize("method", [name for name, info in {i.name: i for i in attrlib.list_methods()}.items() if info.family == "CAM"])
def test_a_channel_that_is_never_active_gives_no_nan(dead: Model, method: str) -> None:
    small = {"samples": 2, "steps": 2}
    known = {p.name for m in attrlib.list_methods() if m.name == method for p in m.params}
    found = maps(dead, pictures(2, 16), method, "conv1", **{name: value for name, value in small.items() if name in known})
    assert found.isfinite().all()
    assert found.abs().amax() > 0


def noise_of(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> dict[int, Tensor]:
    """What a function of a module returns for its last argument, filled in while the method runs."""
    seen: dict[int, Tensor] = {}
    original = getattr(module, name)

    def recording(*args: object) -> Tensor:
        seen[args[-1]] = original(*args)
        return seen[args[-1]]

    monkeypatch.setattr(module, name, recording)
    return seen


@pytest.mark.parametrize(
    ("name", "path"), [("functional", "stage2"), ("functional", ""), ("vit_tiny", "blocks.1"), ("resnet18", "layer3.0.conv1")]
)
def test_smooth_grad_cam_plus_plus_matches_a_plain_loop_over_noisy_images(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, noise = method_nets.model(name), images_for(name), noise_of(monkeypatch, cams, "noise")
    found = maps(model, images, "Smooth Grad-CAM++", path or "Input", samples=3, std=0.7)
    assert sorted(noise) == [0, 1, 2]
    assert all(abs(float(n.std()) - 1) < 0.05 and abs(float(n.mean())) < 0.05 for n in noise.values())
    activations = captured(model, path, images)[0].double()
    gradients = torch.stack([captured(model, path, images + 0.7 * noise[i])[1].double() for i in range(3)])
    first, second, third = (gradients.pow(k).mean(0) for k in (1, 2, 3))
    alpha = (second / (2 * second + third * activations.sum((2, 3), keepdim=True))).nan_to_num(0)
    expected = ((alpha * first.relu()).sum((2, 3), keepdim=True) * activations).sum(1, keepdim=True).relu()
    assert close(found, expected.float(), 1e-3)


def test_smooth_grad_cam_plus_plus_without_noise_is_grad_cam_plus_plus() -> None:
    model, images = method_nets.model("functional"), images_for("functional")
    assert close(maps(model, images, "Smooth Grad-CAM++", std=0.0), maps(model, images, "Grad-CAM++"), 1e-4)


# Eigen-CAM and the Gaussian -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "path"), LAYERS)
def test_eigen_cam_is_the_projection_on_the_first_singular_vector_of_numpy(name: str, path: str) -> None:
    model, images = method_nets.model(name), images_for(name)
    activations, _ = captured(model, path, images)
    expected = []
    for one in activations.double().flatten(2).mT.numpy():
        along = one @ np.linalg.svd(one, full_matrices=False)[2][0]
        expected.append(np.maximum(along * np.sign(along.sum()), 0).reshape(activations.shape[2:]))
    found = maps(model, images, "Eigen-CAM", path or "Input")
    assert close(found[:, 0], torch.from_numpy(np.stack(expected)).float(), 1e-3)
    assert torch.equal(found, maps(model, images, "Eigen-CAM", path or "Input", targets=[2, 1]))


@pytest.mark.parametrize(("layer", "sigma"), [("Input", 0.25), ("Middle", 0.1)])
def test_gaussian_is_a_centred_normal_density_over_its_peak(layer: str, sigma: float) -> None:
    model = method_nets.model("not_square")
    height, width = model.layer(layer).shape[1:]
    row, column = np.indices((height, width))
    normal = scipy.stats.multivariate_normal([(height - 1) / 2, (width - 1) / 2], np.diag([(sigma * height) ** 2, (sigma * width) ** 2]))
    expected = normal.pdf(np.stack([row, column], axis=-1)) / normal.pdf(normal.mean)
    found = maps(model, images_for("not_square"), "Gaussian", layer, sigma=sigma)
    assert close(found[:, 0], torch.from_numpy(np.stack([expected] * 2)).float(), 1e-5)


# Ablation-CAM --------------------------------------------------------------------------------------------------------------


def plain_ablation(model: Model, path: str, images: Tensor) -> Tensor:
    """Every channel set to zero, by a forward hook."""
    activations, layer = captured(model, path, images)[0], model.layer(path or "Input")

    def logits(channel: int | None) -> Tensor:
        def ablate(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
            changed = output.clone()
            if channel is not None:
                layer.layout.spatial(changed)[:, channel] = 0
            return changed

        if not path:
            return model.module(ablate(model.module, (), images))[range(len(images)), TARGETS]
        handle = model.module.get_submodule(path).register_forward_hook(ablate)
        try:
            return model.module(images)[range(len(images)), TARGETS]
        finally:
            handle.remove()

    with torch.no_grad():
        full = logits(None).double()
        total = sum(((full - logits(c).double()) / full)[:, None, None] * activations[:, c].double() for c in range(activations.shape[1]))
    return total.relu()[:, None].float()


@pytest.mark.parametrize(("name", "path"), [own for own in LAYERS if own[0] not in ("resnet18", "vit_tiny")] + [("vit_tiny", "blocks.2")])
def test_ablation_cam_matches_a_plain_loop_over_channels(name: str, path: str) -> None:
    model, images = method_nets.model(name), images_for(name)
    assert close(maps(model, images, "Ablation-CAM", path or "Input"), plain_ablation(model, path, images), 2e-3)


class Rows(nn.Module):
    """Counts the images that its module is given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.count = module, 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += len(x)
        return self.module(x)


def test_ablation_cam_with_a_linear_head_takes_no_pass_per_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    module, images = copy.deepcopy(method_nets.model("resnet18").module), images_for("resnet18")
    module.fc = counter = Rows(module.fc)
    model = attrlib.wrap_model(module, 64)
    fast = maps(model, images, "Ablation-CAM", "Final")
    counter.count = 0
    maps(model, images, "Ablation-CAM", "Final")
    assert counter.count < 16
    monkeypatch.setattr(channel_cams, "is_affine", lambda context: False)
    slow = maps(model, images, "Ablation-CAM", "Final")
    assert counter.count > 2 * 512
    assert close(fast, slow, 1e-3)


class Gate(torch.autograd.Function):
    """x * (x > 0), whose graph shows one node of no known name."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient


class Tail(nn.Module):
    """A convolution followed by any function."""

    def __init__(self, tail: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm, self.fc, self.tail = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6, CLASSES), tail
        self.weight = nn.Parameter(torch.randn(CLASSES, 6, 12, 12))

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self, self.conv(x))


AFFINE: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "pool, linear": lambda net, x: net.fc(x.mean((2, 3))),
    "adaptive pool, flatten, linear": lambda net, x: net.fc(F.adaptive_avg_pool2d(x, 1).flatten(1)),
    "norm, pool, linear": lambda net, x: net.fc(net.norm(x).mean((2, 3))),
    "pool by windows": lambda net, x: net.fc(F.avg_pool2d(x, 4).sum((2, 3))) - 1,
    "a convolution as head": lambda net, x: F.conv2d(x, net.fc.weight[:, :, None, None], net.fc.bias).mean((2, 3)),
    "einsum over positions": lambda net, x: torch.einsum("bchw,kchw->bk", x, net.weight),
    "scaled": lambda net, x: 2 - net.fc(x[:, :, 2:-2].mean((2, 3)) * 3) / 5,
    "linear for every position": lambda net, x: net.fc(x.permute(0, 2, 3, 1)).mean((1, 2)),
}
BENT: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "relu": lambda net, x: net.fc(x.relu().mean((2, 3))),
    "max pool": lambda net, x: net.fc(x.amax((2, 3))),
    "product": lambda net, x: net.fc((x * x).mean((2, 3))),
    "product with itself by matrices": lambda net, x: net.fc((x.mean(3) @ x.mean(3).mT @ x.mean(3)).mean(2)),
    "quotient": lambda net, x: net.fc(x.mean((2, 3)) / (1 + x.square().mean((1, 2, 3), keepdim=True)[:, :, 0, 0])),
    "one over": lambda net, x: net.fc(1 / (3 + x.mean((2, 3)))),
    "gate that is detached": lambda net, x: net.fc((x * (x.detach() > 0)).mean((2, 3))),
    "norm by its own length, detached": lambda net, x: net.fc((x / x.detach().norm(dim=1, keepdim=True)).mean((2, 3))),
    "own function": lambda net, x: net.fc(Gate.apply(x).mean((2, 3))),
    "softmax": lambda net, x: net.fc(x.mean((2, 3))).softmax(1),
    "layer norm": lambda net, x: net.fc(F.layer_norm(x.mean((2, 3)), (6,))),
}


def meaning(tail: Callable[[nn.Module, Tensor], Tensor]) -> str:
    """Keep a softmax at the end, which is stepped over by default."""
    return "probabilities" if tail is BENT["softmax"] else "softmax"


def affine(tail: Callable[[nn.Module, Tensor], Tensor]) -> bool:
    model = attrlib.wrap_model(made(Tail, tail), 12, outputs=meaning(tail))
    layer = model.layer("conv")
    with model.session():
        return is_affine(AttributionContext(model, layer, model.place(pictures(2, 12)), torch.tensor(TARGETS)))


@pytest.mark.parametrize("tail", AFFINE)
def test_affine_heads_are_detected(tail: str) -> None:
    assert affine(AFFINE[tail])


@pytest.mark.parametrize("tail", BENT)
def test_heads_that_are_not_affine_are_detected(tail: str) -> None:
    assert not affine(BENT[tail])


@pytest.mark.parametrize("tail", [*AFFINE, *BENT])
def test_ablation_cam_matches_a_plain_loop_with_any_head(tail: str) -> None:
    net = (AFFINE | BENT)[tail]
    model, images = attrlib.wrap_model(made(Tail, net), 12, outputs=meaning(net)), pictures(2, 12)
    assert close(maps(model, images, "Ablation-CAM", "conv"), plain_ablation(model, "conv", images), 1e-3)


# Score-CAM and its kin -----------------------------------------------------------------------------------------------------


def plain_score_cam(
    model: Model, path: str, images: Tensor, weighting: str = "softmax", altered: Callable[[Tensor], Iterator[Tensor]] = lambda m: iter([m])
) -> Tensor:
    """One image, one channel and one mask at a time."""
    activations = captured(model, path, images)[0]
    found = []
    for one, image, target in zip(activations, images, TARGETS, strict=True):
        scores = torch.full((len(one),), -torch.inf)
        for c, channel in enumerate(one):
            mask = F.interpolate(channel[None, None], size=image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
            if mask.max() == mask.min():
                continue
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            with torch.no_grad():
                outputs = torch.cat([model.module((image * m)[None]) for m in altered(mask)])
            scores[c] = (outputs if weighting == "softmax" else outputs.softmax(1))[:, target].mean()
        weights = scores.softmax(0) if weighting == "softmax" else scores.clamp(min=0)
        found.append((weights[:, None, None] * one).sum(0).relu()[None])
    return torch.stack(found)


SCORED = [("functional", ""), ("functional", "stage2"), ("not_square", "stage3"), ("channels_last", "blocks.1")]


@pytest.mark.parametrize(
    ("name", "path", "weighting"),
    [(*own, weighting) for own in SCORED for weighting in ("softmax", "probability")] + [("vit_tiny", "blocks.1", "softmax")],
)
def test_score_cam_matches_a_plain_loop_over_channels(name: str, path: str, weighting: str) -> None:
    model, images = method_nets.model(name), images_for(name)
    assert close(maps(model, images, "Score-CAM", path or "Input", weighting=weighting), plain_score_cam(model, path, images, weighting))


@pytest.mark.parametrize("weighting", ["softmax", "probability"])
def test_score_cam_leaves_out_channels_that_are_constant(dead: Model, weighting: str) -> None:
    images = pictures(2, 16)
    assert close(maps(dead, images, "Score-CAM", "conv1", weighting=weighting), plain_score_cam(dead, "conv1", images, weighting))


def test_score_cam_of_only_constant_maps_is_zero(dead: Model) -> None:
    module = copy.deepcopy(dead.module)
    module.conv1.weight.data.zero_()
    assert (maps(attrlib.wrap_model(module, 16), pictures(2, 16), "Score-CAM", "conv1") == 0).all()


def test_ss_cam_matches_a_plain_loop_over_noisy_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = method_nets.model("functional"), images_for("functional")
    noise = noise_of(monkeypatch, channel_cams, "mask_noise")
    found = maps(model, images, "SS-CAM", "stage2", samples=3, std=0.5)
    assert sorted(noise) == [0, 1, 2]
    assert all(n.shape == (64, 64) and abs(float(n.std()) - 1) < 0.05 for n in noise.values())
    assert close(found, plain_score_cam(model, "stage2", images, altered=lambda mask: (mask + 0.5 * noise[i] for i in range(3))))


def test_is_cam_matches_a_plain_loop_over_steps() -> None:
    model, images = method_nets.model("functional"), images_for("functional")
    expected = plain_score_cam(model, "stage2", images, altered=lambda mask: (mask * (i + 1) / 4 for i in range(4)))
    assert close(maps(model, images, "IS-CAM", "stage2", steps=4), expected)


def test_score_cam_of_the_top_channels_matches_a_model_without_the_others() -> None:
    model, images = method_nets.model("functional"), images_for("functional", 1)
    activations = captured(model, "stage2", images.expand(2, -1, -1, -1))[0][0]
    strongest = activations.flatten(1).std(1).argsort(descending=True)[:3]
    one_by_one = [maps(model, images, "Score-CAM", "stage2", targets=0, top=k) for k in (1, 3)]
    best = activations[strongest[0]]
    assert close(one_by_one[0][0, 0], best.relu())
    span = torch.linalg.lstsq(activations[strongest].relu().flatten(1).T, one_by_one[1].flatten()[:, None])
    assert span.solution.flatten().min() > -1
    every = maps(model, images, "Score-CAM", "stage2", targets=0)
    assert close(maps(model, images, "Score-CAM", "stage2", targets=0, top=8192), every, 1e-6)


# Guided Grad-CAM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cam", "place"), [("Final", 3), ("First", 0)])
def test_guided_grad_cam_matches_captum(cam: str, place: int) -> None:
    module, images = made(Modules), pictures(2, 16)
    own = copy.deepcopy(module)
    method = captum.attr.GuidedGradCam(own, own[place])
    expected = method.attribute(images.clone().requires_grad_(), TARGETS, interpolate_mode="bilinear")
    model = attrlib.wrap_model(module, 16, layers={"Final": str(place or 3)})
    assert close(maps(model, images, "Guided Grad-CAM", "Input", cam=cam), expected.detach().sum(1, keepdim=True))


def test_guided_grad_cam_is_guided_backprop_times_grad_cam_at_any_layer() -> None:
    model, images = method_nets.model("resnet18"), images_for("resnet18")
    for layer, cam in product(("Input", "Middle"), ("Final", "Middle")):
        weight = attrlib.resize(maps(model, images, "Grad-CAM", cam), model.layer(layer).shape[1:])
        assert close(maps(model, images, "Guided Grad-CAM", layer, cam=cam), maps(model, images, "Guided Backprop", layer) * weight)


def test_guided_grad_cam_is_refused_with_the_reason_before_anything_is_computed() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3 * 64, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1)).relu()

    model = attrlib.wrap_model(made(Flat), 8)
    with pytest.raises(LayerError, match="no convolution"):
        attrlib.explain(model, pictures(1, 8), "Guided Grad-CAM", 0, cam="First")
    with pytest.raises(LayerError, match="Final"):
        attrlib.explain(model, pictures(1, 8), "Guided Grad-CAM", 0)
    with pytest.raises(MethodError, match="ReLU networks"):
        attrlib.explain(method_nets.model("vit_tiny"), images_for("vit_tiny"), "Guided Grad-CAM", 0)


# Items that share an image -------------------------------------------------------------------------------------------------


class Whole(nn.Module):
    """A network that counts its input rows."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.rows = Rectified(F.relu), 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return self.net(x)


@pytest.mark.parametrize(("method", "count"), [("Score-CAM", 8), ("SS-CAM:samples=3", 24), ("IS-CAM:steps=3", 24)])
def test_all_targets_of_an_image_share_the_masked_passes(method: str, count: int) -> None:
    module, images = made(Whole), pictures(2, 16)
    model = attrlib.wrap_model(module, 16)
    spec = attrlib.MethodSpec.parse(method)
    single = attrlib.methods.attribute(model, spec, images, [0, 3])
    module.rows = 0
    found = attrlib.methods.attribute(model, spec, images, [0, 1, 2, 3, 4], owners=[0, 0, 0, 1, 1])
    # One pass to the layer for each image beside the masked ones.
    assert module.rows <= 2 * count + 2
    assert close(found.maps[[0, 3]], single.maps, 1e-5)
