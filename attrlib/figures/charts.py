"""Plotly figures of scores: intervals, distributions, paired differences, score against seconds, models against methods.

Every point carries in `customdata` the name of its method and, if it stands for one item, the item's number.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
import plotly.graph_objects as go

from attrlib.figures.numbers import MANY_DECADES, number, spans_decades
from attrlib.statistics import Correlation, Difference, Summary

ACCENT, OTHER, GREY = "#3a87c8", "#d97706", "#8a929c"
"""Blue and orange stay distinct under all common kinds of colour blindness, and are visible on white and on near-black."""
MAX_POINTS = 400
"""Most items to draw as points beside their box. More would hide each other."""
FEW = 12
"""Most methods whose points are labelled."""
_ROW, _EDGES = 30, 96


@dataclass(frozen=True)
class Scale:
    """Scale of a protocol's scores: its title, which direction is better, and the score of a map without information."""

    title: str
    higher_is_better: bool
    chance: float | None = None

    @property
    def label(self) -> str:
        """Return the axis title with the direction that is better."""
        return f"{self.title} · higher is better →" if self.higher_is_better else f"← lower is better · {self.title}"

    @property
    def direction(self) -> str:
        """Return which direction is better, as a sentence."""
        return f"{'Higher' if self.higher_is_better else 'Lower'} is better."


@dataclass(frozen=True, eq=False)
class Line:
    """One method: its summary, its value for each item (NaN where undefined), and its seconds per map."""

    name: str
    summary: Summary
    values: np.ndarray
    seconds: float = math.nan


def intervals(lines: Sequence[Line], scale: Scale) -> go.Figure:
    """Plot the mean of each method with its 95 % CI, the first method on top."""
    names = [line.name for line in lines]
    means = [line.summary.mean for line in lines]
    ends = [(line.summary.high - line.summary.mean, line.summary.mean - line.summary.low) for line in lines]
    above, below = ([0.0 if math.isnan(e) else e for e in side] for side in zip(*ends, strict=True))
    hover = [f"{_short(s.summary.mean)} [{_short(s.summary.low)}, {_short(s.summary.high)}], n = {s.summary.n}" for s in lines]
    bars = dict(type="data", array=above, arrayminus=below, color=ACCENT, thickness=2, width=5)
    points = go.Scatter(
        x=means, y=names, error_x=bars, mode="markers", marker=dict(color=ACCENT, size=9), customdata=[[n] for n in names],
        text=hover, hovertemplate="%{y}: %{text}<extra></extra>",
    )  # fmt: skip
    return _logarithmic(_rows(go.Figure(points), names, scale), means, scale)


def distributions(lines: Sequence[Line], scale: Scale, kind: str = "box") -> go.Figure:
    """Plot the distribution of each method's values over the items.

    Args:
        lines: The methods.
        scale: Scale of the values.
        kind: `box` or `violin`. Up to `MAX_POINTS` items are also drawn as points beside it.
    """
    figure = go.Figure()
    names = [line.name for line in lines]
    shape = {"box": go.Box, "violin": go.Violin}[kind]
    for line in lines:
        defined = np.flatnonzero(np.isfinite(line.values))
        points = "all" if len(defined) <= MAX_POINTS else ("outliers" if kind == "box" else False)
        style = dict(boxpoints=points) if kind == "box" else dict(points=points, meanline_visible=True, box_visible=True, spanmode="hard")
        figure.add_trace(
            shape(
                x=line.values[defined], y=[line.name] * len(defined), name=line.name, orientation="h", customdata=[[line.name, int(i)] for i in defined],
                marker=dict(color=ACCENT, size=4, opacity=0.6), line=dict(width=1.5), jitter=0.6, pointpos=0, width=0.7,
                hovertemplate="%{y}: %{x:.4g}<extra></extra>", hoveron="points", showlegend=False, **style,
            )
        )  # fmt: skip
    return _logarithmic(_rows(figure, names, scale, row=44), [v for line in lines for v in line.values], scale)


