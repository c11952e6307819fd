"""What a variant of a part is made of: outlines and colours."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from attrlib.data.birds.raster import Outline

Colour = tuple[float, float, float]


def colour(text: str) -> Colour:
    """Red, green and blue from 0 to 1, of six hex digits."""
    red, green, blue = (int(text[k : k + 2], 16) / 255 for k in (0, 2, 4))
    return red, green, blue


CORAL, AMBER, TEAL, INDIGO, IVORY = (colour(text) for text in ("d64a35", "efa823", "17938f", "47408f", "f6efdc"))
PIGMENTS = (CORAL, AMBER, TEAL, INDIGO, IVORY)
"""The colours of all parts and of what lies about: each is one variant's colour of every part, so that a colour alone tells nothing."""
INK = colour("24222b")
Piece = tuple[Outline, float | Colour]
"""An outline, and how it is filled: with the part's own colour times a tone, or with another colour."""


@dataclass(frozen=True, eq=False)
class Variant:
    """One look of a part: its colour, and its pieces from back to front."""

    name: str
    colour: Colour
    pieces: tuple[Piece, ...]

    @cached_property
    def points(self) -> np.ndarray:
        """The corners of all pieces, (n,)."""
        return np.concatenate([outline for outline, _ in self.pieces])

    @cached_property
    def spans(self) -> list[slice]:
        """Which of the points are a piece's."""
        ends = np.cumsum([len(outline) for outline, _ in self.pieces]).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    @cached_property
    def fills(self) -> np.ndarray:
        """The colour of each piece, (pieces,3)."""
        return np.array([np.multiply(self.colour, fill) if isinstance(fill, float) else fill for _, fill in self.pieces])
