"""Post-processing of signed maps before they are scored or drawn: smoothing, resizing, sign, and a check for defects."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.errors import SpecError
from attrlib.specs import SIGNS

_BLOCK = 64
"""Rows or columns to smooth at once."""


def smooth(maps: Tensor, kernel_size: int) -> Tensor:
    """Smooth maps with a Gaussian kernel.

    The kernel is separable and sums to 1; sigma is a quarter of its size. Borders are padded with zeros. S-IntGrad and S-IxG apply
    this to the *signed* map (Rao et al., CVPR 2022, arXiv 2205.10435).

    Args:
        maps: Maps (B,1,h,w).
        kernel_size: Width K of the kernel in pixels: odd, or 0 for no smoothing. 0 and 1 change nothing.

    Returns:
        Smoothed maps of the same shape.

    Raises:
        SpecError: If `kernel_size` is even or negative.

    Example:
        >>> import torch
        >>> maps = torch.zeros(1, 1, 9, 9)
        >>> maps[0, 0, 4, 4] = 1
        >>> round(float(smooth(maps, 5).sum()), 4)
        1.0
    """
    if kernel_size < 0 or (kernel_size % 2 == 0 and kernel_size != 0):
        raise SpecError(f"kernel size {kernel_size} is not valid; K must be odd, or 0 for no smoothing")
    if kernel_size <= 1:
        return maps
    for dim in (2, 3):
        maps = _smooth_along(maps, kernel_size // 2, kernel_size / 4, dim)
    return maps


def gaussian(images: Tensor, sigma: float) -> Tensor:
    """Blur images with a Gaussian that is cut off at four standard deviations and sums to 1. Borders are padded with zeros.

    Args:
        images: Images (B,C,H,W).
        sigma: Standard deviation in pixels; 0 changes nothing.
    """
    half = int(4 * sigma + 0.5)
    for dim in (2, 3) if half else ():
        images = _smooth_along(images, half, sigma, dim)
    return images


def _smooth_along(maps: Tensor, half: int, sigma: float, dim: int) -> Tensor:
    """Apply one pass of the separable kernel of 2 half + 1 pixels, as blocks of a banded matrix.

    On maps of up to a few hundred pixels this is faster than a convolution.
    """
    length = maps.shape[dim]
    # On the CPU, because not every device has float64.
    kernel = torch.exp(-0.5 * (torch.arange(-half, half + 1, dtype=torch.float64) / sigma) ** 2)
    kernel /= kernel.sum()
    distance = torch.arange(length)[None, :] - torch.arange(length)[:, None]
    band = torch.where(distance.abs() <= half, kernel[distance.clamp(-half, half) + half], 0.0).to(maps)
    smoothed = torch.empty_like(maps)
    for first in range(0, length, _BLOCK):
        # Outside the band the matrix is zero.
        begin, end = max(0, first - half), min(length, first + _BLOCK + half)
        part = band[first : first + _BLOCK, begin:end]
        if dim == 2:
            smoothed[:, :, first : first + _BLOCK] = part @ maps[:, :, begin:end]
        else:
            smoothed[..., first : first + _BLOCK] = maps[..., begin:end] @ part.T
    return smoothed


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps bilinearly with `align_corners=False`. A constant map stays constant to the last bit.

    Args:
        maps: Maps (B,C,h,w).
        size: Target (height, width) in pixels.

    Returns:
        Maps (B,C,height,width). If the size is already right, `maps` itself.

    Example:
        >>> import torch
        >>> resize(torch.ones(2, 1, 7, 7), (224, 224)).shape
        torch.Size([2, 1, 224, 224])
    """
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    large = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    # Rounding can leave the range of the values, which would give the positions of a constant map different ranks.
    return torch.minimum(torch.maximum(large, maps.amin((2, 3), keepdim=True)), maps.amax((2, 3), keepdim=True))


def are_finite(maps: Tensor) -> Tensor:
    """Return whether each of the maps (B,...) is free of NaN and infinity, as booleans (B,)."""
    # amin and amax propagate NaN, and are far cheaper than a test of each value.
    flat = maps.flatten(1)
    return torch.isfinite(flat.amin(1)) & torch.isfinite(flat.amax(1))


def apply_sign(maps: Tensor, sign: str) -> Tensor:
    """Apply a sign mode to maps of any shape.

    Args:
        maps: The maps a.
        sign: `signed` for a, `positive` for max(a, 0), `absolute` for |a|.

    Raises:
        SpecError: If `sign` is not one of these.
    """
    if sign not in SIGNS:
        raise SpecError(f"sign={sign!r} is not valid; choose one of {', '.join(SIGNS)}")
    return maps if sign == "signed" else maps.clamp_min(0) if sign == "positive" else maps.abs()


def defect(values: Tensor) -> str | None:
    """Return why a single map (h,w) is unusable, in a sentence that says what to do; None for a proper map."""
    if not bool(torch.isfinite(values).all()):
        share = 1 - float(torch.isfinite(values).float().mean())
        return f"{'Under 1' if share < 0.01 else round(100 * share)}% of the values are NaN or infinite: the model overflowed. Check the model's weights and the input."
    low, high = (float(v) for v in values.aminmax())
    if low == high == 0:
        return "All zero: the map shows no evidence for this class. Choose another target or layer, or show the signed map."
    # Smaller differences are rounding errors of a float32 sum over a thousand channels.
    if high - low <= 1e-4 * max(-low, high):
        return f"Constant ({low:.3g}): every position has the same value. Choose another layer."
    return None
