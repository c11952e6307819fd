"""The study `meta`: its truth, its ladder of damaged maps, and its findings from scores with a known answer."""

import itertools
import math
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from attrlib import Score
from attrlib.analysis.recovery import recovery
from attrlib.data.datasets import load_dataset
from attrlib.data.maps import open_maps
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem
from attrlib.engine.results import RunResult
from attrlib.errors import DataError
from attrlib.protocols import create
from attrlib.significance import exceeding
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, RunSpec, StudySpec
from attrlib.specs.maps import maps_spec, path_of
from attrlib.store import Store
from attrlib.studies import run_study
from attrlib.studies.base import ModelResults
from attrlib.studies.ladder import CELLS, DAMAGES, DEGREES, NUISANCES, TRUTH, ladder_of, mask_truth, removal_truth, step_of, steps_of
from attrlib.studies.meta import Meta
from attrlib.studies.traits import ModelTraits

SIDE = 32


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(folder=tmp_path / "store")) as store:
        yield store


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The truth


class Weighted(nn.Module):
    """A linear model: each class weighs each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(25, 3 * SIDE * SIDE, generator=generator()))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weights.T


def test_the_truth_sums_to_the_loss_of_each_part_and_is_flat_on_it(store: Store) -> None:
    data = load_dataset("birds")
    model = attrlib.wrap_model(Weighted().eval(), SIDE, class_names=data.class_names)
    items = [EvalItem(data.item_id(index), (index,), (data.label(index),)) for index in (0, 3, 5)]
    truth = removal_truth(Evaluator(model, store), data, items)
    assert truth.shape == (3, SIDE, SIDE)
    for map_, item in zip(truth, items, strict=True):
        (index,), (label,) = item.images, item.labels
        picture = data[index]
        whole = model.preprocess(picture.image)
        masks = {part: model.preprocessing.mask(picture.masks[part], picture.image.size) for part in data.parts}
        shown = torch.stack(list(masks.values())).sum(0)
        expected = torch.zeros(SIDE, SIDE, dtype=torch.float64)
        for part, mask in masks.items():
            if mask.any():
                removed = (whole - model.preprocess(data.without(index, part))).flatten().double()
                loss = float(removed @ model.module.weights[label].detach().double())
                expected[mask] += loss / int(mask.sum())
                alone = map_[mask & (shown == 1)]
                assert float(alone.max() - alone.min()) == 0
        assert torch.allclose(map_.double(), expected, rtol=1e-4, atol=1e-5)
        assert shown.any()


def test_the_mask_of_the_object_is_a_map_of_ones(store: Store) -> None:
    data = load_dataset("birds")
    model = attrlib.wrap_model(Weighted().eval(), SIDE, class_names=data.class_names)
    truth = mask_truth(Evaluator(model, store), data, [EvalItem(data.item_id(2), (2,), (data.label(2),))])
    picture = data[2]
    expected = torch.stack([model.preprocessing.mask(mask, picture.image.size) for mask in picture.masks.values()]).any(0)
    assert torch.equal(truth[0], expected.float())


# The ladder


@pytest.fixture
def map_() -> Tensor:
    return torch.randn(1, 1, SIDE, SIDE, generator=generator(1))


@pytest.mark.parametrize("kind", DAMAGES)
def test_without_damage_a_map_stays_as_it_is(kind: str, map_: Tensor) -> None:
    assert torch.equal(DAMAGES[kind](map_, 0.0, generator()), map_)


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_takes_a_map_further_from_the_truth_at_each_degree(kind: str) -> None:
    smooth = torch.zeros(1, 1, SIDE, SIDE)
    smooth[..., 8:20, 6:18] = 1
    distances = [float((DAMAGES[kind](smooth, degree, generator(3)) - smooth).norm()) for degree in DEGREES]
    assert distances == sorted(distances)
    assert len(set(distances)) >= 3


def test_mixed_noise_has_the_mean_square_of_the_map_and_nothing_of_it(map_: Tensor) -> None:
    noise, other = (DAMAGES["noise"](scale * map_, 1.0, generator()) for scale in (1, 7))
    assert float(noise.square().mean()) == pytest.approx(float(map_.square().mean()), rel=1e-4)
    assert torch.allclose(other, 7 * noise, rtol=1e-4)
    middle = DAMAGES["noise"](map_, 0.5, generator())
    assert torch.allclose(middle, 0.5 * map_ + 0.5 * noise, atol=1e-6)


def test_shift_moves_each_value_by_half_the_side_around_the_borders() -> None:
    point = torch.zeros(1, 1, SIDE, SIDE)
    point[0, 0, 4, 28] = 1
    moved = DAMAGES["shift"](point, 1.0, generator(5))
    row, column = divmod(int(moved.argmax()), SIDE)
    distance = math.hypot(*(min(abs(a - b), SIDE - abs(a - b)) for a, b in ((row, 4), (column, 28))))
    assert moved.sum() == 1
    assert distance == pytest.approx(SIDE / 2, abs=1)


@pytest.mark.parametrize("degree", DEGREES)
def test_flipped_signs_are_those_of_cells(degree: float) -> None:
    flipped = DAMAGES["signs"](torch.ones(1, 1, SIDE, SIDE), degree, generator(2))
    cells = flipped.reshape(CELLS, SIDE // CELLS, CELLS, SIDE // CELLS).transpose(1, 2).flatten(2)
    assert (cells == cells[..., :1]).all()
    assert int((cells[..., 0] < 0).sum()) == degree / 2 * CELLS**2


def test_changes_that_should_not_matter_keep_what_a_map_says(map_: Tensor) -> None:
    assert torch.equal(NUISANCES["scale"](map_), 100 * map_)
    assert NUISANCES["resolution"](map_).shape == (1, 1, SIDE // 4, SIDE // 4)
    assert float(NUISANCES["resolution"](map_)[0, 0, 0, 0]) == pytest.approx(float(map_[0, 0, :4, :4].mean()), abs=1e-6)
    middle = slice(4, -4)
    wide = torch.ones(1, 1, SIDE, SIDE)
    assert torch.allclose(NUISANCES["smoothing"](wide)[..., middle, middle], wide[..., middle, middle], atol=1e-6)


def test_a_ladder_is_files_of_maps_named_as_the_images_and_the_same_each_time(store: Store) -> None:
    truth = torch.randn(2, SIDE, SIDE, generator=generator())
    methods = ladder_of(truth, ["a", "b"], ["one.png", "two.png"], 3, store.folder)
    assert methods == ladder_of(truth, ["a", "b"], ["one.png", "two.png"], 3, store.folder)
    steps = {step_of(method): open_maps(path_of(method)) for method in methods}
    assert steps.keys() == {TRUTH, *NUISANCES} | {step for kind in DAMAGES for step in steps_of(kind)}
    assert steps[TRUTH].names == ("one.png", "two.png")
    assert np.array_equal(steps[TRUTH].read(1), truth[1].numpy())
    # The random numbers are those of the image, whatever its place.
    (swapped,) = [m for m in ladder_of(truth.flip(0), ["b", "a"], ["two.png", "one.png"], 3, store.folder) if step_of(m) == "shift-50"]
    assert np.array_equal(open_maps(path_of(swapped)).read(0), steps["shift-50"].read(1))
    assert step_of(maps_spec("/somewhere/mine.npz")) is None


# Recovery


def test_recovery_is_the_mean_rank_correlation_of_each_image() -> None:
    scores = [np.random.default_rng(seed).normal(size=(5, 7)) for seed in (0, 1, 2)]
    for sign in (1, -1):
        found = recovery(scores, {"scale": scores[0][0] + sign}, sign)
        expected = [[sign * scipy.stats.spearmanr(range(5, 0, -1), kind[:, image]).statistic for image in range(7)] for kind in scores]
        assert found.values == pytest.approx(np.mean(expected, 0))
        assert found.kinds == pytest.approx(np.mean(expected, 1))
        wrong = [
            sign * kind[a, image] < sign * kind[b, image]
            for kind in scores
            for a, b in itertools.combinations(range(5), 2)
            for image in range(7)
        ]
        assert found.errors == pytest.approx(np.mean(wrong))
        distance = abs(np.mean([kind[0] for kind in scores]) - np.mean([kind[-1] for kind in scores]))
        moved = abs(np.mean(scores[0][0] + sign) - np.mean([kind[0] for kind in scores]))
        assert found.reactions["scale"] == pytest.approx(moved / distance)


def test_the_number_of_images_is_that_of_a_paired_test_with_a_power_of_four_fifths() -> None:
    generator = np.random.default_rng(0)
    gaps = generator.normal(size=(1, 500))
    gaps = 0.4 + (gaps - gaps.mean()) / gaps.std(ddof=1)
    found = recovery([np.concatenate([gaps, np.zeros((1, 500))])], {}, 1)
    assert found.images == math.ceil(((scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)) / 0.4) ** 2) == 50
    drawn = generator.normal(0.4, 1, size=(4000, 50))
    assert np.mean(scipy.stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.04)


def test_equal_scores_recover_nothing_and_undefined_ones_are_left_out() -> None:
    equal = recovery([np.ones((5, 4))], {"scale": np.ones(4)}, 1)
    assert equal.values.tolist() == [0, 0, 0, 0]
    assert (equal.errors, equal.images) == (0.5, math.inf)
    assert math.isnan(equal.reactions["scale"])
    scores = np.tile(np.arange(5.0, 0, -1)[:, None], 3)
    scores[2, 1] = math.nan
    found = recovery([scores], {}, 1)
    assert found.values[[0, 2]].tolist() == [1, 1]
    assert math.isnan(found.values[1])
    assert (found.errors, found.images) == (0, 2)
    undefined = recovery([np.full((5, 2), math.nan)], {"scale": np.ones(2)}, 1)
    assert math.isnan(undefined.errors)


def test_a_mean_exceeds_a_level_by_a_one_sided_test_corrected_over_the_names() -> None:
    generator = np.random.default_rng(1)
    values = {f"{shift}": generator.normal(shift, 1, size=24) for shift in (-1.0, 0.0, 0.4, 0.6, 1.0)}
    p = np.array([scipy.stats.ttest_1samp(each, 0, alternative="greater").pvalue for each in values.values()])
    rejected, running = {}, 0.0
    for place, index in enumerate(np.argsort(p)):
        running = max(running, p[index] * (len(p) - place))
        rejected[list(values)[index]] = running <= 0.05
    assert exceeding(values) == rejected
    assert True in rejected.values()
    assert False in rejected.values()
    # Three images prove nothing, however similar their values.
    assert exceeding({"few": np.array([1.0, 1.0, 1.01])}) == {"few": False}


# Findings


def results(quality: dict[str, float], images: int = 24, tuned: bool = False) -> ModelResults:
    """Return scores that fall with the damage by a protocol's quality, plus noise."""
    generator, scores = np.random.default_rng(0), {}
    for text, slope in quality.items():
        protocol = ProtocolSpec.parse(text)
        sign = 1 if create(protocol).higher_is_better else -1
        for step in [TRUTH, *NUISANCES, *(s for kind in DAMAGES for s in steps_of(kind)[1:])]:
            damage = float(step.partition("-")[2] or 0) / 100
            method = maps_spec(f"/ladder/{step}.npz")
            spec = RunSpec(ModelSpec("net"), "birds", (protocol,), (method,))
            values = sign * (-slope * damage + 0.1 * generator.normal(size=images))
            keys = tuple(map(str, range(images)))
            scores[protocol, method] = Score(spec, create(protocol), values, keys, tuple((k,) for k in range(images)), [{}] * images)
    traits = ModelTraits("net_tuned" if tuned else "net", "resnet", 18, 16, True, True, tuned)
    return ModelResults(traits, [made_result(scores)])


