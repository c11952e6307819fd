"""Settings that all plots of the pages share."""

from typing import Any


def camera(name: str, kind: str = "SVG") -> dict[str, Any]:
    """Return Plotly options for a permanent button that saves the plot as `name`; a PNG has twice the screen resolution."""
    image = {"format": kind.lower(), "filename": name, "scale": 2 if kind == "PNG" else 1}
    return {"displaylogo": False, "displayModeBar": True, "modeBarButtons": [["toImage"]], "toImageButtonOptions": image}
