"""Format numbers in sentences: means and differences with their intervals, lists, and points of figures."""

import math
from collections.abc import Sequence

from attrlib.figures.study_figure import Point
from attrlib.statistics import Correlation, Difference, Summary


def interval(result: Summary | Difference | Correlation) -> str:
    """Format a mean, difference or correlation with its 95 % CI, such as `0.31 [0.28, 0.34]`."""
    value = result.value if isinstance(result, Correlation) else result.mean
    if not math.isfinite(value):
        return "undefined"
    sign = "" if isinstance(result, Summary) else "+"
    ends = f" [{result.low:{sign}.2f}, {result.high:{sign}.2f}]" if math.isfinite(result.low) else ""
    return f"{value:{sign}.2f}{ends}"


def signed(mean: Summary) -> str:
    """Format a mean difference with its interval, all with their signs."""
    ends = f" [{mean.low:+.2f}, {mean.high:+.2f}]" if math.isfinite(mean.low) else ""
    return f"{mean.mean:+.2f}{ends}"


def verdict(result: Difference, more: str, less: str) -> str:
    """Describe a difference.

    Args:
        result: The difference.
        more: Words for a difference above 0.
        less: Words for a difference below 0.

    Returns:
        `more` or `less`, or fixed words for a tie.
    """
    return "is not significantly different" if result.tie else more if result.mean > 0 else less


def listed(names: Sequence[str], most: int = 4) -> str:
    """Join names as `a, b and c`, or as the first `most` and the number of others."""
    shown = list(names[:most])
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def point(x: float | str, result: Summary | Difference | Correlation, label: str = "", marked: bool = False) -> Point:
    """Return the point of a figure for a mean, difference or correlation with its interval.

    Args:
        x: Position on the horizontal axis.
        result: The value.
        label: Label of the point.
        marked: Whether to draw it as a star.
    """
    value = result.value if isinstance(result, Correlation) else result.mean
    return Point(x, value, result.low, result.high, label, marked=marked)


def numbers(result: Summary | Difference | Correlation, prefix: str = "") -> dict[str, object]:
    """Return a value and its interval as cells of a table row, with `prefix` before each column's name."""
    value = result.value if isinstance(result, Correlation) else result.mean
    return {f"{prefix}mean": value, f"{prefix}low": result.low, f"{prefix}high": result.high}
