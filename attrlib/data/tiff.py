"""Reading of TIFF files that Pillow cannot read, or not at full depth: more bands, 16 bits, floats."""

import zlib
from math import prod
from typing import BinaryIO

import numpy as np
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, TiffFile, TiffPage

from attrlib.bands import Bands, bands_of
from attrlib.data.limits import MAX_BYTES, check_size
from attrlib.errors import ImageError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DEFLATE = (COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE)
_PLAIN = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB)
_OPACITY = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)
_ORIENTATION = 274
_TURNS = {
    2: lambda v: v[:, ::-1],
    3: lambda v: v[::-1, ::-1],
    4: lambda v: v[::-1],
    5: lambda v: v.swapaxes(0, 1),
    6: lambda v: v.swapaxes(0, 1)[:, ::-1],
    7: lambda v: v.swapaxes(0, 1)[::-1, ::-1],
    8: lambda v: v.swapaxes(0, 1)[::-1],
}
"""How to turn a stored picture upright, by the value of the tag Orientation."""


def read_tiff(file: BinaryIO, name: str) -> tuple[Bands | None, list[str]]:
    """Read the first page of a TIFF file.

    Args:
        file: The file, from its beginning.
        name: What messages call it.

    Returns:
        The bands, None if Pillow reads the page without loss; and notes.

    Raises:
        ImageError: The page is too large, or of a kind that is not read. Damaged files raise other exceptions, too.
    """
    with TiffFile(file) as tiff:
        page = tiff.pages[0]
        if not isinstance(page, TiffPage):
            raise ImageError(f"{name} has no picture on its first page; save it again as a TIFF file")
        notes = ["several pages: the first one is used"] if _has_second(tiff) else []
        samples, bits = page.samplesperpixel, page.bitspersample
        check_size(name, page.imagewidth, page.imagelength, samples * bits / 8)
        alpha = samples in (2, 4) and len(page.extrasamples) == 1 and page.extrasamples[0] in _OPACITY
        # Pillow reads all compressions, colour spaces and palettes, but 8 bits of at most four bands, and of one band also more.
        grey_or_rgb = samples in (1, 3) or alpha or page.photometric == PHOTOMETRIC.SEPARATED
        if page.dtype is not None and page.dtype.kind in "bu" and bits <= 8 and grey_or_rgb:
            return None, notes
        readable = page.compression in (COMPRESSION.NONE, *_DEFLATE) and page.photometric in _PLAIN and page.imagedepth == 1
        if not readable or page.dtype is None:
            if samples == 1:
                return None, notes
            raise ImageError(
                f"{name} is a TIFF file of {samples} bands with {bits} bits, photometric interpretation {PHOTOMETRIC(page.photometric).name} and compression "
                f"{COMPRESSION(page.compression).name}, which is not read; save it as grey or RGB bands, uncompressed or with deflate"
            )
        _check_segments(file, page, page.dtype.itemsize)
        values = page.asarray(maxworkers=1)
        values = (
            values.reshape(samples, page.imagelength, page.imagewidth).transpose(1, 2, 0)
            if page.planarconfig == 2 and samples > 1
            else values
        )
        values = values.reshape(page.imagelength, page.imagewidth, samples)
        if page.photometric == PHOTOMETRIC.MINISWHITE and values.dtype.kind == "u":
            values = np.iinfo(values.dtype).max - values
        orientation = page.tags.get(_ORIENTATION)
        values = upright(values, orientation.value if orientation else 1)
        bands, more = bands_of(np.ascontiguousarray(values), name, alpha)
        return bands, notes + more


def _has_second(tiff: TiffFile) -> bool:
    try:
        return bool(tiff.pages[1])
    except Exception:  # noqa: BLE001  a second page that is damaged does not matter
        return False


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Return values (H,W,C) turned upright according to the tag Orientation."""
    return _TURNS[orientation](values) if orientation in _TURNS else values


def _check_segments(file: BinaryIO, page: TiffPage, itemsize: int) -> None:
    """Raise `ValueError` if a strip or tile is larger than the header says: tifffile would decompress all of it."""
    segment = prod(page.chunks) * itemsize
    if segment * len(page.dataoffsets) > 2 * MAX_BYTES:
        raise ValueError("its tiles are larger than the picture")
    if page.compression not in _DEFLATE:
        return
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.seek(offset)
        if len(zlib.decompressobj().decompress(file.read(count), segment + 1)) > segment:
            raise ValueError("a strip holds more data than the header says")
