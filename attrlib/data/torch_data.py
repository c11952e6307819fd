"""Data sets of torch and torchvision as data sets of attrlib."""

import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.utils.data
from torch import Tensor
from torchvision.datasets import DatasetFolder
from torchvision.datasets.folder import default_loader, pil_loader

from attrlib.data.datasets import OBJECTS, Dataset, FileDataset
from attrlib.data.derived import Subset
from attrlib.data.folders import Listing, list_folder, show
from attrlib.data.memory import MemoryDataset, Pair, from_array, given
from attrlib.data.memory_labels import Classes, checked_names, is_several, is_vector
from attrlib.errors import DataError, ImageError
from attrlib.specs import IN_MEMORY, digest

_LABELS = ("targets", "labels", "_labels")
"""Attributes in which data sets of torchvision keep the labels of all pictures."""
_NO_LABEL = object()
_TRIED = 10
"""Maximum number of pictures that are tried to find out what a data set holds."""


def from_torch(source: object, labels: Any, class_names: Sequence[str] | None) -> Dataset | None:
    """Return the data set of a torch `Dataset`, or of another object with a length and items by index; None for other objects.

    Args:
        source: The object. Its items are pictures or pairs (picture, label).
        labels: Labels instead of those of the items.
        class_names: Names of the classes instead of those of the object.
    """
    if isinstance(source, torch.utils.data.DataLoader):
        raise DataError("a DataLoader gives batches; pass its data set, loader.dataset, without normalisation or random augmentation")
    if isinstance(source, torch.utils.data.IterableDataset):
        raise DataError("an IterableDataset has no pictures by index; pass a list of pairs (picture, label) of it")
    if isinstance(source, Mapping | str | bytes) or not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        return None
    data: Any = source
    if not len(data):
        raise DataError(f"the {type(data).__name__} is empty; give one with at least one picture")
    if labels is None:
        if isinstance(data, torch.utils.data.Subset):
            return _subset(data, class_names)
        if isinstance(data, torch.utils.data.TensorDataset) and len(data.tensors) == 2:
            return from_array(data.tensors[0], data.tensors[1], class_names)
        if isinstance(data, DatasetFolder) and data.loader in (default_loader, pil_loader) and data.target_transform is None:
            return _files(data, class_names)
    return _pairs(data, labels, class_names)


def _subset(source: Any, class_names: Sequence[str] | None) -> Dataset:
    whole = from_torch(source.dataset, None, class_names)
    if whole is None:
        raise DataError(f"the data of the Subset are a {type(source.dataset).__name__}; give a torch Dataset")
    indices = [operator.index(k) for k in source.indices]
    return Subset(whole, indices, f"{IN_MEMORY}subset-{digest(whole.source, indices)[:8]}")


def _files(source: Any, class_names: Sequence[str] | None) -> Dataset:
    """Return the files of a DatasetFolder with its own classes, in its order."""
    folder = os.path.abspath(source.root)
    files = [os.path.relpath(path, folder) for path, _ in source.samples]
    labels = [(int(label),) for _, label in source.samples]
    names = tuple(source.classes) if class_names is None else checked_names(class_names)
    if len(names) <= max(labels)[0]:
        raise DataError(f"class_names has {len(names)} names, but the {type(source).__name__} has {max(labels)[0] + 1} classes; name each")
    notes = () if source.transform is None else (_unused(source),)
    try:
        listed = list_folder(folder)
        same = (list(listed.files), list(listed.labels), listed.class_names) == (files, labels, names)
    except DataError:
        same = False
    name = folder if same else f"{IN_MEMORY}{type(source).__name__}-{digest(folder, files, [own[0] for own in labels], list(names))[:8]}"
    data = FileDataset(show(name), Listing(folder, files, [show(file) for file in files], names, labels, notes=notes))
    data.reopens = same
    return data


def _unused(source: Any) -> str:
    return f"the transform of the {type(source).__name__} is not used: its files are opened, and preprocessed as the model needs"


def _pairs(source: Any, labels: Any, class_names: Sequence[str] | None) -> Dataset:
    """Return a data set whose pictures are the items of the source."""
    kind, count = type(source).__name__, len(source)
    first, raw = _first(source)
    classes_of = class_names
    if classes_of is None and (own := getattr(source, "classes", None)) is not None:
        classes_of = list(map(str, own))
    stored = None if labels is not None else _stored_labels(source, raw)
    raws = given(labels, count) if labels is not None else stored
    if raws is None and raw is _NO_LABEL:
        raws = [None] * count
    if raws is None and classes_of is None and not is_vector(raw):
        raise DataError(f"the {kind} does not say which classes it has; give class_names=[...], in the order of its labels")
    classes = Classes.of(raws if raws is not None else [raw], classes_of)
    notes = [f"the transform of the {kind} is applied before the preprocessing of the model"] if getattr(source, "transform", None) else []
    if isinstance(first, np.ndarray | Tensor) and first.dtype not in (np.uint8, torch.uint8):
        notes.append(f"the pictures of the {kind} are floats from 0 to 1: scaled to 8 bits")

    def pair(k: int) -> Pair:
        picture, own = _pair(source, k)
        return picture, raws[k] if raws is not None and labels is not None else own

    known = None if raws is None else classes.read_all(raws)
    return MemoryDataset(kind, count, pair, classes, known, paired=stored is not None, notes=tuple(notes))


def _first(source: Any) -> Pair:
    """Return the first picture that can be read, and its label."""
    last = ImageError("")
    for k in range(min(len(source), _TRIED)):
        try:
            return _pair(source, k)
        except ImageError as error:
            last = error
    raise DataError(str(last))


def _pair(source: Any, k: int) -> Pair:
    """Return a picture and its label, `_NO_LABEL` if items are pictures only."""
    try:
        entry = source[k]
    except Exception as error:  # noqa: BLE001  the code is the user's
        reason = f"{type(error).__name__}: {str(error)[:80]}"
        raise ImageError(
            f"item {k} of the {type(source).__name__} cannot be read ({reason}); mend the file, or leave the item out"
        ) from None
    if isinstance(entry, Mapping) or (isinstance(entry, tuple | list) and len(entry) != 2):
        shape = f"a {type(entry).__name__}" if isinstance(entry, Mapping) else f"{len(entry)} values"
        raise DataError(f"the items of the {type(source).__name__} are {shape}; give pairs (picture, label), as in a list")
    return (entry[0], entry[1]) if isinstance(entry, tuple | list) else (entry, _NO_LABEL)


def _stored_labels(source: Any, first: Any) -> list[Any] | None:
    """Return the labels that a data set keeps beside its pictures, None if it does not or if the first is not that of its first item."""
    stored: Any = next((value for name in _LABELS if (value := getattr(source, name, None)) is not None), None)
    if stored is None and (samples := getattr(source, "samples", None)) is not None:
        stored = [entry[1] for entry in samples if isinstance(entry, tuple | list) and len(entry) == 2]
    try:
        raws = given(stored, len(source)) if stored is not None else []
        same = bool(raws) and not is_several(raws[0]) and not is_several(first) and int(raws[0]) == int(first)
    except (DataError, TypeError, ValueError):
        return None
    return raws if same else None


OBJECTS.append(from_torch)
