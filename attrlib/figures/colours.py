"""Colour maps as tables of 256 RGB colours."""

from functools import cache

import numpy as np

STOPS = {
    # Blue through white to orange: distinct under all common kinds of colour blindness, with zero in white.
    "BlueOrange": "08306b 2171b5 9ecae1 ffffff fdae6b d94801 7f2704",
    # The tables of ColorBrewer and Matplotlib, at the stops that Plotly uses, so that plots and maps have the same colours.
    "RdBu": "67001f b2182b d6604d f4a582 fddbc7 f7f7f7 d1e5f0 92c5de 4393c3 2166ac 053061",
    "PuOr": "7f3b08 b35806 e08214 fdb863 fee0b6 f7f7f7 d8daeb b2abd2 8073ac 542788 2d004b",
    "PRGn": "40004b 762a83 9970ab c2a5cf e7d4e8 f7f7f7 d9f0d3 a6dba0 5aae61 1b7837 00441b",
    "Inferno": "000004 1b0c41 4a0c6b 781c6d a52c60 cf4446 ed6925 fb9b06 f7d13d fcffa4",
    "Viridis": "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725",
    "Cividis": "00224e 123570 3b496c 575d6d 707173 8a8678 a59c74 c3b369 e1cc55 fee838",
    "Magma": "000004 180f3d 440f76 721f81 9e2f7f cd4071 f1605d fd9668 feca8d fcfdbf",
}
"""Colours of each colour map at equal distances, in hexadecimal."""
# ColorBrewer's table runs from warm to cold, but positive evidence is warm here.
_REVERSED = ("RdBu", "PuOr", "PRGn")


@cache
def table(name: str) -> np.ndarray:
    """Return the colour map `name` of `ViewSpec` as (256,3) uint8, from low to high."""
    stops = np.array([list(bytes.fromhex(stop)) for stop in STOPS[name].split()], dtype=np.float64)
    at = np.linspace(0, 1, 256)
    channels = [np.interp(at, np.linspace(0, 1, len(stops)), stops[:, c]) for c in range(3)]
    colours = np.stack(channels, axis=1).round().astype(np.uint8)
    return colours[::-1].copy() if name in _REVERSED else colours


def css_gradient(name: str) -> str:
    """Return the colour map as a CSS gradient from left to right."""
    stops = ", ".join(f"rgb({r},{g},{b})" for r, g, b in table(name)[:: 255 // 15])
    return f"linear-gradient(to right, {stops})"
