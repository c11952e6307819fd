"""What all plots of the pages have in common."""

from typing import Any


def camera(name: str, kind: str = "SVG") -> dict[str, Any]:
    """A button that is always there and saves the plot as a file of that name; a PNG is twice as fine as the screen."""
    image = {"format": kind.lower(), "filename": name, "scale": 2 if kind == "PNG" else 1}
    return {"displaylogo": False, "displayModeBar": True, "modeBarButtons": [["toImage"]], "toImageButtonOptions": image}
