"""Labels of pictures in memory: class indices or names, one or several, or vectors of 0 and 1."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from torch import Tensor

from attrlib.errors import DataError

_MOST = 1_000_000
"""Largest number of classes that class indices may imply."""


@dataclass(frozen=True)
class Classes:
    """The classes of pictures in memory.

    Attributes:
        names: Names of the classes.
        several: Whether a picture may have several labels.
    """

    names: tuple[str, ...]
    several: bool = False

    @classmethod
    def of(cls, raws: Sequence[Any], names: Sequence[str] | None) -> Self:
        """Return the classes of labels.

        Args:
            raws: The labels as they were given, None where unknown.
            names: Names of the classes. By default the labels that are names, sorted; or the numbers up to the largest class index.

        Raises:
            DataError: If labels are both names and numbers, or a number is not an index.
        """
        several = any(is_several(raw) for raw in raws)
        if names is not None:
            return cls(checked_names(names), several)
        vectors = {len(raw) for raw in raws if is_vector(raw)}
        if vectors:
            return cls(tuple(map(str, range(max(vectors)))), several)
        single = [label for raw in raws for label in _parts(raw)]
        texts = {label for label in single if isinstance(label, str)}
        if texts and not all(isinstance(label, str) for label in single):
            raise DataError("some labels are names and some are numbers; give names only, or class indices only")
        if texts:
            return cls(tuple(sorted(texts)), several)
        largest = max((_index(label) for label in single), default=-1)
        if largest >= _MOST:
            raise DataError(f"the label {largest} is not a class index; labels count classes from 0, or are names")
        return cls(tuple(map(str, range(largest + 1))), several)

    def read(self, raw: Any) -> tuple[int, ...]:
        """Return the class indices that a label stands for, in increasing order.

        Raises:
            DataError: If it names no class, or names one twice.
        """
        if is_vector(raw):
            values = _values(raw)
            if len(values) != len(self.names) or any(value not in (0, 1) for value in values):
                raise DataError(
                    f"a label of {len(values)} numbers must hold 0 or 1 for each of the {len(self.names)} classes; give the classes that are "
                    "present as a list otherwise"
                )
            return tuple(k for k, value in enumerate(values) if value)
        found = sorted(self._place(label) for label in _parts(raw))
        if len(set(found)) < len(found):
            raise DataError(
                f"the label {str(raw)[:80]} names a class twice; give a vector of 0 and 1 as an array or a tensor, not as a list"
            )
        return tuple(found)

    def read_all(self, raws: Sequence[Any]) -> list[tuple[int, ...]]:
        """Return the class indices of every label; see `read`."""
        known: dict[tuple[int, ...], tuple[int, ...]] = {}
        return [known.setdefault(own, own) for own in map(self.read, raws)]

    @cached_property
    def _index_of(self) -> dict[str, int]:
        return {name: k for k, name in enumerate(self.names)}

    def _place(self, label: Any) -> int:
        if isinstance(label, str):
            if label not in self._index_of:
                raise DataError(
                    f"the label {label[:80]!r} is not one of the {len(self.names)} classes in class_names; add it, or correct the label"
                )
            return self._index_of[label]
        index = _index(label)
        if index >= len(self.names):
            raise DataError(f"the label {index} is not an index of the {len(self.names)} classes in class_names; they count from 0")
        return index


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of classes. Raise `DataError` if they are no texts, or one of them is there twice."""
    texts = tuple(names)
    if isinstance(names, str) or not all(isinstance(name, str) for name in texts):
        raise DataError("class_names must be a list of texts, one for each class")
    if len(set(texts)) < len(texts):
        raise DataError("class_names names a class twice; each class needs a name of its own")
    return texts


def is_vector(raw: object) -> bool:
    """Return whether a label is a vector with a number for each class."""
    return isinstance(raw, np.ndarray | Tensor) and raw.ndim == 1 and len(raw) > 1


def is_several(raw: object) -> bool:
    """Return whether a label may be several labels."""
    return is_vector(raw) or isinstance(raw, list | tuple | set | frozenset)


def _values(raw: Any) -> list[Any]:
    return raw.tolist()


def _parts(raw: Any) -> Iterator[Any]:
    """Yield the single labels: names or numbers."""
    if isinstance(raw, list | tuple | set | frozenset):
        for part in raw:
            yield from _parts(part)
    elif isinstance(raw, np.ndarray | Tensor | np.generic):
        if raw.size != 1 if isinstance(raw, np.ndarray) else isinstance(raw, Tensor) and raw.numel() != 1:
            raise DataError(
                f"a label of shape {tuple(raw.shape)} is not a class; give a class index, a name, a list of them, or a vector of 0 and 1"
            )
        yield from _parts(raw.item())
    elif not (raw is None or (isinstance(raw, float) and math.isnan(raw))):
        yield raw


def _index(label: Any) -> int:
    if isinstance(label, int | float) and float(label).is_integer() and label >= 0:
        return int(label)
    raise DataError(
        f"the label {str(label)[:80]!r} is not a class index; labels count classes from 0, or are names, and None is unlabelled"
    )
