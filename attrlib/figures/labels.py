"""Placement of the labels of a panel's points, so that they do not cover each other."""

import math

from attrlib.figures.study_figure import Panel

SIDES = ("top center", "bottom center", "middle right", "middle left")
"""Sides of a point on which its label may be, in order of preference."""
_LETTER, _HIGH, _MARK = 6.2, 12.0, 6.0
"""Width of a letter, height of a line, and half the size of a marker, in pixels."""
Box = tuple[float, float, float, float]


def places(panel: Panel, width: float, height: float) -> dict[tuple[int, int], str]:
    """Return the side of each point's label by (series index, point index). A label that fits on no side is left out.

    Axes are assumed to be linear, and to extend 5 % beyond the points and their intervals.

    Args:
        panel: The panel.
        width: Width of the plot area in pixels.
        height: Height of the plot area in pixels.
    """
    points = {(i, k): p for i, series in enumerate(panel.series) for k, p in enumerate(series.points) if not isinstance(p.x, str)}
    across = _ends([v for p in points.values() for v in (float(p.x), p.x_low, p.x_high)])
    up = _ends([v for p in points.values() for v in (p.y, p.low, p.high)] + ([] if panel.level is None else [panel.level]))
    at = {
        key: (width * (float(p.x) - across[0]) / (across[1] - across[0]), height * (p.y - up[0]) / (up[1] - up[0]))
        for key, p in points.items()
        if math.isfinite(p.y)
    }
    taken: list[Box] = [(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in at.values()]
    sides: dict[tuple[int, int], str] = {}
    for key, (x, y) in at.items():
        long = _LETTER * len(points[key].label)
        boxes = (
            (x - long / 2, y + _MARK, x + long / 2, y + _MARK + _HIGH),
            (x - long / 2, y - _MARK - _HIGH, x + long / 2, y - _MARK),
            (x + _MARK, y - _HIGH / 2, x + _MARK + long, y + _HIGH / 2),
            (x - _MARK - long, y - _HIGH / 2, x - _MARK, y + _HIGH / 2),
        )
        for side, box in zip(SIDES, boxes, strict=True):
            if long and box[0] >= 0 and box[2] <= width and not any(_meet(box, other) for other in taken):
                sides[key] = side
                taken.append(box)
                break
    return sides


def _ends(values: list[float]) -> tuple[float, float]:
    finite = [v for v in values if math.isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    room = 0.05 * (high - low) or 0.5
    return low - room, high + room


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
