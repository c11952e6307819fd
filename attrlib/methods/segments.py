"""Segmentation of images into the cells of a grid, into superpixels, or into overlapping regions of several sizes."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.methods.context import AttributionContext

SEGMENTS = ("slic", "grid")
REGIONS = ("felzenszwalb", "grid")
SCALES, SIGMA, LEAST_SIZE, REGION_SIDE, RADIUS = (50, 100, 150, 250, 500, 1200), 0.8, 150, 224, 5
"""Parameters of Felzenszwalb's segmentation in XRAI, for images of `REGION_SIDE` px with values from -1 to 1; the radius of the dilation."""


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


def regions(context: AttributionContext, kind: str, cells: int) -> list[Tensor]:
    """Return regions of each image, which may overlap. At an inner layer, a position belongs to the regions at its centre.

    Args:
        context: The context whose images are segmented.
        kind: `felzenszwalb` for the segments of Felzenszwalb and Huttenlocher (2004) at six scales, each grown by 5 px, as in XRAI, or
            `grid` for the cells of a grid.
        cells: Cells per side of the grid.

    Returns:
        For each image, boolean masks (R,h,w) on the CPU, none of them empty.
    """
    if kind == "grid":
        labels = segments(context, "grid", cells)[0]
        return [labels == torch.arange(int(labels.max()) + 1)[:, None, None]] * len(context.images)
    height, width = context.layer.shape[1:]
    return context.shared(("regions", kind), lambda: [_felzenszwalb(one, height, width) for one in _colours(context)])


def _felzenszwalb(colours: Tensor, height: int, width: int) -> Tensor:
    # Imported here because nothing else needs them and the imports are slow.
    from skimage.segmentation import felzenszwalb
    from skimage.transform import resize

    values = colours.permute(1, 2, 0).numpy()
    low, high = float(values.min()), float(values.max())
    scaled = 2 * (values - low) / (high - low or 1) - 1
    image = resize(scaled, (REGION_SIDE, REGION_SIDE), order=3, mode="constant", preserve_range=True, anti_aliasing=True)
    grown = []
    for scale in SCALES:
        labels = felzenszwalb(image, scale=scale, sigma=SIGMA, min_size=LEAST_SIZE)
        full = resize(labels, values.shape[:2], order=0, mode="constant", preserve_range=True, anti_aliasing=False)
        grown.append(_dilated(torch.from_numpy(full).long()))
    masks = F.interpolate(torch.cat(grown)[None].float(), size=(height, width), mode="nearest-exact")[0] > 0
    return masks[masks.any(2).any(1)]


def _dilated(labels: Tensor) -> Tensor:
    """Return the segments (R,H,W), each grown to the positions at a distance of at most `RADIUS`."""
    height, width = labels.shape
    grown = torch.zeros(int(labels.max()) + 1, height, width, dtype=torch.bool)
    # Index of each position in the flat mask of its own segment; a neighbour is at a fixed distance from it.
    own = labels * labels.numel() + torch.arange(labels.numel()).view(height, width)
    reach = range(-RADIUS, RADIUS + 1)
    for down, right in ((i, j) for i in reach for j in reach if i * i + j * j <= RADIUS**2):
        inside = own[max(0, -down) : max(0, height - down), max(0, -right) : max(0, width - right)]
        grown.view(-1)[(inside + down * width + right).flatten()] = True
    return grown
