"""Maps as arrays in a file: one array for all images, or one for each; what is checked of each array before it is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from attrlib.errors import DataError

MAX_BYTES = 1 << 30
"""Maximum size of what is read at once: one map, one chunk, or an array in a compressed file."""
MAX_ARRAYS = 1_000_000
STACK, NAMES = "maps", "names"
_NUMBERS = "fiub"


@dataclass(frozen=True)
class StoredArray:
    """An array in a file, which is not read yet.

    Attributes:
        shape: Its shape.
        dtype: Its type.
        read: Returns one entry of the first axis, or for None the whole array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int | None], np.ndarray]


@dataclass(frozen=True)
class MapArrays:
    """The maps in a file.

    Attributes:
        name: What messages call the file.
        digest: Digest of its content.
        names: Name of each map; empty if maps are known by their place only.
        count: Number of maps.
        read: Returns one map by its place, (h,w), (C,h,w) or (h,w,C).
    """

    name: str
    digest: str
    names: tuple[str, ...]
    count: int
    read: Callable[[int], np.ndarray]


def arranged(name: str, digest: str, arrays: Mapping[str, StoredArray]) -> MapArrays:
    """Return the maps of a file, from its arrays by name.

    An array `maps`, or the only array if it has three dimensions or more, holds all maps along its first axis; an array `names` beside it
    names them. Otherwise each array is one map, named as the array.

    Args:
        name: What messages call the file.
        digest: Digest of its content.
        arrays: The arrays.

    Raises:
        DataError: If the file holds no arrays of maps.
    """
    if not arrays:
        raise DataError(f"{name} holds no arrays; save the maps as one array (images, height, width), or one array for each image")
    if len(arrays) > MAX_ARRAYS:
        raise DataError(f"{name} holds more than {MAX_ARRAYS:,} arrays; save the maps as one array (images, height, width)")
    stacks = [key for key, array in arrays.items() if key == STACK or (len(arrays) == 1 and len(array.shape) >= 3)]
    if stacks:
        stack = arrays[stacks[0]]
        _check(name, stack, (3, 4))
        return MapArrays(name, digest, _names(name, arrays.get(NAMES), stack.shape[0]), stack.shape[0], lambda k: _entry(name, stack, k))
    for key, array in arrays.items():
        _check(f"{key[:80]!r} in {name}", array, (2, 3))
    entries = list(arrays.values())
    return MapArrays(name, digest, tuple(arrays), len(arrays), lambda k: _entry(name, entries[k], None))


def _names(name: str, array: StoredArray | None, count: int) -> tuple[str, ...]:
    if array is None:
        return ()
    if array.shape != (count,) or array.dtype.kind not in "USOT":
        raise DataError(f"names in {name} has shape {array.shape} and type {array.dtype}; save one text for each of the {count} maps")
    return tuple(each.decode(errors="replace") if isinstance(each, bytes) else str(each) for each in array.read(None).tolist())


def _check(name: str, array: StoredArray, dimensions: Sequence[int]) -> None:
    if array.dtype.kind not in _NUMBERS:
        raise DataError(f"{name} has values of type {array.dtype}, which are not numbers of a map; save floats")
    if len(array.shape) not in dimensions or 0 in array.shape:
        shapes = "(height, width) or (channels, height, width)"
        shapes = shapes if 2 in dimensions else "(images, height, width) or (images, channels, height, width)"
        raise DataError(f"{name} has shape {array.shape}; save maps as {shapes}")
    one = array.shape[1:] if 4 in dimensions else array.shape
    if prod(one) * max(array.dtype.itemsize, 8) > MAX_BYTES:
        raise DataError(f"a map of {name} has shape {one}, which is larger than any model's input; check the order of the axes")


def _entry(name: str, array: StoredArray, place: int | None) -> np.ndarray:
    values = readable(name, lambda: array.read(place))
    expected = array.shape if place is None else array.shape[1:]
    if values.shape != expected:
        raise DataError(f"{name} is damaged: a map has shape {values.shape} instead of {expected}; save it again")
    return values


def readable(name: str, read: Callable[[], np.ndarray]) -> np.ndarray:
    """Return what a function reads of a file.

    Raises:
        DataError: If it fails, whatever error the library of the format raises for a damaged file.
    """
    try:
        return read()
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001  damaged files raise errors of any class.
        raise DataError(f"{name} cannot be read ({type(error).__name__}: {str(error)[:100]}); save it again") from None


def summed(values: np.ndarray, channels: int) -> np.ndarray | None:
    """Return a map (h,w) in float32, summed over colour channels, which are first or last; None if the shape is neither.

    Args:
        values: The map, (h,w), (C,h,w) or (h,w,C).
        channels: Number of channels of the model's input.
    """
    if values.ndim == 3:
        allowed = {1, channels}
        first, last = values.shape[0] in allowed, values.shape[2] in allowed
        if first == last:
            return None
        # A sum of bytes or of float16 values would overflow.
        values = values.sum(0 if first else 2, dtype=np.float64)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)
