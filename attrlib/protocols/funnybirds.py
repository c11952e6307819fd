"""The evaluation of FunnyBirds: completeness, correctness and contrastivity of maps of scenes whose parts can be removed."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from attrlib.errors import ProtocolError
from attrlib.models import Classifier
from attrlib.postprocess import are_finite
from attrlib.protocols.base import PROTOCOLS, Cost, Protocol
from attrlib.protocols.context import EvalBatch, ExplanationRequest, Measurement, Outcome
from attrlib.protocols.parts import FUNNYBIRDS_PAPER, RemovedParts, removal_correlation, sums_on
from attrlib.protocols.scenes import ClassParts, RemovedSets, as_classes, class_pairs, confirmed_pair, larger_sets, sufficient_sets
from attrlib.registry import param

THRESHOLDS = tuple(np.linspace(0.01, 0.5, 80).tolist())
"""Shares of the attribution that the paper tries."""
TOLERANCE = 0.05
"""Share of the logit by which it must drop without a part or an object for that to be relevant."""
DIMENSIONS = ("csdc", "pc", "dc", "d")
"""Details that have one value for each threshold."""
CLASSES_ASKED = 4
"""Classes whose maps are read: label, prediction, and a pair of other classes."""


@dataclass(frozen=True)
class SceneOutputs:
    """What the model makes of one scene; no map is read.

    Attributes:
        label: The model's class of the scene.
        predicted: Predicted class without each set of parts, by the set.
        logits: Logits of the scene, and without each part, (1 + P, classes).
        objects: The label's logit without each background object, (M,).
        shown: Whether each part is visible, (P,).
        seen: Whether each background object is visible, (M,).
        classes: The classes with their parts.
    """

    label: int
    predicted: Mapping[frozenset[int], int]
    logits: Tensor
    objects: Tensor
    shown: Tensor
    seen: Tensor
    classes: ClassParts

    @cached_property
    def pair(self) -> tuple[int, int, int, int] | None:
        """Return the two other classes of target sensitivity, each with the part that it shares with the label."""
        return confirmed_pair(class_pairs(self.classes, self.label), self.logits, self.shown.tolist())

    @property
    def prediction(self) -> int:
        """Return the class predicted for the scene itself."""
        return self.predicted[frozenset()]

    @property
    def relevant(self) -> Tensor:
        """Return whether the label's logit drops by 5 % or more without each part and each object, (P + M,)."""
        logit = self.logits[0, self.label]
        drops = logit - torch.cat([self.logits[1:, self.label], self.objects])
        return (drops > 0) & (drops >= TOLERANCE * logit.abs())


@dataclass(frozen=True)
class SceneMaps:
    """The maps of one scene, summed over its parts and objects; what is invisible has the sum 0.

    Attributes:
        total: Sum of the label's map.
        parts: Sum of the label's map over each part, (P,).
        objects: Sum of the label's map over each background object, (M,).
        predicted_total: Sum of the prediction's map.
        predicted_parts: Sum of the prediction's map over each part, (P,).
        pair: Sums of the maps of the pair of classes over each part, (2,P).
    """

    total: Tensor
    parts: Tensor
    objects: Tensor
    predicted_total: Tensor
    predicted_parts: Tensor
    pair: Tensor


def important(sums: Tensor, total: Tensor, visible: Tensor, threshold: float) -> set[int]:
    """Return the numbers of the visible parts (or objects) whose sum exceeds a share of the map's sum.

    Args:
        sums: Sum of the map over each part, (K,).
        total: Sum of the whole map.
        visible: Whether each part is visible, (K,).
        threshold: The share.
    """
    return set((visible & (sums > total * threshold)).nonzero()[:, 0].tolist())


def data_check(scene: SceneOutputs, maps: SceneMaps, threshold: float) -> float:
    """Return CSDC: the largest share of a minimal sufficient set of visible parts that is important; NaN if the prediction is wrong."""
    shown = set(scene.shown.nonzero()[:, 0].tolist())
    sets = [chosen for chosen in sufficient_sets(scene.classes, scene.label) if chosen <= shown]
    if scene.prediction != scene.label or not sets:
        return math.nan
    found = important(maps.parts, maps.total, scene.shown, threshold)
    return max(len(chosen & found) / len(chosen) for chosen in sets)


