"""Data sets downloaded by torchvision: `torchvision:NAME`, `torchvision:NAME/SPLIT`, and Imagenette."""

import hashlib
import inspect
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torchvision.datasets
from platformdirs import user_cache_dir

from attrlib.data.datasets import SOURCES, Dataset, DatasetInfo, FileDataset, Item, named
from attrlib.data.folders import list_folder
from attrlib.data.images import open_photo
from attrlib.errors import DataError, ImageError, unknown

PREFIX = "torchvision:"
CLASSIFICATION = (
    "CIFAR10", "CIFAR100", "Country211", "DTD", "EuroSAT", "FGVCAircraft", "Flowers102", "Food101", "GTSRB", "OxfordIIITPet", "STL10",
    "SUN397", "SVHN",
)  # fmt: skip
"""The torchvision data sets whose items are a picture and a class, and whose classes are known without opening the picture."""
_LABELS = ("targets", "labels", "_labels")


def root() -> Path:
    """Return the folder for downloads: `datasets` in `ATTRLIB_CACHE` if it is set, else in the user's cache folder."""
    return Path(os.environ.get("ATTRLIB_CACHE") or user_cache_dir("attrlib")).expanduser() / "datasets"


class TorchvisionDataset(Dataset):
    """A torchvision data set of pictures and classes. The digest of an item is that of its pixels."""

    reopens = True

    def __init__(self, name: str, data: Any):
        self.name, self._data = name, data
        self._digests: dict[int, str] = {}
        stored: Sequence[Any] | None = next((v for attribute in _LABELS if (v := getattr(data, attribute, None)) is not None), None)
        labels = [int(label) for label in (stored if stored is not None else [label for _, label in data._samples])]
        # STL10 marks unlabelled pictures by -1.
        self._labels = [label if label >= 0 else None for label in labels]
        names = getattr(data, "classes", None) or range(max(labels) + 1)
        self.class_names = tuple(map(str, names))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        k = range(len(self))[operator.index(index)]
        name = self.item_name(k)
        try:
            picture, _ = self._data[k]
        except (OSError, ValueError, SyntaxError) as error:
            raise ImageError(f"{name} cannot be read ({type(error).__name__}); delete {root()} to download it again") from None
        photo = open_photo(picture, name)
        image = photo.image
        if k not in self._digests:
            content = f"{image.size}".encode() + image.tobytes()
            self._digests[k] = hashlib.blake2b(content, digest_size=16).hexdigest()
        return Item(image, self._labels[k], self._digests[k], name, bands=photo.bands)

    def label(self, index: int) -> int | None:
        return self._labels[operator.index(index)]

    def item_id(self, index: int) -> str:
        k = range(len(self))[operator.index(index)]
        return self._digests[k] if k in self._digests else self[k].id


def torchvision_dataset(source: str) -> Dataset:
    """Load a torchvision data set, downloading it if necessary.

    Args:
        source: `torchvision:NAME` or `torchvision:NAME/SPLIT`. The default split is the test split, `valid` for Country211.

    Raises:
        DataError: If the name or the split is unknown, or the data cannot be downloaded.
    """
    name, _, split = source.removeprefix(PREFIX).partition("/")
    if name not in CLASSIFICATION:
        raise DataError(unknown("data set of torchvision", name, CLASSIFICATION))
    cls = getattr(torchvision.datasets, name)
    accepted = inspect.signature(cls).parameters
    options: dict[str, object] = {}
    if "split" in accepted:
        options["split"] = split or ("valid" if name == "Country211" else "test")
    elif "train" in accepted:
        if split not in ("", "train", "test"):
            raise DataError(unknown(f"split of {name}", split, ["train", "test"]))
        options["train"] = split == "train"
    elif split:
        raise DataError(f"{name} has no splits; leave out /{split}")
    return TorchvisionDataset(source, _local_or_downloaded(source, lambda download: cls(root(), download=download, **options)))


def _imagenette(name: str) -> Dataset:
    split = "train" if name.endswith(":train") else "val"
    data = _local_or_downloaded(
        name, lambda download: torchvision.datasets.Imagenette(root(), split=split, size="320px", download=download)
    )
    return FileDataset(name, list_folder(data._image_root))


def _local_or_downloaded(name: str, make: Any) -> Any:
    """Return the local copy, downloaded if missing. Raise `DataError`, which says what to do, if that fails."""
    try:
        return make(False)
    except ValueError as error:
        raise DataError(f"{name}: {str(error).splitlines()[0][:160]}") from None
    except (RuntimeError, OSError):
        pass
    try:
        root().mkdir(parents=True, exist_ok=True)
        return make(True)
    except (RuntimeError, OSError, EOFError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise DataError(
            f"{name} is not in {root()} and could not be downloaded ({reason}); connect to the internet, or give the path of a local copy"
        ) from None


for _name, _count in (("imagenette", 3925), ("imagenette:train", 9469)):
    named(DatasetInfo(_name, "Photos of ten ImageNet classes, downloaded when first used (330 MB)", _count, 10, True))(_imagenette)
SOURCES[PREFIX] = torchvision_dataset
