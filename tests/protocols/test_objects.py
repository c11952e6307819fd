"""Pointing games, mass and rank accuracy on maps and masks made by hand, and against NumPy."""

import math
from collections.abc import Sequence

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from support.method_nets import Rectified, made, pictures
from torch import Tensor

from attrlib.errors import ProtocolError
from attrlib.models import Layer
from attrlib.models.layers import Layout
from attrlib.protocols import Batch, EvalBatch, EvalContext, Explain, ExplanationRequest, create, list_protocols
from attrlib.specs import ProtocolSpec

NAMES = ("pointing", "mass", "rank", "energy")
SIZE = (8, 12)
NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def model() -> attrlib.Classifier:
    return attrlib.wrap_model(made(Rectified, torch.tanh), SIZE)


def scores(
    model: attrlib.Classifier, protocol: str, maps: Tensor, masks: Tensor, kind: str = "NCHW", targets: Sequence[int] = ()
) -> list[float]:
    """The values of maps (B,1,h,w) for objects (B,H,W)."""
    count, asked = len(maps), []

    def explain(request: ExplanationRequest) -> tuple[Tensor, Layer]:
        asked.append(request)
        return maps, Layer("given", "given", Layout(kind, 1, *maps.shape[2:]))  # type: ignore[arg-type]

    method: Explain = explain
    labels = torch.tensor(list(targets) or [0] * count)
    batch = Batch(tuple(map(str, range(count))), torch.zeros(count, 3, *masks.shape[1:]), labels, masks)
    outcomes = create(ProtocolSpec.parse(protocol)).evaluate(EvalBatch(EvalContext(model), batch, labels, {}, method))
    assert len(asked) == 1
    assert asked[0].targets[:, 0].tolist() == labels.tolist()
    return [outcome.value for outcome in outcomes]


def by_hand(rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)[None, None]


def mask_of(rows: Sequence[str]) -> Tensor:
    return torch.tensor([[letter == "#" for letter in row] for row in rows])[None]


MAP = by_hand([[1, 2, 3], [-4, 5, 0], [0, 5, -6]])
CASES = [
    # The largest value, 5, occurs twice; the positive values sum to 16.
    (["...", ".#.", "..."], {"pointing": 1 / 2, "mass": 5 / 16, "rank": 1 / 2, "energy": 5 / 16}),
    (["...", ".#.", ".#."], {"pointing": 1, "mass": 10 / 16, "rank": 1, "energy": 10 / 16}),
    (["..#", "...", ".#."], {"pointing": 1 / 2, "mass": 8 / 16, "rank": 1 / 2, "energy": 15 / 16}),
    (["###", "...", "..."], {"pointing": 0, "mass": 6 / 16, "rank": 1 / 3, "energy": 6 / 16}),
    (["...", "#..", "..#"], {"pointing": 0, "mass": 0, "rank": 0, "energy": 10 / 16}),
    (["###", "###", "###"], {"pointing": 1, "mass": 1, "rank": 1, "energy": 1}),
    # The six largest: 5, 5, 3, 2, 1 and one of two zeros, of which one lies on the object: 3, 2, 1 and half a zero.
    (["###", "#.#", "..#"], {"pointing": 0, "mass": 6 / 16, "rank": 3.5 / 6, "energy": 1}),
]


@pytest.mark.parametrize(("mask", "expected"), CASES)
@pytest.mark.parametrize("name", NAMES)
def test_values_by_hand(model: attrlib.Classifier, name: str, mask: Sequence[str], expected: dict[str, float]) -> None:
    assert scores(model, name, MAP, mask_of(mask)) == pytest.approx([expected[name]], abs=1e-12)


