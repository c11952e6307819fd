"""Data sets: sequences of pictures with labels, opened one at a time, from folders, CSV files and by name."""

import hashlib
import importlib.util
import operator
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from attrlib.data.folders import SUFFIXES, Listing, list_csv, list_folder, show
from attrlib.data.images import open_photo
from attrlib.data.samples import PREFIX, SAMPLES
from attrlib.errors import DataError, ImageError, unknown
from attrlib.specs import digest, whole

MASK = "object"
"""The name of the masks that come from a folder."""


@dataclass(frozen=True, eq=False)
class Item:
    """One picture of a data set: RGB, its class as an index into the data set's `class_names`, and a digest of its content.

    `masks` are boolean (H,W) in the picture's own pixels, by name.
    """

    image: Image.Image
    label: int | None
    id: str
    name: str
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)


class Dataset(Sequence[Item], ABC):
    """Pictures in a fixed order, none of them opened before it is asked for.

    Indices may be negative, as those of a list; one that is out of range is an `IndexError`.
    """

    name: str
    class_names: tuple[str, ...]
    has_masks: bool = False
    parts: tuple[str, ...] = ()
    """What every picture can also be had without; items' masks then bear these names."""

    @property
    def offers(self) -> tuple[str, ...]:
        """What protocols may ask for besides pictures and labels: `masks`, `parts`."""
        return tuple(name for name, has in (("masks", self.has_masks), ("parts", bool(self.parts))) if has)

    def without(self, index: int, part: str) -> Image.Image:
        """A picture without one of the `parts`, all else the same. Raises `DataError` where there is no such part."""
        raise DataError(f"the pictures of {self.name} cannot be had without {part!r}")

    @abstractmethod
    def __len__(self) -> int:
        """How many pictures there are."""

    @abstractmethod
    def __getitem__(self, index: int) -> Item:  # type: ignore[override]  # a slice would open all of its pictures
        """One picture, decoded. Raises `ImageError` where it cannot be read, and the others still can."""

    @abstractmethod
    def label(self, index: int) -> int | None:
        """The class of a picture, without opening it."""

    @abstractmethod
    def item_id(self, index: int) -> str:
        """The content digest of a picture, without decoding it."""

    def item_name(self, index: int) -> str:
        """What a picture is called, without opening it."""
        return f"{self.name}/{range(len(self))[operator.index(index)]}"

    def order(self, seed: int = 0) -> list[int]:
        """All indices in a random order that depends on the seed alone; the first k are the first k images of any run."""
        generator = torch.Generator().manual_seed(whole(seed, "seed"))
        return torch.randperm(len(self), generator=generator).tolist()


class FileDataset(Dataset):
    """Pictures in files. A digest is of a file's bytes, and of its mask's: where the files are and how they are called is no matter."""

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
        image = open_photo(self._listing.path(self._listing.files[k]), name).image
        mask = self._mask(k)
        masks = {} if mask is None else {MASK: _open_mask(self._listing.path(mask), f"the mask of {name}", image.size)}
        return Item(image, self._listing.labels[k], self.item_id(k), name, masks)

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
        """Of every file that is read: pictures, then masks."""
        return (self._listing.path(file) for file in (*self._listing.files, *self._listing.masks) if file is not None)

    def _mask(self, k: int) -> str | None:
        return self._listing.masks[k] if self._listing.masks else None


def _open_mask(path: str, name: str, size: tuple[int, int]) -> np.ndarray:
    photo = open_photo(path, name)
    if photo.notes:
        # Transparent pixels would become object, and small numbers of 16 bits background.
        raise ImageError(f"{name} is not plain ({'; '.join(photo.notes)}); save it as an 8-bit greyscale PNG, 0 for background")
    if photo.image.size != size:
        (width, height), (wide, high) = photo.image.size, size
        raise ImageError(f"{name} has {width} x {height} px, but the picture {wide} x {high}; save it at the size of the picture")
    return np.asarray(photo.image).max(axis=2) > 0


