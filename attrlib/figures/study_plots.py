"""Draw study figures with Plotly."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from attrlib.figures.charts import ACCENT, GREY, OTHER
from attrlib.figures.labels import places
from attrlib.figures.study_figure import Panel, Point, Series, StudyFigure

COLOURS = (ACCENT, OTHER, "#159a7f", "#b0488f", "#6b5fc7", "#a3822b", "#d0453e", "#4d8f2f")
"""Distinct under all common kinds of colour blindness together with `SYMBOLS`; each is visible on white and on near-black."""
NARROW = (420, 250)
"""Smallest size in pixels of a panel of points on a page 800 px wide. Labels that fit there fit everywhere."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "triangle-down", "hexagon")


def draw(study_figure: StudyFigure) -> go.Figure:
    """Draw a figure. Each series' name has one colour in all panels; points carry their label in the hover text."""
    panels = study_figure.panels
    rows, columns = (len(panels), 1) if study_figure.stacked else (1, len(panels))
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=[p.title for p in panels],
        vertical_spacing=0.12 / max(1, rows - 1),
        horizontal_spacing=0.26 / max(2, columns),
    )
    looks = looks_of(study_figure)
    shown: set[str] = set()
    for number, panel in enumerate(panels):
        row, column = (number + 1, 1) if study_figure.stacked else (1, number + 1)
        for series in panel.series:
            if panel.kind == "matrix":
                break
            for trace in _traces(panel, series, *looks[series.name]):
                trace.update(legendgroup=series.name, showlegend=trace.showlegend is not False and series.name not in shown)
                figure.add_trace(trace, row, column)
            shown.add(series.name)
        if panel.kind == "matrix":
            figure.add_trace(_matrix(panel), row, column)
        _axes(figure, panel, row, column)
    heights = [_height(panel) for panel in panels]
    height = sum(heights) if study_figure.stacked else max(heights)
    figure.update_layout(
        height=height + 90, margin=dict(l=10, r=20, t=60, b=50), boxmode="group", showlegend=len(looks) > 1,
        legend=dict(orientation="h", y=1, yref="container", yanchor="top", x=0),
    )  # fmt: skip
    figure.update_annotations(font_size=14)
    return figure


def looks_of(study_figure: StudyFigure) -> dict[str, tuple[str, str]]:
    """Return colour and symbol of each series' name, the same in all panels of a figure."""
    names = list(dict.fromkeys(s.name for panel in study_figure.panels if panel.kind != "matrix" for s in panel.series))
    # With seven symbols to eight colours, no two of the first 56 series look alike.
    return {name: (COLOURS[i % len(COLOURS)], SYMBOLS[i % 7]) for i, name in enumerate(names)}


def _traces(panel: Panel, series: Series, colour: str, symbol: str) -> list[go.Scatter | go.Box]:
    points = series.points
    x, y = [p.x for p in points], [p.y for p in points]
    if panel.kind == "boxes":
        return [go.Box(x=x, y=y, name=series.name, boxpoints=False, marker_color=colour, line_width=1.5, whiskerwidth=0.5)]
    if panel.kind == "dots":
        bars = _bars([p.y for p in points], [p.low for p in points], [p.high for p in points], colour)
        return [
            go.Scatter(
                x=y, y=x, name=series.name, mode="markers", error_x=bars, text=[_interval(p) for p in points],
                marker=dict(color=colour, symbol=symbol, size=8), hovertemplate="%{y}: %{text}<extra>" + series.name + "</extra>",
            )
        ]  # fmt: skip
    if panel.kind == "points":
        by_point = places(panel, *NARROW) if panel.named else {}
        sides = [by_point.get((panel.series.index(series), k)) for k in range(len(points))]
        return [
            go.Scatter(
                x=x, y=y, name=series.name, mode="markers+text", text=[p.label if side else "" for p, side in zip(points, sides, strict=True)],
                textposition=[side or "top center" for side in sides], textfont_size=11, cliponaxis=False,
                customdata=[(_interval(p), p.label) for p in points],
                error_y=_bars(y, [p.low for p in points], [p.high for p in points], colour, 1),
                error_x=_bars(x, [p.x_low for p in points], [p.x_high for p in points], colour, 1),
                marker=dict(color=colour, size=[13 if p.marked else 9 for p in points], symbol=["star" if p.marked else symbol for p in points]),
                hovertemplate="%{customdata[1]}: %{customdata[0]} at %{x:.4g}<extra>" + series.name + "</extra>",
            )
        ]  # fmt: skip
    line = go.Scatter(
        x=x, y=y, name=series.name, mode="lines+markers", line=dict(color=colour, width=2), marker=dict(symbol=symbol, size=7),
        text=[p.label or _interval(p) for p in points], hovertemplate="%{x}: %{text}<extra>" + series.name + "</extra>",
    )  # fmt: skip
    bounded = [p for p in points if math.isfinite(p.low) and math.isfinite(p.high)]
    if len(bounded) < 2:
        return [line]
    edge = go.Scatter(
        x=[p.x for p in bounded] + [p.x for p in reversed(bounded)], y=[p.high for p in bounded] + [p.low for p in reversed(bounded)],
        fill="toself", line_width=0, fillcolor=colour, opacity=0.18, hoverinfo="skip", showlegend=False, mode="lines",
    )  # fmt: skip
    return [edge, line]


