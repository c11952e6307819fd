"""Data sets: sequences of labelled pictures, opened one at a time, from folders, CSV files, objects in memory, or by name."""

import operator
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from attrlib.bands import Bands
from attrlib.data.digests import file_digest
from attrlib.data.folders import SUFFIXES, Listing, list_folder, show
from attrlib.data.images import open_photo
from attrlib.data.scenes import Scene
from attrlib.data.tables import list_csv
from attrlib.errors import DataError, ImageError, unknown
from attrlib.specs import IN_MEMORY, digest, whole

MASK = "object"
"""Name of the masks that are read from a folder."""


@dataclass(frozen=True, eq=False)
class Item:
    """One picture of a data set, with its label and masks.

    Attributes:
        image: The picture in 8-bit RGB, for display.
        label: Its class as an index into the data set's `class_names`, None if it has none or several.
        id: Digest of its content.
        name: Its display name.
        masks: Boolean masks (H,W) by name, in the picture's own pixels.
        bands: The values of the picture, if it has other bands than grey or R, G and B, or more than 8 bits; else None.
    """

    image: Image.Image
    label: int | None
    id: str
    name: str
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    bands: Bands | None = None


class Dataset(Sequence[Item], ABC):
    """Base class of data sets: pictures in a fixed order, each opened only when it is accessed.

    Indices may be negative, as for a list. An index out of range raises `IndexError`.

    Attributes:
        name: Name of the data set.
        class_names: Names of the classes; labels are indices into it.
        has_masks: Whether items have masks.
        parts: Parts that every picture can be rendered without.
        objects: Objects that the background of a picture may have, and that it can be drawn without.
        class_parts: The variant of each of `parts` for every class; empty unless pictures are scenes, see `scene`.
        multi_label: Whether a picture may have several labels.
        notes: What was assumed when the data set was loaded, and what was left out.
        reopens: Whether `load_dataset(name)` returns the same data set in another process.
    """

    name: str
    class_names: tuple[str, ...]
    has_masks: bool = False
    multi_label: bool = False
    notes: tuple[str, ...] = ()
    reopens: bool = False
    parts: tuple[str, ...] = ()
    """Parts that every picture can be rendered without. If there are any, the items' masks have these names."""
    objects: tuple[str, ...] = ()
    class_parts: tuple[tuple[int, ...], ...] = ()

    @property
    def offers(self) -> tuple[str, ...]:
        """Return what the data set provides besides pictures and labels, as protocols require it: `masks`, `parts`, `scenes`."""
        offered = (("masks", self.has_masks), ("parts", bool(self.parts)), ("scenes", bool(self.class_parts)))
        return tuple(name for name, has in offered if has)

    def without(self, index: int, part: str) -> Image.Image:
        """Return a picture without one of its parts, everything else unchanged.

        Args:
            index: Index of the picture.
            part: The part to leave out, one of `parts`.

        Raises:
            DataError: If the data set does not have that part.
        """
        raise DataError(f"the pictures of {self.name} have no version without {part!r}")

    def scene(self, index: int) -> Scene:
        """Return the scene of a picture, which draws it without several parts, or without objects of the background.

        Raises:
            DataError: If the pictures are not scenes.
        """
        raise DataError(f"the pictures of {self.name} are not scenes that can be drawn again")

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of pictures."""

    @abstractmethod
    def __getitem__(self, index: int) -> Item:  # type: ignore[override]  # a slice would open all of its pictures
        """Return one picture, decoded.

        Raises:
            ImageError: If this picture cannot be read; the others still can.
        """

    @abstractmethod
    def label(self, index: int) -> int | None:
        """Return the class index of a picture without opening it, None if it has no label or several."""

    def labels(self, index: int) -> tuple[int, ...]:
        """Return the class indices of a picture in increasing order, without opening it; empty if it is unlabelled."""
        label = self.label(index)
        return () if label is None else (label,)

    @abstractmethod
    def item_id(self, index: int) -> str:
        """Return the content digest of a picture without decoding it."""

    def item_name(self, index: int) -> str:
        """Return the display name of a picture without opening it."""
        return f"{self.name}/{range(len(self))[operator.index(index)]}"

    @property
    def source(self) -> str:
        """Return what a run calls the data set: a name or an absolute path, or a label if it is in memory only."""
        return anchored(self.name) if self.reopens else IN_MEMORY + self.name.removeprefix(IN_MEMORY)

    def describe(self) -> str:
        """Return the number of pictures and classes, and what else the data set provides, as a line of text."""
        counts = [(len(self), "image", "images"), (len(self.class_names), "class", "classes")]
        facts = [f"{n:,} {one if n == 1 else more}" for n, one, more in counts if n]
        facts += ["several labels per image"] if self.multi_label else []
        return ", ".join([*facts, *self.offers])

    def order(self, seed: int = 0) -> list[int]:
        """Return all indices in a random order that depends only on the seed.

        The first k of them are the first k images of any run with that seed.
        """
        generator = torch.Generator().manual_seed(whole(seed, "seed"))
        return torch.randperm(len(self), generator=generator).tolist()


class FileDataset(Dataset):
    """A data set of picture files, as a `Listing` describes them.

    The digest of an item is that of its file's bytes, and of its mask's. Moving or renaming the files does not change it.
    """

    reopens = True

    def __init__(self, name: str, listing: Listing):
        self.name = name
        self.class_names, self.multi_label, self.notes = listing.class_names, listing.multi_label, listing.notes
        self.has_masks = bool(listing.masks)
        self._listing = listing

    def __len__(self) -> int:
        return len(self._listing.files)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        k = operator.index(index)
        name = self._listing.names[k]
        photo = open_photo(self._listing.path(self._listing.files[k]), name)
        mask = self._mask(k)
        masks = {} if mask is None else {MASK: _open_mask(self._listing.path(mask), f"the mask of {name}", photo.image.size)}
        return Item(photo.image, self.label(k), self.item_id(k), name, masks, photo.bands)

    def label(self, index: int) -> int | None:
        labels = self.labels(index)
        return labels[0] if len(labels) == 1 else None

    def labels(self, index: int) -> tuple[int, ...]:
        return self._listing.labels[operator.index(index)]

    def item_id(self, index: int) -> str:
        k = operator.index(index)
        name, mask = self._listing.names[k], self._mask(k)
        picture = file_digest(self._listing.path(self._listing.files[k]), name)
        return picture if mask is None else digest(picture, file_digest(self._listing.path(mask), f"the mask of {name}"))

    def item_name(self, index: int) -> str:
        return self._listing.names[operator.index(index)]

    def paths(self) -> Iterator[str]:
        """Return the paths of all files that are read: pictures first, then masks."""
        return (self._listing.path(file) for file in (*self._listing.files, *self._listing.masks) if file is not None)

    def _mask(self, k: int) -> str | None:
        return self._listing.masks[k] if self._listing.masks else None


def _open_mask(path: str, name: str, size: tuple[int, int]) -> np.ndarray:
    photo = open_photo(path, name)
    if photo.notes:
        # Transparent pixels would become object, and small 16-bit values background.
        raise ImageError(f"{name} is not a plain mask ({'; '.join(photo.notes)}); save it as an 8-bit greyscale PNG, 0 for background")
    if photo.image.size != size:
        (width, height), (wide, high) = photo.image.size, size
        raise ImageError(f"{name} has {width} x {height} px, but its picture has {wide} x {high}; save the mask at the size of the picture")
    return np.asarray(photo.image).max(axis=2) > 0


@dataclass(frozen=True)
class DatasetInfo:
    """Description of a data set, available before it is loaded.

    Attributes:
        name: Name that `load_dataset` takes.
        summary: One-line description.
        count: Number of pictures, None if only loading tells.
        classes: Number of classes, None if only loading tells.
        labelled: Whether pictures have labels.
        masks: Whether pictures have masks.
    """

    name: str
    summary: str
    count: int | None = None
    classes: int | None = None
    labelled: bool = False
    masks: bool = False


NAMED: dict[str, tuple[DatasetInfo, Callable[[str], Dataset]]] = {}
"""Named data sets, each with the function that builds it from its name."""
SOURCES: dict[str, Callable[[str], Dataset]] = {}
"""Functions that build the data sets whose names begin with a prefix, by prefix."""
OBJECTS: list[Callable[[object, Any, Sequence[str] | None], Dataset | None]] = []
"""Functions that build data sets from objects in memory, their labels and class names; they return None for other objects."""


def named(info: DatasetInfo) -> Callable[[Callable[[str], Dataset]], Callable[[str], Dataset]]:
    """Return a decorator that registers a function as the builder of the data set `info.name`.

    Raises:
        DataError: If the name is already registered.
    """

    def register(make: Callable[[str], Dataset]) -> Callable[[str], Dataset]:
        if info.name in NAMED:
            raise DataError(f"data set {info.name!r} is registered twice")
        NAMED[info.name] = (info, make)
        return make

    return register


def anchored(source: str) -> str:
    """Return a source that does not depend on the working directory: an existing path made absolute, else `source` unchanged."""
    if source in NAMED or not source or source.startswith(tuple(SOURCES)):
        return source
    try:
        path = Path(source).expanduser().absolute()
        return str(path) if path.exists() else source
    except (OSError, RuntimeError, ValueError):
        return source


def list_datasets() -> list[DatasetInfo]:
    """Return the named data sets. Any folder of pictures can be loaded as well."""
    return [info for info, _ in NAMED.values()]


def load_dataset(source: Any, *, labels: Any = None, class_names: Sequence[str] | None = None, training: bool = False) -> Dataset:
    """Load a data set by name, from a folder, from a CSV file, or from pictures in memory.

    A name takes precedence over a path: `load_dataset("photos")` loads the named data set, `load_dataset("./photos")` the folder.

    Args:
        source: One of the following.

            - A name, or a `Dataset`, which is returned unchanged.
            - The path of a folder of class folders, or of a folder of pictures. A folder with subfolders `images` and `masks` has masks.
              Of subfolders such as `train` and `val` with class folders in them, the one to judge on is loaded: test, else validation,
              else training.
            - The path of a CSV file with columns `file` and `label`; several labels are separated by `;` or `|`. Without `label`, columns
              of 0 and 1 are the classes.
            - Pictures in memory: an array or tensor (N,H,W), (N,H,W,C) or (N,C,H,W), uint8 or from 0 to 1, or a sequence of pictures or of
              pairs (picture, label), where a picture is a path, a PIL image or an array.
            - A torch `Dataset` of pictures or of pairs (picture, label), without normalisation: attrlib preprocesses. Of an
              `ImageFolder`, the files are opened, and its transform is not used.
        labels: Labels of pictures in memory: N class indices or class names, N sequences of them for several labels, or an array (N,C) of
            0 and 1. None marks an unlabelled picture.
        class_names: Names of the classes of pictures in memory, in the order of their indices.
        training: Whether to load the split to train on rather than the one to judge on.

    Raises:
        DataError: If the data set does not exist or cannot be read. The message says what to do.

    Example:
        >>> import attrlib
        >>> data = attrlib.load_dataset([("sample:cat", "tabby"), ("sample:coffee", "espresso")])
        >>> len(data), data.class_names, data.label(0)
        (2, ('espresso', 'tabby'), 1)
    """
    if not isinstance(source, str | Path | Dataset):
        for make in OBJECTS:
            if (dataset := make(source, labels, class_names)) is not None:
                return dataset
        raise DataError(
            f"a {type(source).__name__} is not a data set; give a name, the path of a folder or of a CSV file, an array or a sequence of "
            "pictures, a torch Dataset, or a Dataset of attrlib"
        )
    if labels is not None or class_names is not None:
        raise DataError("labels and class_names are for pictures in memory; folders, CSV files and named data sets have their own")
    if isinstance(source, Dataset):
        return source
    if isinstance(source, str) and source in NAMED:
        return NAMED[source][1](source)
    for prefix, build in SOURCES.items():
        if isinstance(source, str) and source.startswith(prefix):
            return build(source)
    return _load_path(os.fspath(source), training)


def _load_path(text: str, training: bool) -> Dataset:
    name = show(f"./{text}" if text in NAMED else text)
    try:
        path = os.fspath(Path(text).expanduser()) if text else text
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, RuntimeError, ValueError):
        raise DataError(
            unknown("data set", name, NAMED, "Or give the path of a folder of pictures or of a CSV file that exists.")
        ) from None
    if kind == stat.S_IFDIR:
        listing = list_folder(path, training)
        return FileDataset(os.path.join(name, show(listing.split)) if listing.split else name, listing)
    if kind == stat.S_IFREG and path.lower().endswith(".csv"):
        return FileDataset(name, list_csv(path))
    kind_name = "one picture" if path.lower().endswith(SUFFIXES) else "neither a folder nor a CSV file"
    raise DataError(f"{name[-120:]!r} is {kind_name}; give a folder of pictures, or a .csv file with columns file,label")
