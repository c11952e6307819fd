"""Deletion of pixels and patches of normalised images, shared by protocols and training so that both delete in the same way."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from attrlib.imputation import border, inpainting, linear

FIXED_BASELINES = ("zeros", "random", "blur", "mean")
"""Baselines whose values do not depend on which pixels are deleted."""
IMPUTED_BASELINES = ("linear", "border", "inpainting")
"""Baselines that are imputed from the pixels that remain."""
BASELINES = FIXED_BASELINES + IMPUTED_BASELINES
SEEDED_BASELINES = ("random", "linear")
"""Baselines that need random numbers."""
_KERNEL, _SIGMA = 51, 58.0

Draw = Callable[[Callable[..., Tensor]], Tensor]
"""Returns random numbers of the images' shape, drawn by `torch.rand` or `torch.randn`."""


class Deletion:
    """Delete pixels of a batch of normalised images: replace them by a baseline.

    The baselines `zeros`, `random` and `blur` are those of Hesse et al., NeurIPS 2024, arXiv 2407.11910.

    Args:
        baseline: `zeros` for the mean colour of the training data; `random` for uniform noise in [-1, 1]; `blur` for the images blurred
            with a 51 x 51 Gaussian of sigma 58, reflected at the border; `mean` for the mean colour of each image; `linear`, `border`
            and `inpainting` for values imputed from the pixels that remain, see `attrlib.imputation`.
        images: Normalised images (B,C,H,W).
        draw: Draws random numbers. Called once, for the baselines of `SEEDED_BASELINES` only.

    Attributes:
        images: The images.
        values: Values that replace deleted pixels, (B,C,H,W); None if they are imputed.
    """

    def __init__(self, baseline: str, images: Tensor, draw: Draw):
        self.images, self._baseline = images, baseline
        self._noise = draw(torch.randn).cpu().numpy() if baseline == "linear" else None
        self.values = None if baseline in IMPUTED_BASELINES else _fixed(baseline, images, draw)

    def __call__(self, deleted: Tensor) -> Tensor:
        """Return the images with some pixels replaced.

        Args:
            deleted: True on deleted pixels, (B,1,H,W) or the same (1,1,H,W) for all images.

        Raises:
            ProtocolError: If the pixels cannot be imputed.
        """
        deleted = deleted.to(self.images.device)
        if self.values is not None:
            return torch.where(deleted, self.values, self.images)
        masks = deleted.expand(len(self.images), -1, -1, -1)[:, 0].cpu().numpy()
        images = self.images.cpu().numpy()
        imputed = [self._impute(row, image, mask) for row, (image, mask) in enumerate(zip(images, masks, strict=True))]
        return torch.from_numpy(np.stack(imputed)).to(self.images)

    def _impute(self, row: int, image: np.ndarray, deleted: np.ndarray) -> np.ndarray:
        if self._noise is not None:
            return linear(image, deleted, self._noise[row])
        return border(image, deleted) if self._baseline == "border" else inpainting(image, deleted)


def _fixed(baseline: str, images: Tensor, draw: Draw) -> Tensor:
    if baseline == "zeros":
        return torch.zeros_like(images)
    if baseline == "random":
        return draw(torch.rand).to(images) * 2 - 1
    if baseline == "mean":
        return images.mean((2, 3), keepdim=True).expand_as(images)
    # The largest odd kernel that reflection allows, for images smaller than the paper's.
    wide, tall = (min(_KERNEL, 2 * side - 1) for side in (images.shape[3], images.shape[2]))
    return gaussian_blur(gaussian_blur(images, [wide, 1], [_SIGMA, _SIGMA]), [1, tall], [_SIGMA, _SIGMA])


def patch_masks(height: int, width: int, grid: int) -> Tensor:
    """Return the masks (grid * grid,1,1,H,W) of the equal patches of an image, row by row, each true on one patch.

    Example:
        >>> patch_masks(4, 4, 2)[1, 0, 0].int().tolist()
        [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    """
    masks = torch.zeros(grid * grid, 1, height, width, dtype=torch.bool)
    for index in range(grid * grid):
        cells(masks[index : index + 1], grid)[index].fill_(True)
    return masks[:, None]


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
