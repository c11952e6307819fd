"""Box plots of scores by layer, one colour for each method (Rao et al., CVPR 2022, arXiv 2205.10435)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from attrlib.models import NAMED

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8a929c", "#F0E442")
"""The colours of Okabe and Ito, safe for colour-blind readers, with grey instead of black, which is invisible on a dark page."""
GREY = "#8a929c"
POINTS = 2000
"""Maximum number of scores that are also drawn as points. More would hide the boxes and slow down the page."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores (N,) of one method at one layer, NaN where undefined."""

    method: str
    layer: str
    values: np.ndarray


def shows_points(scores: Sequence[Scores]) -> bool:
    """Return whether each score is drawn as a point over its box."""
    return sum(len(s.values) for s in scores) <= POINTS


def boxes(scores: Sequence[Scores], title: str, chance: float | None, perfect: float | None) -> go.Figure:
    """Draw a box plot of each method at each layer: median, quartiles and whiskers, over one point for each score.

    Every point carries in `customdata` its index in `scores` and its position among their values.

    Args:
        scores: The scores of each method at each layer.
        title: Title of the value axis.
        chance: Chance level, drawn as a dashed line; None for no line.
        perfect: Perfect score, drawn as a dotted line; None for no line.
    """
    named = [name for name in NAMED if any(s.layer == name for s in scores)]
    layers = [*named, *dict.fromkeys(s.layer for s in scores if s.layer not in named)]
    figure, points = go.Figure(), shows_points(scores)
    for number, method in enumerate(dict.fromkeys(s.method for s in scores)):
        by_layer = sorted((s for s in scores if s.method == method), key=lambda s: layers.index(s.layer))
        defined = [(s, int(i)) for s in by_layer for i in np.flatnonzero(np.isfinite(s.values))]
        colour = COLOURS[number % len(COLOURS)]
        figure.add_trace(
            go.Box(
                x=[s.layer for s, _ in defined], y=[s.values[i] for s, i in defined], name=method,
                customdata=[(scores.index(s), i) for s, i in defined], boxpoints="all" if points else False, jitter=0.7, pointpos=0,
                line=dict(width=1.5, color=colour), marker=dict(size=4, opacity=0.4),
                selected=dict(marker=dict(opacity=1, size=8)), unselected=dict(marker=dict(opacity=0.4)),
                hovertemplate="%{fullData.name}, %{x}: %{y:.3f}<extra></extra>",
            )
        )  # fmt: skip
    for level, text in ((chance, "chance"), (perfect, "perfect")):
        if level is not None:
            figure.add_hline(
                level, line=dict(color=GREY, dash="dash" if text == "chance" else "dot", width=1.5),
                annotation=dict(text=text, font_color=GREY, xanchor="right", yanchor="bottom"),
            )  # fmt: skip
    return figure.update_layout(
        boxmode="group", yaxis_title=title, height=340, margin=dict(l=10, r=10, t=30, b=30),
        xaxis=dict(categoryorder="array", categoryarray=layers),
        legend=dict(orientation="h", y=1.04, yanchor="bottom"), showlegend=True,
    )  # fmt: skip
