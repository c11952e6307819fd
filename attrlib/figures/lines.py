"""Line charts as SVG with each line named at its end. A slider can redraw an SVG at once, and it is sharp at any size."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from attrlib.figures.by_layer import COLOURS
from attrlib.figures.charts import GREY

_INK = "#76808c"
"""Text colour, readable on light and dark pages: an SVG does not know which it is on."""
_LEFT, _ABOVE, _BELOW, _LETTER = 46, 34, 44, 15
_DASHES = ("", "7 4", "2 3", "9 3 2 3")
"""Dash patterns, which distinguish lines whose colours look alike to colour-blind readers."""


@dataclass(frozen=True)
class Axis:
    """Value axis: title and range (by default that of the lines), on a `log` scale, or with the lowest value on top (`down`)."""

    title: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    down: bool = False

    def share(self, value: float, low: float, high: float) -> float:
        """Return the position of a value between the bottom (0) and the top (1)."""
        if self.log:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return 1 - share if self.down else share

    def ends(self, values: Sequence[float]) -> tuple[float, float]:
        """Return the lowest and the highest value of the axis."""
        low = self.low if self.low is not None else min(values)
        return low, self.high if self.high is not None else max(values)

    def rules(self, low: float, high: float) -> list[float]:
        """Return the values of the grid lines."""
        if self.log:
            powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
            step = -(-len(powers) // 5)
            return [10.0**k for k in list(powers)[:: step or 1]]
        if self.down:
            return [float(k) for k in range(math.ceil(low), math.floor(high) + 1)]
        return [low, (low + high) / 2, high]


def lines_svg(
    lines: Mapping[str, Sequence[float]],
    ticks: Sequence[str],
    axis: Axis,
    place_title: str = "",
    at: int | None = None,
    level: tuple[str, float] | None = None,
    size: tuple[int, int] = (720, 320),
    markers: bool = True,
) -> str:
    """Draw lines with a value at each tick as SVG. Each line is named at its end, so that it can be read without colours.

    Args:
        lines: Values at each tick by name of the line; NaN where missing. Values that a log scale cannot show are left out.
        ticks: Labels of the ticks.
        axis: The value axis.
        place_title: Title of the horizontal axis.
        at: Index of the tick to mark with a vertical rule; None for no rule.
        level: Name and value of a dashed horizontal line; None for no line.
        size: (width, height) in pixels.
        markers: Whether to draw a marker at each value.
    """
    shown = {name: [v if math.isfinite(v) and not (axis.log and v <= 0) else math.nan for v in line] for name, line in lines.items()}
    values = [v for line in shown.values() for v in line if not math.isnan(v)] + ([level[1]] if level else [])
    if not values:
        values = [1.0]
    low, high = axis.ends(values)
    width, height = size
    right = 14 + max((0.66 * _LETTER * len(name) for name in (*lines, *([level[0]] if level else []))), default=0)
    last = max(1, len(ticks) - 1)

    rules = [(v, _number(v)) for v in axis.rules(low, high)]
    left = max([_LEFT, *(8 + 0.62 * _LETTER * len(name) for _, name in rules)])

    def x(place: int) -> float:
        return left + (width - left - right) * place / last

    def y(value: float) -> float:
        return height - _BELOW - (height - _ABOVE - _BELOW) * min(1.0, max(0.0, axis.share(value, low, high)))

    parts = [_rule(y(v), left, width - right, name) for v, name in rules]
    step = -(-len(ticks) * 34 // max(1, width - round(left + right)))
    parts += [_text(x(k), height - _BELOW + 20, name, "middle") for k, name in enumerate(ticks) if k % step == 0 or k == at]
    parts += [_text(6, 16, axis.title, "start"), _text((left + width - right) / 2, height - 5, place_title, "middle")]
    names: list[tuple[float, str, str]] = []
    if level is not None:
        parts.append(
            f'<path d="M{left:.1f} {y(level[1]):.1f}H{width - right:.1f}" stroke="{GREY}" stroke-width="2" stroke-dasharray="6 5"/>'
        )
        names.append((y(level[1]), level[0], GREY))
    if at is not None:
        parts.append(f'<path d="M{x(at):.1f} {_ABOVE}V{height - _BELOW}" stroke="{_INK}" stroke-width="1.5" stroke-dasharray="3 4"/>')
    for number, (name, line) in enumerate(shown.items()):
        colour, dash = COLOURS[number % len(COLOURS)], _DASHES[number // 2 % len(_DASHES)]
        points = [(x(k), y(v)) for k, v in enumerate(line) if not math.isnan(v)]
        if not points:
            continue
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="3" stroke-dasharray="{dash}"/>')
        dots = [k for k, v in enumerate(line) if not math.isnan(v) and (markers or k == at)]
        parts += [f'<circle cx="{x(k):.1f}" cy="{y(line[k]):.1f}" r="{6 if k == at else 4}" fill="{colour}"/>' for k in dots]
        names.append((points[-1][1], name, colour))
    parts += [
        _text(width - right + 9, py + 5, name, "start", colour, bold=True) for py, name, colour in _apart(names, _ABOVE, height - _BELOW)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="{_LETTER}">{"".join(parts)}</svg>'
    )


def _apart(names: list[tuple[float, str, str]], top: float, bottom: float) -> list[tuple[float, str, str]]:
    """Move the names apart, each at least a line's height below the one before, as close as possible to where they belong."""
    room = _LETTER + 3
    placed: list[float] = []
    ordered = sorted(names, key=lambda name: name[0])
    for wanted, _, _ in ordered:
        placed.append(max(wanted, placed[-1] + room) if placed else max(wanted, top))
    excess = placed[-1] - bottom if placed else 0.0
    for k in reversed(range(len(placed))):
        if excess <= 0:
            break
        placed[k] -= excess
        excess = placed[k - 1] + room - placed[k] if k else 0.0
    return [(at, name, colour) for at, (_, name, colour) in zip(placed, ordered, strict=True)]


def _number(value: float) -> str:
    if value and not 0.001 <= abs(value) < 1e4:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.{4 if abs(value) >= 1000 else 3}g}"


def _rule(y: float, left: float, right: float, name: str) -> str:
    line = f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" stroke="{GREY}" opacity="0.35"/>'
    return line + _text(left - 6, y + 5, name, "end")


def _text(x: float, y: float, text: str, anchor: str, colour: str = _INK, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
