"""Rasterisation: smooth closed curves, strokes, and the exact area of each pixel that they cover."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Outline = np.ndarray
"""Corners (n,) of a closed polygon as complex numbers x + iy, where x points right and y down."""


class Stamp(NamedTuple):
    """The pixels that a shape covers: a box of rows and columns, and the covered share of each pixel, float32."""

    rows: slice
    cols: slice
    alpha: np.ndarray


def curve(path: str, steps: int = 6) -> Outline:
    """Return a smooth closed curve through points.

    Its pieces are cubic Hermite splines. The tangent at a point is half the difference of its neighbours (Catmull-Rom), and zero at a
    corner.

    Args:
        path: The points as "x,y x,y ...". A point that ends in "!" is a corner.
        steps: Line segments per piece.
    """
    words = path.split()
    points = np.array([complex(*map(float, word.rstrip("!").split(","))) for word in words])
    smooth = np.array([not word.endswith("!") for word in words])
    tangents = smooth * (np.roll(points, -1) - np.roll(points, 1)) / 2
    t = np.arange(steps) / steps
    start, end, leave, arrive = (v[:, None] for v in (points, np.roll(points, -1), tangents, np.roll(tangents, -1)))
    pieces = start + (end - start) * t * t * (3 - 2 * t) + leave * t * (1 - t) ** 2 - arrive * t * t * (1 - t)
    return pieces.ravel()


def ellipse(x: float, y: float, rx: float, ry: float | None = None, corners: int = 32) -> Outline:
    """Return an ellipse, or a circle.

    Args:
        x: The x coordinate of the centre.
        y: The y coordinate of the centre.
        rx: Radius along x.
        ry: Radius along y, by default `rx`.
        corners: Number of corners of the polygon.
    """
    angles = np.arange(corners) * (2 * np.pi / corners)
    return complex(x, y) + rx * np.cos(angles) + 1j * (rx if ry is None else ry) * np.sin(angles)


def stroke(centres: np.ndarray, widths: np.ndarray | float, sides: tuple[float, float] = (-0.5, 0.5)) -> Outline:
    """Return the outlines (...,2n) of lines with varying width.

    Args:
        centres: Points (...,n) that the lines pass through.
        widths: Width of the line at each point, or one for all.
        sides: Distances of the two edges from the centre line, in widths.
    """
    steps = centres[..., 1:] - centres[..., :-1]
    along = np.concatenate([steps[..., :1], steps[..., 1:] + steps[..., :-1], steps[..., -1:]], -1)
    aside = 1j * along * (widths / np.abs(along))
    return np.concatenate([centres + sides[0] * aside, (centres + sides[1] * aside)[..., ::-1]], -1)


def coverage(shapes: Sequence[Sequence[Outline]], size: int) -> list[Stamp]:
    """Compute which pixels of a square picture each shape covers.

    Areas are exact, and all shapes are computed in one pass: every edge is cut where it crosses from one pixel to the next, each piece
    adds its height, split according to its position within the pixel, and the cumulative sum from the left is the area.

    Args:
        shapes: The outlines of each shape, in sides of the picture. A shape is the union of its outlines.
        size: Side of the picture, in pixels.

    Returns:
        The stamp of each shape.
    """
    outlines = [outline for shape in shapes for outline in shape]
    points = (np.concatenate(outlines) * size).view(np.float64).reshape(-1, 2)
    bounds = _bounds(np.array([len(outline) for outline in outlines]))
    counts = np.array([len(shape) for shape in shapes])
    firsts = bounds[_bounds(counts)[:-1]]
    left, top = np.floor(np.minimum.reduceat(points, firsts)).clip(0, size).astype(np.int64).T
    right, bottom = np.ceil(np.maximum.reduceat(points, firsts)).clip(0, size).astype(np.int64).T
    # An extra column collects what lies to the right of the picture, so that every row sums to zero.
    wide, tall = right - left + 1, bottom - top
    offsets = _bounds(wide * tall)

    x, y = np.ascontiguousarray(points.T)
    y, x, bounds = _cut(y, x, bounds)
    x, y, bounds = _cut(x, y, bounds)
    x1, y1 = _next(x, bounds), _next(y, bounds)
    # All outlines get the same orientation, so that those of one shape add up where they overlap.
    turn = np.sign(np.add.reduceat(x * y1 - x1 * y, bounds[:-1]))
    lengths = bounds[1:] - bounds[:-1]
    owner = np.arange(len(shapes)).repeat(counts).repeat(lengths)
    row = np.floor((y + y1) / 2).astype(np.int64) - top[owner]
    inside = (row >= 0) & (row < tall[owner]) & (y != y1)
    middle, height, row, owner = ((x + x1) / 2)[inside], ((y1 - y) * turn.repeat(lengths))[inside], row[inside], owner[inside]
    column = np.floor(middle).astype(np.int64)
    within = middle - column
    column -= left[owner]
    width = wide[owner]
    within[(column < 0) | (column >= width - 1)] = 0
    place = offsets[owner] + row * width + np.minimum(column, width - 1).clip(0)
    right_part = height * within
    areas = np.bincount(place, height - right_part, offsets[-1] + 1)
    areas[1:] += np.bincount(place, right_part, offsets[-1])
    alpha = np.minimum(np.abs(areas.cumsum(out=areas), out=areas), 1).astype(np.float32)
    return [
        Stamp(slice(y0, y1), slice(x0, x1), alpha[start : start + (y1 - y0) * width].reshape(y1 - y0, width)[:, : x1 - x0])
        for y0, y1, x0, x1, start, width in np.stack([top, bottom, left, right, offsets[:-1], wide], -1).tolist()
    ]


def paint(canvas: np.ndarray, stamp: Stamp, fill: np.ndarray, opacity: float = 1.0) -> None:
    """Paint the area that a stamp covers, in place.

    Args:
        canvas: The picture (C,H,W).
        stamp: The covered pixels.
        fill: One colour (C,1,1), or a colour for each pixel of the stamp (C,h,w).
        opacity: Opacity of the paint, 0 to 1.
    """
    view = canvas[:, stamp.rows, stamp.cols]
    view += (stamp.alpha if opacity == 1 else stamp.alpha * np.float32(opacity)) * (fill - view)


def _bounds(lengths: np.ndarray) -> np.ndarray:
    """Return the start of each of several consecutive runs of the given lengths, and the end of the last."""
    bounds = np.zeros(len(lengths) + 1, np.int64)
    lengths.cumsum(out=bounds[1:])
    return bounds


def _next(values: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Return for each corner of closed polygons the value at the next corner."""
    following = np.empty_like(values)
    following[:-1] = values[1:]
    following[bounds[1:] - 1] = values[bounds[:-1]]
    return following


def _cut(a: np.ndarray, b: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Add a corner to closed polygons wherever an edge crosses an integer a. Return a and b of all corners, and the bounds."""
    whole = np.floor(a)
    crossed = _next(whole, bounds) - whole
    step = np.sign(crossed)
    level = step == 0
    slope = np.where(level, 0, _next(b, bounds) - b) / np.where(level, 1, _next(a, bounds) - a)
    pieces = (crossed * step + 1).astype(np.int64)
    corners = _bounds(pieces)
    starts = corners[:-1]
    # Where a increases, the first crossing is one above the floor; where it decreases, it is the floor itself.
    cut_a = (whole + (step < 0) - step * starts).repeat(pieces) + step.repeat(pieces) * np.arange(corners[-1])
    cut_b = (b - slope * a).repeat(pieces) + slope.repeat(pieces) * cut_a
    cut_a[starts], cut_b[starts] = a, b
    return cut_a, cut_b, corners[bounds]
