"""Deletion of patches of normalised images, shared by protocols and training so that both delete in the same way."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

BASELINES = ("zeros", "random", "blur")
_KERNEL, _SIGMA = 51, 58.0


def replacement(baseline: str, images: Tensor, draw: Callable[[], Tensor]) -> Tensor:
    """Return the values that replace deleted pixels (Hesse et al., NeurIPS 2024, arXiv 2407.11910).

    Args:
        baseline: `zeros` for the mean colour; `random` for uniform noise in [-1, 1]; `blur` for the images blurred with a 51 x 51
            Gaussian of sigma 58, reflected at the border.
        images: Normalised images (B,C,H,W).
        draw: Returns uniform noise in [0, 1) of the same shape. Called for `random` only.

    Returns:
        Values of the same shape as `images`.
    """
    if baseline == "zeros":
        return torch.zeros_like(images)
    if baseline == "random":
        return draw().to(images) * 2 - 1
    # The largest odd kernel that reflection allows, for images smaller than the paper's.
    wide, tall = (min(_KERNEL, 2 * side - 1) for side in (images.shape[3], images.shape[2]))
    return gaussian_blur(gaussian_blur(images, [wide, 1], [_SIGMA, _SIGMA]), [1, tall], [_SIGMA, _SIGMA])


def cells(values: Tensor, grid: int) -> list[Tensor]:
    """Return views of the grid * grid equal patches of (B,C,H,W), row by row.

    Example:
        >>> import torch
        >>> [part.shape[2:] for part in cells(torch.zeros(1, 3, 6, 6), 2)][0]
        torch.Size([3, 3])
    """
    height, width = values.shape[2] // grid, values.shape[3] // grid
    corners = [(row * height, column * width) for row in range(grid) for column in range(grid)]
    return [values[:, :, top : top + height, left : left + width] for top, left in corners]
