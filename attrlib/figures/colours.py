"""Colour maps as tables of 256 RGB colours."""

from functools import cache

import numpy as np
import plotly.colors

# Blue through white to orange: distinct under all common kinds of colour blindness, with zero in white.
_OWN = {"BlueOrange": ["#08306b", "#2171b5", "#9ecae1", "#ffffff", "#fdae6b", "#d94801", "#7f2704"]}
# ColorBrewer's table runs from warm to cold, but positive evidence is warm here.
_REVERSED = ("RdBu", "PuOr", "PRGn")


@cache
def table(name: str) -> np.ndarray:
    """Return the colour map `name` of `ViewSpec` as (256,3) uint8, from low to high."""
    scale = _OWN.get(name) or [colour for _, colour in plotly.colors.get_colorscale(name)]
    stops = np.array([_rgb(colour) for colour in scale], dtype=np.float64)
    at = np.linspace(0, 1, 256)
    channels = [np.interp(at, np.linspace(0, 1, len(stops)), stops[:, c]) for c in range(3)]
    colours = np.stack(channels, axis=1).round().astype(np.uint8)
    return colours[::-1].copy() if name in _REVERSED else colours


def _rgb(colour: str) -> tuple[float, ...]:
    return plotly.colors.hex_to_rgb(colour) if colour.startswith("#") else plotly.colors.unlabel_rgb(colour)


def css_gradient(name: str) -> str:
    """Return the colour map as a CSS gradient from left to right."""
    stops = ", ".join(f"rgb({r},{g},{b})" for r, g, b in table(name)[:: 255 // 15])
    return f"linear-gradient(to right, {stops})"
