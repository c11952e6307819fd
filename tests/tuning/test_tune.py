"""Searches with a known answer: the best setting of a linear model's contributions, and of pure noise."""

import math
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.stats
import torch
from support import scores
from support.method_nets import Linear, made
from support.numbers import SEED
from support.runs import GRID, HALF, SIZE, Calls, classifier, count_calls, passes, picture, pictures, stop_at
from support.tunable import BEST, registered

from attrlib.data.datasets import load_dataset
from attrlib.data.derived import Subset
from attrlib.errors import AttrlibError, Cancelled, DataError, MethodError, ProtocolError, SpecError
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, TuneSpec
from attrlib.statistics import paired_difference
from attrlib.store import Store
from attrlib.tuning import Trial, TuneResult, plan_tuning, run_tuning
from attrlib.tuning.plan import rounds

pytestmark = pytest.mark.usefixtures("own_cache")
SPACE = {"mix": [0, 0.1, BEST, 0.6, 1]}
LINEAR = attrlib.wrap_model(made(Linear, SIZE, SIZE), SIZE, HALF, HALF)
NET = classifier()


@pytest.fixture(autouse=True)
def _methods() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return count_calls(monkeypatch)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Thirty pictures, six of each class."""
    return pictures(tmp_path / "pictures", 6)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(folder=tmp_path / "store")) as store:
        yield store


def tune(data: object, store: Store, method: str = "Blend", protocol: str = "sds", **options: Any) -> TuneResult:
    options = {"space": SPACE, "limit": 8, "held_out": 12} | options
    return attrlib.tune(options.pop("model", LINEAR), data, method, protocol, store=store, **options)


def fails(calls: Calls, data: object, store: Store, *arguments: str, **options: Any) -> AttrlibError:
    """Return the error of a search that must be refused before any map is computed or result stored."""
    with pytest.raises(AttrlibError) as caught:
        tune(data, store, *arguments, **options)
    assert not calls
    assert not store.runs()
    return caught.value


# The winner


def test_the_contributions_of_a_linear_model_win_and_are_significantly_better(data: Path, store: Store) -> None:
    result = tune(data, store)
    assert str(result.method) == f"Blend:mix={BEST}"
    assert np.allclose(result.winner.values, 1), "each deleted patch lowers the logit by its contributions"
    assert [str(trial.method) for trial in result.trials[:2]] == [f"Blend:mix={BEST}", "Blend:mix=0.1"]
    assert sorted(trial.number for trial in result.trials) == [0, 1, 2, 3, 4]
    assert result.trials[0].score.mean == 1
    assert result.better
    assert result.finding.startswith(
        f"On 12 held-out items Blend:mix={BEST}, the best of the search, is significantly better than the default Blend: sds is 1.000 [1.000, 1.000]"
    )
    assert result.snippet == f"attrlib.explain(model, images, 'Blend:mix={BEST}')"
    maps = attrlib.explain(LINEAR, picture(0, 0), str(result.method), target=0).maps
    image = LINEAR.preprocess(picture(0, 0))
    expected = (image * LINEAR.module.weight[0]).sum(0).detach()  # type: ignore[index, union-attr]
    assert torch.allclose(maps[0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("options", [{"sampler": "random", "trials": 12, "space": "mix=0.05..0.6"}, {"halving": True, "limit": 16}])
def test_other_searches_come_close_to_the_known_best(data: Path, store: Store, options: dict[str, Any]) -> None:
    result = tune(data, store, **options)
    tried = [float(str(trial.method.values["mix"])) for trial in result.trials if trial.number]
    assert float(str(result.method.values["mix"])) == min(tried, key=lambda mix: abs(mix - BEST))


def test_of_pure_noise_the_search_is_optimistic_and_the_verdict_is_not(data: Path, store: Store) -> None:
    """The best of 21 means of 8 correlations of noise is 1.9 standard errors above 0 in expectation; on other items it is 0."""
    error = 1 / math.sqrt(15)  # of a rank correlation of 16 patches
    results = [tune(data, store, "Dice", space={"number": list(range(1, 21))}, held_out=20, seed=seed) for seed in range(6)]
    for result in results:
        assert result.trials[0].score.mean == max(trial.score.mean for trial in result.trials)
        if not result.better:
            assert " is not significantly better than the default Dice" in result.finding
            assert result.finding.endswith("; keep the default.")
    assert np.mean([result.trials[0].score.mean for result in results]) > error / math.sqrt(8)
    assert abs(np.mean([result.winner.mean for result in results])) < 4 * error / math.sqrt(20 * 6)
    assert sum(result.better for result in results) <= 1


def test_if_the_default_is_best_the_result_says_so(data: Path, store: Store) -> None:
    result = tune(data, store, f"Blend:mix={BEST}")
    assert result.method == MethodSpec.parse(f"Blend:mix={BEST}")
    assert result.default.values.tobytes() == result.winner.values.tobytes()
    assert not result.better
    assert result.finding == (
        f"No other setting is better than the default Blend:mix={BEST} on the 8 items of the search: keep the default. "
        "On 12 held-out items its sds is 1.000 [1.000, 1.000]."
    )


def test_where_lower_is_better_the_lowest_wins(data: Path, store: Store) -> None:
    result = tune(data, store, "SmoothGrad:samples=2", "infidelity", space="noise=0..2:3", model=NET)
    means = [trial.score.mean for trial in result.trials]
    assert means == sorted(means)
    assert result.method == result.trials[0].method


# What is said of the verdict


def judged(winner: list[float], default: list[float], protocol: str) -> TuneResult:
    """Return a result with these held-out values."""
    spec = TuneSpec(ModelSpec("wrapped:Net"), "d", ProtocolSpec.parse(protocol), MethodSpec("IG"))
    a, b = (scores.score(values, None, method, protocol) for values, method in ((winner, "IG:steps=8"), (default, "IG")))
    return TuneResult(spec, "", (Trial(0, b, paired_difference(b.values, b.values)),), b, a)


@pytest.mark.parametrize(("protocol", "sign"), [("sds", 1), ("infidelity", -1)])
def test_better_follows_the_direction_of_the_protocol(protocol: str, sign: int) -> None:
    values = np.random.default_rng(SEED).normal(0.5, 0.1, 12)
    higher, lower = list(values + 0.2 + np.linspace(0, 0.01, 12)), list(values)
    good, bad = (higher, lower) if sign > 0 else (lower, higher)
    assert judged(good, bad, protocol).better
    assert "is significantly better than the default IG" in judged(good, bad, protocol).finding
    worse = judged(bad, good, protocol)
    assert not worse.better
    assert "is significantly worse than the default IG" in worse.finding
    assert worse.finding.endswith("; keep the default.")
    assert worse.command == "", "only Python can load a wrapped module"


def test_the_paired_difference_is_that_of_the_held_out_values(data: Path, store: Store) -> None:
    result = tune(data, store, space={"mix": [0.25, 0.6]})
    expected = result.winner.values - result.default.values
    assert result.difference.n == 12
    assert result.difference.mean == pytest.approx(expected.mean(), rel=1e-12)
    low, high = scipy.stats.ttest_1samp(expected, 0).confidence_interval()
    half = (high - low) / 2
    assert result.difference.low == pytest.approx(low, abs=0.35 * half), "a bootstrap of twelve values is near Student's t"
    assert result.difference.high == pytest.approx(high, abs=0.35 * half)


# The items


def ids(result: TuneResult) -> tuple[set[str], set[str]]:
    """Return the items of the search, and the held-out ones."""
    return {item for trial in result.trials for item in trial.score.ids}, {*result.default.ids, *result.winner.ids}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_items_of_search_and_verdict_are_the_first_and_next_of_the_seed(data: Path, store: Store, seed: int) -> None:
    dataset = load_dataset(data)
    result = tune(data, store, seed=seed)
    searched, held_out = ids(result)
    order = list(dict.fromkeys(dataset.item_id(k) for k in dataset.order(seed)))
    assert searched == set(order[:8])
    assert held_out == set(order[8:20])


def test_copies_of_a_picture_are_never_on_both_sides(data: Path, store: Store) -> None:
    for file in sorted(data.rglob("*.png")):
        shutil.copy(file, file.with_name(f"again {file.name}"))
    result = tune(data, store, limit=20, held_out=40)
    searched, held_out = ids(result)
    assert not searched & held_out
    assert (len(searched), len(held_out)) == (20, 10)
    assert "10 items are left to judge the best setting on, fewer than the 40 asked for" in result.notes


def test_a_picture_with_several_labels_is_never_on_both_sides(tmp_path: Path, store: Store) -> None:
    rows = []
    for k in range(12):
        picture(k % 5, k).save(tmp_path / f"{k}.png")
        rows.append(f"{k}.png,{k % 5};{(k + 1) % 5};{(k + 2) % 5}\n")
    (tmp_path / "list.csv").write_text("file,label\n" + "".join(rows))
    for limit in (7, 8, 9):
        result = tune(tmp_path / "list.csv", store, limit=limit, held_out=12)
        searched, held_out = ids(result)
        assert len(result.trials[0].score.values) == limit
        assert len(searched) == 3
        assert not searched & held_out
        assert len(result.winner.values) == 12 - {7: 2, 8: 1, 9: 0}[limit]


def test_grids_of_search_and_verdict_share_no_picture(data: Path, store: Store) -> None:
    result = tune(data, store, "SmoothGrad:samples=2", GRID, space={"noise": [0, 0.5]}, limit=3, held_out=3, model=NET)
    searched = {image for trial in result.trials for item in trial.score.items for image in item}
    held_out = {image for item in result.winner.items for image in item}
    assert len(searched) == len(held_out) == 3 * 4
    assert not searched & held_out


def test_the_held_out_score_is_that_of_score_on_these_pictures_alone(data: Path, store: Store, tmp_path: Path) -> None:
    result = tune(data, store)
    dataset = load_dataset(data)
    images = [item for (item,) in result.winner.items]
    for method, score in ((f"Blend:mix={BEST}", result.winner), ("Blend", result.default)):
        with closing(Store(folder=tmp_path / f"other {method}")) as other:
            alone = attrlib.score("sds", LINEAR, method, Subset(dataset, images), store=other)
        values = dict(zip(alone.ids, alone.values, strict=True))
        assert [values[item] for item in score.ids] == score.values.tolist()
        assert score.mean == pytest.approx(alone.mean, rel=1e-12)
        assert score.ci95 == pytest.approx(alone.ci95, rel=1e-9)


# What is computed


def test_nothing_is_computed_twice_and_a_second_search_computes_nothing(data: Path, store: Store, calls: Calls) -> None:
    result = tune(data, store)
    assert set(calls.times.values()) == {1}
    assert len(calls) == 5 * 8 + 2 * 12 == result.computed
    assert result.cached == 0
    again = tune(data, store)
    assert len(calls) == 5 * 8 + 2 * 12
    assert (again.computed, again.cached) == (0, 64)
    assert again.as_json() | {"seconds": 0, "computed": 0, "cached": 0} == result.as_json() | {"seconds": 0, "computed": 0, "cached": 0}
    wider = tune(data, store, space={"mix": [0, 0.1, 0.2, BEST]})
    assert wider.computed == 8, "one more setting; the winner is the same"


def test_a_search_and_a_score_share_their_results(data: Path, store: Store, calls: Calls) -> None:
    attrlib.score("sds", LINEAR, "Blend:mix=0.6", data, limit=8, store=store)
    assert tune(data, store).computed == 4 * 8 + 2 * 12
    assert set(calls.times.values()) == {1}


def test_a_search_that_is_stopped_at_any_event_computes_nothing_twice(data: Path, tmp_path: Path, calls: Calls) -> None:
    options = dict(method="Blend", protocol=GRID, model=NET, space={"mix": [0.1, BEST, 0.6, 1]}, limit=4, held_out=3, halving=True)
    events: list[object] = []
    with closing(Store(folder=tmp_path / "whole")) as store:
        expected = tune(data, store, on_progress=events.append, **options)
    needed = calls.times
    assert set(needed.values()) == {1}
    assert len(events) > 10
    for number in range(0, len(events), 4):
        calls.clear()
        with closing(Store(folder=tmp_path / f"stopped {number}")) as store:
            with pytest.raises(Cancelled):
                tune(data, store, on_progress=stop_at(number), **options)
            resumed = tune(data, store, **options)
        assert resumed.finding == expected.finding
        assert [trial.row() | {"seconds": 0} for trial in resumed.trials] == [trial.row() | {"seconds": 0} for trial in expected.trials]
        assert calls.times == needed, f"maps computed twice after event {number}"


def test_settings_share_passes_as_methods_do(data: Path, store: Store) -> None:
    space = {"channels": ["sum", "abs-sum", "sum-abs"]}
    with passes() as together:
        tune(data, store, "Gradient", space=space, model=NET)
    with passes() as single, closing(Store(folder=data.parent / "single")) as other:
        attrlib.score("sds", NET, "Gradient", data, limit=8, store=other)
    measured = (1 + 16) * 8
    gradients = single.images - measured
    assert together.images <= measured + gradients + (1 + 16) * 12 + 2 * gradients * 12 / 8


# Successive halving


@pytest.mark.parametrize(
    ("limit", "settings", "expected"),
    [(16, 8, (4, 8, 16)), (16, 2, (8, 16)), (16, 1, (16,)), (32, 100, (4, 8, 16, 32)), (7, 100, (4, 7)), (6, 100, (6,)), (4, 100, (4,))],
)
def test_every_round_has_twice_the_items_of_the_one_before(limit: int, settings: int, expected: tuple[int, ...]) -> None:
    spec = TuneSpec(ModelSpec("m"), "d", ProtocolSpec("sds"), MethodSpec("IG"), limit=limit, halving=True)
    assert rounds(spec, settings) == expected
    assert rounds(TuneSpec(ModelSpec("m"), "d", ProtocolSpec("sds"), MethodSpec("IG"), limit=limit), settings) == (limit,)


def test_the_better_half_and_the_default_go_on(data: Path, store: Store, calls: Calls) -> None:
    space = {"mix": [0.2, 0.25, BEST, 0.4, 0.6, 0.8, 1]}
    result = tune(data, store, space=space, limit=16, halving=True)
    reached = {str(trial.method): len(trial.score.values) for trial in result.trials}
    counts = [list(reached.values()).count(size) for size in (4, 8, 16)]
    assert counts == [3, 2, 3], "seven, four and two settings, and the default"
    assert {name for name, count in reached.items() if count == 16} == {"Blend", "Blend:mix=0.25", f"Blend:mix={BEST}"}
    assert result.computed == sum(reached.values()) + 2 * 12
    assert set(calls.times.values()) == {1}
    sizes = list(reached.values())
    assert sizes == sorted(sizes, reverse=True), "those that went further come first"
    ordinary = tune(data, store, space=space, limit=16)
    assert ordinary.method == result.method
    assert ordinary.winner.values.tobytes() == result.winner.values.tobytes()


# What is refused


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "words"),
    [
        ((), {"space": {"blend": [0, 1]}}, SpecError, "unknown parameter of Blend 'blend'"),
        ((), {"space": {"mix": [0, 2]}}, SpecError, "Blend: mix=2 is out of range: a number from 0 to 1"),
        ((), {"space": {"mix": [0.5]}}, SpecError, "has a single setting"),
        (("Blend:mix=0.3",), {"space": "mix=0.3..0.3000001", "sampler": "random"}, SpecError, "is the default Blend:mix=0.3; widen it"),
        ((), {"space": {"layer": ["Input", "Nowhere"]}}, attrlib.LayerError, "unknown layer"),
        (("Blend", "mass"), {}, ProtocolError, "mass needs masks of the objects, which this data set does not have"),
        (("Blend", "idsds"), {}, ProtocolError, "was not fine-tuned on images with deleted patches"),
        (("Blend", "sds:grid=3"), {}, ProtocolError, "cannot be divided into 3 x 3 equal patches"),
        (("Raw attention",), {"space": {"block": [0, 1]}}, ProtocolError, "self-attention"),
        ((), {"limit": 30}, DataError, "has 30 items for sds, and the search takes 30 of them, so that none is left"),
        ((), {"limit": 300}, DataError, "has 30 items for sds, and the search takes 30 of them, so that none is left"),
        ((), {"limit": 29}, DataError, "so that 1 is left to judge the best setting on; lower limit, or give more data"),
        ((), {"limit": 1}, SpecError, "limit=1 is out of range"),
        ((), {"held_out": 1}, SpecError, "held_out=1 is out of range"),
        ((), {"trials": 0}, SpecError, "trials=0 is out of range"),
        ((), {"sampler": "bayes"}, SpecError, "unknown sampler 'bayes'"),
        ((), {"trails": 3}, SpecError, "unknown option of a search 'trails'. Did you mean trials"),
        (("Dice",), {"space": {"seed": [0, 1]}}, SpecError, "seed is not a parameter of a method"),
        (("Dice:even=true:number=2",), {"space": {"number": [1, 3]}}, MethodError, "no other setting than the default is defined: Dice: the number is odd"),
        (("Dice:even=true:number=1",), {"space": {"number": [2, 4]}}, ProtocolError, "Dice: the number is odd"),
    ],
)  # fmt: skip
def test_a_search_that_cannot_work_is_refused_before_anything_is_computed(
    arguments: tuple[str, ...], options: dict[str, Any], kind: type[AttrlibError], words: str, data: Path, store: Store, calls: Calls
) -> None:
    error = fails(calls, data, store, *arguments, **options)
    assert isinstance(error, kind), repr(error)
    assert words in str(error)
    assert "\n" not in str(error)


def test_too_few_grids_are_refused_before_any_map_is_computed(data: Path, store: Store, calls: Calls) -> None:
    with pytest.raises(DataError, match=r"items for gridpg.*lower limit, or give more data"):
        tune(data, store, "Blend", "gridpg:confidence=0", limit=7, held_out=3, model=NET)
    assert not calls


def test_a_setting_that_is_not_defined_is_named_and_the_others_are_tried(data: Path, store: Store) -> None:
    result = tune(data, store, "Dice:even=true", space={"number": [1, 2, 3]})
    assert {str(method) for method, _ in result.refused} == {"Dice:even=true:number=1", "Dice:even=true:number=3"}
    assert {reason for _, reason in result.refused} == {"Dice: the number is odd; choose an even one"}
    assert {str(trial.method) for trial in result.trials} == {"Dice:even=true", "Dice:even=true:number=2"}


def test_a_seeded_method_comes_with_a_note(data: Path, store: Store) -> None:
    result = tune(data, store, "SmoothGrad:samples=2", space={"noise": [0.1, 0.5]}, model=NET)
    assert any(note.startswith("SmoothGrad draws random numbers: all settings used seed 0") for note in result.notes)
    assert not any("random numbers" in note for note in tune(data, store).notes)


@pytest.mark.parametrize(
    ("mix", "note"),
    [
        ([0.1, 0.2], "mix=0.2 is the highest value tried; beyond it may be a better one"),
        ([0.4, 0.5], "mix=0.4 is the lowest value tried; beyond it may be a better one"),
        ([0.1, BEST, 0.5], ""),
    ],
)
def test_a_best_value_at_the_edge_of_the_space_comes_with_a_note(mix: list[float], note: str, data: Path, store: Store) -> None:
    result = tune(data, store, "Blend:mix=0.4" if min(mix) == 0.4 else "Blend:mix=0.1", space={"mix": mix})
    assert [each for each in result.notes if "tried" in each] == ([note] if note else [])


def test_the_bound_of_a_parameter_is_no_edge(data: Path, store: Store) -> None:
    result = tune(data, store, "Dice:number=5", space={"number": [0, 5, 7]}, limit=4)
    notes = [note for note in result.notes if "tried" in note]
    expected = {"0": [], "7": ["number=7 is the highest value tried; beyond it may be a better one"], "5": []}
    assert notes == expected[str(result.method.values["number"])]


def test_a_plan_computes_nothing_and_says_what_is_tried(data: Path, store: Store, calls: Calls) -> None:
    spec = TuneSpec(
        LINEAR.spec, str(data), ProtocolSpec("sds"), MethodSpec("Blend"), attrlib.specs.parse_space("mix=0..1"), limit=8, held_out=12
    )
    plan = plan_tuning(spec, LINEAR, load_dataset(data), store)
    assert plan.describe == "mix=0..1: all of its 5 settings, and the default Blend"
    assert (plan.search.cached, plan.search.missing) == (0, 5 * 8)
    assert plan.estimate().seconds > 0
    assert not calls
    run_tuning(plan)
    assert len(calls) == 5 * 8 + 2 * 12
