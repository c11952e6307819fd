"""Birds: a random pose, and the shapes that result from it."""

import cmath
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from attrlib.data.birds.classes import CODE, PARTS
from attrlib.data.birds.looks import LOOKS
from attrlib.data.birds.raster import Outline, curve, ellipse, stroke
from attrlib.data.birds.variants import Variant, colour

BODY = "body"
"""Name of the part that every bird has: body, neck and head."""
MARGIN = 0.03
"""Smallest distance between the bird and the edge of the picture, in sides of the picture."""
COLOUR_JITTER, SHAPE_JITTER = 0.05, 0.07
"""Largest random change of a variant: of each colour channel (0 to 1), and of its length, width and bend as shares."""
PLUMAGES = np.array([colour(text) for text in ("b59a7c", "8d8f96", "a9a37a", "7f98a8", "b98f86", "c8b896", "8f7d6e", "93a894")])
"""Colours of the body. They do not depend on the class."""
_TRUNK = curve("-.54,-.05 -.30,-.27 .04,-.36 .36,-.28 .50,.02 .37,.30 .02,.38 -.34,.25")
_BELLY = curve("-.36,.20 -.10,.16 .18,.10 .42,-.12! .50,.05 .37,.29 .02,.37 -.30,.26")
_HEAD = ellipse(0, 0, 0.265)


class Shape(NamedTuple):
    """A union of outlines in one colour, in sides of the picture, and the part that it belongs to."""

    part: str
    outlines: list[Outline]
    fill: np.ndarray
    opacity: float = 1.0


class _Frame(NamedTuple):
    """A coordinate frame within that of the bird: its origin and its x axis."""

    origin: complex = 0.0
    axis: complex = 1.0

    def place(self, points: np.ndarray) -> np.ndarray:
        return self.origin + self.axis * points

    def at(self, x: float, y: float, degrees: float = 0.0, scale: float = 1.0) -> Self:
        """Return the frame of something attached at (x,y), turned clockwise and scaled."""
        return self._replace(origin=self.origin + self.axis * complex(x, y), axis=self.axis * cmath.rect(scale, math.radians(degrees)))

    def upright(self, degrees: float) -> Self:
        """Return a frame at the same place, turned by an angle from upright, regardless of the tilt of the bird."""
        return self._replace(axis=cmath.rect(1, math.radians(degrees)))


def warped(points: np.ndarray, warp: Sequence[float]) -> np.ndarray:
    """Stretch and bend the points of a part.

    Args:
        points: Points (n,) as complex numbers x + iy.
        warp: Changes of length, width and bend, as shares.
    """
    length, width, bend = warp
    x, y = points.real * (1 + length), points.imag * (1 + width)
    return x + 1j * (y + 1.5 * bend * x * x)


class Bird:
    """A bird of a class, in a random pose. Points and directions are complex numbers, x + iy.

    Args:
        label: Class of the bird, an index into `CODE`.
        rng: Generator of all random choices.

    Attributes:
        shapes: The shapes from back to front, in sides of the picture.
        feet: Positions of the feet, in sides of the picture.
        scale: Length of the body, in sides of the picture.
        light: Direction that the light comes from, always from above.
    """

    def __init__(self, label: int, rng: np.random.Generator):
        self._rng = rng
        self._looks = {part: LOOKS[part][variant] for part, variant in zip(PARTS, CODE[label], strict=True)}
        self._tints = dict(zip(PARTS, COLOUR_JITTER * (2 * rng.random((len(PARTS), 3)) - 1), strict=True))
        self._warps = dict(zip(PARTS, SHAPE_JITTER * (2 * rng.random((len(PARTS), 3)) - 1), strict=True))
        self.light = complex(self._between(-1, 1), -1)
        self._mirrored = self._between(0, 1) < 0.5
        self.shapes: list[Shape] = []
        self._stand()
        self._fit()

    def _between(self, low: float, high: float) -> float:
        return low + (high - low) * self._rng.random()

    def _stand(self) -> None:
        """Build all shapes and the feet, in units of the bird."""
        between = self._between
        body = _Frame().at(0, 0, between(-20, 14))
        head = body.at(0.37 + between(-0.06, 0.05), -0.40 + between(-0.07, 0.05)).upright(between(-14, 16))
        raised = between(22, 78) if between(0, 1) < 0.45 else between(-6, 8)
        far, near = (body.at(x, 0.30).upright(between(-12, 12)) for x in (0.12, -0.06))
        plumage = PLUMAGES[int(between(0, len(PLUMAGES)))] * between(0.9, 1.08)
        neck = np.array([body.at(0.10, -0.02).origin, (body.at(0.24, -0.2).origin + head.origin) / 2, head.origin])

        if raised > 20:
            self._add("wing", body.at(0.24, -0.14, raised + between(10, 22), 0.94), tone=0.72)
        self._add("tail", body.at(-0.44, -0.06, between(-14, 26)))
        self._add("legs", far, tone=0.8)
        self._add("beak", head.at(0.225, 0.03))
        self.shapes += [
            Shape(BODY, [body.place(_TRUNK), stroke(neck, np.array([0.6, 0.54, 0.44])), head.place(_HEAD)], plumage),
            Shape(BODY, [body.place(_BELLY)], plumage + (1 - plumage) * between(0.25, 0.5)),
        ]
        self._add("legs", near)
        self._add("crest", head.at(-0.02, -0.21))
        self._add("eye", head.at(0.08, -0.035))
        self._add("wing", body.at(0.16, -0.10, raised), shade=0.3)
        self.feet = np.array([near.at(0.04, 0.38).origin, far.at(0.04, 0.38).origin])

    def _add(self, part: str, frame: _Frame, tone: float = 1.0, shade: float = 0.0) -> None:
        """Add the pieces of a part, with a hard shadow on what is behind them if `shade` is not zero."""
        look: Variant = self._looks[part]
        points = frame.place(warped(look.points, self._warps[part]))
        if shade:
            self.shapes.append(Shape(part, [points[look.spans[0]] - 0.04 * self._mirror(self.light)], np.zeros(3), shade))
        fills = np.clip(look.fills + self._tints[part], 0.02, 0.98) * tone
        self.shapes += [Shape(part, [points[span]], fill) for span, fill in zip(look.spans, fills, strict=True)]

    def _mirror(self, points: Any) -> Any:
        return -points.conjugate() if self._mirrored else points

    def _fit(self) -> None:
        """Fit the bird into the picture: mirror it or not, scale it, and move it to a random place where all of it is inside."""
        every = self._mirror(np.concatenate([outline for shape in self.shapes for outline in shape.outlines]))
        left, top = every.real.min(), every.imag.min()
        width, height = every.real.max() - left, every.imag.max() - top
        room = 1 - 2 * MARGIN
        self.scale = min(self._between(0.31, 0.46), room / float(max(width, height)))
        x, y = (MARGIN + self._between(0, room - self.scale * extent) for extent in (width, height))
        shift = complex(x, y) - self.scale * complex(left, top)
        every, self.feet = self.scale * every + shift, self.scale * self._mirror(self.feet) + shift
        start = 0
        for shape in self.shapes:
            for k, outline in enumerate(shape.outlines):
                shape.outlines[k] = every[start : start + len(outline)]
                start += len(outline)
