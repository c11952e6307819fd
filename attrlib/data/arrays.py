"""Pictures from arrays and tensors."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attrlib.errors import ImageError

Array = np.ndarray | Tensor
CHANNELS = (1, 3)


def as_picture(values: Array) -> Image.Image:
    """Return the picture that an array or a tensor holds.

    If both the first and the last side may count channels, tensors are (C,H,W) and arrays (H,W,C), as their libraries have it.

    Args:
        values: Grey (H,W), or grey or RGB (H,W,C) or (C,H,W); uint8, or floats from 0 to 1.

    Raises:
        ImageError: If the shape is another one, or the values are others, for example normalised.
    """
    pixels = to_bytes(values)
    if pixels.ndim == 3:
        first, last = (pixels.shape[side] in CHANNELS for side in (0, 2))
        if not first and not last:
            raise ImageError(
                f"an array of shape {pixels.shape} is not a picture that can be read; give (H,W), (H,W,C) or (C,H,W) with 1 or 3 channels"
            )
        pixels = pixels.transpose(1, 2, 0) if first and (isinstance(values, Tensor) or not last) else pixels
        pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    elif pixels.ndim != 2:
        raise ImageError(f"an array of shape {pixels.shape} is not a picture; give (H,W), (H,W,C) or (C,H,W)")
    return Image.fromarray(np.ascontiguousarray(pixels))


def to_bytes(values: Array) -> np.ndarray:
    """Return pixel values as uint8: floats from 0 to 1 are multiplied by 255.

    Raises:
        ImageError: If the values are neither bytes nor floats from 0 to 1.
    """
    check_values(values)
    numbers = as_numpy(values)
    return numbers if numbers.dtype == np.uint8 else (numbers.astype(np.float64) * 255).round().astype(np.uint8)


def check_values(values: Array) -> None:
    """Raise `ImageError` unless the values are bytes, or floats from 0 to 1."""
    kind = str(values.dtype).removeprefix("torch.")
    if kind == "uint8":
        return
    if "float" not in kind:
        raise ImageError(f"{kind} values cannot be read as pixels; give uint8 from 0 to 255, or floats from 0 to 1")
    numbers = values.detach() if isinstance(values, Tensor) else values
    low, high = (float(numbers.min()), float(numbers.max())) if 0 not in values.shape else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        looks = "normalised" if low < 0 else "scaled in another way"
        raise ImageError(
            f"values from {low:.3g} to {high:.3g} look {looks}, but attrlib preprocesses pictures itself; give uint8 from 0 to 255 or floats "
            "from 0 to 1 (for a torch Dataset, transform=None)"
        )


def as_numpy(values: Array) -> np.ndarray:
    """Return an array, or the values of a tensor on any device."""
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
