"""Conversion of Pillow images of any mode: to 8-bit RGB for display, and to bands where that would lose something."""

import io
from typing import Any

import numpy as np
from PIL import Image

from attrlib.bands.values import Bands, bands_of

_WHITE = (255, 255, 255, 255)
_DEEP_PNG = ("RGB;16B", "RGBA;16B")
"""Raw modes in which Pillow reads PNGs of 16 bits per channel, keeping the high bytes only."""
_INTEGERS_16 = 65535


def converted(image: Image.Image, name: str) -> tuple[Image.Image, Bands | None, list[str]]:
    """Return an image as 8-bit RGB, its bands unless 8-bit RGB or grey says all, and notes on conversions.

    Raises:
        ImageError: The image holds NaN or infinite values.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        # Copied without the file's metadata and palette, so that pictures with equal pixels are equal.
        return Image.frombytes("RGB", image.size, image.tobytes()), None, []
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        # Pillow has no 16-bit mode for many files, and holds their values in 32 bits.
        if image.mode != "F" and values.min(initial=0) >= 0 and values.max(initial=0) <= _INTEGERS_16:
            values = values.astype(np.uint16)
        bands, notes = bands_of(values, name)
        return bands.rgb(), bands, notes
    if "A" in image.getbands() or "transparency" in image.info:
        return _transparent(image)
    if image.mode == "CMYK":
        return image.convert("RGB"), None, ["CMYK: converted to RGB without its colour profile"]
    return image.convert("RGB"), None, []


def _transparent(image: Image.Image) -> tuple[Image.Image, Bands | None, list[str]]:
    rgba = image.convert("RGBA")
    stored = image if image.mode in ("LA", "RGBA") else rgba
    bands = Bands(np.asarray(stored), alpha=True)
    if rgba.getchannel("A").getextrema()[0] == 255:
        return rgba.convert("RGB"), bands, []
    shown = Image.alpha_composite(Image.new("RGBA", rgba.size, _WHITE), rgba).convert("RGB")
    return shown, bands, [_on_white(bands)]


def is_deep_png(image: Any) -> bool:
    """Return whether an opened image, not yet loaded, is a PNG of whose 16 bits per channel Pillow drops 8."""
    return image.format == "PNG" and bool(image.tile) and image.tile[0][3] in _DEEP_PNG


def deep_png(data: bytes, name: str) -> tuple[Bands, list[str]]:
    """Read a PNG for which `is_deep_png` holds, at full depth.

    Pillow unpacks one byte of each value, the one that its raw mode names: the high bytes and the low bytes are read one after the other.
    """
    high, low = (_unpacked(data, order) for order in ("B", "L"))
    values = high.astype(np.uint16) << 8 | low
    bands, notes = bands_of(values, name, alpha=values.shape[2] == 4)
    transparent = bands.alpha and int(values[..., -1].min()) < _INTEGERS_16
    return bands, [*notes, *([_on_white(bands)] if transparent else [])]


def _unpacked(data: bytes, order: str) -> np.ndarray:
    """Return the high bytes of each value of a deep PNG (order B), or the low ones (order L)."""
    image: Any = Image.open(io.BytesIO(data), formats=("PNG",))
    codec, extents, offset, raw = image.tile[0]
    image.tile = [(codec, extents, offset, raw[:-1] + order)]
    return np.asarray(image)


def _on_white(bands: Bands) -> str:
    return f"transparent: shown on white; a model of {bands.count} channels takes the {bands.count} bands as they are"