@pytest.mark.parametrize("levels", [2, 4, 10**6])
@pytest.mark.parametrize("seed", range(4))
def test_values_match_numpy(model: attrlib.Classifier, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps = rng.integers(-levels, levels + 1, (5, *SIZE)) / levels
    masks = rng.random((5, *SIZE)) < rng.random((5, 1, 1)) * 0.9 + 0.05
    assert masks.any((1, 2)).all()
    expected: dict[str, list[float]] = {name: [] for name in NAMES}
    for values, mask in zip(maps, masks, strict=True):
        peaks = np.argwhere(values == values.max())
        expected["pointing"].append(np.mean([mask[tuple(p)] for p in peaks]))
        expected["mass"].append(values[mask & (values > 0)].sum() / values[values > 0].sum())
        top, left = np.argwhere(mask).min(0)
        bottom, right = np.argwhere(mask).max(0)
        inside = sum(max(values[y, x], 0) for y in range(top, bottom + 1) for x in range(left, right + 1))
        expected["energy"].append(inside / values[values > 0].sum())
        # The expected share over all ways to break ties: each of the equal values is equally likely to be among the K.
        count, chances = mask.sum(), np.zeros(SIZE)
        for place in np.ndindex(SIZE):
            above, equal = (values > values[place]).sum(), (values == values[place]).sum()
            chances[place] = np.clip((count - above) / equal, 0, 1)
        expected["rank"].append((chances * mask).sum() / count)
    for name in NAMES:
        found = scores(model, name, torch.from_numpy(maps).float()[:, None], torch.from_numpy(masks))
        assert found == pytest.approx(expected[name], abs=1e-6)
        assert all(0 <= value <= 1 for value in found)


@pytest.mark.parametrize("name", ["pointing", "mass", "rank"])
def test_a_constant_map_scores_the_share_of_the_image_that_the_object_covers(model: attrlib.Classifier, name: str) -> None:
    masks = pictures(3, *SIZE)[:, 0] > 0.4
    found = scores(model, name, torch.full((3, 1, *SIZE), 0.3), masks)
    assert found == pytest.approx(masks.float().mean((1, 2)).tolist(), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_random_maps_score_on_average_the_share_that_the_object_covers(model: attrlib.Classifier, name: str) -> None:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask[2:6, 3:9] = True
    maps = torch.rand(500, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    found = np.array(scores(model, name, maps, mask.expand(500, -1, -1)))
    assert found.mean() == pytest.approx(0.25, abs=4 * max(found.std(), 1e-3) / 500**0.5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_scale_does_not_matter(model: attrlib.Classifier, name: str, scale: float) -> None:
    maps, masks = pictures(3, *SIZE)[:, :1], pictures(3, *SIZE, seed=2)[:, 0] > 0.4
    assert scores(model, name, maps * scale, masks) == pytest.approx(scores(model, name, maps, masks), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_only_images_without_an_object_or_a_finite_map_are_undefined(model: attrlib.Classifier, name: str) -> None:
    maps, masks = pictures(5, *SIZE)[:, :1].clone(), pictures(5, *SIZE, seed=2)[:, 0] > 0.4
    masks[1] = False
    for row, broken in ((2, NAN), (3, INF), (4, -INF)):
        maps[row, 0, 3, 3] = broken
    assert np.isnan(scores(model, name, maps, masks)).tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_without_a_positive_value_only_mass_and_energy_are_undefined(model: attrlib.Classifier, value: float) -> None:
    maps, masks = torch.full((1, 1, *SIZE), value), torch.zeros(1, *SIZE, dtype=torch.bool)
    masks[:, :4] = True
    assert np.isnan([scores(model, name, maps, masks)[0] for name in ("mass", "energy")]).all()
    assert scores(model, "pointing", maps, masks) == scores(model, "rank", maps, masks) == [0.5]


@pytest.mark.parametrize("kind", ["NCHW", "NHWC", "tokens"])
def test_a_low_resolution_map_is_resized_and_pixels_of_one_token_tie(model: attrlib.Classifier, kind: str) -> None:
    # The position at rows 0-3 and columns 4-7 is the largest; the object is the lower half of its square.
    small = by_hand([[0, 2, 0], [0, 1, 0]])
    masks = torch.zeros(1, *SIZE, dtype=torch.bool)
    masks[:, 2:4, 4:8] = True
    if kind == "tokens":
        expected = {"pointing": 1 / 2, "mass": 2 * 8 / (3 * 16), "energy": 2 * 8 / (3 * 16), "rank": 1 / 2}
    else:
        # Between the centres of the two rows, at 1.5 and 5.5, it falls from 2 to 1, and at the border it stays.
        rows = np.interp(np.arange(8), [1.5, 5.5], [2, 1])
        columns = np.interp(np.arange(12), [1.5, 5.5, 9.5], [0, 1, 0])
        large = np.outer(rows, columns)
        share = large[2:4, 4:8].sum() / large.sum()
        expected = {"pointing": 0, "mass": share, "energy": share, "rank": 1 / 2}
    for name, value in expected.items():
        assert scores(model, name, small, masks, kind) == pytest.approx([value], abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_data_without_masks_are_refused_with_the_reason(model: attrlib.Classifier, name: str) -> None:
    protocol = create(ProtocolSpec(name))
    protocol.check(model, ("masks",))
    with pytest.raises(ProtocolError, match=f"^{name} needs masks .*choose another"):
        protocol.check(model)
    (info,) = (i for i in list_protocols() if i.name == name)
    assert info.needs == ("masks",)
    assert info.higher_is_better
    assert info.bounds == (0, 1)


@pytest.mark.parametrize("name", NAMES)
def test_the_given_targets_are_explained(model: attrlib.Classifier, name: str) -> None:
    masks = torch.ones(3, *SIZE, dtype=torch.bool)
    assert scores(model, name, torch.rand(3, 1, *SIZE), masks, targets=[3, 1, 4]) == [1, 1, 1]
