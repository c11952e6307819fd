"""Protocols that delete regions of an image: IROF its superpixels one after another, SaCo groups of equally ranked pixels one at a time."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from attrlib.deletion import BASELINES, FIXED_BASELINES, SEEDED_BASELINES
from attrlib.models import Classifier
from attrlib.postprocess import apply_sign, are_finite
from attrlib.protocols.base import PROTOCOLS, Cost, Protocol
from attrlib.protocols.context import EvalBatch, Measurement, Outcome
from attrlib.protocols.deletion import TARGETS, OutputOfImage, deletion_of, outputs_of
from attrlib.registry import Paper, param
from attrlib.specs import SIGNS


def superpixels(model: Classifier, image: Tensor, segments: int) -> Tensor:
    """Return the number of the SLIC superpixel of each pixel, from 0, (H,W).

    The image is smoothed by a Gaussian of sigma 1 first: noise would leave a single superpixel.

    Args:
        model: The model, which knows the colours of normalised images.
        image: Normalised image (C,H,W).
        segments: Approximate number of superpixels.
    """
    # The import takes long, and only IROF needs it.
    from skimage.segmentation import slic

    colours = model.preprocessing.shown(image.cpu()).permute(1, 2, 0).double().numpy()
    labels = torch.from_numpy(slic(colours, n_segments=segments, sigma=1, start_label=0, channel_axis=-1))
    return labels.unique(return_inverse=True)[1]


class DeletedRegions(Protocol):
    """Base class of protocols that compare the probability of the image with those of images with deleted regions.

    A subclass has the parameters `baseline` and `sign`.
    """

    needs_probability = True
    baseline: str
    sign: str

    @property
    def seeded(self) -> bool:  # type: ignore[override]
        """Return whether the values depend on the seed: some baselines are drawn from it."""
        return self.baseline in SEEDED_BASELINES

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        return (OutputOfImage(),)

    def probabilities(self, inputs: EvalBatch, regions: list[Tensor]) -> Tensor:
        """Return the target's probability for the image, and with each of K regions (B,1,H,W) deleted: (B, 1 + K)."""
        delete = deletion_of(self.baseline, inputs.context, inputs.batch)
        logits = torch.stack([inputs.context.logits(delete(region)) for region in regions], 1)
        deleted = outputs_of(inputs.context.model, logits, inputs.targets)["probability"]
        return torch.cat([inputs.measured[self.measurements[0]]["probability"].double(), deleted], 1)


@PROTOCOLS.register
@dataclass(frozen=True)
class IROF(DeletedRegions):
    """Iterative removal of features: area over the curve of the target's probability while superpixels are deleted.

    The L superpixels of SLIC are deleted in order of their mean attribution, highest first, floor(L i / n) of them after step i of n.
    The score is the area over P(x_i) / P(x), i = 0 ... n, by the trapezoidal rule. With `steps` of at least L, as in the paper, each
    step deletes one superpixel. The score is undefined where a map is not finite, P(x) is 0, or there is one superpixel only.
    """

    name: ClassVar[str] = "irof"
    title: ClassVar[str] = "IROF"
    paper = Paper(
        "Rieger and Hansen 2020", "IROF: a low resource evaluation metric for explanation methods", "https://arxiv.org/abs/2003.08747"
    )
    bounds = (-math.inf, 1.0)
    reading: ClassVar[str] = (
        "1: the class is lost with the first superpixel. 0: deletion in this order costs no probability. Below 0: it becomes more probable."
    )
    segments: int = param(300, "Approximate number of superpixels", low=2, high=5000)
    steps: int = param(50, "Number of steps, from no superpixel to all", low=1, high=5000)
    baseline: str = param("zeros", "What replaces deleted superpixels, in normalised space", choices=FIXED_BASELINES)
    target: str = param("label", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)
    sign: str = param("signed", "Average the map as it is, its positive part, or its magnitude", choices=SIGNS)

    @property
    def cost(self) -> Cost:
        return Cost(forwards=self.steps)

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        maps = inputs.maps()
        attributions = apply_sign(maps, self.sign).double().nan_to_num(0.0)[:, 0]
        labels = [superpixels(inputs.context.model, image, self.segments) for image in inputs.batch.images]
        places, counts = zip(*map(_places, labels, attributions), strict=True)
        place, count = torch.stack(places)[:, None], torch.tensor(counts)
        regions = [place < (count * step // self.steps)[:, None, None, None] for step in range(1, self.steps + 1)]
        probabilities = self.probabilities(inputs, regions)
        ratios = probabilities / probabilities[:, :1]
        defined = are_finite(maps) & (count > 1) & (probabilities[:, 0] > 0)
        areas = torch.where(defined, 1 - torch.trapezoid(ratios) / self.steps, torch.nan)
        return [Outcome(float(area), {"curve": row.tolist()}) for area, row in zip(areas, probabilities, strict=True)]


def _places(labels: Tensor, attribution: Tensor) -> tuple[Tensor, int]:
    """Return the place of each pixel's superpixel in the order of deletion, (H,W), and the number of superpixels."""
    sizes = labels.flatten().bincount()
    means = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, labels.flatten(), attribution.flatten()) / sizes
    order = means.argsort(descending=True, stable=True)
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))[labels], len(sizes)


