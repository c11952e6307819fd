"""Compactness and entropy against plain loops, SciPy and closed forms."""

import math
from collections.abc import Sequence

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.stats
import torch
from support.method_nets import Rectified, made, pictures
from torch import Tensor

from attrlib.models import Layer
from attrlib.models.layers import Layout
from attrlib.protocols import Batch, EvalBatch, EvalContext, ExplanationRequest, create
from attrlib.specs import ProtocolSpec

SIZE = (8, 12)
PIXELS = 96


@pytest.fixture(scope="module")
def model() -> attrlib.Classifier:
    return attrlib.wrap_model(made(Rectified, torch.tanh), SIZE)


def scores(model: attrlib.Classifier, protocol: str, maps: Tensor, kind: str = "NCHW") -> list[float]:
    """The values of maps (B,1,h,w)."""

    def explain(_request: ExplanationRequest) -> tuple[Tensor, Layer]:
        return maps, Layer("given", "given", Layout(kind, 1, *maps.shape[2:]))  # type: ignore[arg-type]

    labels = torch.zeros(len(maps), dtype=torch.long)
    batch = Batch(tuple(map(str, range(len(maps)))), torch.zeros(len(maps), 3, *SIZE), labels)
    found = create(ProtocolSpec.parse(protocol)).evaluate(EvalBatch(EvalContext(model), batch, labels, {}, explain))
    return [outcome.value for outcome in found]


def gini(values: Sequence[float]) -> float:
    """The mean difference of all pairs, as a share of twice the mean."""
    return sum(abs(a - b) for a in values for b in values) / (2 * len(values) * sum(values))


@pytest.mark.parametrize("sign", ["absolute", "positive"])
def test_values_match_a_plain_loop_and_scipy(model: attrlib.Classifier, sign: str) -> None:
    maps = pictures(4, *SIZE)[:, :1]
    taken = [(np.abs(one) if sign == "absolute" else np.clip(one, 0, None)).ravel() for one in maps.double().numpy()]
    assert scores(model, f"compactness:sign={sign}", maps) == pytest.approx([gini(values.tolist()) for values in taken], abs=1e-9)
    assert scores(model, f"entropy:sign={sign}", maps) == pytest.approx([scipy.stats.entropy(values) for values in taken], abs=1e-9)


@pytest.mark.parametrize("pixels", [1, 5, PIXELS])
def test_equal_values_on_some_of_the_pixels_have_closed_forms(model: attrlib.Classifier, pixels: int) -> None:
    maps = torch.zeros(1, 1, PIXELS)
    maps[..., torch.randperm(PIXELS, generator=torch.Generator().manual_seed(0))[:pixels]] = -0.37
    maps = maps.view(1, 1, *SIZE)
    assert scores(model, "compactness", maps) == pytest.approx([1 - pixels / PIXELS], abs=1e-12)
    assert scores(model, "entropy", maps) == pytest.approx([math.log(pixels)], abs=1e-12)


def test_a_ramp_has_a_third_as_compactness(model: attrlib.Classifier) -> None:
    ramp = torch.arange(1, PIXELS + 1).float().view(1, 1, *SIZE)
    assert scores(model, "compactness", ramp) == pytest.approx([(PIXELS - 1) / (3 * PIXELS)], abs=1e-12)


@pytest.mark.parametrize("name", ["compactness", "entropy"])
@pytest.mark.parametrize("scale", [1e-37, -3.0, 1e37])
def test_neither_scale_nor_place_matters(model: attrlib.Classifier, name: str, scale: float) -> None:
    maps = pictures(3, *SIZE)[:, :1]
    moved = maps.flatten(2)[..., torch.randperm(PIXELS, generator=torch.Generator().manual_seed(1))].view_as(maps)
    assert scores(model, name, moved * scale) == pytest.approx(scores(model, name, maps), rel=1e-6)


@pytest.mark.parametrize("name", ["compactness", "entropy"])
def test_maps_of_zeros_and_maps_that_are_not_finite_are_undefined(model: attrlib.Classifier, name: str) -> None:
    maps = pictures(5, *SIZE)[:, :1].clone()
    maps[1] = 0
    for row, broken in ((2, math.nan), (3, math.inf), (4, -math.inf)):
        maps[row, 0, 3, 3] = broken
    assert np.isnan(scores(model, name, maps)).tolist() == [False, True, True, True, True]
    assert np.isnan(scores(model, f"{name}:sign=positive", -maps.abs())).all()


@pytest.mark.parametrize("kind", ["NCHW", "tokens"])
def test_the_map_is_judged_at_the_size_of_the_image(model: attrlib.Classifier, kind: str) -> None:
    small = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])[None, None]
    large = np.outer(np.interp(np.arange(8), [1.5, 5.5], [1, 0]), np.interp(np.arange(12), [1.5, 5.5, 9.5], [0, 1, 0])).ravel()
    expected = (1 - 1 / 6, math.log(16)) if kind == "tokens" else (gini(large.tolist()), scipy.stats.entropy(large))
    found = [scores(model, name, small, kind)[0] for name in ("compactness", "entropy")]
    assert found == pytest.approx(expected, abs=1e-6)


def test_compact_is_better_and_entropy_is_better_if_low() -> None:
    assert create(ProtocolSpec("compactness")).higher_is_better
    assert not create(ProtocolSpec("entropy")).higher_is_better
