"""The birds as data sets, one for each split, drawn on access."""

import operator

from PIL import Image

from attrlib.data.birds.backdrop import OBJECTS
from attrlib.data.birds.classes import CLASS_NAMES, CODE, PARTS
from attrlib.data.birds.scene import SIZE, SIZES, BirdScene, labels, scene_id
from attrlib.data.datasets import Dataset, DatasetInfo, Item, named
from attrlib.errors import DataError, unknown

_SPLITS = {"birds": "test"} | {f"birds:{split}": split for split in SIZES}


class Birds(Dataset):
    """The birds of a split, with masks of the visible pixels of each part of `PARTS`; see `BirdScene`.

    Args:
        split: `train`, `select` or `test`.
        name: Name of the data set, by default `birds:SPLIT`.

    Raises:
        DataError: If the split is unknown.
    """

    class_names = CLASS_NAMES
    has_masks = True
    parts, objects, class_parts = PARTS, OBJECTS, CODE
    reopens = True

    def __init__(self, split: str = "test", name: str = ""):
        if split not in SIZES:
            raise DataError(unknown("split of the birds", split, SIZES))
        self.split = split
        self.name = name or f"birds:{split}"

    def __len__(self) -> int:
        return SIZES[self.split]

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        scene = self.scene(index)
        return Item(Image.fromarray(scene.render()), scene.label, scene.id, self.item_name(index), scene.masks())

    def without(self, index: int, part: str) -> Image.Image:
        return Image.fromarray(self.scene(index).render([part]))

    def label(self, index: int) -> int:
        return int(labels(self.split)[operator.index(index)])

    def item_id(self, index: int) -> str:
        return scene_id(self.split, self._position(index))

    def item_name(self, index: int) -> str:
        return f"birds:{self.split}/{self._position(index)}"

    def scene(self, index: int, size: int = SIZE) -> BirdScene:
        """Return the scene of a picture, which can be drawn without any of its parts.

        Args:
            index: Index of the picture.
            size: Side of the pictures drawn from the scene, in pixels.
        """
        return BirdScene(self.split, self._position(index), size)

    def _position(self, index: int) -> int:
        return range(len(self))[operator.index(index)]


def _make(name: str) -> Dataset:
    return Birds(_SPLITS[name], name)


for _name, _split in _SPLITS.items():
    _info = DatasetInfo(_name, f"Drawn birds with masks of their parts, {_split} split", SIZES[_split], len(CLASS_NAMES), True, True)
    named(_info)(_make)