@PROTOCOLS.register
@dataclass(frozen=True)
class SaCo(DeletedRegions):
    """Salience-guided faithfulness coefficient: groups of pixels with more attribution should cost more probability when deleted.

    The pixels, ranked by attribution, are divided into K groups of equal size with mean attributions s_1 >= ... >= s_K, and each group
    alone is deleted, which costs d_i = P(x) - P(x without group i). The score is the sum over i < j of +-(s_i - s_j), positive where
    d_i >= d_j, over the sum of s_i - s_j. It is undefined where a map is not finite, or all s_i or all d_i are equal.
    """

    name: ClassVar[str] = "saco"
    title: ClassVar[str] = "SaCo"
    paper = Paper("Wu et al. 2024", "On the Faithfulness of Vision Transformer Explanations", "https://arxiv.org/abs/2404.01415")
    bounds = (-1.0, 1.0)
    chance = 0.0
    reading: ClassVar[str] = "1: of any two groups, the one with more attribution costs more probability. 0: no relation."
    groups: int = param(10, "Number of groups of pixels", low=2, high=100)
    baseline: str = param(
        "mean", "What replaces deleted pixels, in normalised space; the paper's is the mean of the image", choices=BASELINES
    )
    target: str = param("prediction", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)
    sign: str = param("signed", "Rank and average the map as it is, its positive part, or its magnitude", choices=SIGNS)

    @property
    def cost(self) -> Cost:
        return Cost(forwards=self.groups)

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        maps = inputs.maps()
        flat = apply_sign(maps, self.sign).flatten(1).double().nan_to_num(0.0)
        ordered, order = flat.sort(dim=1, descending=True, stable=True)
        bounds = [flat.shape[1] * k // self.groups for k in range(self.groups + 1)]
        place = torch.empty_like(order).scatter_(1, order, torch.arange(flat.shape[1]).expand_as(order)).view(maps.shape)
        regions = [(place >= low) & (place < high) for low, high in pairwise(bounds)]
        means = torch.stack([ordered[:, low:high].mean(1) for low, high in pairwise(bounds)], 1)
        probabilities = self.probabilities(inputs, regions)
        drops = probabilities[:, :1] - probabilities[:, 1:]
        values = torch.where(are_finite(maps), _coefficients(means, drops), torch.nan)
        return [
            Outcome(float(value), {"means": row.tolist(), "drops": drop.tolist()})
            for value, row, drop in zip(values, means, drops, strict=True)
        ]


def _coefficients(means: Tensor, drops: Tensor) -> Tensor:
    """Return the coefficient of each row of K mean attributions, in descending order, and K drops."""
    first, second = torch.triu_indices(means.shape[1], means.shape[1], 1)
    weights = means[:, first] - means[:, second]
    signs = torch.where(drops[:, first] >= drops[:, second], 1.0, -1.0)
    # Equal drops satisfy every pair, so a model that ignores the pixels would make any map perfect.
    same = drops.amin(1) == drops.amax(1)
    return ((weights * signs).sum(1) / weights.sum(1)).masked_fill(same, torch.nan)
