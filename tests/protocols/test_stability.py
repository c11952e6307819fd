"""Sensitivity against Captum; robustness against skimage, SciPy and PIL; randomisation against the parameters themselves."""

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import attrlib  # before captum and torchvision: it declares the operators that torchvision may lack

# isort: split
import captum.attr
import captum.metrics
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import skimage.metrics
import skimage.transform
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image, ImageEnhance
from support import method_nets
from support.method_nets import CLASSES, Quadratic, Rectified, made, pictures
from torch import Tensor, nn

from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluator import Evaluator
from attrlib.methods import resolve
from attrlib.models import Layer
from attrlib.models.layers import Layout
from attrlib.models.randomised import randomised
from attrlib.protocols import Batch, EvalBatch, EvalContext, Explain, ExplanationRequest, Measurement, Outcome, create
from attrlib.specs import MethodSpec, ProtocolSpec

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")
Model = attrlib.Classifier
SIZE = (12, 20)
TARGETS = (2, 0, 4)
IDS = ("a", "b", "c")
# Before the last LayerNorm of a transformer, the sum over channels is zero.
IXG = "IxG:channels=abs-sum"
Measured = dict[Measurement, dict[str, Tensor]]


class Spy:
    """A method that keeps what it is asked, and answers as a real method does, or with maps that are given call by call."""

    def __init__(self, model: Model, method: str | Sequence[Tensor], seed: int = 0) -> None:
        self.requests: list[ExplanationRequest] = []
        self.maps = None if isinstance(method, str) else method
        self.inner: Explain | None = None
        if isinstance(method, str):
            self.inner = Evaluator(model, InMemoryCache(), seed).explainer(resolve(MethodSpec.parse(method)))

    def __call__(self, request: ExplanationRequest) -> tuple[Tensor, Layer]:
        self.requests.append(request)
        if self.inner is not None:
            return self.inner(request)
        assert self.maps is not None
        maps = self.maps[min(len(self.requests), len(self.maps)) - 1]
        return maps, Layer("given", "given", Layout("NCHW", 1, *maps.shape[2:]))


def evaluate(
    protocol: str, model: Model, images: Tensor, explain: Explain, targets: Sequence[int] = TARGETS, ids: Sequence[str] = IDS, seed: int = 0,
    measured: dict[str, Tensor] | None = None, setting: EvalContext | None = None,
) -> list[Outcome]:  # fmt: skip
    """The outcomes of a protocol; `measured` stands in for what it measures."""
    own, setting = create(ProtocolSpec.parse(protocol)), setting or EvalContext(model, seed)
    labels = torch.tensor(list(targets))
    batch = Batch(tuple(ids), images, labels)
    known = {m: measured or m.measure(setting, batch, labels) for m in own.measurements}
    return own.evaluate(EvalBatch(setting, batch, labels, known, explain))


def values(outcomes: Sequence[Outcome]) -> np.ndarray:
    return np.array([outcome.value for outcome in outcomes])


def tanh_model(size: tuple[int, int] = SIZE) -> Model:
    return attrlib.wrap_model(made(Rectified, torch.tanh), size)


# Sensitivity -----------------------------------------------------------------------------------------------------------


def captum_method(module: nn.Module, method: str) -> Callable[..., tuple[Tensor]]:
    """An explanation function whose maps are summed over channels."""
    attribute, options = {
        "Gradient": (captum.attr.Saliency(module).attribute, {"abs": False}),
        "IxG": (captum.attr.InputXGradient(module).attribute, {}),
        "IG:steps=4": (captum.attr.IntegratedGradients(module).attribute, {"n_steps": 4, "method": "gausslegendre"}),
        "Grad-CAM@conv2": (captum.attr.LayerGradCam(module, module.conv2).attribute, {"relu_attributions": True}),
    }[method]

    def explain(x: Tensor | tuple[Tensor], target: Tensor) -> tuple[Tensor]:
        x = x[0] if isinstance(x, tuple) else x
        return (attribute(x.detach().requires_grad_(), target=target, **options).sum(1, keepdim=True).float(),)

    return explain


