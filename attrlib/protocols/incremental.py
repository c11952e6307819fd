"""Incremental deletion protocols: pixels are deleted or inserted in order of attribution, a few at each step."""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attrlib.deletion import BASELINES, IMPUTED_BASELINES, SEEDED_BASELINES
from attrlib.errors import ProtocolError
from attrlib.models import Classifier
from attrlib.postprocess import apply_sign, are_finite
from attrlib.protocols.base import PROTOCOLS, Cost, Protocol
from attrlib.protocols.context import EvalBatch, Outcome
from attrlib.protocols.deletion import IDSDS_PAPER, TARGETS, deletion_of
from attrlib.registry import Paper, param
from attrlib.specs import SIGNS

SRG_PAPER = Paper(
    "Blücher et al. 2024",
    "Decoupling Pixel Flipping and Occlusion Strategy for Consistent XAI Benchmarks",
    "https://arxiv.org/abs/2401.06654",
)
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
        """Return whether the values depend on the seed: some baselines are drawn from it."""
        return self.baseline in SEEDED_BASELINES

    @property
    def other_maps(self) -> str:  # type: ignore[override]
        """Return what is needed besides the maps of the images as they are."""
        return "maps of partly deleted images with update=true" if self.update else ""

    @property
    def cost(self) -> Cost:
        return Cost(inputs=self.steps if self.update else 1, forwards=self.steps)

    def check(self, model: Classifier, offers: Collection[str] = ()) -> None:
        super().check(model, offers)
        if self.mode == "insertion" and self.baseline in IMPUTED_BASELINES:
            order = next(order for order in ORDERS if order != self.order)
            raise ProtocolError(
                f"{self.name}: insertion begins with no pixel of the image, from which baseline={self.baseline} can impute nothing; choose "
                f"mode=deletion:order={order}, which reads the same curve backwards"
            )

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        images = inputs.batch.images
        pixels = images.shape[2] * images.shape[3]
        delete = deletion_of(self.baseline, inputs.context, inputs.batch)
        nothing = torch.zeros(1, 1, *images.shape[2:], dtype=torch.bool)
        current, done = delete(nothing if self.mode == "deletion" else ~nothing), torch.zeros(len(images), pixels, dtype=torch.bool)
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
            taken = done.view(-1, 1, *images.shape[2:])
            current = delete(taken if self.mode == "deletion" else ~taken)
            probabilities = inputs.context.model.probabilities(inputs.context.logits(current))
            curve.append(probabilities.gather(1, inputs.targets[:, None])[:, 0].double())
        curves = torch.stack(curve, 1)
        means = torch.where(defined, curves.mean(1), math.nan)
        return [Outcome(float(mean), {"curve": row.tolist()}) for mean, row in zip(means, curves, strict=True)]

    def _priority(self, maps: Tensor) -> Tensor:
        """Return the priority of each pixel, (B,H*W); the pixels with the highest values are taken first."""
        values = apply_sign(maps, self.sign).flatten(1).double().nan_to_num(0.0)
        return values if self.order == "descending" else -values


@PROTOCOLS.register
@dataclass(frozen=True)
class SymmetricRelevanceGain(Protocol):
    """Symmetric relevance gain: incremental deletion, least relevant first, minus incremental deletion, most relevant first.

    The score is the area between the two perturbation curves (ABPC). Both are those of `ids` with the same parameters: where `ids`
    has scored a map in one order or both, its results are used. The score is undefined where a map is not finite.
    """

    name = "srg"
    title = "Symmetric relevance gain"
    paper = SRG_PAPER
    bounds = (-1.0, 1.0)
    chance = 0.0
    reading = (
        "1: the model stays certain without all but the most relevant pixels, and loses the class with the first of them. 0: the order "
        "of deletion makes no difference. Below 0: the map ranks the pixels the wrong way round."
    )
    steps: int = param(32, "Number of steps, from no pixels to nearly all", low=2, high=1000)
    baseline: str = param("zeros", "What replaces deleted pixels, in normalised space", choices=BASELINES)
    target: str = param("label", "Class to explain: the image's label, or the model's prediction", choices=TARGETS)
    sign: str = param("signed", "Order by the map as it is, its positive part, or its magnitude", choices=SIGNS)
    needs_probability = True

    @property
    def seeded(self) -> bool:  # type: ignore[override]
        """Return whether the values depend on the seed: those of `ids` do with some baselines."""
        return self.sources[0].seeded

    @property
    def sources(self) -> tuple[Protocol, ...]:
        """Return incremental deletion in both orders."""
        ids = IncrementalDeletion(steps=self.steps, baseline=self.baseline, target=self.target, sign=self.sign)
        return tuple(replace(ids, order=order) for order in ORDERS)

    @property
    def cost(self) -> Cost:
        return Cost(forwards=2 * self.steps)

    def check(self, model: Classifier, offers: Collection[str] = ()) -> None:
        super().check(model, offers)
        self.sources[0].check(model, offers)

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        outcomes = inputs.outcomes(self.sources)
        return [
            Outcome(least.value - most.value, {"ascending": [least.value], "descending": [most.value]})
            for least, most in zip(*outcomes, strict=True)
        ]
