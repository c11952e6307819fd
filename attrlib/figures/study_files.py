"""Write study figures as PNG, SVG or PDF with Matplotlib, which needs no browser and gives the same bytes every time."""

import io
import math
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attrlib.errors import SpecError, unknown
from attrlib.figures.charts import GREY
from attrlib.figures.labels import places
from attrlib.figures.study_figure import Panel, Point, Series, StudyFigure
from attrlib.figures.study_plots import categories, looks_of

FORMATS = ("png", "svg", "pdf")
MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "x": "X", "star": "*", "triangle-down": "v", "hexagon": "h",
}  # fmt: skip
OFFSETS: dict[str, tuple[tuple[int, int], Any, Any]] = {
    "top center": ((0, 5), "center", "bottom"),
    "bottom center": ((0, -5), "center", "top"),
    "middle right": ((5, 0), "left", "center"),
    "middle left": ((-5, 0), "right", "center"),
}
"""Offset in points and alignment of a label, by its side of the point."""
PIXELS = (1100, 360)
"""Size of a panel of points, in the pixel units of label placement."""
WIDTH, DPI = 10.0, 160
_SMALL: dict[Any, Any] = {
    "font.size": 8,
    "svg.hashsalt": "attrlib",
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def render(study_figure: StudyFigure, format: str) -> bytes:  # noqa: A002
    """Return the figure on white as a file. Raises `SpecError` for an unknown format."""
    if format not in FORMATS:
        raise SpecError(unknown("format of a figure", format, FORMATS))
    panels, looks = study_figure.panels, looks_of(study_figure)
    rows, columns = (len(panels), 1) if study_figure.stacked else (1, len(panels))
    heights = [_height(panel) for panel in panels]
    with mpl.rc_context(_SMALL):
        size = (WIDTH, (sum(heights) if study_figure.stacked else max(heights)) + 0.5)
        figure = Figure(figsize=size, layout="constrained")
        ratios = dict(height_ratios=heights) if study_figure.stacked else {}
        every = figure.subplots(rows, columns, squeeze=False, gridspec_kw=ratios)
        for panel, axes in zip(panels, every.flat, strict=True):
            _panel(axes, panel, looks)
        handles = {name: h for axes in every.flat for h, name in zip(*axes.get_legend_handles_labels(), strict=True)}
        if len(looks) > 1 and handles:
            figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=6, frameon=False)
        file = io.BytesIO()
        quiet = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}[format]
        figure.savefig(file, format=format, dpi=DPI, metadata=quiet)
    return file.getvalue()


def _height(panel: Panel) -> float:
    if panel.kind == "dots":
        return 0.7 + max(0.19, 0.08 * len(panel.series)) * len(categories(panel))
    return 0.6 + 0.32 * len(panel.series) if panel.kind == "matrix" else 3.2


def _panel(axes: Axes, panel: Panel, looks: dict[str, tuple[str, str]]) -> None:
    across, down = (panel.y, panel.x) if panel.kind == "dots" else (panel.x, panel.y)
    axes.set(title=panel.title, xlabel=across.translate(_PLAIN), ylabel=down.translate(_PLAIN))
    if panel.kind == "matrix":
        _matrix(axes, panel)
        return
    names, sides = categories(panel), places(panel, *PIXELS) if panel.kind == "points" and panel.named else {}
    for number, series in enumerate(panel.series):
        colour, symbol = looks[series.name]
        if panel.kind == "boxes":
            _boxes(axes, series, names, colour, (number + 0.5) / len(panel.series) - 0.5, 0.8 / len(panel.series))
        elif panel.kind == "dots":
            shift = (number + 0.5) / len(panel.series) - 0.5
            y = [names.index(str(p.x)) + 0.6 * shift for p in series.points]
            x = [p.y for p in series.points]
            axes.errorbar(x, y, xerr=_ends(series), fmt=MARKERS[symbol], ms=4, color=colour, lw=1, label=series.name)
        elif panel.kind == "points":
            _points(axes, series, colour, symbol, {k: side for (i, k), side in sides.items() if i == number})
        else:
            _line(axes, series, colour, symbol)
    if panel.log_x:
        axes.set_xscale("log")
    if panel.log_y:
        axes.set_yscale("log")
    if panel.kind == "dots":
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="y", lw=0.3)
    elif panel.kind == "boxes":
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    if panel.level is not None:
        (axes.axvline if panel.kind == "dots" else axes.axhline)(panel.level, color=GREY, ls="--", lw=1)


_PLAIN = {ord("→"): None, ord("←"): None}
# Matplotlib's fonts do not have arrows in every format.


def _ends(series: Series) -> list[list[float]] | None:
    if not any(math.isfinite(p.low) for p in series.points):
        return None
    below, above = zip(*(_two(p) for p in series.points), strict=True)
    return [list(below), list(above)]


def _two(point: Point) -> tuple[float, float]:
    defined = math.isfinite(point.low) and math.isfinite(point.high) and math.isfinite(point.y)
    return (point.y - point.low, point.high - point.y) if defined else (0.0, 0.0)


def _points(axes: Axes, series: Series, colour: str, symbol: str, sides: dict[int, str]) -> None:
    for k, p in enumerate(series.points):
        x = float(p.x)
        spread = [[x - p.x_low], [p.x_high - x]] if math.isfinite(p.x_low) else None
        marker = "*" if p.marked else MARKERS[symbol]
        label = series.name if k == 0 else "_"
        axes.errorbar([x], [p.y], [[v] for v in _two(p)], spread, fmt=marker, ms=10 if p.marked else 5, color=colour, lw=0.7, label=label)
        if k in sides:
            move, across, up = OFFSETS[sides[k]]
            axes.annotate(p.label, (x, p.y), move, textcoords="offset points", ha=across, va=up, fontsize=6)


def _line(axes: Axes, series: Series, colour: str, symbol: str) -> None:
    x, y = [p.x for p in series.points], [p.y for p in series.points]
    axes.plot(x, y, marker=MARKERS[symbol], ms=4, lw=1.2, color=colour, label=series.name)
    bounded = [p for p in series.points if math.isfinite(p.low) and math.isfinite(p.high)]
    if len(bounded) > 1:
        axes.fill_between([p.x for p in bounded], [p.low for p in bounded], [p.high for p in bounded], color=colour, alpha=0.18, lw=0)


def _boxes(axes: Axes, series: Series, names: list[str], colour: str, shift: float, width: float) -> None:
    by_name = {name: [p.y for p in series.points if str(p.x) == name and math.isfinite(p.y)] for name in names}
    shown = [name for name in names if by_name[name]]
    axes.boxplot(
        [by_name[name] for name in shown], positions=[names.index(name) + 0.85 * shift for name in shown], widths=width, showfliers=False,
        patch_artist=True, boxprops=dict(facecolor=colour, edgecolor=colour, alpha=0.6), medianprops=dict(color="black", lw=1),
        whiskerprops=dict(color=colour), capprops=dict(color=colour), manage_ticks=False,
    )  # fmt: skip
    axes.plot([], [], color=colour, lw=5, alpha=0.6, label=series.name)


def _matrix(axes: Axes, panel: Panel) -> None:
    columns = categories(panel)
    values = [[next((p.y for p in s.points if str(p.x) == c), math.nan) for c in columns] for s in panel.series]
    axes.imshow(values, vmin=-1, vmax=1, cmap="PuOr_r", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(range(len(panel.series)), [s.name for s in panel.series])
    for row, row_values in enumerate(values):
        for column, value in enumerate(row_values):
            if math.isfinite(value):
                colour = "white" if abs(value) > 0.7 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=colour)