def made_result(scores: dict[tuple[ProtocolSpec, MethodSpec], Score]) -> RunResult:
    first = next(iter(scores.values()))
    return RunResult(first.spec, scores, (), (), 0, 0)


def test_the_protocol_that_orders_the_maps_is_named_first() -> None:
    analysis = Meta().analyse([results({"sds": 1.0, "ids:steps=16": 0.05, "saco": 0.0, "parts": 2.0})])
    assert analysis.finding.startswith("On net (truth: parts), **sds** recovers the order best (0.9")
    assert "significantly better than all others" in analysis.finding
    rows = {row["protocol"]: row for row in analysis.rows}
    assert list(rows) == ["sds", "ids", "saco", "parts"]
    assert rows["parts"]["by construction"]
    assert not rows["sds"]["by construction"]
    assert (rows["sds"]["recovers"], rows["saco"]["recovers"]) == (True, False)
    assert any(re.search("saco do(es)? not recover", sentence) for sentence in analysis.more)


def test_no_protocol_is_named_where_none_recovers_the_order() -> None:
    analysis = Meta().analyse([results({"sds": 0.0, "ids": 0.0})])
    assert analysis.finding == "On net (truth: parts), no protocol recovers the order of the maps."


def test_the_hypotheses_are_answered() -> None:
    plain, tuned = results({"sds": 0.1}), results({"idsds": 1.0}, tuned=True)
    (sentence,) = [s for s in Meta().analyse([plain, tuned]).more if s.startswith("Hypothesis 1")]
    assert "IDSDS on net_tuned recovers the truth better than SDS on the plain model" in sentence
    (sentence,) = [
        s for s in Meta().analyse([results({"sds": 1.0}), results({"idsds": 0.1}, tuned=True)]).more if s.startswith("Hypothesis 1")
    ]
    assert "less well than" in sentence
    scaled = results({"infidelity": 1.0, "infidelity:normalize=true": 1.0, "entropy": 1.0, "compactness": 0.0})
    more = Meta().analyse([scaled]).more
    (second,) = [s for s in more if s.startswith("Hypothesis 2")]
    assert "holds on 0 of 1 models" in second
    compactness, entropy = [s for s in more if s.startswith("Hypothesis 3")]
    assert compactness.startswith("Hypothesis 3 holds for compactness, which recovers the order on no model")
    assert entropy.startswith("Hypothesis 3 does not hold for entropy, which recovers the order on net (mean recovery by damage: noise 0.9")


def test_the_study_says_where_the_truth_is_unknown(store: Store, tmp_path: Path) -> None:
    from support.runs import pictures

    spec = StudySpec("meta", models=(ModelSpec("birds_resnet10"),), data=str(pictures(tmp_path / "pictures")))
    with pytest.raises(DataError, match="no images with single parts removed"):
        run_study(spec, store)
    with pytest.raises(DataError, match="makes its own maps"):
        run_study(replace(spec, data="birds", methods=(MethodSpec("IG"),)), store)
