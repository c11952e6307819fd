"""Numbers as text, where small scores keep their significant digits instead of being rounded to zero, and as JSON."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

MANY_DECADES = 2
_SMALL = 0.01


def number(value: float, decimals: int = 3) -> str:
    """Format a number with the given decimals, or below 0.01 with two significant digits: 0.123, 0.0026, 2.6e-05.

    A value that is not finite becomes a dash.
    """
    if not math.isfinite(value):
        return "–"
    return f"{value:.2g}" if 0 < abs(value) < _SMALL else f"{value:.{decimals}f}"


def signed(value: float) -> str:
    """Return a correlation with its sign, or a dash if it is undefined."""
    return "–" if value != value else f"{value:+.2f}".replace("-", "−")


def spans_decades(values: Iterable[float]) -> bool:
    """Return whether all finite values are positive and differ so much that they need a logarithmic scale."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > 10**MANY_DECADES * min(finite)


def json_value(value: Any) -> Any:
    """Return a value as JSON can hold it, with everything in it: numbers that are not finite become None.

    Example:
        >>> json_value({"mean": float("nan"), "values": (0.5, float("inf"))})
        {'mean': None, 'values': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return {str(name): json_value(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