def differences(gaps: Mapping[str, Difference], best: str, scale: Scale) -> go.Figure:
    """Plot how much each method differs from the best on the same items, with its 95 % bootstrap CI. Ties are hollow.

    Args:
        gaps: Paired difference from the best by name of the method.
        best: Name of the best method.
        scale: Scale of the scores.
    """
    names = list(gaps)
    figure = go.Figure()
    for tie, colour, symbol, label in (
        (False, OTHER, "circle", "significantly different"),
        (True, GREY, "circle-open", "tied: the CI contains 0"),
    ):
        shown = [n for n in names if gaps[n].tie == tie]
        ends = [(gaps[n].high - gaps[n].mean, gaps[n].mean - gaps[n].low) for n in shown] or [(0.0, 0.0)]
        above, below = ([0.0 if math.isnan(e) else e for e in side] for side in zip(*ends, strict=True))
        figure.add_trace(
            go.Scatter(
                x=[gaps[n].mean for n in shown], y=shown, mode="markers", name=label, customdata=[[n] for n in shown],
                marker=dict(color=colour, size=9, symbol=symbol, line=dict(width=2, color=colour)),
                error_x=dict(type="data", array=above, arrayminus=below, color=colour, thickness=2, width=5),
                text=[f"{_short(gaps[n].mean)} [{_short(gaps[n].low)}, {_short(gaps[n].high)}], n = {gaps[n].n}" for n in shown],
                hovertemplate="%{y}: %{text}<extra></extra>",
            )
        )  # fmt: skip
    figure.add_vline(0, line=dict(color=GREY, dash="dash", width=1.5))
    _rows(figure, names, Scale("", scale.higher_is_better))
    return figure.update_layout(
        xaxis_title=f"difference from {best} on the same items", legend=dict(orientation="h", y=1.02, yanchor="bottom")
    )


def pareto(lines: Sequence[Line], scale: Scale) -> go.Figure:
    """Plot score against seconds per map. A line joins the Pareto front, the methods that no other method beats in both."""
    timed = [line for line in lines if line.seconds > 0 and not math.isnan(line.summary.mean)]
    front = front_of(timed, scale.higher_is_better)
    figure = go.Figure()
    sides = (
        (front, ACCENT, "diamond", "no other method is both better and faster"),
        ([k for k in timed if k not in front], GREY, "circle", "another method is better and faster"),
    )
    for group, colour, symbol, label in sides:
        figure.add_trace(
            go.Scatter(
                x=[k.seconds for k in group], y=[k.summary.mean for k in group], text=[k.name for k in group], customdata=[[k.name] for k in group],
                mode="markers+text" if group is front or len(timed) <= FEW else "markers", name=label, cliponaxis=False,
                textposition=f"{'top' if group is front else 'bottom'} center",
                marker=dict(color=colour, size=11, symbol=symbol), hovertemplate="%{text}: %{y:.4g}, %{x:.3g} s<extra></extra>",
            )
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(x=[k.seconds for k in front], y=[k.summary.mean for k in front], mode="lines", line=dict(color=ACCENT, width=1, shape="hv"),
                   hoverinfo="skip", showlegend=False)
    )  # fmt: skip
    if scale.chance is not None:
        figure.add_hline(scale.chance, line=dict(color=GREY, dash="dash", width=1.5), annotation=dict(text="chance", font_color=GREY))
    arrow = "↑" if scale.higher_is_better else "↓"
    _logarithmic(figure, [k.summary.mean for k in timed], scale, "yaxis")
    return figure.update_layout(
        xaxis=dict(type="log", title="time for one map ← faster", **_times([k.seconds for k in timed])),
        yaxis_title=f"{scale.title} {arrow} better", height=420, margin=dict(l=10, r=20, t=40, b=50),
        legend=dict(orientation="h", y=1.02, yanchor="bottom"),
    )  # fmt: skip


def _times(seconds: Sequence[float]) -> dict[str, list[object]]:
    """Return labelled ticks at 1, 2 and 5 of every decade, or at 1 alone if these are too many."""
    if not seconds:
        return {}
    low, high = math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds)))
    steps = (1, 2, 5) if high - low <= MANY_DECADES else (1,)
    values = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return dict(tickvals=list(values), ticktext=[f"{value * 1000:g} ms" if value < 1 else f"{value:g} s" for value in values])


def front_of(lines: Sequence[Line], higher_is_better: bool = True) -> list[Line]:
    """Return the methods that no other beats in both score and seconds, the fastest first."""
    sign = 1 if higher_is_better else -1
    front: list[Line] = []
    for line in sorted(lines, key=lambda line: (line.seconds, -sign * line.summary.mean)):
        if not front or sign * line.summary.mean > sign * front[-1].summary.mean:
            front.append(line)
    return front


