"""Deleting cells of normalised images: what protocols and training share, so that both do the same."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

BASELINES = ("zeros", "random", "blur")
_KERNEL, _SIGMA = 51, 58.0


def replacement(baseline: str, images: Tensor, draw: Callable[[], Tensor]) -> Tensor:
    """What replaces deleted pixels of normalised images (B,3,H,W), of the same shape (Hesse et al., NeurIPS 2024, arXiv 2407.11910).

    `zeros`, the mean colour; `random`, U[-1,1] made of `draw()`, U[0,1) of the same shape; `blur`, the images under a 51 x 51 Gaussian of
    sigma 58, reflected at the border.
    """
    if baseline == "zeros":
        return torch.zeros_like(images)
    if baseline == "random":
        return draw().to(images) * 2 - 1
    # The largest odd kernel that reflection allows, for images smaller than the paper's.
    wide, tall = (min(_KERNEL, 2 * side - 1) for side in (images.shape[3], images.shape[2]))
    return gaussian_blur(gaussian_blur(images, [wide, 1], [_SIGMA, _SIGMA]), [1, tall], [_SIGMA, _SIGMA])


def cells(values: Tensor, grid: int) -> list[Tensor]:
    """Views of the grid * grid equal cells of (B,C,H,W), row by row."""
    height, width = values.shape[2] // grid, values.shape[3] // grid
    corners = [(row * height, column * width) for row in range(grid) for column in range(grid)]
    return [values[:, :, top : top + height, left : left + width] for top, left in corners]
