"""Maps that are given as bytes or as an array: kept in files named by their content, so that runs can name them."""

import io
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from attrlib.data.arrays import as_numpy
from attrlib.data.maps.files import open_maps
from attrlib.errors import DataError
from attrlib.specs import digest

UPLOADS = ".npy, .npz"
MAX_KEPT = 4 << 30
"""Maximum size of all kept maps in bytes; the oldest are removed first."""
_STARTS = {b"\x93NUMPY": ".npy", b"PK": ".npz"}


def keep_array(array: np.ndarray | Tensor, folder: Path) -> Path:
    """Write an array of maps to a file, unless it is there already, and return its path.

    Args:
        array: The maps, (N,h,w), (N,C,h,w) or (N,h,w,C).
        folder: Folder of the store.

    Raises:
        DataError: If the array holds no maps.
    """
    values = as_numpy(array)
    if values.dtype.hasobject:
        raise DataError("the array of maps holds Python objects; pass an array of floats (images, height, width)")
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return keep(file.getvalue(), "array.npy", folder)


def keep(content: bytes, name: str, folder: Path) -> Path:
    """Write a file of maps, unless it is there already, and return its path. HDF5 and Zarr are not taken, since they may decompress without end.

    Args:
        content: The bytes of a .npy or .npz file.
        name: Its name; letters, digits, dots and dashes of it are kept.
        folder: Folder of the store.

    Raises:
        DataError: If it is not a file of maps that can be read; it is then not kept.
    """
    suffix = next((suffix for start, suffix in _STARTS.items() if content.startswith(start)), None)
    if suffix is None:
        raise DataError(f"{name[:80]!r} is not a file of maps to upload; save the maps as {UPLOADS}")
    stem = re.sub(r"[^\w.-]", "_", Path(name).stem)[:60].lstrip(".") or "maps"
    place = _home(folder) / digest(content)
    path = place / (stem + suffix)
    if not path.is_file():
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place, suffix=suffix, delete=False) as file:
            file.write(content)
        os.replace(file.name, path)
    try:
        open_maps(str(path))
    except DataError:
        shutil.rmtree(place, ignore_errors=True)
        raise
    os.utime(place)
    _prune(_home(folder), place)
    return path


def is_kept(path: str, folder: Path) -> bool:
    """Return whether a path is that of a kept file.

    Args:
        path: The path.
        folder: Folder of the store.
    """
    try:
        return Path(path).resolve().is_relative_to(_home(folder).resolve())
    except (OSError, RuntimeError, ValueError):
        return False


def _home(folder: Path) -> Path:
    return folder / "foreign"


def _prune(home: Path, newest: Path) -> None:
    """Remove the oldest kept files while all of them are too large together."""
    sizes = {place: sum(file.stat().st_size for file in place.iterdir()) for place in home.iterdir() if place.is_dir()}
    for place in sorted(sizes, key=lambda place: place.stat().st_mtime_ns):
        if sum(sizes.values()) <= MAX_KEPT:
            break
        if place != newest:
            shutil.rmtree(place, ignore_errors=True)
            del sizes[place]
