"""Leaderboard rows against SciPy and values worked out by hand."""

import math

import numpy as np
import pytest
import scipy.stats
from support.scores import result_of

import attrlib.analysis.leaderboard
from attrlib.analysis.leaderboard import leaderboard, live_leaderboard
from attrlib.figures.leaderboard import has_paper
from attrlib.protocols import create
from attrlib.specs import ProtocolSpec
from attrlib.statistics import Summary, summary

SDS, SENSITIVITY = ProtocolSpec("sds"), ProtocolSpec("sensitivity")


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    """Values of three methods: the first is far behind, the other two are tied; one item of the last is undefined."""
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.1, size=(3, 20))
    values = {"IxG": noise[0], "Random": 1 + noise[1], "Sobel": 1.001 + noise[1] + 0.1 * noise[2]}
    values["Sobel"][3] = np.nan
    return values


def test_a_row_holds_the_mean_with_students_interval_the_ranks_and_the_counts(values) -> None:
    rows = {row.method: row for row in leaderboard(result_of({"sds": values}), SDS, 5)}
    assert {name: (row.first, row.last, row.ranks) for name, row in rows.items()} == {
        "IxG": (3, 3, "3"),
        "Random": (1, 2, "1–2"),
        "Sobel": (1, 2, "1–2"),
    }
    for name, row in rows.items():
        defined = values[name][np.isfinite(values[name])]
        low, high = scipy.stats.t.interval(0.95, len(defined) - 1, defined.mean(), scipy.stats.sem(defined))
        assert (row.mean, row.low, row.high) == pytest.approx((defined.mean(), low, high))
        assert (row.protocol, row.n, row.undefined) == ("sds", 20, 20 - len(defined))
        assert row.chance == create(SDS).chance_level == 0
        assert math.isnan(row.paper)
        assert math.isnan(row.seconds)


@pytest.mark.parametrize(("protocol", "sign"), [(SDS, -1), (SENSITIVITY, 1)])
def test_the_best_comes_first(protocol: ProtocolSpec, sign: int, values) -> None:
    result = result_of({"sds": values, "sensitivity": values})
    means = [sign * row.mean for row in leaderboard(result, protocol, 5)]
    assert means == sorted(means)
    assert [(row["protocol"], row["method"]) for row in result.table()] == [
        (row.protocol, row.method) for each in (SDS, SENSITIVITY) for row in leaderboard(result, each, 5)
    ]


def test_the_values_of_the_paper_stand_in_their_rows(values, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        attrlib.analysis.leaderboard,
        "published",
        lambda spec, classes: classes / 10 if str(spec.methods[0]) == "IxG" and spec.protocols == (SDS,) else None,
    )
    result = result_of({"sds": values, "sensitivity": values})
    rows = {row.method: row.paper for row in leaderboard(result, SDS, 5)}
    assert rows["IxG"] == 0.5
    assert math.isnan(rows["Sobel"])
    assert has_paper(leaderboard(result, SDS, 5))
    assert not has_paper(leaderboard(result, SENSITIVITY, 5))


@pytest.mark.parametrize(("protocol", "expected"), [("sds", ["Random", "IxG", "Sobel"]), ("sensitivity", ["IxG", "Random", "Sobel"])])
def test_during_a_run_methods_with_results_are_ordered_by_their_mean_without_ranks(protocol: str, expected: list[str]) -> None:
    own = {
        "IxG": summary(np.array([0.0, 1.0])),
        "Random": summary(np.array([1.0, 1.0, np.nan])),
        "Sobel": summary(np.array([np.nan])),
        "Grad-CAM": summary(np.array([])),
    }
    scores: dict[tuple[str, str], Summary] = {(protocol, method): s for method, s in own.items()}
    rows = live_leaderboard(scores | {("mass", "IxG"): own["IxG"]}, ProtocolSpec(protocol))
    assert [row.method for row in rows] == expected
    by_method = {row.method: row for row in rows}
    assert (by_method["Random"].mean, by_method["Random"].n, by_method["Random"].undefined) == (1.0, 3, 1)
    assert all(row.ranks is None and math.isnan(row.seconds) and math.isnan(row.paper) for row in rows)
    assert {row.chance for row in rows} == {create(ProtocolSpec(protocol)).chance_level}
