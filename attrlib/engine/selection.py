"""Select the items of a run; grids depend on the models' predictions."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from attrlib.data.datasets import Dataset
from attrlib.data.labels import match_classes, match_notes
from attrlib.engine.evaluations import ItemGroup
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import (
    REASONS_SHOWN,
    UNKNOWN,
    EvalItem,
    Present,
    Selection,
    compose_grids,
    grid_items,
    image_items,
    labels_of_images,
    unreadable_note,
)
from attrlib.errors import DataError, ImageError
from attrlib.models import Classifier
from attrlib.models.outputs import PREDICTED
from attrlib.progress import Progress, no_progress
from attrlib.protocols import Prediction
from attrlib.protocols.localisation import Localisation
from attrlib.specs import RunSpec

Unpredicted = Mapping[int, tuple[EvalItem, ...]]
"""Images whose prediction is missing, by the number of the model: 0 for the run's model, then its filter models."""


def class_map(spec: RunSpec, model: Classifier, data: Dataset) -> Sequence[int]:
    """Return the model's class for each class of the data.

    Args:
        spec: The run, which says how classes are matched.
        model: The classifier.
        data: The data set.

    Raises:
        DataError: If the classes do not match, or the model predicts numbers.
    """
    if not model.outputs.has_classes:
        raise DataError(
            f"{model.name} predicts a number, so the labels of the data are not classes of it; choose target=prediction, which explains the number"
        )
    try:
        return match_classes(data.class_names, model.class_names, spec.classes) if data.class_names else ()
    except DataError as error:
        # With filter models, the error must name the model.
        raise DataError(f"{model.name}: {error}" if spec.filter_models else str(error)) from None


def select(
    group: ItemGroup, spec: RunSpec, data: Dataset, evaluators: Sequence[Evaluator], on_progress: Progress = no_progress
) -> tuple[Selection, Unpredicted]:
    """Return the items of a group, and the images whose predictions must be computed before grids can be composed.

    Args:
        group: The evaluations.
        spec: The run.
        data: The data set.
        evaluators: Evaluators of the run's model and of each filter model.
        on_progress: Called with the number of images found and wanted.

    Returns:
        The items and an empty mapping, or the candidate images and those whose prediction is missing.

    Raises:
        DataError: If there are no items.
    """
    if group.grids is None:
        return _select_images(group, spec, data, evaluators[0].model, on_progress), {}
    classes = [class_map(spec, each.model, data) for each in evaluators]
    candidates = image_items(data, classes[0], None, spec.seed, labelled=True, on_progress=on_progress)
    ids = [item.id for item in candidates.items]
    predictions = [each.cache.records(each.keys.measurement(Prediction())[1], ids) for each in evaluators]
    unpredicted = {
        number: missing
        for number, cached in enumerate(predictions)
        if (missing := tuple(item for item in candidates.items if item.id not in cached))
    }
    if unpredicted:
        return candidates, unpredicted

    def confidence(item: EvalItem) -> float:
        """Return the lowest probability of the label over the models; -1 if one predicts another class, or the image is unreadable."""
        label = next((own for own in data.labels(item.images[0]) if classes[0][own] == item.labels[0]), None)
        if label is None:
            return -1.0
        # The models may number the classes of the data differently.
        return min(_confidence(cached[item.id].details, of[label]) for cached, of in zip(predictions, classes, strict=True))

    unreadable = [
        item for item in {item.id: item for item in candidates.items}.values() if not all(own[item.id].details for own in predictions)
    ]
    confidences = {item: confidence(item) for item in candidates.items}
    passed = [item for item, probability in confidences.items() if probability >= group.grids.confidence]
    models = [each.model for each in evaluators]
    of = f" of {' and '.join(model.name for model in models)}" if len(models) > 1 else ""
    text = f"confidence={group.grids.confidence:g}{of}"
    present = labels_of_images(candidates.items)
    try:
        grids = grid_items(passed, len(candidates.items), group.grids.grid, group.grids.corners, text, spec.limit, spec.seed, present)
    except DataError as error:
        raise DataError(f"{error} ({_highest_confidence(confidences, group.grids, present)})") from None
    notes = unreadable_note([_reason(data, item) for item in unreadable[:REASONS_SHOWN]], len(unreadable))
    return Selection(grids.items, (*candidates.notes, *notes, *grids.notes, *_match_notes(spec, models, data))), {}


def _confidence(details: Mapping[str, Any], label: int) -> float:
    """Return the probability of the label; -1 if the model predicts another class, or not this label, or nothing was measured."""
    if "probabilities" in details:
        probability = float(details["probabilities"][label])
        return probability if probability >= PREDICTED else -1.0
    return float(details["probability"]) if details and details["class"] == label else -1.0


def _select_images(group: ItemGroup, spec: RunSpec, data: Dataset, model: Classifier, on_progress: Progress) -> Selection:
    labelled = group.target_choice == "label"
    try:
        classes = class_map(spec, model, data)
    except DataError:
        if labelled:
            raise
        classes = [UNKNOWN] * len(data.class_names)
    selection = image_items(data, classes, spec.limit, spec.seed, labelled, on_progress)
    return replace(selection, notes=(*selection.notes, *_match_notes(spec, [model], data))) if labelled else selection


def _match_notes(spec: RunSpec, models: Sequence[Classifier], data: Dataset) -> list[str]:
    return [note for model in models for note in match_notes(data.class_names, model.class_names, spec.classes)]


def _highest_confidence(confidences: Mapping[EvalItem, float], grids: Localisation, present: Present) -> str:
    """Return a sentence with the highest confidence at which the images allow a grid."""
    thresholds = sorted({probability for probability in confidences.values() if probability >= 0}, reverse=True)

    def allows(confidence: float) -> bool:
        passed = [item for item, probability in confidences.items() if probability >= confidence]
        return bool(compose_grids(passed, present, grids.grid, grids.corners, seed=0))

    index = bisect_left(thresholds, True, key=allows)
    if index == len(thresholds):
        return f"no confidence allows one{'' if present else ': images of too few classes are classified correctly'}"
    return f"confidence={math.floor(thresholds[index] * 1000) / 1000:g} allows one"


def _reason(data: Dataset, item: EvalItem) -> str:
    try:
        return f"{data[item.images[0]].name} could not be read"
    except ImageError as error:
        return str(error)