def _matrix(panel: Panel) -> go.Heatmap:
    columns = list(dict.fromkeys(str(p.x) for s in panel.series for p in s.points))
    values = [[next((p.y for p in s.points if str(p.x) == c), math.nan) for c in columns] for s in panel.series]
    return go.Heatmap(
        z=values, x=columns, y=[s.name for s in panel.series], zmin=-1, zmax=1, colorscale="PuOr_r", xgap=2, ygap=2, hoverongaps=False,
        text=[["" if math.isnan(v) else f"{v:.2f}" for v in row] for row in values], texttemplate="%{text}", showscale=False,
        hovertemplate="%{y} and %{x}: %{z:.3f}<extra></extra>",
    )  # fmt: skip


def _axes(figure: go.Figure, panel: Panel, row: int, column: int) -> None:
    across, down = (panel.y, panel.x) if panel.kind == "dots" else (panel.x, panel.y)
    figure.update_xaxes(title_text=across, automargin=True, row=row, col=column)
    figure.update_yaxes(title_text=down, automargin=True, row=row, col=column)
    if panel.log_x:
        figure.update_xaxes(type="log", row=row, col=column)
    if panel.log_y:
        figure.update_yaxes(type="log", row=row, col=column)
    if panel.kind == "lines" and any(isinstance(p.x, str) for s in panel.series for p in s.points):
        # Otherwise Plotly would read "9" as a number, and "none" as missing.
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=categories(panel), row=row, col=column)
    if panel.kind in ("dots", "matrix"):
        names = [s.name for s in panel.series] if panel.kind == "matrix" else categories(panel)
        figure.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1], row=row, col=column)
    if panel.kind == "matrix":
        figure.update_xaxes(type="category", side="bottom", tickangle=-45, showgrid=False, row=row, col=column)
        figure.update_yaxes(showgrid=False, row=row, col=column)
    if panel.kind == "boxes":
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=categories(panel), tickangle=-45, row=row, col=column)
    if panel.level is not None:
        line = dict(color=GREY, dash="dash", width=1.5)
        (figure.add_vline if panel.kind == "dots" else figure.add_hline)(panel.level, line=line, row=row, col=column)


def categories(panel: Panel) -> list[str]:
    """Return the labels of the category axis, in order."""
    return list(dict.fromkeys(str(p.x) for s in panel.series for p in s.points))


def _height(panel: Panel) -> int:
    if panel.kind == "dots":
        return 60 + max(22, 9 * len(panel.series)) * len(categories(panel))
    return 60 + 34 * len(panel.series) if panel.kind == "matrix" else 360


def _bars(values: Sequence[float | str], lows: Sequence[float], highs: Sequence[float], colour: str, width: float = 2) -> dict | None:
    if not any(math.isfinite(v) for v in (*lows, *highs)):
        return None
    pairs = [(float(v), low, high) for v, low, high in zip(values, lows, highs, strict=True)]
    above = [high - v if math.isfinite(high) else 0.0 for v, _, high in pairs]
    below = [v - low if math.isfinite(low) else 0.0 for v, low, _ in pairs]
    return dict(type="data", array=above, arrayminus=below, color=colour, thickness=width, width=4)


def _interval(point: Point) -> str:
    if not math.isfinite(point.low):
        return f"{point.y:.3g}"
    return f"{point.y:.3g} [{point.low:.3g}, {point.high:.3g}]"
