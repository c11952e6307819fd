"""IROF and SaCo against plain loops, and maps that are right or wrong by construction."""

import math
from itertools import combinations

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from skimage.segmentation import slic
from support.judged import TARGETS, Mass, evaluate, given, noise_maps, probability, steep_model, values
from support.method_nets import pictures
from torch import Tensor, nn

SIZE = (16, 24)


def sign_of(values: np.ndarray, sign: str) -> np.ndarray:
    return {"signed": values, "absolute": np.abs(values), "positive": np.maximum(values, 0)}[sign]


# IROF ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("segments", "steps", "sign"), [(12, 5, "signed"), (12, 40, "absolute"), (30, 1, "positive")])
def test_irof_matches_a_plain_loop_over_superpixels(segments: int, steps: int, sign: str) -> None:
    model, images, maps = steep_model(SIZE), pictures(3, *SIZE), noise_maps(SIZE)
    found = evaluate(f"irof:segments={segments}:steps={steps}:sign={sign}", model, images, given(maps))
    for i, target in enumerate(TARGETS):
        colours = model.preprocessing.shown(images[i]).permute(1, 2, 0).double().numpy()
        labels = slic(colours, n_segments=segments, sigma=1, start_label=0, channel_axis=-1)
        own = sign_of(maps[i, 0].double().numpy(), sign)
        ranked = sorted(np.unique(labels), key=lambda k, own=own, labels=labels: -own[labels == k].mean())
        assert len(ranked) > 5
        curve = []
        for step in range(steps + 1):
            shown = images[i].clone()
            shown[:, torch.from_numpy(np.isin(labels, ranked[: len(ranked) * step // steps]))] = 0
            curve.append(probability(model, shown, target))
        assert np.allclose(found[i].details["curve"], curve, atol=1e-5)
        assert found[i].value == pytest.approx(1 - np.trapezoid(np.array(curve) / curve[0]) / steps, rel=1e-4, abs=1e-5)


def test_irof_of_a_map_that_equals_the_contributions_beats_every_other() -> None:
    model, images = attrlib.wrap_model(Mass(), SIZE), pictures(3, *SIZE).sigmoid()
    right, wrong, random = (
        values(evaluate("irof:segments=20:steps=30", model, images, given(maps), (0, 0, 0)))
        for maps in (images[:, :1], -images[:, :1], noise_maps(SIZE))
    )
    assert (right > random).all()
    assert (random > wrong).all()


def test_irof_is_undefined_for_a_single_superpixel_and_maps_that_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    images, maps, model = pictures(3, *SIZE), noise_maps(SIZE), steep_model(SIZE)
    maps[1, 0, 2, 2] = math.inf
    assert np.isnan(values(evaluate("irof:segments=12:steps=3", model, images, given(maps)))).tolist() == [False, True, False]
    monkeypatch.setattr("attrlib.protocols.regions.superpixels", lambda _model, image, _segments: torch.zeros(SIZE, dtype=torch.long))
    assert np.isnan(values(evaluate("irof:segments=12:steps=3", model, images, given(noise_maps(SIZE))))).all()


# SaCo ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "sign", "baseline"), [(2, "signed", "mean"), (8, "absolute", "mean"), (7, "positive", "zeros"), (12, "signed", "zeros")]
)
def test_saco_matches_a_plain_loop_over_pairs(groups: int, sign: str, baseline: str) -> None:
    model, images, maps = steep_model(SIZE), pictures(3, *SIZE), noise_maps(SIZE)
    found = evaluate(f"saco:groups={groups}:sign={sign}:baseline={baseline}", model, images, given(maps))
    for i, target in enumerate(TARGETS):
        own = sign_of(maps[i, 0].double().numpy().ravel(), sign)
        order, n = np.argsort(-own, kind="stable"), own.size
        salience, drops = [], []
        for k in range(groups):
            members = order[n * k // groups : n * (k + 1) // groups]
            shown = images[i].clone()
            fill = images[i].mean((1, 2)) if baseline == "mean" else torch.zeros(3)
            shown.flatten(1)[:, members.tolist()] = fill[:, None]
            salience.append(own[members].mean())
            drops.append(probability(model, images[i], target) - probability(model, shown, target))
        score = total = 0.0
        for a, b in combinations(range(groups), 2):
            weight = salience[a] - salience[b]
            score += weight if drops[a] >= drops[b] else -weight
            total += abs(weight)
        assert np.allclose(found[i].details["drops"], drops, atol=1e-5)
        assert np.allclose(found[i].details["means"], salience)
        assert found[i].value == pytest.approx(score / total, abs=1e-6)


def test_saco_is_1_with_and_minus_1_against_the_effect_of_the_pixels() -> None:
    model, images = attrlib.wrap_model(Mass(), SIZE), pictures(3, *SIZE).sigmoid()
    for sign in (1, -1):
        found = values(evaluate("saco:groups=6:baseline=zeros", model, images, given(sign * images[:, :1]), (0, 0, 0)))
        assert found == pytest.approx([sign] * 3)


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([0.5, 0.0]).expand(len(x), -1) + 0 * x.sum((1, 2, 3))[:, None]


def test_saco_is_undefined_where_no_pair_differs() -> None:
    images, maps = pictures(3, *SIZE), noise_maps(SIZE)
    maps[0], maps[1, 0, 1, 1] = 2.0, math.nan
    assert np.isnan(values(evaluate("saco:groups=4", steep_model(SIZE), images, given(maps)))).tolist() == [True, True, False]
    constant = attrlib.wrap_model(Constant(), SIZE)
    assert np.isnan(values(evaluate("saco:groups=4", constant, images, given(noise_maps(SIZE)), (0, 1, 0)))).all()


def test_random_maps_are_at_chance_under_saco() -> None:
    count = 300
    images, maps = pictures(count, *SIZE), pictures(count, *SIZE, seed=9)[:, :1]
    found = values(evaluate("saco:groups=5", steep_model(SIZE), images, given(maps), [k % 5 for k in range(count)]))
    assert abs(found.mean()) < 3 * found.std() / count**0.5