def heat_map(means: Mapping[tuple[str, str], float], scale: Scale) -> go.Figure:
    """Plot means by model and method, with models across and methods down. Brighter is better; missing means are empty."""
    models = list(dict.fromkeys(model for model, _ in means))
    methods = list(dict.fromkeys(method for _, method in means))
    values = [[means.get((model, method), math.nan) for model in models] for method in methods]
    defined = [v for row in values for v in row if not math.isnan(v)] or [0.0]
    middle = (min(defined) + max(defined)) / 2
    figure = go.Figure(
        go.Heatmap(
            z=values, x=models, y=methods, colorscale="Cividis", reversescale=not scale.higher_is_better, xgap=2, ygap=2,
            colorbar=dict(thickness=12), hoverinfo="skip", hoverongaps=False,
        )
    )  # fmt: skip
    cells = [(x, y, means[x, y]) for y in methods for x in models if not math.isnan(means.get((x, y), math.nan))]
    bright = [(value > middle) == scale.higher_is_better for _, _, value in cells]
    # Cells of a heat map cannot be clicked, nor given a text colour that themes leave alone. Points on top of them can.
    figure.add_trace(
        go.Scatter(
            x=[x for x, _, _ in cells], y=[y for _, y, _ in cells], customdata=[[y, x] for x, y, _ in cells], mode="markers+text",
            text=[_even(value, defined) for _, _, value in cells], textfont=dict(color=["#15191f" if is_bright else "#ffffff" for is_bright in bright]),
            marker=dict(size=26, symbol="square", opacity=0), selected=dict(marker=dict(opacity=0.3, color="#ffffff")),
            unselected=dict(marker=dict(opacity=0)), showlegend=False, hovertemplate="%{y} on %{x}: %{text}<extra></extra>",
        )
    )  # fmt: skip
    _rows(figure, methods, Scale("", scale.higher_is_better))
    figure.update_layout(xaxis=dict(title=None, side="top", type="category", showgrid=False), yaxis_showgrid=False)
    return figure.update_layout(title=dict(text=scale.label, font_size=13), margin_t=80, margin_b=10)


def agreement(correlations: Mapping[tuple[str, str], Correlation]) -> go.Figure:
    """Plot the rank correlation of each pair of protocols with its interval, blue if they agree and orange if they disagree."""
    pairs = {(_broken(a), _broken(b)): c for (a, b), c in correlations.items()}
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    both = pairs | {(b, a): c for (a, b), c in pairs.items()}
    cells = [(x, y, both[x, y]) for y in names for x in names if x != y]
    values = {(x, y): c.value for x, y, c in cells}
    figure = go.Figure(
        go.Heatmap(
            z=[[values.get((x, y), math.nan) for x in names] for y in names], x=names, y=names, zmin=-1, zmax=1, xgap=2, ygap=2,
            colorscale=[[0, "#d97706"], [0.5, "#f3f5f7"], [1, "#1f6fb5"]], colorbar=dict(thickness=12), hoverinfo="skip", hoverongaps=False,
        )
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=[x for x, _, _ in cells], y=[y for _, y, _ in cells], mode="text", text=[_between(c) for _, _, c in cells],
            textfont=dict(color=[_ink(c.value) for _, _, c in cells]), customdata=[[c.n] for _, _, c in cells],
            showlegend=False, hovertemplate="%{y} and %{x}: %{text}, n = %{customdata[0]}<extra></extra>",
        )
    )  # fmt: skip
    _rows(figure, names, Scale("", True), row=64)
    return figure.update_layout(
        xaxis=dict(title=None, side="top", type="category", showgrid=False, tickangle=0), yaxis_showgrid=False, margin_t=70
    )


def _broken(name: str) -> str:
    """Break a protocol's name into lines no wider than a cell."""
    return "<br>".join(wrap(name, 12))


def _between(correlation: Correlation) -> str:
    interval = "" if math.isnan(correlation.low) else f"<br>[{correlation.low:.2f}, {correlation.high:.2f}]"
    return f"{correlation.value:.2f}{interval}" if correlation.n else "no common<br>items"


def _ink(value: float) -> str:
    """Return the text colour on a cell of that correlation; grey where there is no cell, as the theme sets the background."""
    return GREY if math.isnan(value) else "#ffffff" if value > 0.55 else "#15191f"


def _rows(figure: go.Figure, names: Sequence[str], scale: Scale, row: int = _ROW) -> go.Figure:
    """Lay out one row for each name, the first on top, with the chance level as a dashed line."""
    if scale.chance is not None:
        note = dict(text="chance", font_color=GREY, yanchor="bottom")
        figure.add_vline(scale.chance, line=dict(color=GREY, dash="dash", width=1.5), annotation=note, annotation_position="top")
    return figure.update_layout(
        yaxis=dict(categoryorder="array", categoryarray=list(names)[::-1], type="category", automargin=True, title=None),
        xaxis_title=scale.label if scale.title else None, height=_EDGES + row * len(names), margin=dict(l=10, r=20, t=30, b=50),
        showlegend=any(trace.showlegend is not False and trace.name for trace in figure.data),
    )  # fmt: skip


def _logarithmic(figure: go.Figure, values: Sequence[float], scale: Scale, axis: str = "xaxis") -> go.Figure:
    """Make the axis logarithmic if the values need it. A chance level, if any, may be 0."""
    return (
        figure.update_layout({axis: dict(type="log", exponentformat="power")}) if scale.chance is None and spans_decades(values) else figure
    )


def _even(value: float, among: Sequence[float]) -> str:
    """Format a value with two decimals if the values span more than 0.1, otherwise with three significant digits."""
    return number(value, 2) if max(among) - min(among) > 0.1 else _short(value)


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"
