"""Protocols for data sets with masks: how much of the attribution lies on the object."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attrlib.protocols.base import PROTOCOLS, Protocol
from attrlib.protocols.context import EvalBatch, Outcome
from attrlib.protocols.deletion import TARGETS
from attrlib.registry import Paper, param

POINTING_PAPER = Paper("Zhang et al. 2018", "Top-Down Neural Attention by Excitation Backprop", "https://arxiv.org/abs/1608.00507")
ENERGY_PAPER = Paper(
    "Wang et al. 2020",
    "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks",
    "https://arxiv.org/abs/1910.01279",
)
CLEVR_PAPER = Paper(
    "Arras et al. 2022", "CLEVR-XAI: A benchmark dataset for neural network explanations", "https://arxiv.org/abs/2003.07258"
)


@dataclass(frozen=True)
class OnObject(Protocol):
    """Base class of scores for how much of the map lies on the object.

    A score is undefined where the crop does not show the object, or the map is not finite.
    """

    bounds = (0.0, 1.0)
    needs = ("masks",)
    target: str = param("label", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        masks = inputs.batch.masks
        assert masks is not None, "check() refuses data without masks"
        maps = inputs.maps().double()[:, 0]
        values = [
            self.share(values, mask) if bool(mask.any()) and bool(values.isfinite().all()) else math.nan
            for values, mask in zip(maps, masks.cpu(), strict=True)
        ]
        return [Outcome(value) for value in values]

    @abstractmethod
    def share(self, values: Tensor, mask: Tensor) -> float:
        """Return the score of a map.

        Args:
            values: The map, (H,W).
            mask: True on the object, (H,W).
        """


@PROTOCOLS.register
@dataclass(frozen=True)
class PointingGame(OnObject):
    """Pointing game: 1 where the largest value of the map lies on the object, else 0; among equal values, the share on it."""

    name: ClassVar[str] = "pointing"
    title: ClassVar[str] = "Pointing game"
    paper = POINTING_PAPER
    reading = "1: every map peaks on the object. Chance is the share of the image that the object covers."

    def share(self, values: Tensor, mask: Tensor) -> float:
        return float(mask[values == values.amax()].double().mean())


@PROTOCOLS.register
@dataclass(frozen=True)
class MassAccuracy(OnObject):
    """Relevance mass accuracy: the positive attribution on the object over all positive attribution; undefined without any."""

    name: ClassVar[str] = "mass"
    title: ClassVar[str] = "Mass inside"
    paper = CLEVR_PAPER
    reading = "1: all positive attribution lies on the object. Chance is the share of the image that the object covers."

    def share(self, values: Tensor, mask: Tensor) -> float:
        positive = values.clamp_min(0)
        return float(positive[mask].sum() / positive.sum())


@PROTOCOLS.register
@dataclass(frozen=True)
class RankAccuracy(OnObject):
    """Relevance rank accuracy: of the K largest values, K the object's pixels, the share on it; ties count by their share."""

    name: ClassVar[str] = "rank"
    title: ClassVar[str] = "Relevance rank accuracy"
    paper = CLEVR_PAPER
    reading = "1: the most relevant pixels are exactly the object's. Chance is the share of the image that the object covers."

    def share(self, values: Tensor, mask: Tensor) -> float:
        count = int(mask.sum())
        least = values.flatten().topk(count).values[-1]
        above, equal = values > least, values == least
        missing = count - int(above.sum())
        return float(mask[above].sum() + missing * mask[equal].double().mean()) / count


@PROTOCOLS.register
@dataclass(frozen=True)
class EnergyPointing(OnObject):
    """Energy-based pointing game: the positive attribution in the object's bounding box over all positive attribution.

    The box is the smallest upright rectangle around the mask, so a map may spread over the background between the object's parts.
    Undefined without positive attribution.
    """

    name: ClassVar[str] = "energy"
    title: ClassVar[str] = "Energy pointing game"
    paper = ENERGY_PAPER
    reading = "1: all positive attribution lies in the object's box. Chance is the share of the image that the box covers."

    def share(self, values: Tensor, mask: Tensor) -> float:
        positive = values.clamp_min(0)
        rows, columns = (mask.any(dim).nonzero()[:, 0] for dim in (1, 0))
        inside = positive[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
        return float(inside.sum() / positive.sum())