def preservation_and_deletion(scene: SceneOutputs, maps: SceneMaps, threshold: float) -> tuple[float, float]:
    """Return PC and DC: whether the prediction stays with the important parts alone, and whether it changes without them."""
    found = frozenset(important(maps.predicted_parts, maps.predicted_total, scene.shown, threshold))
    others = frozenset(range(len(scene.shown))) - found
    return float(scene.predicted[others] == scene.prediction), float(scene.predicted[found] != scene.prediction)


def distractibility(scene: SceneOutputs, maps: SceneMaps, threshold: float) -> float:
    """Return D: the share of the irrelevant visible parts and objects that are not important; NaN if none is irrelevant."""
    visible = torch.cat([scene.shown, scene.seen])
    irrelevant = set((visible & ~scene.relevant).nonzero()[:, 0].tolist())
    found = important(torch.cat([maps.parts, maps.objects]), maps.total, visible, threshold)
    return 1 - len(irrelevant & found) / len(irrelevant) if irrelevant else math.nan


def target_sensitivity(scene: SceneOutputs, maps: SceneMaps) -> float:
    """Return TS: how often the part that a class shares has a higher sum in its own map than in the other's; NaN without a pair."""
    if scene.pair is None:
        return math.nan
    _, part_a, _, part_b = scene.pair
    a, b = maps.pair
    return (float(a[part_a] > b[part_a]) + float(b[part_b] > a[part_b])) / 2


