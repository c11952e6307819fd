"""Guided IG and Blur IG against transcriptions of the authors' code in NumPy and SciPy, and closed forms."""

from collections.abc import Callable

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F  # noqa: N812
from support import method_nets
from support.method_nets import Linear, Rectified, made, maps, pictures
from support.numbers import close
from torch import Tensor, nn

from attrlib.methods import AttributionContext
from attrlib.postprocess import gaussian

Gradient = Callable[[np.ndarray], np.ndarray]


def gradient_of(module: nn.Module, target: int) -> Gradient:
    def gradient(x: np.ndarray) -> np.ndarray:
        leaf = torch.from_numpy(x).float()[None].requires_grad_()
        return torch.autograd.grad(module(leaf)[0, target], leaf)[0][0].double().numpy()

    return gradient


def score(module: nn.Module, x: np.ndarray, target: int) -> float:
    with torch.no_grad():
        return float(module(torch.from_numpy(x).float()[None])[0, target])


# Guided IG ---------------------------------------------------------------------------------------------------------------


def guided(x: np.ndarray, start: np.ndarray, gradient: Gradient, steps: int, fraction: float, distance: float) -> np.ndarray:
    """Guided IG, value by value: in every step the lowest gradients go first, until the L1 distance has fallen to its goal."""
    shape, x, start = x.shape, x.ravel(), start.ravel()
    at, total, whole = start.copy(), np.zeros(x.size), np.abs(x - start).sum()
    for step in range(1, steps + 1):
        slope = gradient(at.reshape(shape)).ravel()
        low, high = max(step / steps - distance, 0), min(step / steps + distance, 1)
        goal, before = whole * (1 - step / steps), at.copy()
        limit = x if high == 1 else start + high * (x - start)
        for i in range(x.size):
            if x[i] != start[i] and (at[i] - start[i]) / (x[i] - start[i]) < low:
                at[i] = start[i] + low * (x[i] - start[i])
        while np.abs(x - at).sum() - goal > 1e-9 * max(goal, 1):
            gap = np.abs(x - at).sum() - goal
            free = [i for i in range(x.size) if at[i] != limit[i]]
            ranks = sorted([abs(slope[i]) for i in free] + [np.inf] * (x.size - len(free)))
            chosen = [i for i in free if abs(slope[i]) <= ranks[int(fraction * (x.size - 1))]]
            reach = sum(abs(limit[i] - at[i]) for i in chosen)
            for i in chosen:
                at[i] = limit[i] if gap >= reach else at[i] + gap / reach * (limit[i] - at[i])
            if gap <= reach:
                break
        total += (at - before) * slope
    return total.reshape(shape)


@pytest.mark.parametrize(("fraction", "distance"), [(0.25, 0.02), (0.1, 0.3), (0.5, 1.0), (1.0, 0.1)])
@pytest.mark.parametrize("steps", [1, 7])
def test_guided_ig_follows_the_code_of_its_authors(fraction: float, distance: float, steps: int) -> None:
    module, images, targets = made(Rectified, nn.Tanh()), pictures(3, 6), [0, 3, 1]
    found = maps(attrlib.wrap_model(module, 6), images, "Guided IG", targets=targets, steps=steps, fraction=fraction, distance=distance)
    for i, target in enumerate(targets):
        x = images[i].double().numpy()
        expected = guided(x, np.zeros_like(x), gradient_of(module, target), steps, fraction, distance).sum(0)
        assert close(found[i, 0], torch.from_numpy(expected), 1e-3)


def test_guided_ig_without_distance_is_the_left_sum_of_ig() -> None:
    module, images = made(Rectified, nn.Tanh()), pictures(1, 8)
    x, gradient = images[0].double().numpy(), gradient_of(module, 3)
    expected = sum(gradient(x * k / 5) * x / 5 for k in range(5)).sum(0)
    found = maps(attrlib.wrap_model(module, 8), images, "Guided IG", targets=[3], steps=5, distance=0.0)
    assert close(found[0, 0], torch.from_numpy(expected), 1e-4)


LINEAR = (12, 20)


@pytest.mark.parametrize("baseline", ["zeros", "black", "white", "blur", "uniform"])
def test_guided_ig_of_a_linear_model_is_ig(baseline: str) -> None:
    model, images = attrlib.wrap_model(made(Linear, *LINEAR), LINEAR), pictures(3, *LINEAR)
    found = attrlib.explain(model, images, "Guided IG", [0, 3, 1], steps=4, baseline=baseline)
    assert close(found.maps, maps(model, images, "IG", targets=[0, 3, 1], baseline=baseline, steps=4), 1e-4)
    assert max(found.diagnostics["convergence"]) < 1e-3


def test_guided_ig_prefers_small_gradients() -> None:
    """f = a (1 + b): the gradient of b is a, zero at first, so that b moves before a, which then gets the whole product."""

    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a, b = x[:, 0, 0, 0], x[:, 1, 3, 3]
            return torch.stack([a * (1 + b), 0 * a], dim=1)

    model, images = attrlib.wrap_model(Product().eval(), 4), torch.ones(1, 3, 4, 4)
    for distance, expected in ((1.0, (2.0, 0.0)), (0.0, (1.5, 0.5))):
        found = maps(model, images, "Guided IG", targets=[0], steps=200, distance=distance)[0, 0]
        assert (float(found[0, 0]), float(found[3, 3])) == pytest.approx(expected, abs=0.05)


