"""Images cut into segments: cells of a grid, or superpixels of alike pixels that lie together."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.methods.context import AttributionContext

SEGMENTS = ("slic", "grid")


def segments(context: AttributionContext, kind: str, cells: int) -> Tensor:
    """Labels (U,h,w) of the layer's positions, on the CPU: `cells` x `cells` of a grid, or that many SLIC superpixels of each image.

    An image's labels go from 0 without gaps. At an inner layer a position belongs to the superpixel at its centre.
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
    # Nothing else needs it, and it is slow to import.
    from skimage.segmentation import slic

    found = slic(colours.permute(1, 2, 0).numpy(), n_segments=cells**2, compactness=10, start_label=0)
    at_layer = F.interpolate(torch.from_numpy(found)[None, None].float(), size=(height, width), mode="nearest-exact")[0, 0]
    return at_layer.unique(return_inverse=True)[1]
