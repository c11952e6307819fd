"""Measure information leakage: how well the class can be predicted from the mask of deleted pixels alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.data.images import Photo
from attrlib.errors import DataError, SpecError
from attrlib.methods import BATCH_SIZE, AttributionOptions, attribute
from attrlib.models import Classifier
from attrlib.progress import Progress, no_progress
from attrlib.registry import Paper
from attrlib.specs import MethodSpec
from attrlib.statistics import Summary, proportion

LEAKAGE_PAPER = Paper(
    "Rong et al. 2022", "A Consistent and Efficient Evaluation Strategy for Attribution Methods", "https://arxiv.org/abs/2202.00449"
)
FOLDS = 5
PENALTY = 0.01
"""Ridge penalty relative to the mean squared length of the features; the held-out accuracy hardly changes around this value."""


@dataclass(frozen=True, eq=False)
class Leakage:
    """The result of `mask_leakage`.

    Attributes:
        masks: True where a pixel is deleted, (N,H,W).
        read: Share of the N classes that were predicted correctly from the masks alone, with its 95 % CI.
        chance: Share of the most frequent class.
    """

    masks: Tensor
    read: Summary
    chance: float

    @property
    def nbytes(self) -> int:
        """Return the bytes of the masks."""
        return self.masks.nbytes


def mask_leakage(
    model: Classifier,
    photos: Sequence[Photo],
    labels: Sequence[int],
    method: MethodSpec,
    share: float,
    seed: int = 0,
    on_progress: Progress = no_progress,
) -> Leakage:
    """Predict the class of each image from the mask of its most relevant pixels alone (Rong et al. 2022).

    Each mask is drawn white on black. Its feature vector is the mean of the model's Final layer over all positions. A ridge regression
    on one-hot labels predicts the class, with five-fold cross-validation.

    Args:
        model: The classifier.
        photos: The images.
        labels: The model's class of each image, which is also the target of its map.
        method: The method.
        share: Share of the pixels to delete, between 0 and 1.
        seed: Seed of everything random.
        on_progress: The progress callback.

    Raises:
        SpecError: If `share` is not between 0 and 1.
        DataError: If there are fewer images than folds.
    """
    if not 0 < share < 1:
        raise SpecError(f"share={share} is not valid; the share of deleted pixels must lie between 0 and 1")
    if len(photos) < FOLDS:
        raise DataError(f"{len(photos)} images are too few for {FOLDS}-fold cross-validation; give at least {FOLDS}")
    masks, features = [], []
    for first in range(0, len(photos), BATCH_SIZE):
        on_progress(first, len(photos))
        images = torch.stack([model.preprocess(photo) for photo in photos[first : first + BATCH_SIZE]])
        maps = attribute(model, method, images, list(labels[first : first + BATCH_SIZE]), AttributionOptions(seed)).resized()
        masks.append(_highest(maps[:, 0], share))
        features.append(_features(model, masks[-1]))
    classes = torch.tensor(list(labels))
    predicted = read_classes(torch.cat(features), classes)
    return Leakage(
        torch.cat(masks), proportion(int((predicted == classes).sum()), len(classes)), float(classes.bincount().max()) / len(classes)
    )


def _highest(maps: Tensor, share: float) -> Tensor:
    """Return a mask of the highest `share` of the values of each map (B,H,W), with ties broken in reading order."""
    flat = maps.flatten(1).double()
    chosen = flat.argsort(dim=1, descending=True, stable=True)[:, : max(1, int(share * flat.shape[1]))]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, chosen, True).view(maps.shape)


def _features(model: Classifier, masks: Tensor) -> Tensor:
    """Return the mean of the Final layer over its positions, float64 (B,C), for masks (B,H,W) drawn white on black."""
    layer = model.layer("Final")
    pictures = model.preprocessing.normalise(masks[:, None].float().expand(-1, model.channels, -1, -1))
    with model.session(), torch.no_grad():
        activations = layer.layout.spatial(model.split(layer).fresh().before(model.place(pictures)))
    return activations.mean((2, 3)).cpu().double()


def read_classes(features: Tensor, labels: Tensor) -> Tensor:
    """Predict the class of each row by ridge regression on one-hot labels, trained on the rows of the other folds.

    Row i is in fold i mod 5.

    Args:
        features: Feature vectors, (N,C).
        labels: Classes, (N,).

    Returns:
        The predicted classes, (N,).
    """
    fold, predicted = torch.arange(len(labels)) % FOLDS, torch.empty_like(labels)
    one_hot = torch.nn.functional.one_hot(labels).double()
    for k in range(FOLDS):
        train, test = fold != k, fold == k
        centre, mean = features[train].mean(0), one_hot[train].mean(0)
        x, y = features[train] - centre, one_hot[train] - mean
        gram = x @ x.T
        # The dual form is cheaper, as there are hardly more masks than channels.
        weights = torch.linalg.solve(gram + PENALTY * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(x), dtype=x.dtype), y)
        predicted[test] = ((features[test] - centre) @ x.T @ weights + mean).argmax(1)
    return predicted
