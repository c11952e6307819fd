"""The reliability of a deletion baseline: how well a model recognises images of which patches are deleted at random."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrlib.deletion import BASELINES, patch_masks
from attrlib.models import Classifier
from attrlib.protocols.base import PROTOCOLS, Cost, Protocol
from attrlib.protocols.context import Batch, EvalBatch, EvalContext, Measurement, Outcome
from attrlib.protocols.deletion import check_grid, deletion_of, outputs_of
from attrlib.protocols.incremental import SRG_PAPER
from attrlib.registry import param


@dataclass(frozen=True)
class RandomDeletions(Measurement):
    """The target's probability with 0 to grid * grid - 1 patches deleted, in a random order for each image: (B, grid * grid)."""

    grid: int
    baseline: str
    seeded = True

    def measure(self, context: EvalContext, batch: Batch, targets: Tensor) -> dict[str, Tensor]:
        delete, count = deletion_of(self.baseline, context, batch), self.grid**2
        patches = patch_masks(batch.images.shape[2], batch.images.shape[3], self.grid)[:, 0]
        orders = torch.stack([torch.randperm(count, generator=context.generator(item, "order")) for item in batch.ids])
        deleted = torch.zeros(len(batch), *patches.shape[1:], dtype=torch.bool)
        logits = [context.logits(batch.images)]
        for step in range(count - 1):
            deleted = deleted | patches[orders[:, step]]
            logits.append(context.logits(delete(deleted)))
        return {"probability": outputs_of(context.model, torch.stack(logits, 1), targets)["probability"]}

    def forwards(self) -> float:
        return self.grid**2


@PROTOCOLS.register
@dataclass(frozen=True)
class Reliability(Protocol):
    """R-OMS: mean probability that the model gives its own prediction with some patches deleted at random.

    With n = grid^2 patches in one random order, the score is the mean over s = 1 ... n - 1 of P(x without the first s patches), where P
    is the probability of the class predicted for x. It says how reliably the model judges the images of `sds`, `idsds` and other
    deletion protocols with this baseline. What fine-tuning on deleted patches buys is its difference between the tuned model and the
    original one. No map is read, so all methods have the same score.
    """

    name = "roms"
    title = "R-OMS"
    paper = SRG_PAPER
    bounds = (0.0, 1.0)
    needs_probability = True
    seeded = True
    reading: ClassVar[str] = (
        "1: the model recognises images of which most is deleted. A low score means that deleted patches are out of its scope, and that "
        "deletion protocols measure artefacts. It is the same for every method."
    )
    grid: int = param(4, "Patches per side", low=2, high=16)
    baseline: str = param("zeros", "What replaces deleted patches, in normalised space", choices=BASELINES)

    @property
    def target_choice(self) -> str:
        return "prediction"

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        return (RandomDeletions(self.grid, self.baseline),)

    @property
    def cost(self) -> Cost:
        return Cost(inputs=0)

    def check(self, model: Classifier, offers: Collection[str] = ()) -> None:
        super().check(model, offers)
        check_grid(self.name, self.grid, model)

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        curves = inputs.measured[self.measurements[0]]["probability"].double()
        return [Outcome(float(curve[1:].mean()), {"curve": curve.tolist()}) for curve in curves]
