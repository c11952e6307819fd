"""Data sets derived from other data sets: subsets, and data sets whose decoded items stay in memory."""

import operator
import threading
from collections.abc import Sequence
from dataclasses import replace

import psutil
import torch
from PIL import Image

from attrlib.data.datasets import Dataset, Item
from attrlib.data.scenes import Scene
from attrlib.specs import whole


class Subset(Dataset):
    """Selected items of a data set, in the given order.

    Args:
        data: The data set.
        indices: Indices of the items.
        name: Name of the subset, by default that of `data`.
    """

    def __init__(self, data: Dataset, indices: Sequence[int], name: str = ""):
        self.name, self.class_names = name or data.name, data.class_names
        self.has_masks, self.parts, self.multi_label, self.notes = data.has_masks, data.parts, data.multi_label, data.notes
        self.objects, self.class_parts = data.objects, data.class_parts
        self._data, self._indices = data, tuple(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        return self._data[self._indices[operator.index(index)]]

    def without(self, index: int, part: str) -> Image.Image:
        return self._data.without(self._indices[operator.index(index)], part)

    def scene(self, index: int) -> Scene:
        return self._data.scene(self._indices[operator.index(index)])

    def label(self, index: int) -> int | None:
        return self._data.label(self._indices[operator.index(index)])

    def labels(self, index: int) -> tuple[int, ...]:
        return self._data.labels(self._indices[operator.index(index)])

    def item_id(self, index: int) -> str:
        return self._data.item_id(self._indices[operator.index(index)])

    def item_name(self, index: int) -> str:
        return self._data.item_name(self._indices[operator.index(index)])


class Kept(Dataset):
    """A data set whose items stay decoded in memory after their first access, without their masks.

    Meant for data that are read repeatedly and are expensive to decode or to draw.

    Args:
        data: The data set.
        share: Maximum share (0 to 1) of the memory available now for decoded items. Further items are decoded at every access.
    """

    def __init__(self, data: Dataset, share: float = 0.25):
        self.name, self.class_names, self.reopens = data.name, data.class_names, data.reopens
        self.multi_label, self.notes = data.multi_label, data.notes
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
        item = replace(item, masks={})
        with self._lock:
            # Pillow stores four bytes per RGB pixel.
            nbytes = 4 * item.image.width * item.image.height + (item.bands.values.nbytes if item.bands else 0)
            if k not in self._items and nbytes <= self._left:
                self._items[k] = item
                self._left -= nbytes
        return item

    def label(self, index: int) -> int | None:
        return self._data.label(index)

    def labels(self, index: int) -> tuple[int, ...]:
        return self._data.labels(index)

    def item_id(self, index: int) -> str:
        return self._data.item_id(index)

    def item_name(self, index: int) -> str:
        return self._data.item_name(index)


def hold_out(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Split the labelled items of a data set into the rest and a random held-out share of each class.

    At least one item is held out of each class that has two or more; unlabelled items are in neither part.

    Args:
        data: The data set.
        share: Share (0 to 1) of each class to hold out.
        seed: Seed that chooses the items.

    Returns:
        The data without the held-out items, and the held-out items.
    """
    generator = torch.Generator().manual_seed(whole(seed, "seed"))
    by_class: dict[int, list[int]] = {}
    for index in torch.randperm(len(data), generator=generator).tolist():
        labels = data.labels(index)
        if labels:
            # An image with several labels counts for the first of them.
            by_class.setdefault(labels[0], []).append(index)
    held = {k for members in by_class.values() for k in members[: min(len(members) - 1, max(1, round(share * len(members))))]}
    rest = [k for members in by_class.values() for k in members if k not in held]
    return Subset(data, sorted(rest)), Subset(data, sorted(held), f"{data.name} (held out)")
