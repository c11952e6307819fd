"""Leaderboard rows against SciPy and values worked out by hand, and their exports."""

import csv
import io
import math

import numpy as np
import pytest
import scipy.stats
from support.scores import result_of

import attrlib.analysis.leaderboard
from attrlib.analysis.leaderboard import leaderboard, live_leaderboard
from attrlib.figures.leaderboard import LeaderboardRow, counted, has_paper, plain_rows
from attrlib.figures.tables import csv_table, latex_table
from attrlib.protocols import create
from attrlib.specs import ProtocolSpec
from attrlib.statistics import Summary, summary

SDS, SENSITIVITY = ProtocolSpec("sds"), ProtocolSpec("sensitivity")
COLUMNS = ["protocol", "method", "mean", "low", "high", "first", "last", "n", "undefined", "seconds"]


@pytest.fixture
def values() -> dict[str, np.ndarray]:
    """Values of three methods: the first is far behind, the other two are tied; one item of the last is undefined."""
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.1, size=(3, 20))
    values = {"IxG": noise[0], "Random": 1 + noise[1], "Sobel": 1.001 + noise[1] + 0.1 * noise[2]}
    values["Sobel"][3] = np.nan
    return values


def row(**values: object) -> LeaderboardRow:
    fixed = {"protocol": "sds", "method": "IxG", "mean": 0.5, "low": 0.25, "high": 0.75, "first": 1, "last": 1, "n": 4, "undefined": 0}
    return LeaderboardRow(**fixed | values)  # type: ignore[arg-type]


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


def test_plain_rows_have_the_same_columns_and_the_papers_only_where_it_reports_a_value() -> None:
    rows = plain_rows({"a": [row()], "b": [row(method="Sobel", seconds=0.5)]})
    assert [list(own) for own in rows] == [["model", *COLUMNS]] * 2
    assert [own["model"] for own in rows] == ["a", "b"]
    assert rows[1]["seconds"] == 0.5
    rows = plain_rows({"a": [row()], "b": [row(paper=0.1)]})
    assert [list(own) for own in rows] == [["model", *COLUMNS, "paper"]] * 2
    table = list(csv.DictReader(io.StringIO(csv_table(rows).decode())))
    assert [(own["model"], own["mean"], own["paper"], own["seconds"]) for own in table] == [("a", "0.5", "", ""), ("b", "0.5", "0.1", "")]


def test_the_number_of_items_is_one_number_or_a_range() -> None:
    assert counted([row(), row()]) == "4 items"
    assert counted([row(n=12), row(), row(n=7)]) == "4–12 items"


def test_a_latex_table_of_one_model_has_intervals_and_ranks_and_one_of_several_has_models_across() -> None:
    one = latex_table({"m_1": [row(last=2), row(protocol="mass", method="Random")]}, {"sds": "SDS."})
    assert r"IxG & $0.500$ & [$0.250$, $0.750$] & 1--2 & 4 \\" in one
    assert "Random" not in one
    several = latex_table({"m_1": [row()], "m_2": [row(method="Sobel", low=math.nan, high=math.nan)]}, {"sds": "SDS."})
    assert r"Method & m\_1 & m\_2 \\" in several
    assert r"IxG & $0.500$ $\pm$ $0.250$ & -- \\" in several
    assert r"Sobel & -- & $0.500$ \\" in several
