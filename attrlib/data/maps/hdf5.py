"""Maps in an HDF5 file, read by h5py where it is installed."""

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from attrlib.data.maps.arrays import MAX_ARRAYS, MAX_BYTES, StoredArray
from attrlib.errors import DataError

_DEPTH = 8


def read(path: str, name: str) -> dict[str, StoredArray]:
    """Return the arrays of a file by their path in it.

    Args:
        path: Path of the file.
        name: What messages call it.

    Raises:
        DataError: If h5py is missing, or an array lies in another file or in chunks that are too large.
    """
    try:
        import h5py
    except ImportError:
        raise DataError(f"{name} is an HDF5 file, which needs h5py; run pip install attrlib[maps], or save the maps as .npz") from None
    with h5py.File(path, "r") as file:
        arrays = {}
        for key, array in _arrays(file, name, h5py):
            if array.is_virtual or array.external:
                raise DataError(f"{key[:80]!r} in {name} lies in another file; copy it into this one")
            if prod(array.chunks or (0,)) * array.dtype.itemsize > MAX_BYTES:
                raise DataError(f"{key[:80]!r} in {name} has chunks of more than {MAX_BYTES >> 20} MiB; save it with chunks of one map")
            arrays[key] = StoredArray(array.shape, array.dtype, _reader(path, key))
            if len(arrays) > MAX_ARRAYS:
                break
    return arrays


def _arrays(group: Any, name: str, h5py: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > _DEPTH:
        raise DataError(f"the groups of {name} are nested more than {_DEPTH} deep; save one array for each image in one group")
    for key in group:
        # A link may lead to another file, or back to the group that it is in.
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise DataError(f"{prefix + key:.80} in {name} is a link; copy the array itself")
        entry = group[key]
        if isinstance(entry, h5py.Group):
            yield from _arrays(entry, name, h5py, f"{prefix}{key}/", depth + 1)
        elif isinstance(entry, h5py.Dataset):
            yield prefix + key, entry


def _reader(path: str, key: str) -> Any:
    def read_entry(place: int | None) -> np.ndarray:
        import h5py

        with h5py.File(path, "r") as file:
            array = file[key]
            texts = h5py.check_string_dtype(array.dtype)
            return np.asarray(array.asstr()[()] if texts else array[() if place is None else place])

    return read_entry
