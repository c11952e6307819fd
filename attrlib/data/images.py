"""Opening of untrusted pictures: bounded in size, turned upright, and converted to 8-bit RGB."""

import io
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from attrlib.data.digests import file_digest
from attrlib.errors import ImageError, existing_file
from attrlib.specs import digest

# Importing them registers the only three decoders that untrusted bytes may reach; Pillow has dozens more.
FORMATS = (JpegImagePlugin.JpegImageFile.format, PngImagePlugin.PngImageFile.format, WebPImagePlugin.WebPImageFile.format)
MAX_PIXELS = 50_000_000
# An error follows anyway, so Pillow need not warn first.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
MIN_SIDE = 8
_WHITE = (255, 255, 255, 255)


@dataclass(frozen=True, eq=False)
class Photo:
    """An RGB picture.

    Attributes:
        image: The picture.
        name: What messages call it.
        notes: Conversions that were needed.
        id: Content digest of a picture with a lasting name, equal to the one in a data set; maps are cached under it. Empty for bytes
            and PIL images, whose maps are not written to disk.
    """

    image: Image.Image
    name: str
    notes: tuple[str, ...] = ()
    id: str = ""

    @cached_property
    def digest(self) -> str:
        """Return the digest of the pixels. The same picture in another file has the same digest."""
        return digest(list(self.image.size), self.image.tobytes())


def open_photo(source: str | Path | bytes | BinaryIO | Image.Image, name: str = "") -> Photo:
    """Open a JPEG, PNG or WebP picture as 8-bit RGB.

    EXIF rotation is applied. Palette, greyscale, CMYK, 16-bit and transparent pictures are converted, the last over white, and only
    the first frame of an animation is used. Conversions that may change what is seen are noted in the result.

    Args:
        source: A path, bytes, an open binary file or a PIL image.
        name: What the result and error messages call the picture. Defaults to the name of the file, or "picture".

    Raises:
        ImageError: If the source is not a picture, is truncated, has a side shorter than 8 px or more than 50 million pixels.
            The size is checked before anything is decoded.
    """
    if isinstance(source, Image.Image):
        return _checked(source, name or "picture")
    if isinstance(source, str | Path):
        missing = ImageError(f"there is no picture {str(source)[:120]!r} that can be read; give the path of a JPEG, PNG or WebP file")
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
        raise ImageError(f"a {type(source).__name__} is no picture; give a path, a PIL image, bytes or an open file")
    return _read(source, name or "picture")


def _read(file: BinaryIO, name: str) -> Photo:
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageError(
            f"{name} has far more than {MAX_PIXELS // 1_000_000} million px; scale it down, models look at 224 px or so"
        ) from None
    except Exception:  # noqa: BLE001  decoders of untrusted bytes fail in many ways
        raise ImageError(f"{name} is not a picture that can be read; use a JPEG, PNG or WebP file") from None
    try:
        return _checked(image, name)
    except ImageError:
        raise
    except Exception as error:  # noqa: BLE001
        raise ImageError(f"{name} is damaged or cut off ({str(error)[:80]}); save or download it again") from None


def _checked(image: Image.Image, name: str) -> Photo:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} px, more than {MAX_PIXELS // 1_000_000} million; scale it down, models look at 224 px or so"
        )
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name} has {width} x {height} px; use a picture with at least {MIN_SIDE} px on each side")
    notes = []
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        notes.append("animated: the first frame is used")
        image.seek(0)
    image.load()
    rgb, note = _to_rgb(_upright(image))
    return Photo(rgb, name, (*notes, *note))


def _upright(image: Image.Image) -> Image.Image:
    """Return the picture turned upright according to its EXIF orientation. All other metadata is ignored, damaged or not."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation == 1:
            return image
        # Only this entry: Pillow encodes all entries again, and fails on damaged ones.
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        turned = image.copy()
        turned.info["exif"] = exif.tobytes()
        return ImageOps.exif_transpose(turned)
    except Exception:  # noqa: BLE001  the pixels are usable even if the metadata is damaged
        return image


def _to_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    if image.mode == "RGB" and "transparency" not in image.info:
        # Copied without the file's metadata and palette, so that pictures with equal pixels are equal.
        return Image.frombytes("RGB", image.size, image.tobytes()), []
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        # Integers of 32 bits often hold 16-bit values; where they do not, and for floats, the largest value becomes white.
        largest = float(values.max(initial=0))
        top = 65535.0 if image.mode != "F" and largest <= 65535 else max(largest, 1.0)
        grey = np.clip(values / top * 255, 0, 255).round().astype(np.uint8)
        note = "16 bits per channel: scaled to 8 bits" if top == 65535 else f"values up to {largest:g}: scaled to 8 bits"
        return Image.fromarray(grey).convert("RGB"), [note]
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema()[0] == 255:
            return rgba.convert("RGB"), []
        return Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba).convert("RGB"), ["transparent: shown on white"]
    if image.mode == "CMYK":
        return image.convert("RGB"), ["CMYK: converted to RGB without its colour profile"]
    return image.convert("RGB"), []
