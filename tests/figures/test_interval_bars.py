"""The intervals of a leaderboard: positions worked out by hand."""

import base64
import math
import re

import pytest

from attrlib.figures.interval_bars import MARGIN, WIDTH, interval_bars, shared_axis
from attrlib.figures.leaderboard import LeaderboardRow


def row(mean: float, low: float = math.nan, high: float = math.nan, chance: float | None = None) -> LeaderboardRow:
    return LeaderboardRow(protocol="sds", method="IxG", mean=mean, low=low, high=high, n=4, undefined=0, chance=chance)


def svg(url: str | None) -> str:
    assert url is not None
    kind, _, content = url.partition(",")
    assert kind == "data:image/svg+xml;base64"
    return base64.b64decode(content).decode()


def share(position: float) -> float:
    """Position as a share of the range without its margins."""
    return (position / WIDTH * (1 + 2 * MARGIN)) - MARGIN


def test_all_rows_share_an_axis_from_the_lowest_to_the_highest_end() -> None:
    first, second = map(svg, interval_bars([row(0.5, 0.0, 1.0), row(0.75, 0.5, 0.9)]))
    (mean,) = re.findall(r'cx="([\d.]+)"', first)
    assert share(float(mean)) == pytest.approx(0.5, abs=1e-3)
    ((low, high),) = re.findall(r'd="M([\d.]+) 14.0H([\d.]+)"', second)
    assert (share(float(low)), share(float(high))) == pytest.approx((0.5, 0.9), abs=1e-3)
    assert "stroke-dasharray" not in first


def test_chance_is_a_dashed_line_that_the_axis_holds() -> None:
    (picture,) = map(svg, interval_bars([row(1.0, chance=0.0)]))
    (chance,) = re.findall(r'd="M([\d.]+) 0V28" .* stroke-dasharray', picture)
    assert share(float(chance)) == pytest.approx(0.0, abs=1e-3)
    assert picture.count("<path") == 1


def test_means_that_span_decades_lie_on_a_logarithmic_axis() -> None:
    rows = [row(1e-4), row(1e-2, -1.0, 1e-2), row(1.0)]
    axis = shared_axis(rows)
    assert axis.logarithmic
    assert [share(axis.x(each.mean)) for each in rows] == pytest.approx([0.0, 0.5, 1.0], abs=1e-3)
    assert axis.x(-1.0) == 0
    assert not shared_axis([*rows, row(0.5, chance=0.0)]).logarithmic


def test_a_row_without_a_mean_has_no_picture() -> None:
    assert interval_bars([row(math.nan)]) == [None]
    assert interval_bars([]) == []
    (picture,) = map(svg, interval_bars([row(0.5)]))
    assert f'cx="{WIDTH / 2}"' in picture
