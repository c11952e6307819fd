"""Single deletion protocols: IDSDS and SDS."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrlib.deletion import BASELINES, SEEDED_BASELINES, Deletion, cells, patch_masks
from attrlib.errors import ProtocolError
from attrlib.models import Classifier
from attrlib.postprocess import apply_sign
from attrlib.protocols.base import PROTOCOLS, Protocol
from attrlib.protocols.context import Batch, EvalBatch, EvalContext, Measurement, Outcome
from attrlib.registry import Paper, param
from attrlib.specs import SIGNS
from attrlib.statistics import spearman

IDSDS_PAPER = Paper("Hesse et al. 2024", "Benchmarking the Attribution Quality of Vision Models", "https://arxiv.org/abs/2407.11910")
TARGETS = ("label", "prediction")
OUTPUTS = ("logit", "probability")


def deletion_of(baseline: str, context: EvalContext, batch: Batch) -> Deletion:
    """Return the deletion of pixels of a batch. Random values are drawn from the seed and each image's content.

    Args:
        baseline: Name of the baseline, one of `BASELINES`.
        context: The context, whose seed is used.
        batch: The images.
    """
    shape = batch.images.shape[1:]
    return Deletion(
        baseline,
        batch.images,
        lambda sample: torch.stack([sample(shape, generator=context.generator(item, "baseline")) for item in batch.ids]),
    )


def outputs_of(model: Classifier, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return the target's logit and probability for each of an item's K images, (B,K) each; of a model of numbers, only the number.

    Args:
        model: The model.
        logits: Logits of the images, (B,K,C).
        targets: Target class of each item, (B,).
    """
    chosen = targets[:, None, None].expand(-1, logits.shape[1], 1)
    outputs = {"logit": logits.gather(2, chosen)[..., 0]}
    if model.outputs.has_classes:
        # In float64: near probability 1, different drops would be equal in float32.
        outputs["probability"] = model.probabilities(logits.double()).gather(2, chosen)[..., 0]
    return outputs


def check_grid(protocol: str, grid: int, model: Classifier) -> None:
    """Check that a model's images can be divided into grid * grid equal patches.

    Args:
        protocol: Name of the protocol, for the error.
        grid: Patches per side.
        model: The model.

    Raises:
        ProtocolError: If they cannot; the message names grids that fit.
    """
    height, width = model.input_size
    if height % grid or width % grid:
        fitting = ", ".join(str(n) for n in range(2, 17) if height % n == width % n == 0)
        raise ProtocolError(
            f"{protocol}: images of {height} x {width} px cannot be divided into {grid} x {grid} equal patches; "
            f"choose {f'grid={fitting}' if fitting else 'a model with another input size'}"
        )


@dataclass(frozen=True)
class OutputOfImage(Measurement):
    """The target's logit and probability for the image, (B,1) each."""

    def measure(self, context: EvalContext, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
        return outputs_of(context.model, context.logits(batch.images)[:, None], targets)

    def forwards(self) -> float:
        return 1


@dataclass(frozen=True)
class OutputsOfDeletions(Measurement):
    """The target's logit and probability for the image, and with each patch of a grid deleted: (B, 1 + grid * grid) each."""

    grid: int
    baseline: str

    @property
    def seeded(self) -> bool:  # type: ignore[override]
        """Return whether the values depend on the seed: some baselines are drawn from it."""
        return self.baseline in SEEDED_BASELINES

    def measure(self, context: EvalContext, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
        delete = deletion_of(self.baseline, context, batch)
        patches = patch_masks(batch.images.shape[2], batch.images.shape[3], self.grid)
        logits = [context.logits(batch.images), *(context.logits(delete(patch)) for patch in patches)]
        return outputs_of(context.model, torch.stack(logits, 1), targets)

    def forwards(self) -> float:
        return 1 + self.grid**2


class RankedDrops(Protocol):
    """Base class of rank correlations of output drops with attributions.

    A subclass has the parameters `output`, one of `OUTPUTS`, and `undefined`: `drop` or `zero`.
    """

    bounds = (-1.0, 1.0)
    chance = 0.0
    output: str
    undefined: str

    @property
    def needs_probability(self) -> bool:
        return self.output == "probability"

    @property
    def undefined_value(self) -> float:
        return 0.0 if self.undefined == "zero" else math.nan

    def key(self) -> dict[str, object]:
        # The policy for undefined images does not change the value of any image.
        return {name: value for name, value in super().key().items() if name != "undefined"}


@dataclass(frozen=True)
class SingleDeletion(RankedDrops):
    """Rank correlation, per image, of the output drops of single deleted patches with the attribution summed over each patch.

    With f the logit (or probability) of the target, x_i the image without patch i, and a the map at the image's size, the score
    is spearman_i(f(x) - f(x_i), sum of a in patch i). Ties get average ranks. The score is undefined where either side is constant.
    """

    paper = IDSDS_PAPER
    reading = "1: attribution and output drop rank the patches in the same order. 0: no relation."
    grid: int = param(4, "Patches per side", low=2, high=16)
    baseline: str = param("zeros", "What replaces a deleted patch, in normalised space", choices=BASELINES)
    output: str = param(
        "logit", "Output whose drop is measured: the logit, or the probability (softmax, or the sigmoid of labels)", choices=OUTPUTS
    )
    target: str = param("label", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)
    sign: str = param("signed", "Sum the map as it is, its positive part, or its magnitude", choices=SIGNS)
    undefined: str = param("drop", "Leave images without a correlation out of the mean, or count them as 0", choices=("drop", "zero"))

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        return (OutputsOfDeletions(self.grid, self.baseline),)

    @property
    def seeded(self) -> bool:  # type: ignore[override]
        """Return whether the values depend on the seed: some baselines are drawn from it."""
        return self.baseline in SEEDED_BASELINES

    def check(self, model: Classifier, offers: Collection[str] = ()) -> None:
        super().check(model, offers)
        check_grid(self.name, self.grid, model)

    def key(self) -> dict[str, object]:
        # IDSDS and SDS are the same computation, so they share cached results.
        return super().key() | {"protocol": "single deletion"}

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        outputs = inputs.measured[self.measurements[0]][self.output].double()
        maps = apply_sign(inputs.maps(), self.sign).double()
        # Every patch is summed in the same order, so that the patches of a constant map tie exactly.
        sums = torch.stack([patch.contiguous().sum((1, 2, 3)) for patch in cells(maps, self.grid)], 1)
        values = spearman(outputs[:, :1] - outputs[:, 1:], sums)
        return [Outcome(float(value), {"sums": row.tolist()}) for value, row in zip(values, sums, strict=True)]


@PROTOCOLS.register
@dataclass(frozen=True)
class IDSDS(SingleDeletion):
    """In-domain single deletion score: SDS on a model that was fine-tuned on images with deleted patches."""

    name: ClassVar[str] = "idsds"
    title: ClassVar[str] = "IDSDS"
    needs = ("a model fine-tuned on deleted patches",)

    def check(self, model: Classifier, offers: Collection[str] = ()) -> None:
        super().check(model, offers)
        if not model.deletion_tuned:
            raise ProtocolError(
                f"{model.name} was not fine-tuned on images with deleted patches, so deleted patches are out of its domain and idsds is not "
                "defined; use sds (the same score without this requirement), or fine-tune the model on deleted patches"
            )


@PROTOCOLS.register
@dataclass(frozen=True)
class SDS(SingleDeletion):
    """Single deletion score: IDSDS for models that were not fine-tuned on deleted patches, which are out of their domain."""

    name: ClassVar[str] = "sds"
    title: ClassVar[str] = "SDS"
