"""Limits of untrusted pictures, checked before anything is decoded."""

from attrlib.errors import ImageError

MAX_PIXELS = 50_000_000
MAX_BYTES = 400 << 20
MIN_SIDE = 8
_SCALE_DOWN = "scale it down, because models use about 224 x 224 px"


def check_size(name: str, width: int, height: int, bytes_per_pixel: float = 1) -> None:
    """Raise `ImageError` unless a picture has at most 50 million pixels, 400 MiB of values, and 8 px on each side."""
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name} has {width} x {height} px, more than {MAX_PIXELS // 1_000_000} million; {_SCALE_DOWN}")
    if (size := width * height * bytes_per_pixel) > MAX_BYTES:
        raise ImageError(f"{name} has {int(size) >> 20} MiB of values, more than {MAX_BYTES >> 20}; {_SCALE_DOWN}")
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{name} has {width} x {height} px; use a picture with at least {MIN_SIDE} px on each side")


def far_too_large(name: str) -> ImageError:
    """Return the error for a picture whose header alone makes Pillow refuse it."""
    return ImageError(f"{name} has far more than {MAX_PIXELS // 1_000_000} million px; {_SCALE_DOWN}")