# Blur IG -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.7, 50.0])
def test_the_gaussian_is_that_of_scipy_with_zeros_around_the_image(sigma: float) -> None:
    images = pictures(2, 17, 24)
    expected = scipy.ndimage.gaussian_filter(images.double().numpy(), (0, 0, sigma, sigma), mode="constant")
    assert close(gaussian(images, sigma), torch.from_numpy(expected), 1e-5)
    assert torch.equal(gaussian(images, 0.0), images)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return scipy.ndimage.gaussian_filter(image, (0, sigma, sigma), mode="constant")


def test_blur_ig_of_a_linear_model_is_weight_times_what_the_strongest_blur_removes() -> None:
    model, images, targets = attrlib.wrap_model(made(Linear, *LINEAR), LINEAR), pictures(3, *LINEAR), [0, 3, 1]
    removed = images - torch.from_numpy(np.stack([blurred(x.double().numpy(), 5.0) for x in images])).float()
    expected = (model.module.weight.detach()[targets] * removed).sum(1, keepdim=True)
    found = attrlib.explain(model, images, "Blur IG", targets, steps=4, sigma=5.0)
    assert close(found.maps, expected, 1e-4)
    assert max(found.diagnostics["convergence"]) < 1e-3


def test_blur_ig_is_the_trapezoidal_sum_along_the_blurs_of_scipy() -> None:
    module, images = made(Rectified, F.silu), pictures(2, 16)
    found = maps(attrlib.wrap_model(module, 16), images, "Blur IG", targets=[0, 3], steps=5, sigma=4.0)
    for i, target in enumerate((0, 3)):
        x, gradient = images[i].double().numpy(), gradient_of(module, target)
        points = [blurred(x, 4.0 * (k / 5) ** 2) if k else x for k in range(6)]
        slopes = [gradient(point) for point in points]
        expected = sum((slopes[k] + slopes[k + 1]) / 2 * (points[k] - points[k + 1]) for k in range(5)).sum(0)
        assert close(found[i, 0], torch.from_numpy(expected), 1e-4)


def test_blur_ig_has_the_limit_of_the_code_of_its_authors() -> None:
    """The sum of gradient times derivative of the blur in sigma, at equal steps of sigma."""
    module, image = made(Rectified, nn.Tanh()), pictures(1, 12)
    x, gradient, steps, sigma = image[0].double().numpy(), gradient_of(module, 3), 1500, 6.0
    total = np.zeros_like(x)
    for k in range(steps):
        at = k * sigma / steps
        point = blurred(x, at) if at else x
        total -= sigma / steps * gradient(point) * (blurred(x, at + 0.01) - point) / 0.01
    found = maps(attrlib.wrap_model(module, 12), image, "Blur IG", targets=[3], steps=300, sigma=sigma)
    assert close(found[0, 0], torch.from_numpy(total.sum(0)), 0.03)


@pytest.mark.parametrize(("method", "steps", "error"), [("Blur IG", 60, 2e-2), ("Guided IG", 200, 5e-2)])
@pytest.mark.parametrize("layer", ["Input", "conv1"])
def test_on_a_smooth_net_the_sum_is_the_change_of_the_logit(method: str, steps: int, error: float, layer: str) -> None:
    module, images, targets = made(Rectified, nn.Tanh()), pictures(3, 16), [0, 3, 1]
    found = attrlib.explain(attrlib.wrap_model(module, 16), images, method, targets, layer, steps=steps)
    assert max(found.diagnostics["convergence"]) < error
    if layer == "Input":
        ends = [blurred(x.double().numpy(), 50.0) if method == "Blur IG" else np.zeros((3, 16, 16)) for x in images]
        change = [score(module, x.numpy(), t) - score(module, end, t) for x, end, t in zip(images, ends, targets, strict=True)]
        assert close(found.maps.sum((1, 2, 3)), torch.tensor(change), 2 * error)


def test_at_a_token_layer_the_path_is_that_of_the_activations_of_blurred_images() -> None:
    model, images = method_nets.model("vit_tiny"), 3 * gaussian(pictures(2, 64), 2.0)
    found = attrlib.explain(model, images, "Blur IG", [0, 3], "blocks.1", steps=80, sigma=3.0)
    assert max(found.diagnostics["convergence"]) < 0.05
    assert found.maps.shape == (2, 1, 4, 4)


@pytest.mark.parametrize("method", ["Guided IG", "Blur IG"])
def test_variants_of_the_reduction_share_the_path(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = attrlib.wrap_model(made(Rectified, torch.relu), 16), list[int]()
    model.layer("Input")
    own = AttributionContext._logits
    monkeypatch.setattr(AttributionContext, "_logits", lambda c, inputs, owners: rows.append(len(owners)) or own(c, inputs, owners))
    specs = [attrlib.specs.MethodSpec.parse(f"{method}:steps=3:channels={c}") for c in ("sum", "abs-sum", "sum-abs")]
    # A first call finds out whether the method is defined, once.
    attrlib.methods.attribute_all(model, specs[:1], pictures(2, 16), [0, 1])
    rows.clear()
    attrlib.methods.attribute_all(model, specs, pictures(2, 16), [0, 1])
    once = sum(rows)
    rows.clear()
    attrlib.methods.attribute_all(model, specs[:1], pictures(2, 16), [0, 1])
    assert sum(rows) == once
