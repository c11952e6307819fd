"""Leaderboards as CSV and LaTeX."""

import csv
import io
import json
import math

import numpy as np

from attrlib.figures.leaderboard import LeaderboardRow, counted, plain_rows
from attrlib.figures.numbers import json_value
from attrlib.figures.tables import csv_table, latex_table

COLUMNS = ["protocol", "method", "mean", "low", "high", "first", "last", "n", "undefined", "seconds"]


def row(**values: object) -> LeaderboardRow:
    fixed = {"protocol": "sds", "method": "IxG", "mean": 0.5, "low": 0.25, "high": 0.75, "first": 1, "last": 1, "n": 4, "undefined": 0}
    return LeaderboardRow(**fixed | values)  # type: ignore[arg-type]


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


def test_numbers_that_json_cannot_hold_become_null() -> None:
    value = {"mean": math.nan, 1: [math.inf, -math.inf, 0.5, (np.float64("nan"), np.float64(2))], "rest": (None, True, 3, "nan")}
    assert json.loads(json.dumps(json_value(value), allow_nan=False)) == {
        "mean": None,
        "1": [None, None, 0.5, [None, 2.0]],
        "rest": [None, True, 3, "nan"],
    }