@pytest.mark.parametrize("radius", [0.02, 0.7])
@pytest.mark.parametrize("method", ["Gradient", "IxG", "IG:steps=4", "Grad-CAM@conv2"])
def test_sensitivity_matches_sensitivity_max_of_captum_on_the_same_perturbations(method: str, radius: float) -> None:
    model, images = tanh_model(), pictures(3, *SIZE)
    with torch.no_grad():
        # So that no class activation map is all zero.
        model.module.fc.weight.abs_()
        model.module.conv2.bias += 1
    spy = Spy(model, method)
    found = evaluate(f"sensitivity:samples=4:radius={radius}", model, images, spy)
    assert len(spy.requests) == 5
    assert torch.equal(spy.requests[0].images, images)
    moved = torch.stack([request.images for request in spy.requests[1:]], 1).flatten(0, 1)
    expected = captum.metrics.sensitivity_max(
        captum_method(model.module, method), images, lambda _: moved, n_perturb_samples=4, target=torch.tensor(TARGETS)
    )
    assert expected.min() > 1e-4
    assert np.allclose(values(found), expected.numpy(), rtol=1e-3)
    assert all(len(set(o.details["ratios"])) == 4 and max(o.details["ratios"]) == o.value for o in found)


def moves(radius: float, ids: Sequence[str] = IDS, seed: int = 0, samples: int = 5, images: Tensor | None = None) -> Tensor:
    """Perturbations (samples,B,3,H,W)."""
    images = torch.zeros(len(ids), 3, *SIZE) if images is None else images
    spy = Spy(tanh_model(), [torch.ones(len(ids), 1, *SIZE)])
    evaluate(f"sensitivity:samples={samples}:radius={radius}", tanh_model(), images, spy, [0] * len(ids), ids, seed)
    return torch.stack([request.images for request in spy.requests[1:]]) - images


@pytest.mark.parametrize("radius", [0.02, 3.0])
def test_perturbations_are_uniform_and_independent_in_every_value(radius: float) -> None:
    found = moves(radius)
    assert found.shape == (5, 3, 3, *SIZE)
    assert scipy.stats.kstest(found.flatten() / radius, scipy.stats.uniform(-1, 2).cdf).pvalue > 0.01
    assert np.abs(np.corrcoef(found.flatten(3).flatten(0, 2)) - np.eye(45)).max() < 0.35


def test_perturbations_depend_only_on_the_seed_and_the_item() -> None:
    found = moves(0.5)
    assert torch.equal(moves(0.5, IDS[::-1]).flip(1), found)
    assert torch.equal(moves(0.5, samples=2), found[:2])
    assert torch.allclose(moves(1.0), 2 * found)
    assert torch.allclose(moves(0.5, images=pictures(3, *SIZE)), found, atol=1e-6)
    for other in (moves(0.5, seed=1), moves(0.5, "def")):
        assert (other - found).abs().mean() > 0.1


@pytest.mark.parametrize("method", ["SmoothGrad:samples=4", "RISE:samples=6:cells=4", "IxG@Final"])
def test_a_random_method_draws_the_same_numbers_for_the_image_and_its_perturbations(method: str) -> None:
    model, images = tanh_model(), pictures(3, *SIZE)
    spy = Spy(model, method, seed=3)
    found = evaluate("sensitivity:samples=3", model, images, spy, seed=3)
    maps = [attrlib.explain(model, request.images, method, TARGETS, seed=3).maps.double().flatten(1) for request in spy.requests]
    ratios = torch.stack([(other - maps[0]).norm(dim=1) / maps[0].norm(dim=1) for other in maps[1:]])
    assert values(found) == pytest.approx(ratios.amax(0).numpy(), rel=1e-3)
    assert values(found).max() < 0.25


def test_smoothgrad_of_a_quadratic_model_moves_as_little_as_the_image() -> None:
    # (k+1) (x + noise): other noise would move the map by a third of its norm.
    model = attrlib.wrap_model(Quadratic(), 16)
    found = values(evaluate("sensitivity:samples=3:radius=0.01", model, pictures(3, 16), Spy(model, "SmoothGrad")))
    assert found.min() > 0.001
    assert found.max() < 0.02


def test_a_map_that_is_random_for_every_picture_is_not_stable() -> None:
    # Independent U[0,1): |a - b| / |a| is near (1/6)^(1/2) / (1/3)^(1/2).
    model = tanh_model((24, 24))
    found = values(evaluate("sensitivity:samples=3", model, pictures(3, 24), Spy(model, "Random")))
    assert found == pytest.approx([0.5**0.5] * 3, abs=0.08)


