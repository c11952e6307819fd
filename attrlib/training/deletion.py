"""Delete random patches of training images, on their device."""

import torch
from torch import Tensor

from attrlib.deletion import Deletion


def delete_patches(images: Tensor, grid: int, baseline: str, generator: torch.Generator, probability: float = 0.5) -> Tensor:
    """Replace one random patch of each image by the baseline, with a given probability.

    Args:
        images: Normalised images (B,C,H,W).
        grid: Patches per side; the patch is drawn uniformly.
        baseline: What replaces the patch, one of `attrlib.deletion`.
        generator: Generator on the CPU, so that every device deletes the same patches.
        probability: Probability for each image that a patch is deleted.
    """
    count, _, height, width = images.shape
    chosen = torch.randint(grid * grid, (count,), generator=generator)
    deleted = torch.rand(count, generator=generator) < probability
    rows = torch.arange(height) * grid // height
    columns = torch.arange(width) * grid // width
    where = (rows[:, None] * grid + columns)[None] == chosen[:, None, None]
    mask = (where & deleted[:, None, None])[:, None]
    return Deletion(baseline, images, lambda sample: sample(images.shape, generator=generator))(mask)
