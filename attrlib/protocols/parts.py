"""The part removal protocol, for data sets that also contain each scene with single parts of the object removed."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrlib.postprocess import apply_sign
from attrlib.protocols.base import PROTOCOLS
from attrlib.protocols.context import Batch, EvalBatch, EvalContext, Measurement, Outcome
from attrlib.protocols.deletion import OUTPUTS, TARGETS, RankedDrops, outputs_of
from attrlib.registry import Paper, param
from attrlib.specs import SIGNS
from attrlib.statistics import spearman

FEWEST = 3
"""Minimum number of visible parts: with two, the correlation could only be -1 or 1."""


FUNNYBIRDS_PAPER = Paper(
    "Hesse et al. 2023", "FunnyBirds: A Synthetic Vision Dataset for a Part-Based Analysis of Explainable AI Methods",
    "https://arxiv.org/abs/2308.06248",
)  # fmt: skip


@dataclass(frozen=True)
class RemovedParts(Measurement):
    """The logits for the image, and for the same scene without each part: (B, 1 + parts, classes)."""

    targeted = False

    def measure(self, context: EvalContext, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
        assert batch.without is not None, "check() refuses data without parts"
        parts = batch.without.shape[1]
        without = context.logits(batch.without.flatten(0, 1)).unflatten(0, (-1, parts))
        return {"logits": torch.cat([context.logits(batch.images)[:, None], without], 1)}

    def forwards(self) -> float:
        # Exact for the six parts of the birds, an estimate for other data sets.
        return 7


def sums_on(values: Tensor, masks: Tensor) -> Tensor:
    """Return the sum of a map (H,W) over each of several masks (K,H,W), float64 (K,)."""
    return torch.stack([values[mask].sum() for mask in masks])


def removal_correlation(drops: Tensor, sums: Tensor, shown: Tensor) -> float:
    """Return the rank correlation of output drops with attributions over the visible parts, NaN where it is undefined.

    Args:
        drops: Drop of the output without each part, (P,).
        sums: Attribution of each part, (P,).
        shown: Whether each part is visible, (P,).
    """
    return float(spearman(drops[shown][None], sums[shown][None])) if int(shown.sum()) >= FEWEST else math.nan


@PROTOCOLS.register
@dataclass(frozen=True)
class PartRemoval(RankedDrops):
    """Rank correlation, per image, of the output drops of removed single parts with the attribution summed over each part.

    With f the logit (or probability) of the target, x_p the same scene rendered without part p, a the map at the image's size and
    m_p the pixels of p, the score is spearman_p(f(x) - f(x_p), sum of a on m_p) over the visible parts. It is undefined where fewer
    than three parts are visible, or either side is constant. No pixels are replaced, so no image is out of the model's domain.
    """

    name: ClassVar[str] = "parts"
    title: ClassVar[str] = "Part removal"
    paper = FUNNYBIRDS_PAPER
    needs = ("parts",)
    reading = "1: attribution and output drop rank the parts in the same order. 0: no relation."
    output: str = param("logit", "Output whose drop is measured", choices=OUTPUTS)
    target: str = param("label", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)
    sign: str = param("signed", "Sum the map as it is, its positive part, or its magnitude", choices=SIGNS)
    undefined: str = param("drop", "Leave images without a correlation out of the mean, or count them as 0", choices=("drop", "zero"))

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        return (RemovedParts(),)

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        assert inputs.batch.parts is not None, "check() refuses data without parts"
        logits = inputs.measured[self.measurements[0]]["logits"]
        outputs = outputs_of(inputs.context.model, logits, inputs.targets)[self.output]
        drops = outputs[:, :1] - outputs[:, 1:]
        maps = apply_sign(inputs.maps(), self.sign).double()
        masks = inputs.batch.parts.cpu()
        outcomes = []
        for values, parts, fallen in zip(maps[:, 0], masks, drops, strict=True):
            shown = parts.flatten(1).any(1)
            sums = sums_on(values, parts)
            outcomes.append(Outcome(removal_correlation(fallen, sums, shown), {"sums": sums.tolist(), "shown": shown.double().tolist()}))
        return outcomes
