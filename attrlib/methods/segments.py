"""Images cut into segments: cells of a grid, or superpixels of alike pixels that lie together."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.methods.task import Task

SEGMENTS = ("slic", "grid")


def segments(task: Task, kind: str, cells: int) -> Tensor:
    """Labels (U,h,w) of the layer's positions, on the CPU: `cells` x `cells` of a grid, or that many SLIC superpixels of each image.

    An image's labels go from 0 without gaps. At an inner layer a position belongs to the superpixel at its centre.
    """
    height, width = task.layer.shape[1:]
    if kind == "grid":
        down, right = (torch.arange(length) * min(cells, length) // length for length in (height, width))
        return (down[:, None] * min(cells, width) + right).expand(len(task.images), -1, -1)
    return task.shared(("segments", kind, cells), lambda: torch.stack([_superpixels(one, cells, height, width) for one in _colours(task)]))


def _colours(task: Task) -> Tensor:
    return task.classifier.preprocessing.denormalise(task.images).clamp(0, 1).cpu()


def _superpixels(colours: Tensor, cells: int, height: int, width: int) -> Tensor:
    # Nothing else needs it, and it is slow to import.
    from skimage.segmentation import slic

    found = slic(colours.permute(1, 2, 0).numpy(), n_segments=cells**2, compactness=10, start_label=0)
    at_layer = F.interpolate(torch.from_numpy(found)[None, None].float(), size=(height, width), mode="nearest-exact")[0, 0]
    return at_layer.unique(return_inverse=True)[1]
