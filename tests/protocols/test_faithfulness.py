"""Infidelity against Captum on the same noise and closed forms, and invariances."""

import math
from collections.abc import Sequence
from dataclasses import replace

import attrlib  # before captum and torchvision: it declares the operators that torchvision may lack

# isort: split
import captum.metrics
import numpy as np
import pytest
import scipy.stats
import torch
from support.engine import evaluate_items
from support.method_nets import Linear, Rectified, made, pictures
from support.recorded import Recorded
from torch import Tensor, nn

from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem
from attrlib.errors import SpecError
from attrlib.methods import resolve
from attrlib.models import Layer
from attrlib.models.layers import Layout
from attrlib.models.modules.preserve import has_bfloat16
from attrlib.protocols import Batch, EvalBatch, EvalContext, Explain, Outcome, create
from attrlib.specs import MethodSpec, ProtocolSpec

Model = attrlib.Classifier
SIZE = (12, 20)
TARGETS = (2, 0, 4)
IDS = ("a", "b", "c")


def recorded(net: nn.Module) -> Model:
    model = attrlib.wrap_model(Recorded(net).eval(), SIZE)
    model.module.seen.clear()
    return model


def given(maps: Tensor) -> Explain:
    """A method that always returns the given maps (B,1,h,w)."""
    return lambda scene: (maps, Layer("given", "given", Layout("NCHW", 1, *maps.shape[2:])))


def evaluate(
    protocol: str, model: Model, images: Tensor, explain: Explain | str, targets: Sequence[int] = TARGETS, ids: Sequence[str] = IDS,
    seed: int = 0,
) -> list[Outcome]:  # fmt: skip
    own, setting = create(ProtocolSpec.parse(protocol)), EvalContext(model, seed)
    if isinstance(explain, str):
        explain = Evaluator(model, InMemoryCache(), seed).explainer(resolve(MethodSpec.parse(explain)))
    labels = torch.tensor(list(targets))
    batch = Batch(tuple(ids), images, labels)
    measured = {m: m.measure(setting, batch, labels) for m in own.measurements}
    return own.evaluate(EvalBatch(setting, batch, labels, measured, explain))


def values(outcomes: Sequence[Outcome]) -> np.ndarray:
    return np.array([outcome.value for outcome in outcomes])


def noise_in(model: Model, images: Tensor, count: int) -> Tensor:
    """Return the noise (samples,B,3,H,W) between the images and the last inputs of the model."""
    seen = torch.cat(model.module.seen)[-count * len(images) :].double()
    return images.double() - seen.unflatten(0, (count, len(images)))


# Captum ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("samples", [1, 6])
@pytest.mark.parametrize("maps", ["random", "IxG", "Grad-CAM@conv2"])
def test_infidelity_matches_captum_on_the_same_noise(normalize: bool, samples: int, maps: str) -> None:
    model, images = recorded(made(Rectified, torch.tanh)), pictures(3, *SIZE)
    drawn = pictures(3, *SIZE, seed=4)[:, :1] * 0.1
    layer = maps.replace("conv2", "net.conv2")
    found = evaluate(
        f"infidelity:samples={samples}:noise=0.5:normalize={normalize}", model, images, given(drawn) if maps == "random" else layer
    )
    if maps != "random":
        model_maps = attrlib.explain(model, images, layer, TARGETS).maps
        drawn = nn.functional.interpolate(model_maps, SIZE, mode="bilinear") if maps.startswith("Grad") else model_maps
    model.module.seen.clear()
    evaluate(f"infidelity:samples={samples}:noise=0.5", model, images, given(drawn))
    noise = noise_in(model, images, samples).transpose(0, 1).flatten(0, 1).float()

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        return noise, inputs - noise

    # Captum's sum runs over colour channels too, each of which has a third of the map.
    expected = captum.metrics.infidelity(
        model.module,
        perturb,
        images,
        drawn.expand(-1, 3, -1, -1) / 3,
        target=torch.tensor(TARGETS),
        n_perturb_samples=samples,
        normalize=normalize,
    )
    scale = 1e-6 if normalize and samples == 1 else float(expected.min())
    assert scale > 0
    assert np.allclose(values(found), expected.numpy(), rtol=1e-3, atol=1e-4 * scale + 1e-9)
    assert not np.allclose(values(evaluate("infidelity:samples=9:noise=0.5", model, images, given(-drawn))), expected.numpy(), rtol=0.01)


