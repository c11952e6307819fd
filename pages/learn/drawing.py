"""Pictures of lessons: tiles of equal size on a grid on which all of them fit on one screen."""

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
    """Return a grid with this many tiles per row, none narrower than `narrowest` pixels."""
    return st.grid(columns, min_column_width=narrowest, gap="small", key=f"learn_row_{number}")


def map_tile(title: str, line: str, found: Attribution, photo: Image.Image, view: ViewSpec = VIEW, scale: bool = True) -> None:
    """Show a map over its photo with its colour bar, or a grey tile with the reason if the map is invalid."""
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
    """Show a drawing at the full width of its container."""
    st.image(svg, width="stretch", alt=alt)


def percent(value: float) -> str:
    """Return a share in whole percent, with a space between number and sign that does not break."""
    return "–" if value != value else f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def grey(size: tuple[int, int]) -> bytes:
    """Return a tile without a picture."""
    return encode(Image.new("RGBA", size, (128, 132, 138, 40)), "PNG")


def hidden(title: str, size: tuple[int, int], reason: str = "") -> None:
    """Show a tile that is not revealed yet, or that is unavailable for the given reason."""
    head(title, "")
    st.image(grey(size), width="stretch", alt=f"{title}: {reason or 'later'}")
    if reason:
        st.caption(f":material/block: {sentence(reason)}")


def plot(drawn: go.Figure, alt: str) -> None:
    """Show a Plotly figure without changes."""
    st.plotly_chart(drawn, key="learn_plot", config={"displayModeBar": False}, alt=alt)
