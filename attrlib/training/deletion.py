"""Deleting random cells of training images, on their device."""

import torch
from torch import Tensor

from attrlib.deletion import replacement


def delete_cells(images: Tensor, grid: int, baseline: str, generator: torch.Generator, probability: float = 0.5) -> Tensor:
    """Normalised images (B,3,H,W) in which, with this probability each, one uniformly drawn cell of a grid is replaced by the baseline.

    Baselines are those of `attrlib.deletion`. The generator is on the CPU, so that every device deletes the same cells.
    """
    count, _, height, width = images.shape
    chosen = torch.randint(grid * grid, (count,), generator=generator)
    deleted = torch.rand(count, generator=generator) < probability
    rows = torch.arange(height) * grid // height
    columns = torch.arange(width) * grid // width
    where = (rows[:, None] * grid + columns)[None] == chosen[:, None, None]
    mask = (where & deleted[:, None, None])[:, None].to(images.device)
    return torch.where(mask, replacement(baseline, images, lambda: torch.rand(images.shape, generator=generator)), images)
