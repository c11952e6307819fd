"""Star plots: the dimensions of each method as the corners of a polygon, one plot beside the other."""

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from attrlib.figures.charts import ACCENT, GREY

ACROSS = 3
"""Number of plots in a row."""
_SIDE, _TITLE = 230, 34


def stars(values: Mapping[str, Mapping[str, float]], corners: Sequence[str], centre: str, names: Mapping[str, str]) -> go.Figure:
    """Draw one star for each method, from 0 in the middle to 1 at the rim, with one value as a number in the middle.

    Args:
        values: Values from 0 to 1 by method and short name; NaN where undefined, which leaves a gap.
        corners: Short names of the corners, clockwise from the top.
        centre: Short name of the value in the middle.
        names: Long names by short name, for the hover text.
    """
    across = min(ACROSS, len(values)) or 1
    down = max(1, -(-len(values) // across))
    figure = make_subplots(
        rows=down, cols=across, specs=[[{"type": "polar"}] * across] * down, vertical_spacing=min(0.5, 1.6 * _TITLE / (down * _SIDE)),
        horizontal_spacing=0.08,
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
        middle = dict(xref="paper", yref="paper", x=sum(domain.x) / 2, showarrow=False)
        figure.add_annotation(text=f"<b>{_text(own[centre])}</b>", y=sum(domain.y) / 2, font_size=17, yanchor="middle", **middle)
        figure.add_annotation(text=method, y=domain.y[1], yshift=24, yanchor="bottom", font_size=13, **middle)
    ring = dict(range=[0, 1], tickvals=[0.5, 1], ticktext=["", ""], gridcolor=GREY, gridwidth=0.5, showline=False)
    figure.update_polars(
        radialaxis=ring, angularaxis=dict(rotation=90, direction="clockwise", tickfont_size=12, linecolor=GREY, gridcolor=GREY, gridwidth=0.5),
        bgcolor="rgba(0, 0, 0, 0)",
    )  # fmt: skip
    return figure.update_layout(height=60 + down * (_SIDE + _TITLE), margin=dict(l=30, r=30, t=60, b=24))


def _text(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
