"""Small pictures of the intervals of a leaderboard, one for each row, on an axis that all rows share."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass

from attrlib.figures.charts import ACCENT, GREY
from attrlib.figures.leaderboard import LeaderboardRow
from attrlib.figures.numbers import spans_decades

WIDTH, HEIGHT = 170, 28
MARGIN = 0.06
"""Free space on both sides of the axis, as a share of the range of the values."""


@dataclass(frozen=True)
class BarAxis:
    """An axis from `low` to `high`, which are logarithms to base 10 if it is logarithmic."""

    low: float
    high: float
    logarithmic: bool = False

    def x(self, value: float) -> float:
        """Return the position of a value in pixels; on a logarithmic axis 0 and below lie at its lower end."""
        place = (math.log10(value) if value > 0 else self.low) if self.logarithmic else value
        return round((place - self.low) / (self.high - self.low) * WIDTH, 1)


def interval_bars(rows: Sequence[LeaderboardRow]) -> list[str | None]:
    """Draw the mean of each row with its interval and, as a dashed line, the chance level.

    Args:
        rows: The rows of one protocol.

    Returns:
        An SVG picture of each row as a data URL, None if its mean is undefined.
    """
    axis = shared_axis(rows)
    return [None if math.isnan(row.mean) else _url(_bar(row, axis)) for row in rows]


def shared_axis(rows: Sequence[LeaderboardRow]) -> BarAxis:
    """Return an axis that holds all means, intervals and the chance level; logarithmic if the means span decades and none is chance."""
    chances = [row.chance for row in rows if row.chance is not None]
    ends = [v for row in rows for v in (row.low, row.mean, row.high) if math.isfinite(v)] + chances
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    # Means that span decades are distinguishable only on a logarithmic axis. A chance level may be 0.
    logarithmic = not chances and spans_decades(row.mean for row in rows)
    if logarithmic:
        ends = [value for value in ends if value > 0]
        low, high = math.log10(min(ends)), math.log10(max(ends))
    margin = MARGIN * (high - low) or 0.5
    return BarAxis(low - margin, high + margin, logarithmic)


def _bar(row: LeaderboardRow, axis: BarAxis) -> str:
    parts = []
    if row.chance is not None:
        parts.append(f'<path d="M{axis.x(row.chance)} 0V{HEIGHT}" stroke="{GREY}" stroke-width="1.5" stroke-dasharray="4 3"/>')
    if math.isfinite(row.low):
        parts.append(
            f'<path d="M{axis.x(row.low)} {HEIGHT / 2}H{axis.x(row.high)}" stroke="{ACCENT}" stroke-width="5" stroke-opacity=".45"/>'
        )
    parts.append(f'<circle cx="{axis.x(row.mean)}" cy="{HEIGHT / 2}" r="5" fill="{ACCENT}"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>'
    )


def _url(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
