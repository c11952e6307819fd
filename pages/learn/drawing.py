"""Pictures of lessons: tiles of one size on a grid that leaves room for all of them on one screen."""

import plotly.graph_objects as go
import streamlit as st
from PIL import Image
from streamlit.elements.lib.grid_container import GridContainer

from attrlib.engine.explain import tile
from attrlib.figures.overlay import draw, encode, limit
from attrlib.methods import Attribution
from attrlib.specs import ViewSpec
from pages.inspect.pick import figure, signed
from pages.shared.jobs import sentence
from pages.shared.tiles import head, legend

__all__ = ["chart", "figure", "grey", "hidden", "map_tile", "percent", "plot", "rows", "signed"]
VIEW = ViewSpec()


def rows(columns: int, number: int = 0, narrowest: int = 140) -> GridContainer:
    """A row, or several, of so many tiles, none of them under so many pixels."""
    return st.grid(columns, min_column_width=narrowest, gap="small", key=f"learn_row_{number}")


def map_tile(title: str, line: str, found: Attribution, photo: Image.Image, view: ViewSpec = VIEW, scale: bool = True) -> None:
    """A map over its photo with its colours; where it says nothing, a grey tile with the reason."""
    shown = tile(found, view)
    if shown.defect is not None:
        head(title, line)
        st.image(grey(photo.size), width="stretch", alt=f"No map: {shown.defect}")
        st.caption(f":material/block: {shown.defect}")
        return
    top = limit([shown.values], view.clip)
    figure(title, line, draw(shown.values, photo, view, top), f"{title}: map of {found.spec.name} at {found.spec.layer}, {line}")
    if scale:
        st.html(legend(view, top))


def chart(svg: str, alt: str) -> None:
    """A drawing as wide as its place."""
    st.image(svg, width="stretch", alt=alt)


def percent(value: float) -> str:
    """A share in whole percent, number and sign on one line."""
    return "–" if value != value else f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def grey(size: tuple[int, int]) -> bytes:
    """A tile without a picture."""
    return encode(Image.new("RGBA", size, (128, 132, 138, 40)), "PNG")


def hidden(title: str, size: tuple[int, int], reason: str = "") -> None:
    """A tile whose turn has not come, or that cannot be had for a reason."""
    head(title, "")
    st.image(grey(size), width="stretch", alt=f"{title}: {reason or 'later'}")
    if reason:
        st.caption(f":material/block: {sentence(reason)}")


def plot(drawn: go.Figure, alt: str) -> None:
    """A Plotly figure as it comes."""
    st.plotly_chart(drawn, key="learn_plot", config={"displayModeBar": False}, alt=alt)
