"""Building blocks of the variants of a part: outlines and colours."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attrlib.data.birds.raster import Outline

Colour = tuple[float, float, float]


def colour(text: str) -> Colour:
    """Return red, green and blue from 0 to 1, given six hex digits."""
    red, green, blue = (int(text[k : k + 2], 16) / 255 for k in (0, 2, 4))
    return red, green, blue


CORAL, AMBER, TEAL, INDIGO, IVORY = (colour(text) for text in ("d64a35", "efa823", "17938f", "47408f", "f6efdc"))
PIGMENTS = (CORAL, AMBER, TEAL, INDIGO, IVORY)
"""Colours of all parts and of the clutter. Each part has one variant of each colour, so that a colour alone reveals nothing."""
INK = colour("24222b")
Piece = tuple[Outline, float | Colour]
"""An outline and its fill: a tone to multiply the colour of the variant by, or another colour."""


@dataclass(frozen=True, eq=False)
class Variant:
    """One variant of a part: its colour, and its pieces from back to front."""

    name: str
    colour: Colour
    pieces: tuple[Piece, ...]

    @cached_property
    def points(self) -> np.ndarray:
        """Return the corners (n,) of all pieces."""
        return np.concatenate([outline for outline, _ in self.pieces])

    @cached_property
    def spans(self) -> list[slice]:
        """Return the slice of `points` that belongs to each piece."""
        ends = np.cumsum([len(outline) for outline, _ in self.pieces]).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    @cached_property
    def fills(self) -> np.ndarray:
        """Return the colour of each piece, (pieces,3)."""
        return np.array([np.multiply(self.colour, fill) if isinstance(fill, float) else fill for _, fill in self.pieces])
