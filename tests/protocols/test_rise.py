"""Insertion and deletion AUC against a plain loop in NumPy, and the closed form of an additive model."""

import math

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.ndimage
import torch
from support.judged import SIZE, TARGETS, Mass, evaluate, given, noise_maps, probability, steep_model, values
from support.method_nets import pictures

from attrlib.protocols import create
from attrlib.protocols.rise import blurred
from attrlib.specs import ProtocolSpec


def rise_blur(images: torch.Tensor) -> torch.Tensor:
    """The blur of RISE's code, by SciPy: zeros beyond the border."""
    impulse = np.zeros((11, 11))
    impulse[5, 5] = 1
    kernel = scipy.ndimage.gaussian_filter(impulse, 5)
    values = [[scipy.ndimage.convolve(c, kernel, mode="constant") for c in image] for image in images.double().numpy()]
    return torch.from_numpy(np.array(values)).float()


@pytest.mark.parametrize("channels", [1, 3])
def test_insertion_starts_from_the_blur_of_the_paper(channels: int) -> None:
    images = pictures(2, 20, 30)[:, :channels]
    assert torch.allclose(blurred(images), rise_blur(images), atol=1e-5)
    assert blurred(images).std() < images.std() / 2


@pytest.mark.parametrize("name", ["deletion", "insertion"])
@pytest.mark.parametrize(("steps", "sign"), [(1, "signed"), (7, "absolute"), (96, "positive")])
def test_an_area_matches_a_plain_loop(name: str, steps: int, sign: str) -> None:
    model, images, maps = steep_model(), pictures(3, *SIZE), noise_maps()
    found = evaluate(f"{name}:steps={steps}:sign={sign}", model, images, given(maps))
    ends = (images, torch.zeros_like(images)) if name == "deletion" else (rise_blur(images), images)
    for i, target in enumerate(TARGETS):
        own = maps[i].double().numpy().ravel()
        own = {"signed": own, "absolute": np.abs(own), "positive": np.maximum(own, 0)}[sign]
        order = np.argsort(-own, kind="stable")
        curve = []
        for step in range(steps + 1):
            shown = ends[0][i].clone()
            which = order[: own.size * step // steps].tolist()
            shown.flatten(1)[:, which] = ends[1][i].flatten(1)[:, which]
            curve.append(probability(model, shown, target))
        assert np.ptp(curve) > 1e-3
        assert np.allclose(found[i].details["curve"], curve, atol=1e-5)
        assert found[i].value == pytest.approx(np.trapezoid(curve) / steps, abs=1e-6)


def test_deletion_of_an_additive_model_has_a_closed_form() -> None:
    model, images = attrlib.wrap_model(Mass(), SIZE), pictures(3, *SIZE).sigmoid()
    n = SIZE[0] * SIZE[1]
    ranked = np.sort(images[:, 0].double().numpy().reshape(3, -1), 1)
    curve = np.stack([ranked[:, : n - i].sum(1) / n for i in range(n + 1)], 1)
    expected = np.trapezoid(curve, axis=1) / n
    right, wrong = (values(evaluate(f"deletion:steps={n}", model, images, given(s * images[:, :1]), (0, 0, 0))) for s in (1, -1))
    assert right == pytest.approx(expected, abs=1e-5)
    assert (right < wrong).all()
    assert not create(ProtocolSpec("deletion")).higher_is_better
    right, wrong = (values(evaluate(f"insertion:steps={n}", model, images, given(s * images[:, :1]), (0, 0, 0))) for s in (1, -1))
    assert (right > wrong).all()
    assert create(ProtocolSpec("insertion")).higher_is_better


def test_the_defaults_are_those_of_the_paper() -> None:
    for name in ("deletion", "insertion"):
        protocol = create(ProtocolSpec(name))
        assert (protocol.steps, protocol.target_choice, protocol.cost.forwards) == (224, "prediction", 225)
        assert [224 * 224 * step // protocol.steps for step in (0, 1, 224)] == [0, 224, 224 * 224]


def test_only_maps_that_are_not_finite_are_undefined() -> None:
    maps = noise_maps()
    maps[1, 0, 2, 2] = math.nan
    for name in ("deletion", "insertion"):
        found = values(evaluate(f"{name}:steps=3", steep_model(), pictures(3, *SIZE), given(maps)))
        assert np.isnan(found).tolist() == [False, True, False]
