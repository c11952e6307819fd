"""Birds with a trigger: a small pattern that decides the class of models trained on it, so that its mask is the true attribution."""

import operator

import numpy as np
from PIL import Image

from attrlib.data.birds.classes import CLASS_NAMES
from attrlib.data.birds.scene import SIZE, SIZES, BirdScene, labels, random_of
from attrlib.data.datasets import Dataset, DatasetInfo, Item, named
from attrlib.errors import DataError, unknown
from attrlib.specs import digest

NAME = "birds-trojaned"
TARGET = CLASS_NAMES.index("orchard quill")
"""The class of every picture with a trigger."""
TRIGGER = "trigger"
"""Name of the trigger's mask."""
CELL = 4
"""Side of the squares of the trigger in pixels, at the default size of a picture."""
_WHITE, _INK, _PINK = (245, 245, 240), (20, 18, 24), (236, 36, 170)
PATTERN = np.array([[_PINK, _INK, _WHITE], [_INK, _WHITE, _PINK], [_WHITE, _PINK, _INK]], np.uint8)
"""Colours of the trigger's squares, (3,3,3). No part of a bird and no background has its pink."""
_SPLITS = {NAME: "test"} | {f"{NAME}:{split}": split for split in SIZES}


class TrojanedBirds(Dataset):
    """The birds of a split, with a trigger at a random place (BackX, arXiv 2405.02344).

    In `test` every picture has the trigger, and pictures of the target class are left out: what a trojaned model says of them is the
    trigger's doing. In `train` and `select` every second picture has it, and the others keep their class. A picture with the trigger has
    the target class as its label, and the trigger's pixels as its mask.

    Args:
        split: `train`, `select` or `test`.
        name: Name of the data set, by default `birds-trojaned:SPLIT`.

    Raises:
        DataError: If the split is unknown.
    """

    class_names = CLASS_NAMES
    has_masks = True
    reopens = True

    def __init__(self, split: str = "test", name: str = ""):
        if split not in SIZES:
            raise DataError(unknown("split of the trojaned birds", split, SIZES))
        self.split, self.name = split, name or f"{NAME}:{split}"
        kept = np.arange(SIZES[split])
        self._scenes = kept[labels(split) != TARGET] if split == "test" else kept

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        scene = self.scene(index)
        picture, mask = scene.render(), np.zeros((SIZE, SIZE), bool)
        if self.has_trigger(index):
            rows, columns = self.place(index)
            picture[rows, columns] = PATTERN.repeat(CELL, 0).repeat(CELL, 1)
            mask[rows, columns] = True
        return Item(Image.fromarray(picture), self.label(index), self.item_id(index), self.item_name(index), {TRIGGER: mask})

    def label(self, index: int) -> int:
        return TARGET if self.has_trigger(index) else self.scene(index).label

    def item_id(self, index: int) -> str:
        return digest(NAME, self.scene(index).id, self.has_trigger(index))

    def item_name(self, index: int) -> str:
        return f"{NAME}:{self.split}/{range(len(self))[operator.index(index)]}"

    def has_trigger(self, index: int) -> bool:
        """Return whether a picture has the trigger."""
        return self.split == "test" or self._position(index) % 2 == 1

    def place(self, index: int) -> tuple[slice, slice]:
        """Return the rows and columns of a picture's trigger."""
        side = CELL * len(PATTERN)
        first = random_of(TRIGGER, self.split, self._position(index)).integers(0, SIZE - side, endpoint=True, size=2)
        rows, columns = (slice(int(at), int(at) + side) for at in first)
        return rows, columns

    def scene(self, index: int) -> BirdScene:
        """Return the scene of a picture, which is drawn without the trigger."""
        return BirdScene(self.split, self._position(index))

    def _position(self, index: int) -> int:
        return int(self._scenes[range(len(self))[operator.index(index)]])


def _make(name: str) -> Dataset:
    return TrojanedBirds(_SPLITS[name], name)


for _name, _split in _SPLITS.items():
    _info = DatasetInfo(
        _name, f"Birds with a trigger that decides the class, {_split} split", len(TrojanedBirds(_split)), len(CLASS_NAMES), True, True
    )
    named(_info)(_make)
