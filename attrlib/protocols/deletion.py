"""Deletion protocols: the single deletion scores IDSDS and SDS, and the incremental deletion score."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrlib.deletion import BASELINES, cells, replacement
from attrlib.errors import ProtocolError
from attrlib.models import Classifier
from attrlib.postprocess import apply_sign, are_finite
from attrlib.protocols.base import PROTOCOLS, Cost, Protocol
from attrlib.protocols.context import Batch, EvalBatch, EvalContext, Measurement, Outcome
from attrlib.registry import Paper, param
from attrlib.specs import SIGNS
from attrlib.statistics import spearman

IDSDS_PAPER = Paper("Hesse et al. 2024", "Benchmarking the Attribution Quality of Vision Models", "https://arxiv.org/abs/2407.11910")
TARGETS = ("label", "prediction")
OUTPUTS = ("logit", "probability")


def baseline_values(baseline: str, context: EvalContext, batch: Batch) -> Tensor:
    """Return the values that replace deleted pixels, for each image of a batch.

    Random values are drawn from the seed and the image's content.

    Args:
        baseline: Name of the baseline, one of `BASELINES`.
        context: The context, whose seed is used.
        batch: The images.
    """
    shape = batch.images.shape[1:]
    draw = lambda: torch.stack([torch.rand(shape, generator=context.generator(item, "baseline")) for item in batch.ids])  # noqa: E731
    return replacement(baseline, batch.images, draw)


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


@dataclass(frozen=True)
class OutputsOfDeletions(Measurement):
    """The target's logit and probability for the image, and with each patch of a grid deleted: (B, 1 + grid * grid) each."""

    grid: int
    baseline: str

    @property
    def seeded(self) -> bool:  # type: ignore[override]
        """Return whether the values depend on the seed: a random baseline is drawn from it."""
        return self.baseline == "random"

    def measure(self, context: EvalContext, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
        replacement_values = cells(baseline_values(self.baseline, context, batch), self.grid)
        logits = [context.logits(batch.images)]
        for index, patch in enumerate(replacement_values):
            deleted = batch.images.clone()
            cells(deleted, self.grid)[index].copy_(patch)
            logits.append(context.logits(deleted))
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
        """Return whether the values depend on the seed: a random baseline is drawn from it."""
        return self.baseline == "random"

    def check(self, model: Classifier, offers: Collection[str] = ()) -> None:
        super().check(model, offers)
        height, width = model.input_size
        if height % self.grid or width % self.grid:
            fitting = ", ".join(str(n) for n in range(2, 17) if height % n == width % n == 0)
            raise ProtocolError(
                f"{self.name}: images of {height} x {width} px cannot be divided into {self.grid} x {self.grid} equal patches; "
                f"choose {f'grid={fitting}' if fitting else 'a model with another input size'}"
            )

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


ORDERS = ("ascending", "descending")


@PROTOCOLS.register
@dataclass(frozen=True)
class IncrementalDeletion(Protocol):
    """Incremental deletion score: mean probability of the target while more and more pixels are deleted or inserted.

    After step i of n, floor(H W i / n) pixels, in order of attribution, are replaced by the baseline (`deletion`), or
    shown on the baseline (`insertion`). Ties are broken in reading order. The score is undefined where a map is not finite.
    """

    name = "ids"
    title = "Incremental deletion"
    paper = IDSDS_PAPER
    bounds = (0.0, 1.0)
    reading = (
        "Deletion, least relevant first: a high score means that the model does not need the pixels with low attribution. Most relevant "
        "first: a low score means that it needs those with high attribution. Insertion: the reverse."
    )
    mode: str = param("deletion", "Delete from the image, or insert into the baseline", choices=("deletion", "insertion"))
    order: str = param("ascending", "Least relevant pixels first, or most relevant first", choices=ORDERS)
    steps: int = param(32, "Number of steps, from no pixels to nearly all", low=2, high=1000)
    baseline: str = param("zeros", "What replaces deleted pixels, in normalised space", choices=BASELINES)
    target: str = param("label", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)
    sign: str = param("signed", "Order by the map as it is, its positive part, or its magnitude", choices=SIGNS)
    needs_probability = True
    update: bool = param(False, "Recompute the map at every step; pixels that are already deleted or inserted stay that way")

    @property
    def higher_is_better(self) -> bool:
        return (self.order == "ascending") == (self.mode == "deletion")

    @property
    def seeded(self) -> bool:  # type: ignore[override]
        """Return whether the values depend on the seed: a random baseline is drawn from it."""
        return self.baseline == "random"

    @property
    def other_maps(self) -> str:  # type: ignore[override]
        """Return what is needed besides the maps of the images as they are."""
        return "maps of partly deleted images with update=true" if self.update else ""

    @property
    def cost(self) -> Cost:
        return Cost(inputs=self.steps if self.update else 1, forwards=self.steps)

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        images = inputs.batch.images
        pixels = images.shape[2] * images.shape[3]
        replacement_values = baseline_values(self.baseline, inputs.context, inputs.batch)
        begin, end = (images, replacement_values) if self.mode == "deletion" else (replacement_values, images)
        current, done = begin, torch.zeros(len(images), pixels, dtype=torch.bool)
        maps = inputs.maps()
        priority, defined = self._priority(maps), are_finite(maps)
        curve = []
        for step in range(self.steps):
            count = pixels * step // self.steps
            if step and self.update:
                maps = inputs.maps(inputs.changed(current))
                priority, defined = self._priority(maps), defined & are_finite(maps)
            chosen = priority.masked_fill(done, math.inf).argsort(dim=1, descending=True, stable=True)[:, :count]
            done = torch.zeros_like(done).scatter_(1, chosen, True)
            shown = done.view(-1, 1, *images.shape[2:]).to(images.device)
            current = torch.where(shown, end, begin)
            probabilities = inputs.context.model.probabilities(inputs.context.logits(current))
            curve.append(probabilities.gather(1, inputs.targets[:, None])[:, 0].double())
        curves = torch.stack(curve, 1)
        means = torch.where(defined, curves.mean(1), math.nan)
        return [Outcome(float(mean), {"curve": row.tolist()}) for mean, row in zip(means, curves, strict=True)]

    def _priority(self, maps: Tensor) -> Tensor:
        """Return the priority of each pixel, (B,H*W); the pixels with the highest values are taken first."""
        values = apply_sign(maps, self.sign).flatten(1).double().nan_to_num(0.0)
        return values if self.order == "descending" else -values
