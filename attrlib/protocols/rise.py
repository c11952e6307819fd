"""Insertion and deletion AUC as RISE defines them: areas under curves from no pixel to all, by the trapezoidal rule."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from attrlib.postprocess import apply_sign, are_finite
from attrlib.protocols.base import PROTOCOLS, Cost, Protocol
from attrlib.protocols.context import EvalBatch, Outcome
from attrlib.protocols.deletion import TARGETS, outputs_of
from attrlib.registry import Paper, param
from attrlib.specs import SIGNS

RISE_PAPER = Paper(
    "Petsiuk et al. 2018", "RISE: Randomized Input Sampling for Explanation of Black-box Models", "https://arxiv.org/abs/1806.07421"
)
_KERNEL, _SIGMA = 11, 5.0


@cache
def _blur_kernel() -> Tensor:
    """Return the blur of RISE's code, (11,11): the response to an impulse of a Gaussian of sigma 5, reflected at the kernel's border."""
    impulse = np.zeros((_KERNEL, _KERNEL))
    impulse[_KERNEL // 2, _KERNEL // 2] = 1
    return torch.from_numpy(gaussian_filter(impulse, _SIGMA)).float()


def blurred(images: Tensor) -> Tensor:
    """Return blurred images (B,C,H,W), from which insertion starts. Pixels beyond the border count as zeros."""
    kernel = _blur_kernel().to(images).expand(images.shape[1], 1, -1, -1)
    return torch.nn.functional.conv2d(images, kernel, padding=_KERNEL // 2, groups=images.shape[1])


@dataclass(frozen=True)
class CurveArea(Protocol):
    """Base class of areas under the curve of the target's probability while pixels are exchanged, most relevant first.

    After step i of n, floor(H W i / n) pixels are those of the end. The area is the mean of the n + 1 probabilities by the trapezoidal
    rule. Ties are broken in reading order. The score is undefined where a map is not finite.
    """

    paper = RISE_PAPER
    bounds = (0.0, 1.0)
    needs_probability = True
    steps: int = param(224, "Number of steps, from no pixel to all; the paper exchanges 224 pixels in each", low=1, high=1000)
    target: str = param("prediction", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)
    sign: str = param("signed", "Order by the map as it is, its positive part, or its magnitude", choices=SIGNS)

    @property
    def cost(self) -> Cost:
        return Cost(forwards=self.steps + 1)

    @abstractmethod
    def ends(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images at the begin and at the end of the curve."""

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        images, maps = inputs.batch.images, inputs.maps()
        begin, end = self.ends(images)
        pixels = images.shape[2] * images.shape[3]
        values = apply_sign(maps, self.sign).flatten(1).double().nan_to_num(0.0)
        order = values.argsort(dim=1, descending=True, stable=True)
        # The place of each pixel in the order: at a step, those below a count are exchanged.
        place = torch.empty_like(order).scatter_(1, order, torch.arange(pixels).expand_as(order)).view(-1, 1, *images.shape[2:])
        curve = []
        for step in range(self.steps + 1):
            exchanged = (place < pixels * step // self.steps).to(images.device)
            curve.append(inputs.context.logits(torch.where(exchanged, end, begin)))
        curves = outputs_of(inputs.context.model, torch.stack(curve, 1), inputs.targets)["probability"]
        areas = torch.where(are_finite(maps), torch.trapezoid(curves) / self.steps, torch.nan)
        return [Outcome(float(area), {"curve": row.tolist()}) for area, row in zip(areas, curves, strict=True)]


@PROTOCOLS.register
@dataclass(frozen=True)
class DeletionArea(CurveArea):
    """Deletion AUC of RISE: area under the target's probability while pixels become zero, most relevant first.

    After step i of n, floor(H W i / n) pixels have the mean colour of the training data. The area is the mean of the n + 1
    probabilities by the trapezoidal rule. Ties are broken in reading order. The score is undefined where a map is not finite.
    """

    name: ClassVar[str] = "deletion"
    title: ClassVar[str] = "Deletion AUC"
    reading: ClassVar[str] = (
        "0: the class is lost with the first pixels. A low score means that the model needs the pixels with high attribution."
    )

    @property
    def higher_is_better(self) -> bool:
        return False

    def ends(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, torch.zeros_like(images)


@PROTOCOLS.register
@dataclass(frozen=True)
class InsertionArea(CurveArea):
    """Insertion AUC of RISE: area under the target's probability while pixels appear on the blurred image, most relevant first.

    After step i of n, floor(H W i / n) pixels are those of the image. The blur is that of the paper's code, 11 x 11 pixels with
    sigma 5. The area is the mean of the n + 1 probabilities by the trapezoidal rule. Ties are broken in reading order. The score is
    undefined where a map is not finite.
    """

    name: ClassVar[str] = "insertion"
    title: ClassVar[str] = "Insertion AUC"
    reading: ClassVar[str] = (
        "1: the first pixels suffice for the class. A low score means that it takes many more than those with high attribution."
    )

    def ends(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return blurred(images), images
