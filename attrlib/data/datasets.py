"""Data sets: sequences of labelled pictures, opened one at a time, from folders, CSV files or by name."""

import importlib.util
import operator
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from attrlib.bands import Bands
from attrlib.data.digests import file_digest
from attrlib.data.folders import SUFFIXES, Listing, list_csv, list_folder, show
from attrlib.data.images import open_photo
from attrlib.data.samples import PREFIX, SAMPLES
from attrlib.errors import DataError, ImageError, unknown
from attrlib.specs import digest, whole

MASK = "object"
"""Name of the masks that are read from a folder."""


@dataclass(frozen=True, eq=False)
class Item:
    """One picture of a data set, with its label and masks.

    Attributes:
        image: The picture in 8-bit RGB, for display.
        label: Its class as an index into the data set's `class_names`, None if unlabelled.
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
    """

    name: str
    class_names: tuple[str, ...]
    has_masks: bool = False
    parts: tuple[str, ...] = ()
    """Parts that every picture can be rendered without. If there are any, the items' masks have these names."""

    @property
    def offers(self) -> tuple[str, ...]:
        """Return what the data set provides besides pictures and labels, as protocols require it: `masks`, `parts`."""
        return tuple(name for name, has in (("masks", self.has_masks), ("parts", bool(self.parts))) if has)

    def without(self, index: int, part: str) -> Image.Image:
        """Return a picture without one of its parts, everything else unchanged.

        Args:
            index: Index of the picture.
            part: The part to leave out, one of `parts`.

        Raises:
            DataError: If the data set does not have that part.
        """
        raise DataError(f"the pictures of {self.name} have no version without {part!r}")

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
        """Return the class index of a picture without opening it, None if it is unlabelled."""

    @abstractmethod
    def item_id(self, index: int) -> str:
        """Return the content digest of a picture without decoding it."""

    def item_name(self, index: int) -> str:
        """Return the display name of a picture without opening it."""
        return f"{self.name}/{range(len(self))[operator.index(index)]}"

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

    def __init__(self, name: str, listing: Listing):
        self.name = name
        self.class_names = listing.class_names
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
        return Item(photo.image, self._listing.labels[k], self.item_id(k), name, masks, photo.bands)

    def label(self, index: int) -> int | None:
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
    if source in NAMED or not source:
        return source
    try:
        path = Path(source).expanduser().absolute()
        return str(path) if path.exists() else source
    except (OSError, RuntimeError, ValueError):
        return source


def list_datasets() -> list[DatasetInfo]:
    """Return the named data sets. Any folder of pictures can be loaded as well."""
    return [info for info, _ in NAMED.values()]


def load_dataset(source: str | Path | Dataset) -> Dataset:
    """Load a data set by name, from a folder or from a CSV file.

    A name takes precedence over a path: `load_dataset("photos")` loads the named data set, `load_dataset("./photos")` the folder.

    Args:
        source: A name; the path of a folder of class folders, of a folder of pictures, or of a CSV file with columns `file` and
            `label`; or a `Dataset`, which is returned unchanged. A folder with subfolders `images` and `masks` has masks.

    Raises:
        DataError: If the data set does not exist or cannot be read. The message says what to do.
    """
    if isinstance(source, Dataset):
        return source
    if not isinstance(source, str | Path):
        raise DataError(f"a {type(source).__name__} is not a data set; give a name, the path of a folder or of a CSV file, or a Dataset")
    if isinstance(source, str) and source in NAMED:
        return NAMED[source][1](source)
    for prefix, make in SOURCES.items():
        if isinstance(source, str) and source.startswith(prefix):
            return make(source)
    text = os.fspath(source)
    name = show(f"./{text}" if text in NAMED else text)
    try:
        path = os.fspath(Path(text).expanduser()) if text else text
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, RuntimeError, ValueError):
        raise DataError(
            unknown("data set", name, NAMED, "Or give the path of a folder of pictures or of a CSV file that exists.")
        ) from None
    if kind == stat.S_IFDIR:
        return FileDataset(name, list_folder(path))
    if kind == stat.S_IFREG and path.lower().endswith(".csv"):
        return FileDataset(name, list_csv(path))
    kind_name = "one picture" if path.lower().endswith(SUFFIXES) else "neither a folder nor a CSV file"
    raise DataError(f"{name[-120:]!r} is {kind_name}; give a folder of pictures, or a .csv file with columns file,label")


PHOTO_CLASSES = {"coffee": "n07920052", "camera": "n04485082"}
"""WNIDs of the sample photos that clearly show exactly one ImageNet class: espresso and tripod.

The cat may be a tabby or a tiger cat, the motorcycle is not a moped, and the rocket is not a missile. The others show no ImageNet class.
"""


@named(DatasetInfo("photos", "Sample photos of scikit-image", len(SAMPLES), len(PHOTO_CLASSES), labelled=True))
def _photos(name: str) -> Dataset:
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise DataError("the photos come with scikit-image, which is not installed; run pip install scikit-image")
    classes = tuple(sorted(PHOTO_CLASSES.values()))
    labels = [classes.index(PHOTO_CLASSES[n]) if n in PHOTO_CLASSES else None for n in SAMPLES]
    folder = os.path.join(os.path.dirname(package.origin), "data")
    return FileDataset(name, Listing(folder, list(SAMPLES.values()), [PREFIX + n for n in SAMPLES], classes, labels))
