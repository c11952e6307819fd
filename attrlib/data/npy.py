"""Reading of pictures from NumPy files."""

from math import prod
from typing import BinaryIO

import numpy as np

from attrlib.bands import Bands, bands_of
from attrlib.data.limits import check_size
from attrlib.errors import ImageError

MAGIC = b"\x93NUMPY"


def read_array(file: BinaryIO, name: str) -> tuple[Bands, list[str]]:
    """Read a picture from a NumPy file (.npy), without unpickling anything.

    Args:
        file: The file, from its beginning.
        name: What messages call it.

    Raises:
        ImageError: The array is too large or not a picture. Damaged files raise other exceptions, too.
    """
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.hasobject or len(shape) not in (2, 3) or min(shape) < 1:
        raise ImageError(
            f"{name} holds an array of shape {shape} and type {dtype}, not one picture; save (height, width), (height, width, channels) or "
            "(channels, height, width)"
        )
    width, height = sorted(shape)[-2:]
    check_size(name, width, height, dtype.itemsize * prod(shape) / (width * height))
    file.seek(0)
    return bands_of(np.load(file, allow_pickle=False), name)


def checked_array(values: np.ndarray, name: str) -> tuple[Bands, list[str]]:
    """Return the bands of an array in memory. Raises `ImageError` if it is not one picture or too small."""
    bands, notes = bands_of(values, name)
    check_size(name, *bands.size, bands.values.itemsize * bands.count)
    return bands, notes
