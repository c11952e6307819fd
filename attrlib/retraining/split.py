"""Select the images of a retraining, and split them into those to train and those to test on, class by class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attrlib.data.datasets import Dataset
from attrlib.engine.items import EvalItem, image_items
from attrlib.errors import DataError
from attrlib.progress import Progress
from attrlib.specs import RoarSpec


@dataclass(frozen=True)
class TrainTestItems:
    """Images to train and to test on, labelled with the classes of the data, and notes on what was left out."""

    train: tuple[EvalItem, ...]
    test: tuple[EvalItem, ...]
    notes: tuple[str, ...]


def split_items(spec: RoarSpec, data: Dataset, on_progress: Progress) -> TrainTestItems:
    """Return the images of a retraining. Images with equal content are used once.

    Args:
        spec: The retraining.
        data: The data set.
        on_progress: Called with the number of images found and wanted.

    Raises:
        DataError: If the data have no labels, one class, several labels for an image, or too few images.
    """
    if data.multi_label:
        raise DataError(f"the images of {data.name} may have several labels, but roar trains on one class for each image; give such data")
    if not any(data.labels(index) for index in range(len(data))):
        raise DataError(
            f"{data.name} has no labelled images, and roar trains networks on labels; give class folders, a CSV file or labels="
        )
    selection = image_items(data, range(len(data.class_names)), spec.limit, spec.seed, True, on_progress)
    by_class: dict[int, list[EvalItem]] = {}
    for item in selection.items:
        by_class.setdefault(item.labels[0], []).append(item)
    _check_classes(data, by_class)
    held = {item for items in by_class.values() for item in items[: min(len(items) - 1, max(1, round(spec.test * len(items))))]}
    train = tuple(item for item in selection.items if item not in held)
    test = tuple(item for item in selection.items if item in held)
    single = sum(len(items) == 1 for items in by_class.values())
    notes = [f"{single} class(es) have one image each, which is trained on and not tested on"] if single else []
    return TrainTestItems(train, test, (*selection.notes, *notes))


def _check_classes(data: Dataset, by_class: Mapping[int, Sequence[EvalItem]]) -> None:
    if len(by_class) < 2:
        only = data.class_names[next(iter(by_class))]
        raise DataError(
            f"all images of {data.name} are of one class ({only[:60]}), so that there is nothing to learn; give data of at least two classes"
        )
    if sum(len(items) > 1 for items in by_class.values()) < 2:
        raise DataError(
            f"{data.name} has too few images: of the {sum(map(len, by_class.values()))} drawn, fewer than two classes have one to train on and one "
            "to test on; raise limit, or give more data"
        )
