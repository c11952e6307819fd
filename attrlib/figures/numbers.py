"""Scores in figures: what decimals would round to nothing keeps its significant digits."""

import math
from collections.abc import Iterable

MANY_DECADES = 2
_SMALL = 0.01


def number(value: float, decimals: int = 3) -> str:
    """With so many decimals, below 0.01 with two significant digits instead: 0.123, 0.0026, 2.6e-05; a dash for what is not finite."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.2g}" if 0 < abs(value) < _SMALL else f"{value:.{decimals}f}"


def spans_decades(values: Iterable[float]) -> bool:
    """Whether finite values are all above 0 and differ so much that only a logarithmic scale tells them apart."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > 10**MANY_DECADES * min(finite)
