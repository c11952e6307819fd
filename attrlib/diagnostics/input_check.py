"""Whether the input goes in as the network expects it: accuracy, or confidence, under the chosen preprocessing and under others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attrlib.data.datasets import Dataset, Item
from attrlib.data.labels import match_classes, match_notes
from attrlib.errors import DataError, ImageError, ProtocolError
from attrlib.models import Classifier, Preprocessing
from attrlib.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from attrlib.progress import Progress, no_progress
from attrlib.statistics import Difference, paired_difference

NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ImageNet": (IMAGENET_MEAN, IMAGENET_STD),
    "−1 to 1": ((0.5,) * 3, (0.5,) * 3),
    "0 to 1": ((0.0,) * 3, (1.0,) * 3),
    "0 to 255": ((0.0,) * 3, (1 / 255,) * 3),
}
"""Mean and std of three channels that networks are trained with, named by what they make of colours."""
LIMIT = 100
"""Number of pictures that are compared by default."""
_ROWS = 16


@dataclass(frozen=True, eq=False)
class Trial:
    """How a model does under one preprocessing.

    Attributes:
        name: What differs from the chosen preprocessing.
        changes: The fields of `Preprocessing` that differ, with their values; none for the chosen one.
        values: One number for each picture: whether the prediction is right, or the highest probability.
    """

    name: str
    changes: dict[str, Any]
    values: np.ndarray = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True, eq=False)
class InputCheck:
    """A model under the chosen preprocessing and under others, on the same pictures.

    Attributes:
        trials: The chosen preprocessing, then the others.
        labelled: Whether the values are those of predictions with labels, else highest probabilities.
        unreadable: Number of pictures that could not be read.
        notes: What was assumed of the data and its classes.
    """

    trials: tuple[Trial, ...]
    labelled: bool
    unreadable: int = 0
    notes: tuple[str, ...] = ()

    @property
    def measure(self) -> str:
        """Return the name of the mean of the values."""
        return "accuracy" if self.labelled else "mean top-1 probability"

    @property
    def count(self) -> int:
        """Return the number of pictures."""
        return len(self.trials[0].values)

    def difference(self, trial: Trial) -> Difference:
        """Return how much higher the values of a trial are than those of the chosen preprocessing, with a 95 % CI."""
        return paired_difference(trial.values, self.trials[0].values)

    @property
    def better(self) -> Trial | None:
        """Return the trial with the highest mean, if it is significantly better than the chosen preprocessing; else None."""
        best = max(self.trials, key=lambda trial: trial.values.mean())
        difference = self.difference(best)
        return best if difference.mean > 0 and not difference.tie else None

    @property
    def sentence(self) -> str:
        """Return what the comparison says of the chosen preprocessing."""
        chosen, best = self.trials[0], self.better
        pictures = f"{self.count} picture{'s' if self.count != 1 else ''}"
        if best is None:
            return f"no other preprocessing gives a significantly higher {self.measure} than the chosen one ({pictures})"
        low, high = (f"{100 * bound:.0f}" for bound in (self.difference(best).low, self.difference(best).high))
        return (
            f"with {best.name} the {self.measure} is {100 * best.values.mean():.0f} % instead of {100 * chosen.values.mean():.0f} % "
            f"(difference: 95 % CI {low} to {high} points, {pictures}); the network may have been trained with that"
        )


def check_input(
    model: Classifier, data: Dataset, by: str = "auto", limit: int = LIMIT, seed: int = 0, on_progress: Progress = no_progress
) -> InputCheck:
    """Compare the chosen preprocessing of a model with others that are in use, on some pictures of a data set.

    On labelled pictures the accuracies are compared, on others the probabilities of the predicted classes. Networks are less certain,
    and less often right, where the input is not as in the training. For labels that exclude each other or not, see `Outputs.correct`.

    Args:
        model: The classifier.
        data: The data set. If some of its pictures have labels, the others are left out.
        by: How its classes are matched to those of the model, see `match_classes`.
        limit: Greatest number of pictures.
        seed: Seed with which pictures are drawn.
        on_progress: Called before each batch with the number of pictures done and their total.

    Raises:
        ProtocolError: The model predicts numbers, which are neither right nor certain.
        DataError: No picture can be read, or the classes do not match.
        ImageError: The pictures do not have the channels of the model.
    """
    if not model.outputs.has_classes:
        raise ProtocolError("the model predicts a number, so there is neither an accuracy nor a probability to compare")
    order = data.order(seed)
    labelled = [index for index in order if data.labels(index)]
    classes = match_classes(data.class_names, model.class_names, by) if labelled else ()
    notes = match_notes(data.class_names, model.class_names, by) if labelled else ()
    indices = sorted((labelled or order)[:limit])
    trials, values, unreadable = alternatives(model.preprocessing, bool(labelled)), [], 0
    for first in range(0, len(indices), _ROWS):
        on_progress(first, len(indices))
        pictures, labels = [], []
        for index in indices[first : first + _ROWS]:
            try:
                pictures.append(data[index])
            except ImageError:
                unreadable += 1
            else:
                labels.append(data.labels(index))
        if pictures:
            present = _present(labels, classes, len(model.class_names)) if labelled else None
            values.append([_values(model, trial, pictures, present) for trial in trials])
    if not values:
        raise DataError(f"{data.name} has no picture that can be read; choose other data to check the input on")
    joined = np.concatenate(values, 1)
    return InputCheck(
        tuple(replace(trial, values=row) for trial, row in zip(trials, joined, strict=True)),
        bool(labelled),
        unreadable,
        (*data.notes, *notes),
    )


def alternatives(chosen: Preprocessing, labelled: bool) -> list[Trial]:
    """Return the chosen preprocessing and others to compare it with, without values.

    Args:
        chosen: The preprocessing of the model.
        labelled: Whether accuracies are compared. Inputs up to 255 make nearly every network certain of something, so they are no
            alternative where probabilities are compared.
    """
    return [Trial("the chosen preprocessing", {}), *_alternatives(chosen, labelled)]


def _alternatives(chosen: Preprocessing, labelled: bool) -> Iterator[Trial]:
    for name, (mean, std) in normalisations(len(chosen.mean)).items():
        if not _close((mean, std), (chosen.mean, chosen.std)) and (labelled or name != "0 to 255"):
            yield Trial(f"the normalisation {name}", {"mean": mean, "std": std})
    if chosen.fit == "squash":
        yield Trial("a crop instead of squashing", {"fit": "centre"})
    else:
        yield Trial("squashing instead of a crop", {"fit": "squash"})


def normalisations(channels: int) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
    """Return mean and std of the normalisations in use for a number of channels; ImageNet's is one of three channels only."""
    if channels == len(IMAGENET_MEAN):
        return NORMALISATIONS
    return {name: (mean[:1] * channels, std[:1] * channels) for name, (mean, std) in NORMALISATIONS.items() if name != "ImageNet"}


def _close(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> bool:
    return all(np.allclose(x, y, rtol=0, atol=1e-3) for x, y in zip(a, b, strict=True))


def _present(labels: Sequence[Sequence[int]], classes: Sequence[int], count: int) -> Tensor:
    present = torch.zeros(len(labels), count, dtype=torch.bool)
    for row, of_picture in enumerate(labels):
        present[row, [classes[label] for label in of_picture]] = True
    return present


def _values(model: Classifier, trial: Trial, pictures: Sequence[Item], present: Tensor | None) -> np.ndarray:
    preprocessing = replace(model.preprocessing, **trial.changes)
    images = torch.stack([preprocessing(picture) for picture in pictures])
    with model.session(), torch.no_grad():
        logits = model.logits(model.place(images)).cpu()
    if present is not None:
        return model.outputs.correct(logits, present).numpy().astype(float)
    return model.outputs.probabilities(logits).amax(1).numpy().astype(float)
