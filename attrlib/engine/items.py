"""Items of a run: images, or grids of images, in an order drawn by the seed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from attrlib.data.datasets import Dataset
from attrlib.data.grids import compose
from attrlib.errors import DataError, ImageError
from attrlib.progress import Progress, no_progress
from attrlib.specs import digest

UNKNOWN = -1
"""Label of an image whose class is unknown."""
REASONS_SHOWN = 5
"""Maximum number of reasons listed in one note."""
ATTEMPTS = 50
"""Maximum number of times that grids are drawn from images with several labels."""
PROGRESS_INTERVAL = 16
"""Number of images between two progress reports."""


@dataclass(frozen=True, slots=True)
class EvalItem:
    """One item: an image or a grid of images.

    Attributes:
        id: Content digest.
        images: Indices of the item's images in the data set; those of a grid are listed row by row.
        labels: The model's class of each image, -1 where unknown.
    """

    id: str
    images: tuple[int, ...]
    labels: tuple[int, ...]

    def key(self, target_choice: str) -> str:
        """Return the key of the item's results: labels are part of it unless `target_choice` is `prediction`."""
        return self.id if target_choice == "prediction" else digest(self.id, list(self.labels))


def unreadable_note(reasons: Sequence[str], count: int) -> list[str]:
    """Return a note on `count` unreadable items with the first few reasons, or nothing if there are none."""
    more = "; ..." if count > REASONS_SHOWN else ""
    return [f"{count} item(s) skipped because they cannot be read: {'; '.join(reasons[:REASONS_SHOWN])}{more}"] if count else []


Chunk = tuple[EvalItem, ...]
"""Items that are loaded together, or the cells of a grid."""

Present = Mapping[str, Collection[int]]
"""The model's classes of each image with several labels, by its id."""


@dataclass(frozen=True)
class Selection:
    """The items of a run, and `notes` on what was left out and why."""

    items: tuple[EvalItem, ...]
    notes: tuple[str, ...] = field(default=())


def image_items(
    data: Dataset, classes: Sequence[int], limit: int | None, seed: int, labelled: bool, on_progress: Progress = no_progress
) -> Selection:
    """Select the first `limit` images in an order drawn by the seed; images with equal content are used once.

    Where images may have several labels, each label is an item of its own, so that each class of an image is explained. Without labels
    an image is one item.

    Args:
        data: The data set.
        classes: The model's class for each class of the data.
        limit: Number of items, None for all.
        seed: Draws the order.
        labelled: Whether to leave out images whose class is unknown.
        on_progress: Called with the number of images found and wanted; an image whose digest is not cached is read.

    Raises:
        DataError: If no image is left.
    """
    by_label = labelled and data.multi_label
    items: dict[tuple[str, int | None], EvalItem] = {}
    unlabelled = repeated = several = 0
    unreadable: list[str] = []
    wanted = len(data) if limit is None else min(limit, len(data))
    for tried, index in enumerate(data.order(seed)):
        if limit is not None and len(items) >= limit:
            break
        if tried % PROGRESS_INTERVAL == 0:
            on_progress(len(items), wanted)
        try:
            labels = [classes[k] for k in data.labels(index)]
            labels = [label for label in labels if label != UNKNOWN] if labelled else labels
            if labelled and not labels:
                unlabelled += 1
                continue
            image = data.item_id(index)
        except ImageError as error:
            unreadable.append(str(error))
            continue
        known = len(items)
        for label in labels if by_label or len(labels) == 1 else [UNKNOWN]:
            items.setdefault((image, label if by_label else None), EvalItem(image, (index,), (label,)))
        repeated += len(items) == known
        several += len(items) > known + 1
    counts = ((unlabelled, "without a class"), (repeated, "that duplicate another"))
    notes = [f"{count} image(s) {description} skipped" for count, description in counts if count] + unreadable_note(
        unreadable, len(unreadable)
    )
    if not items:
        hint = "; give their classes (class folders, a CSV file or labels=), or choose target=prediction" if unlabelled else ""
        raise DataError(f"{data.name} has no images that can be scored ({'; '.join(notes) or 'it is empty'}){hint}")
    if several:
        notes.append(
            f"{several} image(s) with several labels: each label is an item of its own, which confidence intervals take as independent"
        )
    return Selection(tuple(items.values())[:limit], tuple(notes))


def compose_grids(passed: Sequence[EvalItem], present: Present, grid: int, corners: bool, seed: int) -> list[Chunk]:
    """Compose as many grids as possible, each of grid x grid items.

    A target must be in its own cell only, so grids in which another cell's image shows it, too, are taken apart and drawn again.

    Args:
        passed: Images that passed the filter, one item for each of their labels.
        present: All labels of images with several.
        grid: Cells in each direction.
        corners: Whether the first class fills the first and the last cell.
        seed: Draws the grids.
    """
    grids: list[Chunk] = []
    left = list(passed)
    for attempt in range(ATTEMPTS):
        drawn = [tuple(left[k] for k in cells) for cells in compose([item.labels[0] for item in left], grid, corners, seed + attempt)]
        valid = [cells for cells in drawn if not any(_shows(b, a.labels[0], present) for a in cells for b in cells)]
        grids += valid
        if len(valid) == len(drawn):
            break
        used = {item for cells in valid for item in cells}
        left = [item for item in left if item not in used]
    return grids


def _shows(item: EvalItem, label: int, present: Present) -> bool:
    """Return whether an item's image shows a class besides its own label."""
    return label != item.labels[0] and label in present.get(item.id, ())


def labels_of_images(items: Sequence[EvalItem]) -> Present:
    """Return all labels of images with several, from one item for each label."""
    present: dict[str, set[int]] = {}
    for item in items:
        present.setdefault(item.id, set()).update(item.labels)
    return {image: labels for image, labels in present.items() if len(labels) > 1}


def grid_items(
    passed: Sequence[EvalItem],
    candidates: int,
    grid: int,
    corners: bool,
    filter_text: str,
    limit: int | None,
    seed: int,
    present: Present = MappingProxyType({}),
) -> Selection:
    """Compose the first `limit` grids of the images that passed the confidence filter.

    Args:
        passed: Images that passed the filter.
        candidates: Number of images before the filter.
        grid: Cells in each direction.
        corners: Whether the first class fills the first and the last cell, as DiFull and DiPart require.
        filter_text: Description of the filter, for notes and errors.
        limit: Number of grids, None for all.
        seed: Draws the grids.
        present: All labels of images with several.

    Raises:
        DataError: If not even one grid can be composed.
    """
    grids = compose_grids(passed, present, grid, corners, seed)
    classes = len({item.labels[0] for item in passed})
    allowed = f"{len(passed)} of {candidates} images ({classes} classes) pass the filter {filter_text} and allow {len(grids)} grids"
    if not grids:
        needed = grid * grid - 1 if corners else grid * grid
        apart = ", and none of them shows the class of another" if present else ""
        raise DataError(
            f"{allowed}: a {grid} x {grid} grid needs images of {needed} classes{', two of one of them' if corners else ''}{apart}. "
            f"Lower confidence, use more images, or {'a smaller grid' if grid > 2 else 'a model and data of more classes'}"
        )
    items = tuple(
        EvalItem(digest(*(c.id for c in cells)), tuple(c.images[0] for c in cells), tuple(c.labels[0] for c in cells))
        for cells in grids[:limit]
    )
    return Selection(items, (allowed,))


def chunked(items: Sequence[EvalItem], size: int) -> list[Chunk]:
    """Split items into consecutive chunks of `size`, the last one possibly smaller."""
    return [tuple(items[first : first + size]) for first in range(0, len(items), size)]
