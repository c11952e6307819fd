"""Protocols on random subsets of patches deleted together: faithfulness correlation, MuFidelity and sensitivity-n."""

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrlib.deletion import BASELINES
from attrlib.errors import ProtocolError
from attrlib.models import Classifier
from attrlib.postprocess import apply_sign
from attrlib.protocols.base import PROTOCOLS
from attrlib.protocols.concentration import ENTROPY_PAPER
from attrlib.protocols.context import Batch, EvalBatch, EvalContext, Measurement, Outcome
from attrlib.protocols.deletion import OUTPUTS, TARGETS, RankedDrops, deletion_of, outputs_of
from attrlib.registry import Paper, param
from attrlib.specs import SIGNS
from attrlib.statistics import spearman

SENSITIVITY_N_PAPER = Paper(
    "Ancona et al. 2018",
    "Towards better understanding of gradient-based attribution methods for Deep Neural Networks",
    "https://arxiv.org/abs/1711.06104",
)
SHARES = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Shares of the patches that sensitivity-n deletes together, up to the 80 % of the paper."""


def patch_of(size: tuple[int, int], grid: int) -> Tensor:
    """Return the number of the patch that each pixel belongs to, (H,W), row by row; patches differ by at most one row and column."""
    height, width = size
    return (torch.arange(height) * grid // height)[:, None] * grid + torch.arange(width) * grid // width


def subsets(context: EvalContext, item: str, grid: int, count: int, samples: int) -> Tensor:
    """Return which patches are in each random subset of an item, bool (samples, grid * grid).

    Args:
        context: The context, whose seed is used.
        item: Content digest of the item.
        grid: Patches per side.
        count: Patches in a subset.
        samples: Number of subsets; the first ones are those of a smaller number.
    """
    chosen = torch.zeros(samples, grid**2, dtype=torch.bool)
    for k in range(samples):
        chosen[k, torch.randperm(grid**2, generator=context.generator(item, "subset", grid, count, k))[:count]] = True
    return chosen


@dataclass(frozen=True)
class OutputsOfSubsets(Measurement):
    """The target's logit and probability for the image, and with each random subset of patches deleted: (B, 1 + samples) each."""

    grid: int
    count: int
    samples: int
    baseline: str
    seeded = True

    def measure(self, context: EvalContext, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
        images = batch.images
        delete = deletion_of(self.baseline, context, batch)
        patches = patch_of((images.shape[2], images.shape[3]), self.grid)
        chosen = torch.stack([subsets(context, item, self.grid, self.count, self.samples) for item in batch.ids])
        logits = [context.logits(images), *(context.logits(delete(chosen[:, k][:, patches][:, None])) for k in range(self.samples))]
        return outputs_of(context.model, torch.stack(logits, 1), targets)

    def forwards(self) -> float:
        return 1 + self.samples


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation of rows (B,n), (B,); NaN where a row is constant or not finite."""
    defined = torch.stack([values.isfinite().all(1) & (values.amin(1) < values.amax(1)) for values in (a, b)]).all(0)
    a, b = (values - values.mean(1, keepdim=True) for values in (a.double(), b.double()))
    # Each row is scaled to norm 1 first, since a product of small sums may vanish.
    value = (a / a.norm(dim=1, keepdim=True) * (b / b.norm(dim=1, keepdim=True))).sum(1).clamp(-1, 1)
    return torch.where(defined, value, torch.nan)


@dataclass(frozen=True)
class SubsetDrops(RankedDrops):
    """Correlation, per image, of the output drops of random subsets of patches with the attribution summed over each subset.

    Undefined where the drops or the sums of a subset size are constant, or the map is not finite.
    """

    grid: int = param(9, "Patches per side", low=2, high=64)
    samples: int = param(50, "Random subsets of a size", low=3, high=1000)
    baseline: str = param("zeros", "What replaces a deleted patch, in normalised space", choices=BASELINES)
    output: str = param("logit", "Output whose drop is measured", choices=OUTPUTS)
    target: str = param("label", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)
    sign: str = param("signed", "Sum the map as it is, its positive part, or its magnitude", choices=SIGNS)
    undefined: str = param("drop", "Leave images without a correlation out of the mean, or count them as 0", choices=("drop", "zero"))
    seeded = True

    def check(self, model: Classifier, offers: Collection[str] = ()) -> None:
        super().check(model, offers)
        if self.grid > min(model.input_size):
            height, width = model.input_size
            raise ProtocolError(
                f"{self.name}: images of {height} x {width} px have no {self.grid} x {self.grid} patches; choose grid={min(height, width, 9)} or less"
            )

    @property
    @abstractmethod
    def shares(self) -> tuple[float, ...]:
        """Return the shares of the patches in a subset, one for each size."""

    def correlation(self, drops: Tensor, sums: Tensor) -> Tensor:
        """Return the correlation of drops and sums (B,samples), (B,)."""
        return pearson(drops, sums)

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        counts = (min(max(1, round(share * self.grid**2)), self.grid**2 - 1) for share in self.shares)
        return tuple(OutputsOfSubsets(self.grid, count, self.samples, self.baseline) for count in dict.fromkeys(counts))

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        maps = apply_sign(inputs.maps(), self.sign).double()[:, 0]
        patches = patch_of((maps.shape[1], maps.shape[2]), self.grid)
        # Each patch is summed in the same order, so that equal patches tie exactly.
        of_patch = torch.stack([maps[:, patches == k].contiguous().sum(1) for k in range(self.grid**2)], 1)
        values = []
        for measurement in self.measurements:
            assert isinstance(measurement, OutputsOfSubsets)
            outputs = inputs.measured[measurement][self.output].double()
            sums = torch.stack(
                [
                    row[chosen.nonzero()[:, 1].view(self.samples, -1)].sum(1)
                    for item, row in zip(inputs.batch.ids, of_patch, strict=True)
                    for chosen in [subsets(inputs.context, item, self.grid, measurement.count, self.samples)]
                ]
            )
            values.append(self.correlation(outputs[:, :1] - outputs[:, 1:], sums))
        by_size = torch.stack(values, 1)
        return [Outcome(float(row.mean()), {"correlations": row.tolist()}) for row in by_size]


@PROTOCOLS.register
@dataclass(frozen=True)
class FaithfulnessCorrelation(SubsetDrops):
    """Faithfulness correlation: Pearson's, of the drops of random subsets of patches with the attribution summed over each subset.

    With S a random subset of a fixed size, f the logit (or probability) of the target and x_S the image without the patches of S, the
    score is pearson_S(f(x) - f(x_S), sum of a in S). The paper's features are the patches of a grid here.
    """

    name: ClassVar[str] = "faithfulness"
    title: ClassVar[str] = "Faithfulness correlation"
    paper = ENTROPY_PAPER
    reading = "1: the attribution of a subset predicts the drop of the output up to scale and offset. 0: no linear relation."
    share: float = param(0.2, "Share of the patches that are deleted together", low=0.001, high=0.999)

    @property
    def shares(self) -> tuple[float, ...]:
        return (self.share,)


@PROTOCOLS.register
@dataclass(frozen=True)
class MuFidelity(FaithfulnessCorrelation):
    """MuFidelity: faithfulness correlation by ranks, Spearman's, on the same subsets and passes.

    The defaults for grid and share, 9 patches per side and a fifth of them, are those under which it is usually reported.
    """

    name: ClassVar[str] = "mufidelity"
    title: ClassVar[str] = "MuFidelity"
    reading = "1: attribution and output drop rank the subsets in the same order. 0: no relation."

    def correlation(self, drops: Tensor, sums: Tensor) -> Tensor:
        return spearman(drops, sums)


@PROTOCOLS.register
@dataclass(frozen=True)
class SensitivityN(SubsetDrops):
    """Sensitivity-n: the same correlation as faithfulness, averaged over subsets of 5, 10, 20, 40 and 80 % of the patches.

    The details have the correlation of each size, which the paper plots against n.
    """

    name: ClassVar[str] = "sensitivity-n"
    title: ClassVar[str] = "Sensitivity-n"
    paper = SENSITIVITY_N_PAPER
    reading = "1: at every size, the attribution of a subset predicts the drop of the output up to scale. 0: no linear relation."

    @property
    def shares(self) -> tuple[float, ...]:
        return SHARES
