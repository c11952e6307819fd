"""Compactness and entropy: on how few pixels the attribution concentrates, whatever they show."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrlib.postprocess import apply_sign, are_finite
from attrlib.protocols.base import PROTOCOLS, Protocol
from attrlib.protocols.context import EvalBatch, Outcome
from attrlib.protocols.deletion import TARGETS
from attrlib.registry import Paper, param

GINI_PAPER = Paper(
    "Chalasani et al. 2020", "Concise Explanations of Neural Networks using Adversarial Training", "https://arxiv.org/abs/1810.06583"
)
ENTROPY_PAPER = Paper(
    "Bhatt et al. 2020", "Evaluating and Aggregating Feature-based Model Explanations", "https://arxiv.org/abs/2005.00631"
)
PARTS = ("absolute", "positive")


class Concentration(Protocol):
    """Base class of scores of how the attribution is spread over the pixels. Undefined for a map that is zero or not finite.

    A subclass has the parameter `sign`, one of `PARTS`.
    """

    sign: str

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        maps = inputs.maps()
        weights = apply_sign(maps, self.sign).double().flatten(1)
        # Divided by the largest value first, so that the sum of neither tiny nor huge values leaves the range of float64.
        largest = weights.amax(1, keepdim=True)
        shares = weights / largest
        shares = shares / shares.sum(1, keepdim=True)
        defined = are_finite(maps) & (largest[:, 0] > 0)
        return [Outcome(self.spread(row) if known else math.nan) for row, known in zip(shares, defined.tolist(), strict=True)]

    @abstractmethod
    def spread(self, shares: Tensor) -> float:
        """Return the score of the share of the attribution that each pixel has, (H*W,)."""


@PROTOCOLS.register
@dataclass(frozen=True)
class Compactness(Concentration):
    """Compactness: the Gini index of the attribution over the pixels, without regard to where they are.

    With a_1 <= ... <= a_n the values of the n pixels, it is sum_i (2 i - n - 1) a_i / (n sum_i a_i).
    """

    name: ClassVar[str] = "compactness"
    title: ClassVar[str] = "Compactness"
    paper = GINI_PAPER
    bounds = (0.0, 1.0)
    reading = (
        "Near 1: a few pixels have all the attribution. 0: all pixels have the same. Compact is not yet right: a random pixel is compact."
    )
    sign: str = param("absolute", "Take the magnitude of the map, or its positive part", choices=PARTS)
    target: str = param("label", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)

    def spread(self, shares: Tensor) -> float:
        count = len(shares)
        ranks = 2 * torch.arange(1, count + 1, dtype=torch.float64) - count - 1
        # A constant map has rounding errors around 0.
        return max(0.0, float((ranks * shares.sort().values).sum() / count))


@PROTOCOLS.register
@dataclass(frozen=True)
class Entropy(Concentration):
    """Entropy: that of the shares of the attribution that the pixels have, in nats; also called complexity.

    With p_i = |a_i| / sum_j |a_j|, it is -sum_i p_i log p_i: at most the logarithm of the number of pixels, 10.8 for 224 x 224.
    """

    name: ClassVar[str] = "entropy"
    title: ClassVar[str] = "Entropy"
    paper = ENTROPY_PAPER
    bounds = (0.0, math.inf)
    reading = "0: one pixel has all the attribution. The logarithm of the number of pixels: all pixels have the same."
    sign: str = param("absolute", "Take the magnitude of the map, or its positive part", choices=PARTS)
    target: str = param("label", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)

    @property
    def higher_is_better(self) -> bool:
        return False

    def spread(self, shares: Tensor) -> float:
        return max(0.0, float(torch.special.entr(shares).sum()))
