"""One value per patch of a picture, drawn on the picture, and a scatter plot of two values per patch."""

from collections.abc import Sequence
from dataclasses import replace

import plotly.graph_objects as go
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from attrlib.figures.charts import ACCENT, GREY
from attrlib.figures.overlay import draw
from attrlib.specs import ViewSpec

MOST_WRITTEN = 8
"""Most patches per side for which values are written. Smaller patches have no room for text."""


def draw_cells(photo: Image.Image, values: Tensor, view: ViewSpec, top: float) -> Image.Image:
    """Draw one value per patch as coloured patches over the photo. Zero is white.

    Args:
        photo: The photo.
        values: Values (g*g,), row by row.
        view: Colours and opacity.
        top: Magnitude of the extreme colours.
    """
    grid = round(len(values) ** 0.5)
    height, width = photo.height // grid, photo.width // grid
    large = values.view(grid, grid).repeat_interleave(height, 0).repeat_interleave(width, 1)
    sheet = draw(large, photo, replace(view, sign="signed"), top)
    pen = ImageDraw.Draw(sheet)
    for line in range(1, grid):
        pen.line([(line * width, 0), (line * width, sheet.height)], (255, 255, 255))
        pen.line([(0, line * height), (sheet.width, line * height)], (255, 255, 255))
    if grid <= MOST_WRITTEN:
        texts = [short(value, top) for value in values.tolist()]
        size = min(width / 3.5, 1.6 * width / max(map(len, texts)))
        font, outline = ImageFont.load_default(size), max(1, round(size / 9))
        for patch, text in enumerate(texts):
            middle = (patch % grid * width + width / 2, patch // grid * height + height / 2)
            pen.text(middle, text, (255, 255, 255), font, anchor="mm", stroke_width=outline, stroke_fill=(20, 24, 30))
    return sheet


def short(value: float, top: float) -> str:
    """Format a number with as many digits as are significant on a scale up to `top`."""
    return f"{value:.1e}" if 0 < top < 1e-3 or top >= 1e5 else f"{value:.{2 if top < 10 else 0}f}"


def cell_scatter(drops: Tensor, sums: Tensor, output: str) -> go.Figure:
    """Plot the output drop of each patch against its attribution sum. The hover text names row and column.

    Args:
        drops: Output drops (g*g,), row by row.
        sums: Attribution sums (g*g,), row by row.
        output: Name of the output, for the axis title.
    """
    grid = round(len(drops) ** 0.5)
    names = [f"row {patch // grid + 1}, column {patch % grid + 1}" for patch in range(grid * grid)]
    points = go.Scatter(
        x=sums.tolist(), y=drops.tolist(), text=names, mode="markers", marker=dict(color=ACCENT, size=9, opacity=0.85),
        hovertemplate="%{text}<br>drop %{y:.3g}, attribution %{x:.3g}<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(points)
    figure.add_hline(0, line=dict(color=GREY, width=1, dash="dot"))
    figure.add_vline(0, line=dict(color=GREY, width=1, dash="dot"))
    return figure.update_layout(
        xaxis_title="attribution sum of the patch", yaxis_title=f"drop of the {output} without the patch", height=330, margin=dict(l=10, r=10, t=10, b=40)
    )  # fmt: skip


def magnitude(values: Sequence[Tensor]) -> float:
    """Return the largest magnitude of all values."""
    return float(torch.cat([each.flatten() for each in values]).abs().max())
