"""Bands: pictures that are not 8-bit RGB, with any number of channels and up to 32 bits each, and how they are shown and read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from attrlib.errors import ImageError

WHITE = {"uint8": 255.0, "uint16": 65535.0}
"""The value that becomes 1, by the type of the values. Floats are expected to lie in [0,1] already."""
GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of R, G and B in a grey value (ITU-R BT.601), those of Pillow's mode L."""
TWELVE_BITS = 4095


@dataclass(frozen=True, eq=False)
class Bands:
    """The values of a picture, band by band.

    Args:
        values: Values (H,W,C) as uint8, uint16 or float32.
        alpha: Whether the last band is the opacity of the picture.
    """

    values: np.ndarray
    alpha: bool = False

    @property
    def count(self) -> int:
        """Return the number of bands."""
        return self.values.shape[2]

    @property
    def size(self) -> tuple[int, int]:
        """Return the width and height in pixels."""
        return self.values.shape[1], self.values.shape[0]

    @property
    def plain(self) -> bool:
        """Return whether an 8-bit RGB image holds the same information."""
        return self.values.dtype == np.uint8 and self.count in (1, 3) and not self.alpha

    def planes(self, white: float | None = None, name: str = "the picture") -> Iterator[np.ndarray]:
        """Return an iterator over the bands (H,W) as float32, divided by the value of white.

        Args:
            white: The value of 16-bit integers and floats that becomes 1; by default 65535 for uint16 and 1 for floats. That of 8-bit
                integers is always 255.
            name: What messages call the picture.

        Raises:
            ImageError: The values are floats outside [0,1], and `white` is not given.
        """
        if white is None and self.values.dtype == np.float32:
            low, high = float(self.values.min(initial=0)), float(self.values.max(initial=0))
            if low < 0 or high > 1:
                raise ImageError(
                    f"{name} has values from {low:g} to {high:g}, whose scale is not known; give the preprocessing white=..., the value that the network is "
                    "to see as 1 (white=1 reads them as they are), or scale them to [0,1]"
                )
        top = WHITE["uint8"] if self.values.dtype == np.uint8 else white or WHITE.get(self.values.dtype.name, 1.0)
        return (self.values[..., k].astype(np.float32) / np.float32(top) for k in range(self.count))

    def colours(self, white: float | None = None, name: str = "the picture") -> np.ndarray:
        """Return the bands without opacity, over white where there is any, as float32 (H,W,C); see `planes`."""
        *planes, last = self.planes(white, name)
        if not self.alpha:
            return np.stack([*planes, last], axis=-1)
        opacity = list(self.planes())[-1][..., None]
        return np.stack(planes, axis=-1) * opacity + (1 - opacity)

    def rgb(self) -> Image.Image:
        """Return the picture in 8-bit RGB for display: the bands `default_shown`, over white, and floats beyond [0,1] over their range."""
        bands = list(default_shown(self.count - self.alpha))
        if self.alpha and self.values.dtype != np.float32:
            return rgb_of(self.colours()[..., bands])
        values = self.values[..., bands]
        if values.dtype == np.float32:
            low, high = values.min(initial=0), values.max(initial=1)
            return rgb_of((values - low) / (high - low))
        return rgb_of(values.astype(np.float32) / np.float32(WHITE[values.dtype.name]))

    def digest_parts(self) -> tuple[object, ...]:
        """Return what identifies the values, for `digest`."""
        return self.values.dtype.name, list(self.values.shape), np.ascontiguousarray(self.values).tobytes()


class Pictured(Protocol):
    """What has a picture: an 8-bit RGB image for display and, unless that says all, its bands."""

    @property
    def name(self) -> str:
        """Return what messages call it."""

    @property
    def image(self) -> Image.Image:
        """Return the picture in 8-bit RGB."""

    @property
    def bands(self) -> Bands | None:
        """Return the values of a picture that is not 8-bit RGB or grey."""


def default_shown(count: int) -> tuple[int, ...]:
    """Return the bands that show a picture of `count` bands: the first three, or the first one if there are fewer."""
    return (0, 1, 2) if count >= 3 else (0,)


def rgb_of(shares: np.ndarray) -> Image.Image:
    """Return an 8-bit RGB image of colours (H,W,1) or (H,W,3) in [0,1]; values beyond are clipped."""
    levels = (shares * 255).clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3))))


def bands_of(values: np.ndarray, name: str, alpha: bool = False) -> tuple[Bands, list[str]]:
    """Return the bands of an array, and notes on how its values are read.

    Args:
        values: Values (H,W), (H,W,C) or (C,H,W). Integers other than uint8 and uint16 are read as floats.
        name: What messages call the picture.
        alpha: Whether the last band is the opacity.

    Raises:
        ImageError: The shape or the type is not that of a picture, or there are NaN or infinite values.
    """
    values = _last_axis(values, name)
    if values.dtype == bool:
        values = values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "uif":
        raise ImageError(f"{name} holds values of type {values.dtype}; give uint8, uint16 or floats in [0,1]")
    notes = []
    if values.dtype.name in WHITE:
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
    else:
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise ImageError(f"{name} holds NaN or infinite values; replace them, for example with numpy.nan_to_num")
        notes.append(f"values from {values.min(initial=np.inf):g} to {values.max(initial=-np.inf):g}, read as floats")
    if values.dtype == np.uint16:
        largest = int(values.max(initial=0))
        dark = (
            f", although the largest value is {largest}: if that is wrong, set white of the preprocessing" if largest <= TWELVE_BITS else ""
        )
        notes.append(f"16 bits per channel, read at full depth: 65535 is white{dark}")
    bands = Bands(values, alpha)
    if bands.count not in (1, 3) and not alpha:
        shown = default_shown(bands.count)
        notes.append(f"{bands.count} bands: shown by band{'s' if len(shown) > 1 else ''} {', '.join(str(k) for k in shown)}")
    return bands, notes


def _last_axis(values: np.ndarray, name: str) -> np.ndarray:
    """Return an array (H,W,C), whichever of the three layouts it has."""
    if values.ndim == 2:
        return values[..., None]
    if values.ndim == 3 and min(values.shape) > 0:
        first, middle, last = values.shape
        if last < min(first, middle):
            return values
        if first < min(middle, last):
            return values.transpose(1, 2, 0)
    shape = " x ".join(map(str, values.shape)) or "()"
    raise ImageError(
        f"{name} is an array of shape {shape}, not one picture; give (height, width), (height, width, channels) or (channels, height, width), "
        "with fewer channels than pixels on each side"
    )