def test_a_constant_map_scores_0_and_a_zero_or_non_finite_map_is_undefined() -> None:
    maps = torch.full((4, 1, 3, 3), 0.7)
    maps[1], maps[2, 0, 1, 1] = 0, math.nan
    broken = maps.clone()
    broken[3, 0, 0, 0] = math.inf
    images = pictures(4, *SIZE)
    found = evaluate("sensitivity:samples=2", tanh_model(), images, Spy(tanh_model(), [maps, maps, broken]), range(4), "abcd")
    assert np.isnan(values(found)).tolist() == [False, True, True, True]
    assert found[0].value == 0
    assert found[0].details["ratios"] == [0, 0]


def test_the_score_is_the_largest_change_relative_to_the_original() -> None:
    original = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    other = [original + torch.tensor(d).view(1, 1, 1, 2) for d in ([0.0, 1.0], [-6.0, 8.0], [5.0, 0.0])]
    spy = Spy(tanh_model(), [original, *other])
    (found,) = evaluate("sensitivity:samples=3", tanh_model(), pictures(1, *SIZE), spy, [0], "a")
    assert found.details["ratios"] == pytest.approx([0.2, 2.0, 1.0])
    assert found.value == pytest.approx(2.0)


# Robustness ------------------------------------------------------------------------------------------------------------


