"""Top-1 accuracy of a model on whole images, and on images with one random patch deleted."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from attrlib.data.datasets import Dataset
from attrlib.errors import DataError, ImageError
from attrlib.models import Classifier
from attrlib.specs import digest
from attrlib.training.deletion import delete_patches


@dataclass(frozen=True)
class Right:
    """The number of correctly classified images out of `count`: whole, and with one random patch of each deleted."""

    clean: int
    deleted: int | None
    count: int


def accuracies(
    model: Classifier,
    data: Dataset,
    classes: Sequence[int],
    deletion: int,
    baseline: str = "zeros",
    fast: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Right:
    """Count the correctly classified images of a data set, whole and with one random patch deleted.

    Images that cannot be read are left out. Of a model of several labels, an image counts if all of its labels are decided correctly.

    Args:
        model: The classifier.
        data: The data set; images without a label are left out.
        classes: The model's class for each class of the data.
        deletion: Patches per side of the deletion grid; 0 measures whole images only.
        baseline: What replaces a deleted patch, one of `attrlib.deletion`.
        fast: Whether to compute in bfloat16.
        check: Called before each batch.

    Raises:
        DataError: No labelled image can be read.
    """
    clean = deleted = count = 0
    for indices in _batches(data):
        check()
        items = {}
        for index in indices:
            with suppress(ImageError):
                items[index] = data[index]
        if not items:
            continue
        images = torch.stack([model.preprocess(item) for item in items.values()])
        present = torch.zeros(len(items), len(model.class_names), dtype=torch.bool)
        for row, index in enumerate(items):
            present[row, [classes[label] for label in data.labels(index)]] = True
        generator = torch.Generator().manual_seed(int(digest("accuracy", indices[0])[:15], 16))
        with model.session(fast), torch.no_grad():
            clean += int(model.outputs.correct(model.logits(model.place(images)).cpu(), present).sum())
            if deletion:
                images = delete_patches(images, deletion, baseline, generator, 1.0)
                deleted += int(model.outputs.correct(model.logits(model.place(images)).cpu(), present).sum())
        count += len(items)
    if not count:
        raise DataError(f"{data.name} has no labelled image that can be read; choose another data set to measure accuracy on")
    return Right(clean, deleted if deletion else None, count)


def check_labelled(data: Dataset) -> None:
    """Raise `DataError` for data without labels, on which no accuracy can be measured."""
    if not any(data.labels(i) for i in range(len(data))):
        raise DataError(f"{data.name} has no labelled images; choose another data set to measure accuracy on")


def _batches(data: Dataset) -> Iterator[list[int]]:
    labelled = [i for i in range(len(data)) if data.labels(i)]
    return (labelled[first : first + 64] for first in range(0, len(labelled), 64))