# Closed forms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("noise", [0.003, 1.0])
def test_the_gradient_of_a_linear_model_scores_0(normalize: bool, noise: float) -> None:
    model, images = attrlib.wrap_model(made(Linear, *SIZE), SIZE), pictures(3, *SIZE)
    protocol = f"infidelity:noise={noise}:normalize={normalize}"
    squares = values(evaluate(protocol, model, images, given(torch.zeros(3, 1, *SIZE)))).min()
    assert squares > 0
    # Logits of about 10 have rounding errors of about 1e-6, and drops are about 0.05 or 20.
    assert values(evaluate(protocol, model, images, "Gradient")).max() < (1e-9 if noise == 1 else 1e-4) * squares
    assert values(evaluate(protocol, model, images, "Sobel")).min() > 0.1 * squares


@pytest.mark.parametrize("noise", [0.1, 2.0])
def test_the_mean_is_the_noises_variance_times_the_squared_distance_from_the_gradient(noise: float) -> None:
    model, images = attrlib.wrap_model(made(Linear, *SIZE), SIZE), pictures(3, *SIZE)
    maps = pictures(3, *SIZE, seed=9)[:, :1] * 2 + 0.3
    gradient = model.module.weight.detach()[list(TARGETS)].sum(1, keepdim=True)
    found = evaluate(f"infidelity:samples=800:noise={noise}", model, images, given(maps))
    expected = noise**2 * (maps - gradient).square().sum((1, 2, 3)).numpy()
    # 800 squares of a normal variable: a standard error of 5 %.
    assert values(found) / expected == pytest.approx([1, 1, 1], abs=0.2)
    assert values(found).sum() / expected.sum() == pytest.approx(1, abs=0.1)


def test_normalising_fits_the_scale_and_details_contain_both_values() -> None:
    model, images = attrlib.wrap_model(made(Rectified, torch.tanh), SIZE), pictures(3, *SIZE)
    maps = attrlib.explain(model, images, "Gradient", TARGETS).maps + 0.01 * pictures(3, *SIZE, seed=2)[:, :1]
    raw, fitted, scaled, flipped = (
        evaluate(f"infidelity:noise=0.3:normalize={n}", model, images, given(s * maps))
        for n, s in ((False, 1), (True, 1), (True, 7), (True, -1))
    )
    assert (values(fitted) < values(raw)).all()
    assert values(scaled) == pytest.approx(values(fitted), rel=1e-9)
    assert values(flipped) == pytest.approx(values(fitted), rel=1e-9), "the best scale may be negative"
    for one, other in zip(raw, fitted, strict=True):
        assert one.details == other.details
        assert (one.details["raw"], other.details["normalised"]) == ([one.value], [other.value])
    around = [values(evaluate("infidelity:noise=0.3", model, images, given(s * maps))) for s in np.linspace(-3, 3, 25)]
    assert (np.min(around, axis=0) >= values(fitted)).all()


@pytest.mark.parametrize("normalize", [False, True])
def test_a_map_of_zeros_predicts_nothing_and_a_map_that_is_not_finite_is_undefined(normalize: bool) -> None:
    model, images = recorded(made(Rectified, torch.tanh)), pictures(3, *SIZE)
    maps = torch.zeros(3, 1, *SIZE)
    maps[1, 0, 2, 3], maps[2, 0, 2, 3] = math.nan, math.inf
    found = values(evaluate(f"infidelity:noise=0.5:normalize={normalize}", model, images, given(maps)))
    seen = torch.cat(model.module.seen)[-30:].unflatten(0, (10, 3))[:, 0]
    with torch.no_grad():
        drops = model.module(images)[0, TARGETS[0]] - model.module(seen)[:, TARGETS[0]]
    assert found[0] == pytest.approx(float(drops.double().square().mean()), rel=1e-4)
    assert np.isnan(found).tolist() == [False, True, True]


