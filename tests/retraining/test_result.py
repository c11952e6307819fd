"""Curves, areas, intervals and ranks of a retraining, against SciPy."""

import json
import math

import attrlib  # noqa: F401  before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from numpy.testing import assert_allclose

from attrlib.retraining import RoarCurve, RoarResult
from attrlib.retraining.result import files_of, mean_over_seeds
from attrlib.specs import MethodSpec, ModelSpec, RoarSpec

SHARES = (0.0, 0.1, 0.4, 0.9)
TESTS = 50


def curve(name: str, low: float, spread: float = 0.02, keep: bool = False, seeds: int = 5) -> RoarCurve:
    rng = np.random.default_rng(abs(hash((len(name), int(1000 * low)))) % 1000)
    values = np.clip(low + rng.normal(0, spread, (len(SHARES), seeds)), 0, 1)
    return RoarCurve(MethodSpec(name), keep, SHARES, values, TESTS)


def result(*curves: RoarCurve) -> RoarResult:
    spec = RoarSpec(ModelSpec("m"), "birds", tuple(c.method for c in curves), keep=any(c.keep for c in curves))
    return RoarResult(spec, curves, TESTS, 150, 0.1)


def test_the_area_is_that_of_the_trapezoidal_rule_over_the_length() -> None:
    c = curve("IG", 0.5)
    for seed, area in enumerate(c.areas):
        assert_allclose(area, scipy.integrate.trapezoid(c.accuracies[:, seed], SHARES) / 0.9)
    flat = RoarCurve(MethodSpec("IG"), False, SHARES, np.full((4, 2), 0.3), TESTS)
    assert_allclose(flat.areas, 0.3)


def test_intervals_are_students() -> None:
    c, random = curve("IG", 0.5), curve("Random", 0.6)
    for row, point in zip(c.accuracies, c.points, strict=True):
        low, high = scipy.stats.ttest_1samp(row, 0).confidence_interval(0.95)
        assert_allclose([point.mean, point.low, point.high], [row.mean(), low, high])
    difference = result(c, random).to_random(c)
    low, high = scipy.stats.ttest_rel(c.areas, random.areas).confidence_interval(0.95)
    assert_allclose([difference.mean, difference.low, difference.high], [(c.areas - random.areas).mean(), low, high])


def test_ranks_are_those_of_paired_tests_with_bonferronis_correction() -> None:
    curves = [curve("IG", 0.5), curve("Gradient", 0.52), curve("Grad-CAM", 0.3), curve("Random", 0.7, spread=0.1)]
    found = {place.name: (place.first, place.last) for place in result(*curves).ranking()}
    for a in curves:
        better = worse = 0
        for b in curves:
            if a is not b:
                low, high = scipy.stats.ttest_rel(a.areas, b.areas).confidence_interval(1 - 0.05 / 6)
                better, worse = better + (low > 0), worse + (high < 0)
        assert found[str(a.method)] == (1 + better, 4 - worse)
    assert len(set(found.values())) > 1
    assert next(place.name for place in result(*curves).ranking()) == "Grad-CAM"


def test_in_kar_the_highest_area_is_first() -> None:
    curves = [curve("IG", 0.9, keep=True), curve("Random", 0.5, keep=True)]
    assert [(place.name, place.first, place.last) for place in result(*curves).ranking(keep=True)] == [("IG", 1, 1), ("Random", 2, 2)]
    assert "KAR: IG better than random maps." in result(*curves).finding


def test_equal_accuracies_are_not_certain() -> None:
    found = mean_over_seeds(np.full(3, 0.5), TESTS)
    half = scipy.stats.t.ppf(0.975, 2) / (TESTS * math.sqrt(12)) / math.sqrt(3)
    assert_allclose([found.mean, found.low, found.high], [0.5, 0.5 - half, 0.5 + half])
    one = mean_over_seeds(np.array([0.5]), TESTS)
    assert (one.mean, math.isnan(one.low)) == (0.5, True)


def test_with_one_seed_all_methods_are_tied() -> None:
    found = result(curve("IG", 0.1, seeds=1), curve("Random", 0.9, seeds=1))
    assert [(place.first, place.last) for place in found.ranking()] == [(1, 2), (1, 2)]
    assert found.to_random(found.curves[0]).tie
    assert "not significantly different" in found.finding


def test_intervals_of_accuracies_stay_within_0_and_1() -> None:
    c = RoarCurve(MethodSpec("IG"), False, (0.0, 0.5), np.array([[1.0, 0.9], [0.0, 0.1]]), TESTS)
    assert (c.points[0].high, c.points[1].low) == (1.0, 0.0)


def test_table_json_and_files_hold_the_same_numbers() -> None:
    found = result(curve("IG", 0.5), curve("Random", 0.7), curve("IG", 0.8, keep=True), curve("Random", 0.6, keep=True))
    rows = found.table()
    assert [(row["order"], row["method"]) for row in rows] == [("ROAR", "IG"), ("ROAR", "Random"), ("KAR", "IG"), ("KAR", "Random")]
    assert rows[0]["area"] == found.curve("IG").area.mean
    assert rows[0]["accuracy_0.4"] == found.curve("IG").points[2].mean
    fields = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert fields["rows"] == rows
    assert np.array(fields["accuracies"][0]["by_seed"]).T.tolist() == found.curves[0].accuracies.tolist()
    files = {name: make() for name, make in files_of(found).items()}
    assert files["roar.svg"].startswith(b"<?xml")
    assert files["roar.csv"].count(b"\n") == 5
    figure = found.figure()
    assert [panel.title[:4] for panel in figure.panels] == ["ROAR", "KAR "]
    assert figure.panels[0].series[0].points[1].low == found.curve("IG").points[1].low


def test_networks_that_are_better_without_pixels_are_named() -> None:
    better, equal = curve("IG", 0.5, keep=True), curve("Grad-CAM", 0.5, keep=True)
    better.accuracies[2] = better.accuracies[0] + 0.2
    equal.accuracies[1:] = equal.accuracies[0]
    found = result(better, equal, curve("Random", 0.5, keep=True))
    (warning,) = found.warnings
    assert warning.startswith(f"KAR of IG at 0.4: networks are right more often ({better.accuracies[2].mean():.3f}) than on the images")
    low, _ = scipy.stats.ttest_rel(better.accuracies[1], better.accuracies[0]).confidence_interval(1 - 0.05 / 3)
    assert low < 0
    assert warning in found.as_json()["notes"]


def test_an_unknown_curve_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        result(curve("IG", 0.5), curve("Random", 0.7)).curve("IG", keep=True)
