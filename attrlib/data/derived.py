"""Data sets made of other data sets: some of their items, or all of them kept decoded."""

import operator
import threading
from collections.abc import Sequence

import psutil
import torch
from PIL import Image

from attrlib.data.datasets import Dataset, Item
from attrlib.specs import whole


class Subset(Dataset):
    """Some items of a data set, in the order given."""

    def __init__(self, data: Dataset, indices: Sequence[int], name: str = ""):
        self.name, self.class_names = name or data.name, data.class_names
        self.has_masks, self.parts = data.has_masks, data.parts
        self._data, self._indices = data, tuple(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        return self._data[self._indices[operator.index(index)]]

    def without(self, index: int, part: str) -> Image.Image:
        return self._data.without(self._indices[operator.index(index)], part)

    def label(self, index: int) -> int | None:
        return self._data.label(self._indices[operator.index(index)])

    def item_id(self, index: int) -> str:
        return self._data.item_id(self._indices[operator.index(index)])

    def item_name(self, index: int) -> str:
        return self._data.item_name(self._indices[operator.index(index)])


class Kept(Dataset):
    """A data set whose items stay decoded once they were asked for, as far as `share` of the memory that is free now holds them.

    For data that are read again and again, and dear to decode or to draw.
    """

    def __init__(self, data: Dataset, share: float = 0.25):
        self.name, self.class_names = data.name, data.class_names
        self._data, self._items = data, dict[int, Item]()
        self._left = int(share * psutil.virtual_memory().available)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        k = range(len(self))[operator.index(index)]
        if k in self._items:
            return self._items[k]
        item = self._data[k]
        item = Item(item.image, item.label, item.id, item.name)
        with self._lock:
            # Pillow keeps four bytes for each pixel of RGB.
            nbytes = 4 * item.image.width * item.image.height
            if k not in self._items and nbytes <= self._left:
                self._items[k] = item
                self._left -= nbytes
        return item

    def label(self, index: int) -> int | None:
        return self._data.label(index)

    def item_id(self, index: int) -> str:
        return self._data.item_id(index)

    def item_name(self, index: int) -> str:
        return self._data.item_name(index)


def hold_out(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """The data without, and only, a share of the labelled items of each class, drawn by the seed; at least one of each class that has two."""
    generator = torch.Generator().manual_seed(whole(seed, "seed"))
    by_class: dict[int, list[int]] = {}
    for index in torch.randperm(len(data), generator=generator).tolist():
        label = data.label(index)
        if label is not None:
            by_class.setdefault(label, []).append(index)
    held = {index for own in by_class.values() for index in own[: min(len(own) - 1, max(1, round(share * len(own))))]}
    rest = [index for own in by_class.values() for index in own if index not in held]
    return Subset(data, sorted(rest)), Subset(data, sorted(held), f"{data.name} (held out)")
