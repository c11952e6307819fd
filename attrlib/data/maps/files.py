"""Files and folders of maps: which format they have, and the digest of their content."""

import os
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from attrlib.data.digests import file_digest
from attrlib.data.folders import show
from attrlib.data.maps import hdf5, zarrs
from attrlib.data.maps.arrays import MAX_ARRAYS, MAX_BYTES, STACK, MapArrays, StoredArray, arranged
from attrlib.errors import DataError, ImageError
from attrlib.specs import digest

KINDS = ".npy, .npz, .h5, .hdf5, a Zarr folder, or a folder of .npy files"
Stamp = tuple[tuple[str, int, int], ...]


def open_maps(path: str) -> MapArrays:
    """Return the maps in a file or folder. Arrays are read when they are asked for; no format runs code.

    Args:
        path: Path of a file (.npy, .npz, .h5, .hdf5), of a Zarr folder, or of a folder of .npy files named as the images.

    Raises:
        DataError: If it cannot be read or holds no maps. The message says what to do.
    """
    name = show(os.path.basename(os.path.normpath(path)))[-120:]
    try:
        stamp = tuple(_stamp(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"the maps {show(path)[-160:]!r} cannot be read: {reason}; give the path of {KINDS}") from None
    try:
        return _opened(path, name, stamp)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001  damaged files raise errors of any class.
        raise DataError(f"{name} cannot be read as maps ({type(error).__name__}: {str(error)[:100]}); save it again as {KINDS}") from None


def _stamp(path: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, size and modification time of a file, or of all files in a folder."""
    if not os.path.isdir(path):
        status = os.stat(path)
        yield "", status.st_size, status.st_mtime_ns
        return
    count = 0
    for folder, folders, files in os.walk(path, followlinks=False):
        folders.sort()
        for file in sorted(files):
            full = os.path.join(folder, file)
            status = os.stat(full)
            yield os.path.relpath(full, path).replace(os.sep, "/"), status.st_size, status.st_mtime_ns
            count += 1
            if count > MAX_ARRAYS:
                raise ValueError(f"more than {MAX_ARRAYS:,} files")


@lru_cache(maxsize=4)
def _opened(path: str, name: str, stamp: Stamp) -> MapArrays:
    content = _content(path, name, stamp)
    if os.path.isdir(path):
        if zarrs.is_zarr(path):
            return arranged(name, content, zarrs.read(path, name))
        return _folder(path, name, content, [file for file, _, _ in stamp])
    with open(path, "rb") as file:
        start = file.read(8)
    if start.startswith(b"\x93NUMPY"):
        return arranged(name, content, {STACK: _npy(Path(path), name)})
    if start.startswith(b"PK"):
        return arranged(name, content, _npz(path, name))
    if start.startswith(b"\x89HDF"):
        return arranged(name, content, hdf5.read(path, name))
    raise DataError(f"{name} is not a file of maps; give {KINDS}")


def _content(path: str, name: str, stamp: Stamp) -> str:
    try:
        if [file for file, _, _ in stamp] == [""]:
            return file_digest(path, name)
        return digest([[file, file_digest(os.path.join(path, file), name)] for file, _, _ in stamp])
    except ImageError as error:
        raise DataError(str(error)) from None


def _folder(path: str, name: str, content: str, files: list[str]) -> MapArrays:
    files = [file for file in files if file.lower().endswith(".npy")]
    if not files:
        raise DataError(f"the folder {name} holds no .npy files; save one for each image, named as the image")
    # The headers of all files are read at once, so that one bad file is named before anything is scored.
    arrays = {file[: -len(".npy")]: _npy(Path(path, file), f"{file[-80:]} in {name}") for file in files}
    if STACK in arrays and len(arrays) > 1:
        raise DataError(f"the folder {name} holds maps.npy beside other files; name each file as its image, or give the path of maps.npy")
    if len(arrays) == 1:
        ((key, array),) = arrays.items()
        arrays = {key: array} if len(array.shape) < 3 else {STACK: array}
    return arranged(name, content, arrays)


def _npy(path: Path, name: str) -> StoredArray:
    with path.open("rb") as file:
        shape, dtype = _header(file, name)

    def read(place: int | None) -> np.ndarray:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        return np.array(mapped if place is None else mapped[place])

    return StoredArray(shape, dtype, read)


def _header(file: BinaryIO | Any, name: str) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise DataError(f"{name} holds Python objects, which are not read because they may run code; save arrays of floats")
    return shape, dtype


def _npz(path: str, name: str) -> dict[str, StoredArray]:
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.namelist() if member.endswith(".npy")]
        if len(members) > MAX_ARRAYS:
            raise DataError(f"{name} holds more than {MAX_ARRAYS:,} arrays; save the maps as one array (images, height, width)")
        for member in members:
            with archive.open(member) as file:
                shape, dtype = _header(file, f"{member[-80:]} in {name}")
            if prod(shape) * dtype.itemsize > MAX_BYTES:
                raise DataError(
                    f"{member[-80:]} in {name} has shape {shape}, {prod(shape) * dtype.itemsize >> 20} MiB; save more than {MAX_BYTES >> 20} MiB "
                    "as .npy, which is read map by map"
                )
            arrays[member[: -len(".npy")]] = StoredArray(shape, dtype, _Member(path, member))
    return arrays


class _Member:
    """A reader of an array in an .npz file. An array of several maps is decompressed once."""

    def __init__(self, path: str, member: str):
        self._path, self._member = path, member
        self._stack: np.ndarray | None = None

    def __call__(self, place: int | None) -> np.ndarray:
        if place is None:
            return self._read()
        if self._stack is None:
            self._stack = self._read()
        return self._stack[place]

    def _read(self) -> np.ndarray:
        with zipfile.ZipFile(self._path) as archive, archive.open(self._member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)