class PerPixel(nn.Module):
    """Logits are sums over pixels of a linear function of their colour: what is true of a pixel stays true where it is moved to."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x.sum((2, 3)) @ self.weight.T / x[0, 0].numel()


def smooth_pictures(count: int, height: int, width: int) -> Tensor:
    coarse = pictures(count, max(2, height // 8), max(2, width // 8), seed=6)
    return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)


def skimage_rotated(values: Tensor, degrees: float) -> np.ndarray:
    planes = values.double().numpy().reshape(-1, *values.shape[2:])
    turned = [skimage.transform.rotate(plane, degrees, order=1, mode="constant", cval=0, preserve_range=True) for plane in planes]
    return np.stack(turned).reshape(values.shape)


def scipy_rotated(values: Tensor, degrees: float) -> np.ndarray:
    return scipy.ndimage.rotate(values.double().numpy(), degrees, axes=(2, 3), reshape=False, order=1)


@pytest.mark.parametrize("oracle", [skimage_rotated, scipy_rotated])
@pytest.mark.parametrize("size", [(32, 32), (31, 45), (48, 20)])
@pytest.mark.parametrize("amount", [None, 7.0, 90.0, 131.0])
def test_images_are_rotated_as_by_skimage_and_scipy(
    oracle: Callable[[Tensor, float], np.ndarray], size: tuple[int, int], amount: float | None
) -> None:
    model, images = tanh_model(size), pictures(3, *size)
    spy = Spy(model, [torch.ones(3, 1, *size)])
    evaluate("robustness:tolerance=1" + (f":amount={amount}" if amount else ""), model, images, spy)
    most = amount or 30.0
    for degrees, request in zip((-most, -most / 2, most / 2, most), spy.requests[1:], strict=True):
        inside = scipy.ndimage.minimum_filter(skimage_rotated(torch.ones(1, 1, *size), degrees)[0, 0], 3, mode="constant") > 0.999
        expected = oracle(images, degrees)
        assert inside.mean() > 0.2
        assert np.allclose(request.images.numpy()[:, :, inside], expected[:, :, inside], atol=1e-3)
        outside = skimage_rotated(torch.ones(1, 1, *size), degrees)[0, 0] == 0
        assert np.abs(request.images.numpy()[:, :, outside]).max(initial=0) < 1e-3


@pytest.mark.parametrize("side", [24, 25])
@pytest.mark.parametrize("method", ["IxG", "IG:steps=2"])
def test_a_map_that_rotates_with_the_image_scores_exactly_1_at_right_angles(side: int, method: str) -> None:
    model = attrlib.wrap_model(made(PerPixel), side)
    found = evaluate("robustness:amount=180:tolerance=1", model, pictures(3, side), Spy(model, method))
    assert values(found) == pytest.approx([1, 1, 1], abs=1e-5)
    half = evaluate("robustness:amount=90:tolerance=1", model, pictures(3, side), Spy(model, method))
    assert [o.details["ssim"][k] for o in half for k in (0, 3)] == pytest.approx([1] * 6, abs=1e-5)
    unmoved = attrlib.explain(model, pictures(3, side), method, TARGETS).maps
    still = evaluate("robustness:amount=180:tolerance=1", model, pictures(3, side), Spy(model, [unmoved]))
    assert values(still).max() < 0.5


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_a_map_that_rotates_with_the_image_scores_nearly_1_at_any_angle(size: tuple[int, int]) -> None:
    model = attrlib.wrap_model(made(PerPixel), size)
    found = evaluate("robustness:tolerance=1", model, smooth_pictures(3, *size), Spy(model, "IxG"))
    assert values(found).min() > 0.99


def windows_inside(size: tuple[int, int], degrees: float) -> np.ndarray:
    """Where a window of 7 x 7 pixels lies wholly on what is still there when an image was turned and turned back."""
    there = skimage_rotated(torch.from_numpy(skimage_rotated(torch.ones(1, 1, *size), degrees)), -degrees)[0, 0] > 0.999
    return scipy.ndimage.minimum_filter(there, 7, mode="constant", cval=0)


def test_maps_are_compared_by_the_ssim_of_skimage_inside_the_rotated_image() -> None:
    size = (40, 52)
    model = tanh_model(size)
    maps = [smooth_pictures(6, *size)[k : k + 2, :1] for k in range(5)]
    # The extremes lie in the middle, so that the range is the same wherever it is taken.
    maps[0][..., 20, 25], maps[0][..., 20, 27] = 5, -5
    found = evaluate("robustness:tolerance=1", model, pictures(2, *size), Spy(model, maps), [0, 1], "ab")
    for row, outcome in enumerate(found):
        expected = []
        for degrees, turned in zip((-30, -15, 15, 30), maps[1:], strict=True):
            back = skimage_rotated(turned, -degrees)[row, 0]
            one = maps[0][row, 0].double().numpy()
            _, local = skimage.metrics.structural_similarity(one, back, data_range=10, full=True)
            expected.append(local[windows_inside(size, degrees)].mean())
        assert outcome.details["ssim"] == pytest.approx(expected, abs=1e-3)
        assert outcome.value == pytest.approx(np.mean(expected), abs=1e-3)


@pytest.mark.parametrize("change", ["brightness", "contrast", "saturation", "sharpness"])
def test_under_a_filter_maps_are_compared_by_the_mean_ssim_of_skimage(change: str) -> None:
    model, maps = tanh_model((20, 24)), [pictures(2, 20, 24, seed=s)[:, :1] + smooth_pictures(2, 20, 24)[:, :1] for s in (1, 2, 3)]
    found = evaluate(f"robustness:change={change}:tolerance=1", model, pictures(2, 20, 24), Spy(model, maps), [0, 1], "ab")
    for row, outcome in enumerate(found):
        one, *others = (each[row, 0].double().numpy() for each in maps)
        spreads = [max(one.max(), other.max()) - min(one.min(), other.min()) for other in others]
        expected = [skimage.metrics.structural_similarity(one, o, data_range=s) for o, s in zip(others, spreads, strict=True)]
        assert outcome.details["ssim"] == pytest.approx(expected, abs=1e-6)


def test_low_resolution_maps_are_compared_at_the_size_of_the_image() -> None:
    model = tanh_model((24, 24))
    small = [pictures(1, 6, seed=s)[:, :1] for s in range(3)]
    large = [F.interpolate(each, size=(24, 24), mode="bilinear") for each in small]
    one, other = (
        evaluate("robustness:change=contrast:tolerance=1", model, pictures(1, 24), Spy(model, m), [0], "a") for m in (small, large)
    )
    assert one[0].value == pytest.approx(other[0].value, abs=1e-5)


@pytest.mark.parametrize(("change", "amount"), [("brightness", None), ("contrast", 1.0), ("saturation", 0.25), ("sharpness", 2.0)])
def test_colour_filters_match_pil(change: str, amount: float | None) -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    model = attrlib.wrap_model(made(Rectified, torch.tanh), (24, 32), mean, std)
    photos = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3)).astype(np.uint8)
    photos[1] = photos[1] // 3 + 40
    colours = torch.from_numpy(photos).float().permute(0, 3, 1, 2) / 255
    images = (colours - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    spy = Spy(model, [torch.ones(2, 1, 24, 32)])
    text = f"robustness:change={change}:tolerance=1" + (f":amount={amount}" if amount else "")
    evaluate(text, model, images, spy, [0, 1], "ab")
    most = 1 + (amount or 0.5)
    enhance = {
        "brightness": ImageEnhance.Brightness, "contrast": ImageEnhance.Contrast, "saturation": ImageEnhance.Color,
        "sharpness": ImageEnhance.Sharpness,
    }[change]  # fmt: skip
    assert len(spy.requests) == 3
    for factor, request in zip((1 / most, most), spy.requests[1:], strict=True):
        found = (request.images * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)).permute(0, 2, 3, 1) * 255
        expected = np.stack([np.asarray(enhance(Image.fromarray(photo)).enhance(factor), dtype=float) for photo in photos])
        assert np.abs(found.numpy() - expected).max() < 1.6
        assert np.abs(expected - photos).mean() > 5


def test_only_changes_that_hardly_move_the_probability_count() -> None:
    size = (16, 16)
    model, images = tanh_model(size), pictures(4, *size)
    probability = torch.tensor([[0.5, 0.54, 0.47], [0.5, 0.56, 0.47], [0.5, 0.52, 0.1], [0.5, 0.6, 0.4]])

    def outcomes(tolerance: float) -> tuple[list[Outcome], int]:
        spy = Spy(model, "IxG")
        protocol = f"robustness:change=contrast:tolerance={tolerance}"
        return evaluate(protocol, model, images, spy, range(4), "abcd", measured={"probability": probability}), len(spy.requests)

    every, asked = outcomes(1)
    full = np.array([o.details["ssim"] for o in every])
    assert np.isfinite(full).all()
    assert np.ptp(full, axis=1).min() > 1e-3
    assert values(every) == pytest.approx(full.mean(1))
    some, _ = outcomes(0.05)
    assert np.isnan([o.details["ssim"] for o in some]).tolist() == [[False, False], [True, False], [False, True], [True, True]]
    assert values(some) == pytest.approx([full[0].mean(), full[1, 1], full[2, 0], math.nan], abs=1e-6, nan_ok=True)
    none, asked_for_none = outcomes(0.001)
    assert np.isnan(values(none)).all()
    assert (asked, asked_for_none) == (3, 1), "what does not count was explained all the same"


def test_the_measured_probability_is_that_of_the_target_for_the_explained_images() -> None:
    model, images = tanh_model(), pictures(3, *SIZE)
    protocol, setting = create(ProtocolSpec("robustness")), EvalContext(model)
    batch = Batch(IDS, images, torch.tensor(TARGETS))
    (measured,) = (m.measure(setting, batch, batch.labels)["probability"] for m in protocol.measurements)
    spy = Spy(model, [torch.ones(3, 1, *SIZE)])
    evaluate("robustness:tolerance=1", model, images, spy)
    with torch.no_grad():
        expected = torch.stack([model.module(request.images).softmax(1)[range(3), TARGETS] for request in spy.requests], 1)
    assert torch.allclose(measured, expected, atol=1e-6)
    assert protocol.measurements[0].forwards() == measured.shape[1] == 5


@pytest.mark.parametrize("change", ["rotation", "brightness"])
@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
def test_a_constant_map_or_one_that_is_not_finite_is_undefined(change: str, value: float) -> None:
    size = (24, 24)
    maps = torch.full((3, 1, *size), value)
    maps[1, 0, 12, 12], maps[2, 0, 12, 12] = math.nan, math.inf
    protocol = f"robustness:change={change}:tolerance=1"
    assert np.isnan(values(evaluate(protocol, tanh_model(size), pictures(3, *size), Spy(tanh_model(size), [maps])))).all()


# Randomisation ---------------------------------------------------------------------------------------------------------


class Chain(nn.Sequential):
    """Eight layers with parameters in a row."""

    def __init__(self) -> None:
        super().__init__()
        for k, (channels, stride) in enumerate(((8, 1), (8, 2), (8, 2))):
            self.add_module(f"conv{k}", nn.Conv2d(3 if k == 0 else 8, channels, 3, stride, 1))
            self.add_module(f"norm{k}", nn.BatchNorm2d(channels))
            self.add_module(f"act{k}", nn.ReLU())
        self.add_module("conv3", nn.Conv2d(8, 8, 3, padding=1))
        self.add_module("pool", nn.AdaptiveAvgPool2d(1))
        self.add_module("flat", nn.Flatten())
        self.add_module("fc", nn.Linear(8, CLASSES))
        with torch.no_grad():
            for p in self.parameters():
                p += 0.2 * torch.randn_like(p)


CHAIN = ("fc", "conv3", "norm2", "conv2", "norm1", "conv1", "norm0", "conv0")


def chain() -> Model:
    return attrlib.wrap_model(made(Chain), (16, 24))


def shuffled(model: Model, twin: Model) -> set[str]:
    """The modules whose own parameters differ."""
    pairs = zip(model.module.named_parameters(), twin.module.named_parameters(), strict=True)
    return {name.rpartition(".")[0] for (name, one), (_, other) in pairs if not torch.equal(one, other)}


def parameters(model: Model) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in model.module.state_dict().items()}


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_exactly_the_last_share_of_layers_is_shuffled_and_keeps_its_values(stage: int) -> None:
    model = chain()
    before = parameters(model)
    twin = randomised(model, stage / 4, seed=0)
    assert shuffled(model, twin) == set(CHAIN[: 2 * stage])
    for name, tensor in model.module.named_parameters():
        other = twin.module.get_parameter(name)
        assert torch.equal(other.flatten().sort().values, tensor.flatten().sort().values)
        assert other.shape == tensor.shape
    for name, buffer in model.module.named_buffers():
        assert torch.equal(buffer, twin.module.get_buffer(name))
    assert parameters(model) == before
    weight = twin.module.fc.weight.detach().flatten()
    assert (weight == model.module.fc.weight.detach().flatten()).float().mean() < 0.3, "hardly anything was moved"


def test_shuffling_depends_only_on_the_seed_and_later_stages_extend_earlier_ones() -> None:
    model = chain()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    twins = [randomised(model, share, 0) for share in (0.25, 0.5, 1.0)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert parameters(randomised(chain(), 0.5, 0)) == parameters(twins[1])
    assert shuffled(twins[1], randomised(model, 0.5, 1)) == set(CHAIN[:4])
    for few, more in pairwise(twins):
        assert not shuffled(few, more) & shuffled(model, few)
    same = made(Chain)
    with torch.no_grad():
        same.norm1.weight.copy_(same.norm2.weight)
    twin = randomised(attrlib.wrap_model(same, (16, 24)), 1.0, 0)
    assert not torch.equal(twin.module.norm1.weight, twin.module.norm2.weight), "every layer is shuffled in its own way"


def test_even_the_first_of_many_stages_shuffles_the_layer_of_the_logits() -> None:
    model = chain()
    assert shuffled(model, randomised(model, 1 / 20, 0)) == {"fc"}


def test_a_share_that_is_a_whole_number_of_layers_is_exactly_that() -> None:
    def deep() -> nn.Module:
        return nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(41)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, CLASSES))

    model = attrlib.wrap_model(made(deep), 8)
    # 9 / 14 * 42 is 27 but for rounding.
    assert len(shuffled(model, randomised(model, 9 / 14, 0))) == 27


def test_positions_and_tokens_of_a_transformer_are_the_input_and_shuffled_last() -> None:
    model = method_nets.model("vit_tiny")
    noisy = attrlib.wrap_model(copy.deepcopy(model.module), 64)
    with torch.no_grad():
        for p in noisy.module.parameters():
            p += torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
    twin = randomised(noisy, 0.25, 0)
    changed = {name for name, p in noisy.module.named_parameters() if not torch.equal(p, twin.module.get_parameter(name))}
    assert {"head.weight", "head.bias", "norm.weight"} <= changed
    assert not {name for name in changed if name.startswith(("patch_embed", "blocks.0", "blocks.1", "pos_embed", "cls_token"))}
    whole = randomised(noisy, 1.0, 0)
    assert all(not torch.equal(p, whole.module.get_parameter(name)) for name, p in noisy.module.named_parameters())


class Attending(nn.Module):
    """Attention as torch has it, whose last projection is used without being called."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, CLASSES)
        nn.init.normal_(self.attention.in_proj_bias)
        nn.init.normal_(self.attention.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


def test_parameters_of_modules_that_are_never_called_are_shuffled_with_what_uses_them() -> None:
    model = attrlib.wrap_model(made(Attending), 16)
    assert shuffled(model, randomised(model, 2 / 3, 0)) == {"head", "attention", "attention.out_proj"}
    assert shuffled(model, randomised(model, 1.0, 0)) == {"head", "attention", "attention.out_proj", "patch"}


@pytest.mark.parametrize("name", ["functional", "channels_last", "vit_tiny"])
def test_a_twin_is_an_independent_model_at_every_layer(name: str) -> None:
    model = method_nets.model(name)
    images = pictures(2, *model.input_size)
    originals = {layer: attrlib.explain(model, images, IXG, [0, 1], layer).maps for layer in ("Input", "Middle", "Final")}
    twin = randomised(model, 1.0, 0)
    p = twin.preprocessing
    alone = attrlib.wrap_model(
        copy.deepcopy(twin.module), p.size, p.mean, p.std, layers={n: twin.layer(n).path for n in ("Middle", "Final")}
    )
    assert not torch.allclose(twin(images), model(images), atol=1e-3)
    for layer, original in originals.items():
        found = attrlib.explain(twin, images, IXG, [0, 1], layer).maps
        assert torch.allclose(
            found, attrlib.explain(alone, images, IXG, [0, 1], layer).maps, rtol=1e-4, atol=1e-6 * float(found.abs().max())
        )
        assert not torch.allclose(found, original, rtol=0.1)
        assert torch.equal(attrlib.explain(model, images, IXG, [0, 1], layer).maps, original)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("method", ["Gradient", "IxG@conv2"])
def test_each_stage_is_the_rank_correlation_with_the_map_of_the_shuffled_model(method: str, absolute: bool) -> None:
    model, images, seed = chain(), pictures(3, 16, 24), 5
    spy = Spy(model, method, seed)
    found = evaluate(f"randomisation:stages=4:absolute={absolute}", model, images, spy, seed=seed)
    assert [shuffled(model, request.model) for request in spy.requests] == [set(CHAIN[: 2 * stage]) for stage in range(5)]
    assert [request.model is model for request in spy.requests] == [True, False, False, False, False]
    alone = [attrlib.wrap_model(copy.deepcopy(request.model.module), (16, 24)) for request in spy.requests]
    maps = [attrlib.explain(each, images, method, TARGETS).maps.flatten(1).double().numpy() for each in alone]
    maps = [np.abs(each) for each in maps] if absolute else maps
    for row, outcome in enumerate(found):
        expected = [scipy.stats.spearmanr(maps[0][row], other[row]).statistic for other in maps[1:]]
        assert outcome.details["stages"] == pytest.approx(expected, abs=2e-3)
        assert outcome.value == pytest.approx(np.mean(expected), abs=2e-3)
        assert np.ptp(expected) > 0.01


@pytest.mark.parametrize("method", ["Sobel", "Random"])
def test_a_map_that_does_not_depend_on_the_model_scores_1(method: str) -> None:
    model = chain()
    found = evaluate("randomisation", model, pictures(3, 16, 24), Spy(model, method))
    assert values(found) == pytest.approx([1, 1, 1], abs=1e-9)
    assert [o.details["stages"] for o in found] == [pytest.approx([1] * 4, abs=1e-9)] * 3


def test_twins_are_created_once_per_setting_and_stages_never_share_maps() -> None:
    model, setting = chain(), EvalContext(chain())
    spies = [Spy(model, "Gradient"), Spy(model, "Gradient")]
    for spy in spies:
        evaluate("randomisation:stages=2", model, pictures(3, 16, 24), spy, setting=setting)
    assert [one.model is other.model for one, other in zip(*(spy.requests for spy in spies), strict=True)] == [True] * 3
    views = [request.view for request in spies[0].requests]
    assert views[0] == ""
    assert len(set(views)) == 3


def test_a_constant_map_is_undefined_unless_it_is_that_of_the_shuffled_model() -> None:
    # A class activation map of shuffled weights is often all zero: nothing is left of the original.
    maps = torch.cat([torch.full((1, 1, 4, 4), 0.3), pictures(2, 4)[:, :1]])
    other = pictures(3, 4, seed=3)[:, :1].clone()
    other[1] = 0
    found = evaluate("randomisation:stages=2", chain(), pictures(3, 16, 24), Spy(chain(), [maps, other, pictures(3, 4, seed=4)[:, :1]]))
    assert np.isnan(values(found)).tolist() == [True, False, False]
    broken = maps.clone()
    broken[2, 0, 1, 1] = math.nan
    assert np.isnan(values(evaluate("randomisation", chain(), pictures(3, 16, 24), Spy(chain(), [broken])))).tolist() == [True, False, True]
