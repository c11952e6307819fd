"""Opening of untrusted pictures: bounded in size, turned upright, as 8-bit RGB for display and with all of their bands and bits."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import BmpImagePlugin, ExifTags, Image, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from attrlib.bands import Bands
from attrlib.bands.modes import converted, deep_png, is_deep_png
from attrlib.data import dicom, npy, tiff
from attrlib.data.digests import file_digest
from attrlib.data.limits import check_size, far_too_large
from attrlib.errors import ImageError, existing_file
from attrlib.specs import digest

# Importing them registers the only decoders of Pillow that untrusted bytes may reach; Pillow has dozens more.
_TIFF = TiffImagePlugin.TiffImageFile.format
FORMATS = (
    JpegImagePlugin.JpegImageFile.format,
    PngImagePlugin.PngImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
    _TIFF,
)
KINDS = "JPEG, PNG, WebP, BMP, TIFF, NumPy (.npy) or DICOM"
"""The formats that can be opened, as messages and file choosers name them."""
_DROPPED = "16 bits per channel, of which Pillow keeps 8: give the file instead to use all of them"
# An error follows anyway, so Pillow need not warn first.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture: 8-bit RGB for display, and its bands unless that says all.

    Attributes:
        image: The picture in 8-bit RGB.
        name: What messages call it.
        notes: How it was read, where that may change what is seen.
        id: Content digest of a picture with a lasting name, equal to the one in a data set; maps are cached under it. Empty for bytes
            and PIL images, whose maps are not written to disk.
        bands: Its values, if it has other bands than grey or R, G and B, or more than 8 bits; else None.
    """

    image: Image.Image
    name: str
    notes: tuple[str, ...] = ()
    id: str = ""
    bands: Bands | None = None

    @cached_property
    def digest(self) -> str:
        """Return the digest of the pixels. The same picture in another file has the same digest."""
        deep = () if self.bands is None or (self.bands.alpha and self.bands.values.dtype == np.uint8) else self.bands.digest_parts()
        return digest(list(self.image.size), self.image.tobytes(), *deep)


def open_photo(source: str | Path | bytes | BinaryIO | Image.Image | np.ndarray, name: str = "") -> Photo:
    """Open a picture: JPEG, PNG, WebP, BMP, TIFF, a NumPy file, DICOM if pydicom is installed, a PIL image or an array.

    All bands and bits are kept for the network; `image` shows them in 8-bit RGB. EXIF rotation is applied. Palette and CMYK pictures
    are converted, transparent ones shown on white, and only the first frame, or page, is used. Whatever may change what is seen is
    noted in the result.

    Args:
        source: A path, bytes, an open binary file, a PIL image, or an array (H,W), (H,W,C) or (C,H,W) of uint8, uint16 or floats.
        name: What the result and error messages call the picture. Defaults to the name of the file, or "picture".

    Raises:
        ImageError: If the source is not a picture, is truncated, has a side shorter than 8 px, more than 50 million pixels or 400 MiB
            of values. The size is checked before anything is decoded.
    """
    if isinstance(source, Image.Image):
        return _checked(source, name or "picture", [_DROPPED] if is_deep_png(source) else [])
    if isinstance(source, np.ndarray):
        return _photo(*npy.checked_array(source, name or "the array"), name or "picture")
    if isinstance(source, str | Path):
        missing = ImageError(f"there is no picture {str(source)[:120]!r} that can be read; give the path of a {KINDS} file")
        path = existing_file(source)
        if path is None:
            raise missing
        try:
            with path.open("rb") as file:
                return replace(_read(file, name or path.name), id=file_digest(str(path), path.name))
        except OSError:
            raise missing from None
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), name or "picture")
    if not hasattr(source, "read"):
        raise ImageError(f"a {type(source).__name__} is not a picture; give a path, a PIL image, an array, bytes or an open file")
    return _read(source, name or "picture")


def _read(file: BinaryIO, name: str) -> Photo:
    try:
        start = file.read(dicom.MAGIC_AT + len(dicom.MAGIC))
        file.seek(0)
        if start.startswith(npy.MAGIC):
            return _photo(*npy.read_array(file, name), name)
        if start.endswith(dicom.MAGIC) and len(start) > dicom.MAGIC_AT:
            return _photo(*dicom.read_dicom(file, name), name)
        notes: list[str] = []
        if start.startswith(tiff.MAGIC):
            bands, notes = tiff.read_tiff(file, name)
            if bands is not None:
                return _photo(bands, notes, name)
            file.seek(0)
        image = _opened(file, name)
        check_size(name, *image.size)
        if is_deep_png(image):
            file.seek(0)
            bands, notes = deep_png(file.read(), name)
            values = tiff.upright(bands.values, _orientation(image))
            return _photo(Bands(np.ascontiguousarray(values), bands.alpha), notes, name)
        return _checked(image, name, notes)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001  decoders of untrusted bytes fail in many ways
        raise ImageError(f"{name} is damaged or cut off ({str(error)[:80]}); save or download it again") from None


def _opened(file: BinaryIO, name: str) -> Image.Image:
    try:
        return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise far_too_large(name) from None
    except Exception:  # noqa: BLE001
        raise ImageError(f"{name} is not a picture that can be read; use a {KINDS} file") from None


def _photo(bands: Bands, notes: Sequence[str], name: str) -> Photo:
    """Return the picture of these bands, which 8-bit grey or RGB needs no longer."""
    return Photo(bands.rgb(), name, tuple(notes), bands=None if bands.plain else bands)


def _checked(image: Image.Image, name: str, notes: Sequence[str] = ()) -> Photo:
    check_size(name, *image.size)
    notes = list(notes)
    if image.format != _TIFF and getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        notes.append("animated: the first frame is used")
        image.seek(0)
    image.load()
    rgb, bands, more = converted(_upright(image), name)
    return Photo(rgb, name, (*notes, *more), bands=bands)


def _upright(image: Image.Image) -> Image.Image:
    """Return the picture turned upright according to its EXIF orientation. All other metadata is ignored, damaged or not."""
    try:
        orientation = _orientation(image)
        return image if orientation == 1 else ImageOps.exif_transpose(_tagged(image, orientation))
    except Exception:  # noqa: BLE001  the pixels are usable even if the metadata is damaged
        return image


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001
        return 1


def _tagged(image: Image.Image, orientation: int) -> Image.Image:
    """Return a copy whose only metadata is the orientation: Pillow encodes all entries again, and fails on damaged ones."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turned = image.copy()
    turned.info["exif"] = exif.tobytes()
    return turned
