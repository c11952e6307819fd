"""What an aggregation shows: the row of a method, and single items of it."""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from attrlib.binning import Aggregate
from attrlib.engine.items import EvalItem
from attrlib.specs import MethodSpec
from attrlib.statistics import Summary, summary


@dataclass(frozen=True, eq=False)
class Row:
    """One method on all items, at the smoothing of a view.

    Attributes:
        method: The method.
        side: Height and width of its maps.
        kernel: Size of the smoothing kernel at that resolution, 0 for none.
        values: Score of each item, (N,), NaN where undefined.
        aggregate: AggAtt of the maps.
        items: The items.
    """

    method: MethodSpec
    side: tuple[int, int]
    kernel: int
    values: np.ndarray
    aggregate: Aggregate
    items: tuple[EvalItem, ...]

    @property
    def summary(self) -> Summary:
        """Return the mean of the scores, its 95 % CI and counts."""
        return summary(self.values)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the row."""
        return self.aggregate.nbytes


@dataclass(frozen=True, eq=False)
class Example:
    """One item of a row.

    Attributes:
        picture: The image as the model sees it.
        values: The smoothed, signed map, (H,W) at the picture's size.
        score: Its score.
        names: The names of its classes.
        item: The item.
    """

    picture: Image.Image
    values: Tensor
    score: float
    names: tuple[str, ...]
    item: EvalItem

    @property
    def nbytes(self) -> int:
        """Return the bytes of the map and the picture."""
        return self.values.nbytes + 3 * self.picture.width * self.picture.height
