"""Segmentation of images into the cells of a grid, or into superpixels."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.methods.context import AttributionContext

SEGMENTS = ("slic", "grid")


def segments(context: AttributionContext, kind: str, cells: int) -> Tensor:
    """Assign each position of the layer to a segment. At an inner layer, a position belongs to the superpixel at its centre.

    Args:
        context: The context whose images are segmented.
        kind: `grid` for the cells of a grid, or `slic` for SLIC superpixels.
        cells: Cells per side of the grid; superpixels are about `cells` squared in number.

    Returns:
        Labels (U,h,w) on the CPU. Those of each image start at 0 and have no gaps.
    """
    height, width = context.layer.shape[1:]
    if kind == "grid":
        down, right = (torch.arange(length) * min(cells, length) // length for length in (height, width))
        return (down[:, None] * min(cells, width) + right).expand(len(context.images), -1, -1)
    return context.shared(
        ("segments", kind, cells), lambda: torch.stack([_superpixels(one, cells, height, width) for one in _colours(context)])
    )


def _colours(context: AttributionContext) -> Tensor:
    return context.classifier.preprocessing.denormalise(context.images).clamp(0, 1).cpu()


def _superpixels(colours: Tensor, cells: int, height: int, width: int) -> Tensor:
    # Imported here because nothing else needs it and the import is slow.
    from skimage.segmentation import slic

    # Lab is a space of three colours; other channels are compared as they are, scaled to the range of Lab's lightness.
    scale = 1 if len(colours) == 3 else 100
    labels = slic(scale * colours.permute(1, 2, 0).numpy(), n_segments=cells**2, compactness=10, start_label=0, convert2lab=scale == 1)
    at_layer = F.interpolate(torch.from_numpy(labels)[None, None].float(), size=(height, width), mode="nearest-exact")[0, 0]
    return at_layer.unique(return_inverse=True)[1]
