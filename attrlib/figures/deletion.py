"""Incremental deletion step by step: the picture with deleted and next pixels, and the curve as SVG."""

import numpy as np
from PIL import Image, ImageFilter
from torch import Tensor

from attrlib.figures.charts import ACCENT, GREY, OTHER

_INK = "#76808c"
"""Text colour, readable on light and dark pages: an SVG does not know which it is on."""

NEXT = (255, 43, 214)
"""Colour of the pixels to delete next, rare in photos."""
_WIDTH, _HEIGHT, _EDGE, _ABOVE, _BELOW = 640, 250, 10, 28, 26


def draw_deleted(photo: Image.Image, gone: Tensor, following: Tensor, instead: np.ndarray, outlined: bool) -> Image.Image:
    """Draw the photo with deleted pixels replaced and the pixels to delete next marked.

    Args:
        photo: The photo.
        gone: Booleans (H,W): deleted pixels.
        following: Booleans (H,W): pixels to delete next.
        instead: Colours (H,W,3) of deleted pixels.
        outlined: Whether to outline the next pixels, which suits patches; otherwise they are tinted, which suits scattered pixels.
    """
    size = photo.size
    fill = Image.fromarray(instead).resize(size, Image.Resampling.BILINEAR)
    sheet = Image.composite(fill, photo.convert("RGB"), _mask(gone, size))
    marked = _mask(following, size)
    if outlined:
        thickness = 2 * max(1, size[0] // 150) + 1
        # Without a border, the outline of a patch would be open at the edge of the picture.
        framed = Image.new("L", (size[0] + 2 * thickness, size[1] + 2 * thickness))
        framed.paste(marked, (thickness, thickness))
        inner = framed.filter(ImageFilter.MinFilter(thickness)).crop((thickness, thickness, thickness + size[0], thickness + size[1]))
        marked = Image.fromarray(np.asarray(marked) & ~np.asarray(inner))
    else:
        marked = marked.point(lambda value: value * 3 // 4)
    sheet.paste(NEXT, (0, 0), marked)
    return sheet


def _mask(chosen: Tensor, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(chosen.cpu().numpy().astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)


def curve_svg(probabilities: Tensor, step: int) -> str:
    """Draw the probability after each step as SVG, with a point at `step`.

    The curve is as wide as a slider with the same steps below it, so that the point stands above the slider's thumb.

    Args:
        probabilities: Probabilities (n+1,).
        step: Index of the current step.
    """
    last = len(probabilities) - 1
    bottom = _HEIGHT - _BELOW

    def at(i: int, p: float) -> tuple[float, float]:
        return _EDGE + (_WIDTH - 2 * _EDGE) * i / last, bottom - (bottom - _ABOVE) * p

    points = [at(i, p) for i, p in enumerate(probabilities.tolist())]
    x, y = points[step]
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    rules = "".join(_rule(at(0, p)[1], name) for p, name in ((0.0, "0"), (0.5, "0.5"), (1.0, "1")))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'font-family="sans-serif" font-size="16">{rules}'
        f'<polygon points="{_EDGE},{bottom} {line} {_WIDTH - _EDGE},{bottom}" fill="{ACCENT}" opacity="0.15"/>'
        f'<polyline points="{line}" fill="none" stroke="{ACCENT}" stroke-width="2.5"/>'
        f'<line x1="{x:.1f}" y1="{_ABOVE}" x2="{x:.1f}" y2="{bottom}" stroke="{OTHER}" stroke-dasharray="4 3"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{OTHER}"/>'
        f'<text x="{_EDGE}" y="17" fill="{_INK}">probability</text>'
        f'<text x="{_EDGE}" y="{_HEIGHT - 6}" fill="{_INK}">nothing deleted</text>'
        f'<text x="{_WIDTH - _EDGE}" y="{_HEIGHT - 6}" fill="{_INK}" text-anchor="end">everything deleted</text></svg>'
    )


def _rule(y: float, name: str) -> str:
    return (
        f'<line x1="{_EDGE}" y1="{y:.1f}" x2="{_WIDTH - _EDGE}" y2="{y:.1f}" stroke="{GREY}" opacity="0.4"/>'
        f'<text x="{_WIDTH - _EDGE}" y="{y - 4:.1f}" fill="{_INK}" text-anchor="end">{name}</text>'
    )
