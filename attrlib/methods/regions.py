"""Region attribution: the gradient family's attributions, summed over segments of the image that are added one by one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.baselines import REDUCTIONS, reduce_channels
from attrlib.methods.context import AttributionContext
from attrlib.methods.gradients import IntegratedGradients
from attrlib.methods.parts import part_of
from attrlib.methods.segments import REGIONS, regions
from attrlib.models import Layer
from attrlib.registry import Paper, param

XRAI_PAPER = Paper("Kapishnikov et al. 2019", "XRAI: Better Attributions Through Regions", "https://arxiv.org/abs/1906.02825")
START = ("black", "white")
"""Baselines of IG: a dark object has no attribution from black, a bright one none from white."""


@METHODS.register
@dataclass(frozen=True)
class XRAI(Method):
    """XRAI: regions are added in the order of their density of attribution; a position has the density of the area that brought it.

    The attribution is the mean of IG from black and from white. The density of a region s, given the area M covered so far, is the mean of
    the attribution over s without M. The region of highest density is added until none adds more than a share `least` of the map; positions
    that no region covers have their own mean. Summed over channels, the map thus has the sum of IG. The regions of the paper are Felzenszwalb's
    segments at six scales, which overlap; they follow edges, and noise or images without edges are better explained with `segments=grid`. The
    passes are those of `IG:baseline=black` and `IG:baseline=white`.
    """

    name, family, paper = "XRAI", "gradient", XRAI_PAPER
    steps: int = param(50, "Number of quadrature nodes of each IG", low=1, high=1000)
    segments: str = param("felzenszwalb", "Felzenszwalb's segments at six scales, or the cells of a grid", choices=REGIONS)
    cells: int = param(16, "Cells per side of the grid", low=1, high=64)
    least: float = param(
        0.001, "Smallest share of the map that a region must add; 50 px of 224 x 224, as in the authors' code", low=0.0, high=0.5
    )
    channels: str = param(
        "sum",
        "Reduction of the channels to one: their sum, the sum of their magnitudes, the magnitude of their sum, or the largest (the authors' code)",
        choices=(*REDUCTIONS, "max"),
    )

    def attribute(self, context: AttributionContext) -> Tensor:
        values = torch.stack([self._integrated(context, k) for k in range(len(START))]).mean(0)
        if self.channels == "max":
            attribution = context.spatial(values).amax(1, keepdim=True)
        else:
            attribution = reduce_channels(self.name, context, values, self.channels)
        masks = regions(context, self.segments, self.cells)
        owners = context.per_item(torch.arange(len(context.images), device=context.images.device)).tolist()
        least = max(1, round(self.least * attribution[0].numel()))
        maps = [by_density(one, masks[owner], least) for one, owner in zip(attribution[:, 0].cpu(), owners, strict=True)]
        return torch.stack(maps)[:, None].to(attribution)

    def _integrated(self, context: AttributionContext, number: int) -> Tensor:
        with part_of(context, number, len(START)):
            return IntegratedGradients(self.steps, START[number]).values(context)

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=1 + len(START), gradient=len(START) * self.steps, before=1 + len(START))


def by_density(attribution: Tensor, masks: Tensor, least: int) -> Tensor:
    """Return the density (h,w) of the area by which each position is covered first, when the densest region is added again and again.

    Args:
        attribution: Attribution (h,w).
        masks: Regions (R,h,w), boolean.
        least: Smallest number of positions that a region must add.
    """
    values, left = attribution.flatten().double(), masks.flatten(1)
    result, covered = values.clone(), torch.zeros(values.numel(), dtype=torch.bool)
    counts, sums = left.sum(1), left.double() @ values
    while len(open_ := (counts >= least).nonzero().flatten()):
        best = open_[(sums[open_] / counts[open_]).argmax()]
        added = (left[best] & ~covered).nonzero().flatten()
        result[added] = values[added].mean()
        covered[added] = True
        # Only the positions that are new change the rest, so that each is read once.
        counts -= left[:, added].sum(1)
        sums -= left[:, added].double() @ values[added]
    rest = ~covered
    result[rest] = values[rest].mean()
    return result.view_as(attribution).to(attribution.dtype)