@PROTOCOLS.register
@dataclass(frozen=True)
class FunnyBirds(Protocol):
    """Mean of completeness, correctness and contrastivity, from scenes without some of their parts and background objects.

    A part is *important* if the map's sum on it exceeds a share t of the map's sum, its *threshold*. With Com averaged over the
    thresholds, the score is (Com + Cor + Con) / 3, where

    - Com = ((CSDC + PC + DC) / 3 + D) / 2. CSDC (controlled synthetic data check) is the largest share of a minimal set of parts that only
      this class has that is important. PC (preservation check) is 1 if the model predicts the same without all other parts, DC (deletion
      check) is 1 if it predicts another class without the important ones. D (distractibility) is the share of irrelevant parts and
      objects that are not important; irrelevant means that the logit drops by less than 5 %.
    - Cor = (SD + 1) / 2, where SD (single deletion) is the score of `parts`.
    - Con = TS (target sensitivity): two other classes each share another part with the bird. It is the share of these two parts whose sum
      is higher in the map of the class that has it than in the map of the class that does not.

    The details also hold the accuracy, and how many visible background objects are relevant, from which background independence (BI)
    follows. `attrlib.analysis.funnybirds` takes the means of each dimension over the images with the best threshold of each method, as the
    paper does; the score of an image averages over all of them, as it must not depend on the other images.

    Differences from the paper, whose numbers are for its own data: two birds share at most one part, there two; the pair is the first that
    the model confirms, there the first; maps are summed over the exact pixels of a part, there with a margin; what cannot be seen is left out.
    The score is undefined where the prediction is wrong, SD is undefined, nothing is irrelevant, no pair is confirmed, or a map is not finite.
    """

    name: ClassVar[str] = "funnybirds"
    title: ClassVar[str] = "FunnyBirds"
    paper = FUNNYBIRDS_PAPER
    bounds = (0.0, 1.0)
    needs = ("parts", "scenes")
    other_maps = "maps of other classes"
    reading = (
        "1: the map marks what the model needs and nothing else, ranks the parts as the output drops, and differs between classes as they do. "
        "See the dimensions: a mean may hide that one of them fails."
    )
    threshold: float | None = param(
        None, "Share of the map's sum above which a part is important", low=0.001, high=0.999, auto="the mean over 80 from 0.01 to 0.5"
    )

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Return the thresholds, in increasing order."""
        return THRESHOLDS if self.threshold is None else (self.threshold,)

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        return (RemovedParts(), RemovedSets())

    @property
    def cost(self) -> Cost:
        return Cost(targets=CLASSES_ASKED)

    def check(self, model: Classifier, offers: Collection[str] = ()) -> None:
        super().check(model, offers)
        if not model.outputs.has_classes:
            raise ProtocolError(f"{self.name} compares classes, but {model.name} predicts a number; choose parts:target=prediction")

    def requests(self, inputs: EvalBatch) -> list[ExplanationRequest]:
        pairs = [scene.pair or (scene.label, 0, scene.label, 0) for scene in self._scenes(inputs)]
        predictions = inputs.measured[RemovedParts()]["logits"][:, 0].argmax(1)
        others = torch.tensor([(first, second) for first, _, second, _ in pairs], device=inputs.targets.device)
        targets = torch.cat([inputs.targets[:, None], predictions[:, None].to(inputs.targets.device), others], 1)
        return [ExplanationRequest(inputs.context.model, inputs.batch.images, targets, keys=inputs.batch.ids)]

    def evaluate(self, inputs: EvalBatch) -> list[Outcome]:
        assert inputs.batch.parts is not None, "check() refuses data without scenes"
        assert inputs.batch.objects is not None, "check() refuses data without scenes"
        (request,) = self.requests(inputs)
        maps = inputs.maps(request).double()
        rows = zip(self._scenes(inputs), maps, inputs.batch.parts.cpu(), inputs.batch.objects.cpu(), strict=True)
        return [self._outcome(scene, values, parts, objects) for scene, values, parts, objects in rows]

    def _outcome(self, scene: SceneOutputs, maps: Tensor, parts: Tensor, objects: Tensor) -> Outcome:
        of_label, of_prediction, *of_pair = maps
        sums = SceneMaps(
            of_label.sum(), sums_on(of_label, parts), sums_on(of_label, objects), of_prediction.sum(), sums_on(of_prediction, parts),
            torch.stack([sums_on(values, parts) for values in of_pair]),
        )  # fmt: skip
        defined = bool(are_finite(maps).all())
        curves = {name: [math.nan] * len(self.thresholds) for name in DIMENSIONS}
        if defined:
            checks = [preservation_and_deletion(scene, sums, t) for t in self.thresholds]
            curves = {
                "csdc": [data_check(scene, sums, t) for t in self.thresholds],
                "pc": [kept for kept, _ in checks],
                "dc": [lost for _, lost in checks],
                "d": [distractibility(scene, sums, t) for t in self.thresholds],
            }
        drops = scene.logits[:1, scene.label] - scene.logits[1:, scene.label]
        single = (removal_correlation(drops, sums.parts, scene.shown) + 1) / 2
        sensitivity = target_sensitivity(scene, sums) if defined else math.nan
        relevant = scene.relevant[len(scene.shown) :] & scene.seen
        csdc, pc, dc, d = (float(np.mean(curves[name])) for name in DIMENSIONS)
        completeness = ((csdc + pc + dc) / 3 + d) / 2
        details = curves | {
            "accuracy": [float(scene.prediction == scene.label)],
            "relevant": [float(relevant.sum())],
            "objects": [float(scene.seen.sum())],
            "sd": [single],
            "ts": [sensitivity],
            "sums": sums.parts.tolist(),
        }
        return Outcome((completeness + single + sensitivity) / 3, details)

    def _scenes(self, inputs: EvalBatch) -> list[SceneOutputs]:
        """Return what the model makes of each scene of the batch."""
        batch = inputs.batch
        assert batch.parts is not None, "check() refuses data without scenes"
        assert batch.objects is not None, "check() refuses data without scenes"
        assert batch.class_parts is not None, "items have classes of the data"
        shown, seen = (masks.flatten(2).any(2).cpu() for masks in (batch.parts, batch.objects))
        logits = inputs.measured[RemovedParts()]["logits"].double()
        sets = [frozenset(), *({part} for part in range(shown.shape[1])), *larger_sets(shown.shape[1])]
        few, many, objects = (
            logits.argmax(2),
            inputs.measured[RemovedSets()]["predicted"],
            inputs.measured[RemovedSets()]["objects"].double(),
        )
        return [
            SceneOutputs(
                label,
                {frozenset(chosen): int(found) for chosen, found in zip(sets, [*few[row], *many[row]], strict=True)},
                logits[row],
                objects[row],
                shown[row],
                seen[row],
                as_classes(batch.class_parts),
            )
            for row, label in enumerate(inputs.targets.tolist())
        ]
