"""Extremal perturbations: the masks of a given area that keep the output of the target highest, found by gradient ascent."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.context import AttributionContext
from attrlib.methods.smooth_masks import SmoothMasks
from attrlib.models import Layer
from attrlib.registry import Paper, param

EXTREMAL = Paper(
    "Fong et al. 2019", "Understanding Deep Networks via Extremal Perturbations and Smooth Masks", "https://arxiv.org/abs/1910.08485"
)
LEVELS, STRONGEST = 8, 20 / 224
"""Levels of the blur, and its largest standard deviation as a share of the shorter side: 20 px of 224."""
WEIGHT, GROWTH = 300.0, 1.0035
"""Weight of the area loss at the start, and its growth in each step."""
RATE, MOMENTUM = 0.01, 0.9
ENTRIES = 2**26
"""Most entries of the levels of one group of masks, 256 MiB."""


@METHODS.register
@dataclass(frozen=True)
class ExtremalPerturbation(Method):
    """Extremal perturbation: argmax_m f(m applied to x) - w |sort(m) - r_a|^2 over smooth masks m, mean over several areas a.

    r_a has a share a of ones after the zeros, so that the loss, whose weight w grows in every step, makes m binary and of area a. A mask is
    the smooth maximum over the nodes i of a grid, m(u) = smax_i k(|u - u_i| / sigma) p_i, smax(z) = sum z softmax(20 z), with
    k(d) = exp(-2 max(d - 1/2, 0)^2) and parameters p_i from 0 to 1, found by gradient ascent with momentum, as in the authors' code. The
    area is a share of the image with its margin, one sigma wide. Where m is 0 the input is blurred with a Gaussian of a tenth of the
    shorter side, in between by less, or it fades to zero; prefix tokens are kept. The code also mirrors every second image, which is not
    defined at inner layers and is left out. The maps are masks: they have no sign, and show an area even if the output depends on nothing.
    """

    name, family, paper, signed = "Extremal perturbation", "perturbation", EXTREMAL, False
    steps: int = param(800, "Number of gradient steps for each area", low=1, high=5000)
    area: float = param(0.1, "Largest area, as a share of the image and its margin", low=0.01, high=0.99)
    areas: int = param(
        1, "Number of areas, each half as large as the one before; the paper compares methods with 4 from area=0.2", low=1, high=6
    )
    perturbation: str = param("blur", "What hides a part of the layer's output: blur, or a fade to zero", choices=("blur", "fade"))
    cells: int = param(32, "Nodes of the mask's grid along the shorter side", low=2, high=64)
    sigma: float = param(0.09375, "Radius of the kernel, as a share of the shorter side; 21 px of 224", low=0.01, high=0.25)

    def attribute(self, context: AttributionContext) -> Tensor:
        masks = SmoothMasks.of(context.layer.shape[1:], self.cells, self.sigma)
        variants = [(item, self.area / 2**k) for k in range(self.areas) for item in range(len(context))]
        pyramid = self._pyramid(context)
        group = max(1, ENTRIES // pyramid[0].numel())
        groups = [variants[start : start + group] for start in range(0, len(variants), group)]
        found = []
        for k, part in enumerate(groups):
            items, areas = zip(*part, strict=True)
            rows = torch.tensor(items, device=context.images.device)
            found.append(self._optimised(context, masks, pyramid, rows, areas, (k * self.steps, len(groups) * self.steps)))
        context.on_progress(len(groups) * self.steps, len(groups) * self.steps)
        return torch.cat(found).unflatten(0, (self.areas, len(context))).mean(0)

    def _optimised(
        self,
        context: AttributionContext,
        masks: SmoothMasks,
        pyramid: Tensor,
        rows: Tensor,
        areas: tuple[float, ...],
        progress: tuple[int, int],
    ) -> Tensor:
        """Return the masks (n,1,h,w) of items, each with its area, after all steps."""
        levels = context.per_item(pyramid)[rows]
        values = torch.ones(len(rows), 1, *masks.nodes, device=rows.device, requires_grad=True)
        optimiser = torch.optim.SGD([values], lr=RATE, momentum=MOMENTUM, dampening=MOMENTUM)
        mask = values
        for step in range(self.steps):
            context.on_progress(progress[0] + step, progress[1])
            with torch.enable_grad():
                full = masks.make(values)
                mask = masks.cropped(full)
                points = blended(levels, context.layer.layout.native(mask))
                gradient = context.gradient(points.detach(), rows)
                # The derivative of the output, as if it were linear in the perturbed input; the areas enter with their own.
                gain = (points * gradient).sum() - WEIGHT * GROWTH**step * area_loss(full, areas).sum()
                values.grad = -torch.autograd.grad(gain, values)[0]
            optimiser.step()
            with torch.no_grad():
                values.clamp_(0, 1)
        return mask.detach()

    def _pyramid(self, context: AttributionContext) -> Tensor:
        """Return the layer's output of each image, from hidden to shown, (U,levels,...) in its layout."""
        if self.perturbation == "fade":
            hidden = context.layer.layout.native(torch.zeros_like(context.spatial(context.sources)), 0.0)
            return torch.stack([self._with_prefix(context, hidden), context.sources], 1)
        spread = STRONGEST * min(context.layer.shape[1:])
        shares = [1 - level / (LEVELS - 1) for level in range(LEVELS - 1)]
        blurs = [
            self._with_prefix(context, context.layer.layout.native(blurred(context.spatial(context.sources), s * spread))) for s in shares
        ]
        return torch.stack([*blurs, context.sources], 1)

    def _with_prefix(self, context: AttributionContext, values: Tensor) -> Tensor:
        """Return values in the layer's layout with the prefix tokens of the images."""
        prefix = context.layer.layout.prefix
        return torch.cat([context.sources[:, :prefix], values[:, prefix:]], 1) if prefix else values

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=self.steps * self.areas)


def area_loss(masks: Tensor, areas: tuple[float, ...]) -> Tensor:
    """Return the mean squared difference (n,) between the sorted values of masks (n,...) and zeros followed by a share of ones."""
    values = masks.flatten(1).sort(1).values
    zeros = [int(values.shape[1] * (1 - area)) for area in areas]
    target = torch.arange(values.shape[1], device=masks.device) >= torch.tensor(zeros, device=masks.device)[:, None]
    return (values - target.float()).square().mean(1)


def blended(levels: Tensor, mask: Tensor) -> Tensor:
    """Interpolate linearly between levels.

    Args:
        levels: Levels (n,L,...), of which the first is shown where the mask is 0 and the last where it is 1.
        mask: Masks (n,...) from 0 to 1 that broadcast with a level.
    """
    place = mask * (levels.shape[1] - 1)
    lower = place.detach().floor().clamp(0, levels.shape[1] - 2)
    index = lower.long().expand_as(levels[:, 0])[:, None]
    below, above = (levels.gather(1, index + k)[:, 0] for k in (0, 1))
    return torch.lerp(below, above, (place - lower).expand_as(below))


def blurred(values: Tensor, spread: float) -> Tensor:
    """Return values (n,C,h,w) after a Gaussian blur, at the border over the positions inside only.

    Args:
        values: The values.
        spread: Standard deviation in positions.
    """
    for dim in (2, 3):
        distance = torch.arange(values.shape[dim], device=values.device)
        kernel = (-0.5 * ((distance[:, None] - distance) / spread) ** 2).exp()
        kernel = kernel / kernel.sum(1, keepdim=True)
        values = torch.einsum("ij,ncjw->nciw" if dim == 2 else "ij,nchj->nchi", kernel, values)
    return values
