"""Pictures of lessons: tiles of equal size on a grid on which all of them fit on one screen."""

from typing import Any

import plotly.graph_objects as go
import streamlit as st
from PIL import Image
from torch import Tensor

from attrlib.engine.explain import tile
from attrlib.engine.jobs import Job, State
from attrlib.figures.aggatt import outlined
from attrlib.figures.overlay import draw, limit
from attrlib.methods import Attribution
from attrlib.specs import ViewSpec
from pages.shared.jobs import sentence
from pages.shared.pickers import Grid
from pages.shared.tiles import blank, figure, head, legend

VIEW = ViewSpec()


def rows(columns: int, number: int = 0, narrowest: int = 140) -> Grid:
    """Return a grid with this many tiles per row, none narrower than `narrowest` pixels."""
    return st.grid(columns, min_column_width=narrowest, gap="small", key=f"learn_row_{number}")


def map_tile(title: str, line: str, attribution: Attribution, photo: Image.Image, view: ViewSpec = VIEW, scale: bool = True) -> None:
    """Show a map over its photo with its colour bar, or a grey tile with the reason if the map is invalid."""
    shown = tile(attribution, view)
    if shown.defect is not None:
        head(title, line)
        st.image(blank(photo.size), width="stretch", alt=f"No map: {shown.defect}")
        st.caption(f":material/block: {shown.defect}")
        return
    top = limit([shown.values], view.clip)
    figure(
        title, line, draw(shown.values, photo, view, top), f"{title}: map of {attribution.spec.name} at {attribution.spec.layer}, {line}"
    )
    if scale:
        st.html(legend(view, top))


def chart(svg: str, alt: str) -> None:
    """Show a drawing at the full width of its container."""
    st.image(svg, width="stretch", alt=alt)


def percent(value: float) -> str:
    """Return a share in whole percent, with a space between number and sign that does not break."""
    return "–" if value != value else f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def hidden(title: str, size: tuple[int, int], reason: str = "") -> None:
    """Show a tile that is not revealed yet, or that is unavailable for the given reason."""
    head(title, "")
    st.image(blank(size), width="stretch", alt=f"{title}: {reason or 'later'}")
    if reason:
        st.caption(f":material/block: {sentence(reason)}")


def result_or_reason(job: Job, title: str, size: tuple[int, int]) -> Any:
    """Return the result of a job that has ended, or None after showing a tile with the reason."""
    if job.state is not State.DONE:
        hidden(title, size, str(job.error or "It was cancelled."))
    return job.result


def grid_tile(title: str, line: str, values: Tensor, photo: Image.Image) -> None:
    """Show a map over a grid of 2 x 2 photos, with the first cell outlined."""
    drawn = outlined(draw(values, photo, VIEW, limit([values], VIEW.clip)), 0, 2)
    figure(title, line, drawn, f"{title} over the grid, {line}")


def plot(drawn: go.Figure, alt: str) -> None:
    """Show a Plotly figure without changes."""
    st.plotly_chart(drawn, key="learn_plot", config={"displayModeBar": False}, alt=alt)
