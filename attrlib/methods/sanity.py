"""Sanity baselines: maps that do not depend on the model. A useful method must outperform them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.context import AttributionContext
from attrlib.models import Layer
from attrlib.registry import Paper, param
from attrlib.specs import digest

SANITY_CHECKS = Paper("Adebayo et al. 2018", "Sanity Checks for Saliency Maps", "https://arxiv.org/abs/1810.03292")

CENTRE = Paper("Judd et al. 2009", "Learning to Predict Where Humans Look", "https://doi.org/10.1109/ICCV.2009.5459462")


@METHODS.register
@dataclass(frozen=True)
class Random(Method):
    """Random: independent uniform values in [0, 1), from the seed and the image's content."""

    name, family, paper = "Random", "sanity", SANITY_CHECKS
    signed, seeded, fast, class_specific = False, True, True, False

    def attribute(self, context: AttributionContext) -> Tensor:
        size = context.layer.shape[1:]
        contents = [digest(image.detach().cpu().contiguous().numpy().data.cast("B")) for image in context.images]
        maps = torch.stack([torch.rand(1, *size, generator=context.generator("random", content)) for content in contents])
        return context.per_item(maps.to(context.images.device))

    def passes(self, layer: Layer) -> Passes:
        return Passes()


@METHODS.register
@dataclass(frozen=True)
class Sobel(Method):
    """Sobel: magnitude of the grey image's gradient by 3x3 Sobel filters, averaged to the layer's resolution.

    The grey of other channels than R, G and B is their mean.
    """

    name, family, paper = "Sobel", "sanity", SANITY_CHECKS
    signed, fast, class_specific = False, True, False

    def attribute(self, context: AttributionContext) -> Tensor:
        grey = _grey(context.classifier.preprocessing.denormalise(context.images))
        horizontal = grey.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
        filters = torch.stack([horizontal, horizontal.T])[:, None]
        edges = F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), filters)
        magnitude = edges.square().sum(1, keepdim=True).sqrt()
        return context.per_item(F.adaptive_avg_pool2d(magnitude, context.layer.shape[1:]))

    def passes(self, layer: Layer) -> Passes:
        return Passes()


@METHODS.register
@dataclass(frozen=True)
class Gaussian(Method):
    """Gaussian: exp(-(u^2 + v^2) / 2 s^2) around the centre, u and v in widths and heights of the image: where photos have their object."""

    name, family, paper = "Gaussian", "sanity", CENTRE
    signed, fast, class_specific = False, True, False
    sigma: float = param(0.25, "Standard deviation s as a share of the side", low=0.01, high=10.0)

    def attribute(self, context: AttributionContext) -> Tensor:
        height, width = context.layer.shape[1:]
        down, right = (bell(length, self.sigma) for length in (height, width))
        return (down[:, None] * right).to(context.images.device).expand(len(context), 1, -1, -1)

    def passes(self, layer: Layer) -> Passes:
        return Passes()


def bell(length: int, sigma: float) -> Tensor:
    """Return a Gaussian (length,) centred in the middle, with peak value 1 and standard deviation `sigma` times `length`."""
    place = (torch.arange(length) + 0.5) / length - 0.5
    return torch.exp(-0.5 * (place / sigma) ** 2)


def _grey(colours: Tensor) -> Tensor:
    if colours.shape[1] != 3:
        return colours.mean(1, keepdim=True)
    return (colours * colours.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
