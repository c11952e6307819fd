"""Paired differences of scores against plain NumPy, SciPy and a closed form."""

import numpy as np
import pytest
from scipy.stats import ttest_rel
from support.scores import score

from attrlib.analysis.differences import aligned, between_methods, from_best, paired


def test_scores_are_matched_by_their_items() -> None:
    a, b = score([1.0, 2.0, 3.0], ["x", "y", "z"]), score([1.0, 2.0, 7.0], ["z", "x", "other"])
    first, second = aligned(a, b)
    assert (first.tolist(), second.tolist()) == ([1.0, 3.0], [2.0, 1.0])
    difference = paired(a, b)
    assert (difference.mean, difference.n) == (0.5, 2)


def test_undefined_items_are_left_out() -> None:
    difference = paired(score([1.0, np.nan, 3.0, 5.0]), score([0.0, 1.0, np.nan, 2.0]))
    assert (difference.mean, difference.n) == (2.0, 2)


def test_a_difference_of_few_items_has_students_interval() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=4), rng.normal(size=4)
    difference = paired(score(a), score(b))
    expected = ttest_rel(a, b).confidence_interval(0.95)
    assert (difference.mean, difference.low, difference.high) == pytest.approx(((a - b).mean(), expected.low, expected.high))


def test_every_method_is_compared_with_the_best_and_every_pair_once() -> None:
    rng = np.random.default_rng(1)
    values = {name: rng.normal(size=30) + shift for name, shift in (("worst", 0.0), ("best", 2.0), ("middle", 1.0))}
    scores = {name: score(own) for name, own in values.items()}
    differences = dict(from_best(scores, ["best", "middle", "worst"]))
    assert list(differences) == ["middle", "worst"]
    for name, difference in differences.items():
        assert difference.mean == pytest.approx((values[name] - values["best"]).mean())
        assert difference.low < difference.mean < difference.high < 0
        assert not difference.tie
    pairs = between_methods(scores)
    assert list(pairs) == [("worst", "best"), ("worst", "middle"), ("best", "middle")]
    assert pairs["worst", "best"] == differences["worst"]