def file_digest(path: str, name: str) -> str:
    """Digest of a file's bytes, read anew only when its size or time of change is another. Raises `ImageError` that names it `name`."""
    try:
        status = os.stat(path)
        # Opening a named pipe would wait for ever.
        if stat.S_ISREG(status.st_mode):
            return _digest_of(path, status.st_size, status.st_mtime_ns)
    except OSError:
        pass
    raise ImageError(f"{name} cannot be read; put the file back, or load the data set again")


@lru_cache(maxsize=1 << 18)
def _digest_of(path: str, _size: int, _mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is loaded; a count of None is known only then."""

    name: str
    summary: str
    count: int | None = None
    classes: int | None = None
    labelled: bool = False
    masks: bool = False


NAMED: dict[str, tuple[DatasetInfo, Callable[[str], Dataset]]] = {}
"""Data sets by name, each with the function that makes it, given its name."""
SOURCES: dict[str, Callable[[str], Dataset]] = {}
"""What makes the data sets whose names begin so."""


def named(info: DatasetInfo) -> Callable[[Callable[[str], Dataset]], Callable[[str], Dataset]]:
    """Function decorator: what it returns is the data set of that name."""

    def register(make: Callable[[str], Dataset]) -> Callable[[str], Dataset]:
        if info.name in NAMED:
            raise DataError(f"data set {info.name!r} is registered twice")
        NAMED[info.name] = (info, make)
        return make

    return register


def anchored(source: str) -> str:
    """What stays true wherever it is read: a name as it is, the path of data as an absolute one."""
    if source in NAMED or not source:
        return source
    try:
        path = Path(source).expanduser().absolute()
        return str(path) if path.exists() else source
    except (OSError, RuntimeError, ValueError):
        return source


def list_datasets() -> list[DatasetInfo]:
    """The data sets that have a name; every folder of pictures is one too."""
    return [info for info, _ in NAMED.values()]


def load_dataset(source: str | Path | Dataset) -> Dataset:
    """A data set by name, or from a folder of class folders, a folder of pictures, or a CSV file with columns `file` and `label`.

    `load_dataset("photos")` is the one of that name, `load_dataset("./photos")` the folder. A folder with subfolders `images` and
    `masks` has masks. A `Dataset` is returned as it is. Raises `DataError` that says what to do.
    """
    if isinstance(source, Dataset):
        return source
    if not isinstance(source, str | Path):
        raise DataError(f"a {type(source).__name__} is no data set; give a name, the path of a folder or of a CSV file, or a Dataset")
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
            unknown("data set", name, NAMED, "Or give the path of a folder of pictures, or of a CSV file, that is there.")
        ) from None
    if kind == stat.S_IFDIR:
        return FileDataset(name, list_folder(path))
    if kind == stat.S_IFREG and path.lower().endswith(".csv"):
        return FileDataset(name, list_csv(path))
    what = "one picture" if path.lower().endswith(SUFFIXES) else "neither a folder nor a CSV file"
    raise DataError(f"{name[-120:]!r} is {what}; give a folder of pictures, or a .csv file with columns file,label")


PHOTO_CLASSES = {"coffee": "n07920052", "camera": "n04485082"}
"""WNIDs of the sample photos that show exactly one ImageNet class beyond doubt: espresso and tripod.

The cat may be tabby or tiger cat, the motorcycle is no moped, the rocket no missile; the others show nothing of ImageNet.
"""


@named(DatasetInfo("photos", "Sample photos of scikit-image", len(SAMPLES), len(PHOTO_CLASSES), labelled=True))
def _photos(name: str) -> Dataset:
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise DataError("the photos come with scikit-image, which is not installed; pip install scikit-image")
    classes = tuple(sorted(PHOTO_CLASSES.values()))
    labels = [classes.index(PHOTO_CLASSES[n]) if n in PHOTO_CLASSES else None for n in SAMPLES]
    folder = os.path.join(os.path.dirname(package.origin), "data")
    return FileDataset(name, Listing(folder, list(SAMPLES.values()), [PREFIX + n for n in SAMPLES], classes, labels))
