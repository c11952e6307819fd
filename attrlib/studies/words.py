"""Format numbers in sentences: means and differences with their intervals, lists, and points of figures."""

import math
from collections.abc import Sequence

from attrlib.figures.study_figure import Point
from attrlib.statistics import Correlation, Difference, Summary


def interval(found: Summary | Difference | Correlation) -> str:
    """Format a mean, difference or correlation with its 95 % CI, such as `0.31 [0.28, 0.34]`."""
    value = found.value if isinstance(found, Correlation) else found.mean
    if not math.isfinite(value):
        return "undefined"
    sign = "" if isinstance(found, Summary) else "+"
    ends = f" [{found.low:{sign}.2f}, {found.high:{sign}.2f}]" if math.isfinite(found.low) else ""
    return f"{value:{sign}.2f}{ends}"


def signed(mean: Summary) -> str:
    """Format a mean difference with its interval, all with their signs."""
    ends = f" [{mean.low:+.2f}, {mean.high:+.2f}]" if math.isfinite(mean.low) else ""
    return f"{mean.mean:+.2f}{ends}"


def verdict(found: Difference, more: str, less: str) -> str:
    """Describe a difference.

    Args:
        found: The difference.
        more: Words for a difference above 0.
        less: Words for a difference below 0.

    Returns:
        `more` or `less`, or fixed words for a tie.
    """
    return "cannot be told apart" if found.tie else more if found.mean > 0 else less


def listed(names: Sequence[str], most: int = 4) -> str:
    """Join names as `a, b and c`, or as the first `most` and the number of others."""
    shown = list(names[:most])
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def point(x: float | str, found: Summary | Difference | Correlation, label: str = "", marked: bool = False) -> Point:
    """Return the point of a figure for a mean, difference or correlation with its interval.

    Args:
        x: Position on the horizontal axis.
        found: The value.
        label: Label of the point.
        marked: Whether to draw it as a star.
    """
    value = found.value if isinstance(found, Correlation) else found.mean
    return Point(x, value, found.low, found.high, label, marked=marked)


def numbers(found: Summary | Difference | Correlation, prefix: str = "") -> dict[str, object]:
    """Return a value and its interval as cells of a table row, with `prefix` before each column's name."""
    value = found.value if isinstance(found, Correlation) else found.mean
    return {f"{prefix}mean": value, f"{prefix}low": found.low, f"{prefix}high": found.high}
