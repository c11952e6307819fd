"""Data sets of pictures in memory: arrays, tensors, and sequences of pictures or of pairs (picture, label)."""

import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from attrlib.data.arrays import as_picture, check_values
from attrlib.data.datasets import OBJECTS, SOURCES, Dataset, Item
from attrlib.data.folders import show
from attrlib.data.images import Photo, open_photo
from attrlib.data.memory_labels import Classes
from attrlib.data.pictures import open_image
from attrlib.errors import DataError, ImageError
from attrlib.specs import IN_MEMORY, digest

Pair = tuple[Any, Any]
"""A picture in memory and its label."""
_PICTURES = (str, Path, Image.Image, np.ndarray, Tensor)


class MemoryDataset(Dataset):
    """Pictures that a function returns. The digest of an item is that of its pixels, or of its file.

    Args:
        kind: What the pictures are kept in, for the name of the data set.
        count: Number of pictures.
        pair: Returns a picture and its label by index.
        classes: The classes.
        labels: The class indices of each picture. None if only `pair` tells; a picture is then opened for its label.
        paired: Whether the labels that `pair` returns must be `labels`.
        notes: What was assumed.
    """

    def __init__(
        self,
        kind: str,
        count: int,
        pair: Callable[[int], Pair],
        classes: Classes,
        labels: Sequence[tuple[int, ...]] | None,
        paired: bool = False,
        notes: tuple[str, ...] = (),
    ):
        self.class_names, self.multi_label, self.notes = classes.names, classes.several, notes
        self._count, self._pair, self._classes, self._labels, self._paired = count, pair, classes, labels, paired
        self._found: dict[int, tuple[str, tuple[int, ...]]] = {}
        self.name = f"{IN_MEMORY}{kind}"
        # A few pictures tell data sets apart whose runs would otherwise share a manifest.
        ends = [self._id_or_nothing(k) for k in sorted({0, count // 2, count - 1})]
        self.name += f"-{digest(count, list(self.class_names), labels and [list(own) for own in labels], ends)[:8]}"

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        k = range(len(self))[operator.index(index)]
        picture, raw = self._pair(k)
        photo = _photo(picture, self.item_name(k))
        labels = self._labels[k] if self._labels is not None else self._classes.read(raw)
        if self._paired and self._classes.read(raw) != labels:
            raise DataError(
                f"{self.item_name(k)} has the label {str(raw)[:80]}, but the data set's list of labels says "
                f"{', '.join(map(str, labels)) or 'none'}; give the labels as labels=[...]"
            )
        bands = () if photo.bands is None else photo.bands.digest_parts()
        content = photo.id or (digest(photo.digest, *bands) if bands else photo.digest)
        # Results are stored under the digest, so the picture must not change afterwards.
        if self._found.setdefault(k, (content, labels)) != (content, labels):
            raise DataError(
                f"{self.item_name(k)} is a different picture each time it is read; remove random augmentation (transform=None), and do not "
                "change arrays during a run"
            )
        return Item(photo.image, labels[0] if len(labels) == 1 else None, content, photo.name, bands=photo.bands)

    def label(self, index: int) -> int | None:
        labels = self.labels(index)
        return labels[0] if len(labels) == 1 else None

    def labels(self, index: int) -> tuple[int, ...]:
        k = range(len(self))[operator.index(index)]
        return self._labels[k] if self._labels is not None else self._facts(k)[1]

    def item_id(self, index: int) -> str:
        return self._facts(range(len(self))[operator.index(index)])[0]

    def _id_or_nothing(self, k: int) -> str:
        """Return the digest of a picture, empty if it cannot be read: a run leaves it out and says why."""
        try:
            return self.item_id(k)
        except ImageError:
            return ""

    def _facts(self, k: int) -> tuple[str, tuple[int, ...]]:
        """Return the digest and the labels of a picture, which is opened the first time."""
        if k not in self._found:
            self[k]
        return self._found[k]


def _photo(picture: object, name: str) -> Photo:
    if isinstance(picture, str | Path):
        return open_image(picture, name)
    if isinstance(picture, np.ndarray | Tensor):
        try:
            return open_photo(as_picture(picture), name)
        except ImageError as error:
            # The other pictures are of the same kind, so leaving this one out would help nobody.
            raise DataError(f"{name}: {error}") from None
    if isinstance(picture, Image.Image):
        return open_photo(picture, name)
    raise DataError(f"{name} is a {type(picture).__name__}, not a picture; give paths, PIL images, arrays or tensors")


def from_array(source: object, labels: Any, class_names: Sequence[str] | None) -> Dataset | None:
    """Return the data set of an array or tensor (N,H,W), (N,H,W,C) or (N,C,H,W); None for other objects."""
    if not isinstance(source, np.ndarray | Tensor):
        return None
    array = source
    shape = tuple(array.shape)
    if len(shape) not in (3, 4) or 0 in shape or (len(shape) == 3 and shape[2] <= 4):
        raise DataError(f"an array of shape {shape} is not a data set; give pictures as (N,H,W), (N,H,W,C) or (N,C,H,W)")
    try:
        check_values(array)
    except ImageError as error:
        raise DataError(str(error)) from None
    raws = given(labels, len(array))
    classes = Classes.of(raws, class_names)
    kind = "tensor" if isinstance(array, Tensor) else "array"
    return MemoryDataset(kind, len(array), lambda k: (array[k], raws[k]), classes, classes.read_all(raws))


def from_sequence(source: object, labels: Any, class_names: Sequence[str] | None) -> Dataset | None:
    """Return the data set of a list of pictures, or of pairs (picture, label); None for other objects."""
    if not isinstance(source, Sequence) or isinstance(source, str | bytes | bytearray | range):
        return None
    if not source:
        raise DataError("the list of pictures is empty; give at least one")
    paired = [is_pair(entry) for entry in source]
    if any(paired) and not all(paired):
        raise DataError("some entries of the list are pairs (picture, label) and others are not; give pairs only, or pictures and labels=")
    if all(paired) and labels is not None:
        raise DataError("the list holds pairs (picture, label), so labels= is one too many; give one of the two")
    pictures = [entry[0] for entry in source] if all(paired) else list(source)
    if wrong := [entry for entry in pictures if not isinstance(entry, _PICTURES)]:
        raise DataError(f"a {type(wrong[0]).__name__} in the list is not a picture; give paths, PIL images, arrays or tensors")
    raws = [entry[1] for entry in source] if all(paired) else given(labels, len(pictures))
    classes = Classes.of(raws, class_names)
    return _Listed("list", len(pictures), lambda k: (pictures[k], raws[k]), classes, classes.read_all(raws))


class _Listed(MemoryDataset):
    """A list of pictures, of which files and named pictures keep their names."""

    def item_name(self, index: int) -> str:
        k = range(len(self))[operator.index(index)]
        picture = self._pair(k)[0]
        return show(str(picture)) if isinstance(picture, str | Path) else super().item_name(k)


def is_pair(entry: object) -> bool:
    """Return whether an entry is a picture with a label."""
    return isinstance(entry, tuple | list) and len(entry) == 2 and isinstance(entry[0], _PICTURES)


def given(labels: Any, count: int) -> list[Any]:
    """Return given labels as a list, one for each picture.

    Raises:
        DataError: If there are more or fewer.
    """
    if labels is None:
        return [None] * count
    if isinstance(labels, np.ndarray | Tensor) and labels.ndim == 1:
        labels = labels.tolist()
    raws = list(labels)
    if len(raws) != count:
        raise DataError(f"there are {len(raws)} labels for {count} pictures; give one for each, None where it is unknown")
    return raws


def _gone(source: str) -> Dataset:
    raise DataError(
        f"{source[:120]!r} was a data set in the memory of a Python program; load it there as before, and pass it to attrlib.compare"
    )


OBJECTS[:0] = [from_array, from_sequence]
SOURCES[IN_MEMORY] = _gone
