"""Star plots: the dimensions of each method as the corners of a polygon, one plot beside the other."""

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from attrlib.figures.charts import ACCENT, GREY

FEW = 6
"""Most methods of which two stars share a row; of more, three do."""
_LABELS = 78
"""Pixels between the circles of two rows, for the names of the corners and the title."""


def stars(values: Mapping[str, Mapping[str, float]], corners: Sequence[str], headline: str, names: Mapping[str, str]) -> go.Figure:
    """Draw one star for each method, from 0 in the middle to 1 at the rim.

    Args:
        values: Values from 0 to 1 by method and short name; NaN where undefined, which leaves a gap.
        corners: Short names of the corners, clockwise from the top.
        headline: Short name of the value beside the method's name.
        names: Long names by short name, for the hover text.
    """
    across = min(len(values), 2 if len(values) <= FEW else 3) or 1
    down, side = -(-len(values) // across) or 1, 190 if across < 3 else 130
    height = down * side + (down - 1) * _LABELS
    figure = make_subplots(
        rows=down, cols=across, specs=[[{"type": "polar"}] * across] * down, vertical_spacing=_LABELS / height if down > 1 else 0,
        horizontal_spacing=0.16,
    )  # fmt: skip
    for number, (method, own) in enumerate(values.items()):
        row, col = divmod(number, across)
        hover = [f"{method}: {names[name]} {_text(own[name])}" for name in corners]
        figure.add_trace(
            go.Scatterpolar(
                r=[own[name] for name in (*corners, corners[0])], theta=[*corners, corners[0]], text=[*hover, hover[0]], name=method,
                hovertemplate="%{text}<extra></extra>", mode="lines+markers", line=dict(color=ACCENT, width=2), marker=dict(size=7),
                fill="toself", fillcolor="rgba(58, 135, 200, 0.22)", customdata=[[method]] * (len(corners) + 1), showlegend=False,
            ),
            row=row + 1, col=col + 1,
        )  # fmt: skip
        domain = figure.layout["polar" + ("" if number == 0 else str(number + 1))].domain
        figure.add_annotation(
            text=f"{method} <b>{_text(own[headline])}</b>", x=sum(domain.x) / 2, y=domain.y[1], yshift=22, xref="paper", yref="paper",
            xanchor="center", yanchor="bottom", showarrow=False, font_size=14,
        )  # fmt: skip
    thin = dict(gridcolor=GREY, gridwidth=0.5)
    figure.update_polars(
        radialaxis=dict(range=[0, 1], tickvals=[0.5, 1], showticklabels=False, ticks="", showline=False, **thin),
        # Invisible ticks keep the names off the markers at the rim.
        angularaxis=dict(
            ticks="outside",
            ticklen=6,
            tickcolor="rgba(0, 0, 0, 0)",
            rotation=90,
            direction="clockwise",
            tickfont_size=12,
            linecolor=GREY,
            **thin,
        ),
        bgcolor="rgba(0, 0, 0, 0)",
    )
    return figure.update_layout(height=height + 100, margin=dict(l=40, r=40, t=66, b=34))


def _text(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