# Noise -----------------------------------------------------------------------------------------------------------------


def drawn_noise(std: float, ids: Sequence[str] = IDS, images: Tensor | None = None, seed: int = 0, samples: int = 8) -> Tensor:
    model = recorded(made(Rectified, torch.tanh))
    images = pictures(len(ids), *SIZE) if images is None else images
    evaluate(f"infidelity:samples={samples}:noise={std}", model, images, given(torch.zeros(len(ids), 1, *SIZE)), [0] * len(ids), ids, seed)
    return noise_in(model, images, samples)


@pytest.mark.parametrize("std", [0.05, 3.0])
def test_noise_is_normal_with_the_given_deviation_and_equal_only_across_channels(std: float) -> None:
    noise = drawn_noise(std)
    assert noise.shape == (8, 3, 3, *SIZE)
    assert (noise.amax(2) - noise.amin(2)).max() < 1e-5
    flat = noise[:, :, 0].flatten(2).flatten(0, 1)
    assert scipy.stats.kstest(flat.flatten() / std, "norm").pvalue > 0.01
    correlations = np.corrcoef(flat) - np.eye(24)
    assert np.abs(correlations).max() < 0.3
    assert noise.sum(1).std() > 0


def test_noise_depends_only_on_the_seed_and_the_item() -> None:
    images = pictures(3, *SIZE)
    noise = drawn_noise(1.0, images=images)
    assert torch.allclose(drawn_noise(1.0, IDS[::-1], images.flip(0)).flip(1), noise, atol=1e-6)
    assert torch.allclose(drawn_noise(1.0, IDS[1:2], images[1:2]), noise[:, 1:2], atol=1e-6)
    assert torch.allclose(drawn_noise(1.0, images=images, samples=3), noise[:3], atol=1e-6)
    assert torch.allclose(drawn_noise(2.0, images=images), 2 * noise, atol=1e-5)
    for other in (drawn_noise(1.0, images=images, seed=1), drawn_noise(1.0, "def", images=images)):
        assert (other - noise).abs().mean() > 0.5


@pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this machine computes no bfloat16")
def test_drops_under_small_noise_are_exact_even_in_a_fast_run() -> None:
    model, images = attrlib.wrap_model(made(Rectified, torch.tanh), SIZE), pictures(3, *SIZE)
    units = [EvalItem(name, (i,), (target,)) for i, (name, target) in enumerate(zip(IDS, TARGETS, strict=True))]
    batch, protocol, method = Batch(IDS, images, torch.tensor(TARGETS)), create(ProtocolSpec("infidelity")), resolve(MethodSpec("Gradient"))
    exact, fast = (
        [record.value for record in evaluate_items(Evaluator(model, InMemoryCache(), fast=f), protocol, method, units, batch).values()]
        for f in (False, True)
    )
    assert fast == pytest.approx(exact, rel=0.01)


# The rest --------------------------------------------------------------------------------------------------------------


def test_lower_is_better_and_the_defaults_are_those_of_the_study() -> None:
    protocol = create(ProtocolSpec("infidelity"))
    assert (protocol.samples, protocol.noise, protocol.normalize) == (10, 0.003, False)
    assert not protocol.higher_is_better
    assert protocol.seeded
    assert replace(protocol, normalize=True).measurements == protocol.measurements, "both readings share the passes"
    with pytest.raises(SpecError, match=r"^infidelity: .*noise"):
        create(ProtocolSpec.parse("infidelity:noise=0"))
