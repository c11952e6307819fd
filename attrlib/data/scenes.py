"""Scenes: pictures that can be drawn again without what they show."""

from collections.abc import Collection, Mapping
from typing import Protocol

import numpy as np


class Scene(Protocol):
    """A picture that can be drawn again without any of its parts and of the objects of its background, everything else unchanged."""

    def render(self, without: Collection[str] = ()) -> np.ndarray:
        """Return the picture, uint8 (H,W,3), without some parts and objects."""

    def object_masks(self) -> Mapping[str, np.ndarray]:
        """Return a boolean mask (H,W) of the visible pixels of each of the data set's `objects`; empty where there are none."""
