"""The items that a run is about: images, or grids of images, in an order that the seed draws."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from attrlib.data.datasets import Dataset
from attrlib.data.grids import compose
from attrlib.errors import DataError, ImageError
from attrlib.progress import Progress, no_progress
from attrlib.specs import digest

UNKNOWN = -1
SHOWN = 5
"""Reasons in one note."""
OFTEN = 16
"""Images between two reports."""


@dataclass(frozen=True)
class Unit:
    """One item: its content digest, the images in the data set that it is made of, and the model's class of each (-1: unknown)."""

    id: str
    images: tuple[int, ...]
    labels: tuple[int, ...]

    def key(self, target: str) -> str:
        """The name of its results: labels are part of it where they are the `target`, not for a `prediction`."""
        return self.id if target == "prediction" else digest(self.id, list(self.labels))


def left_out(reasons: Sequence[str], count: int) -> list[str]:
    """A note on `count` items that cannot be read, with the first few reasons; none where there are none."""
    more = "; ..." if count > SHOWN else ""
    return [f"{count} item(s) left out that cannot be read: {'; '.join(reasons[:SHOWN])}{more}"] if count else []


@dataclass(frozen=True)
class Selection:
    """The items of a run, and `notes` on what was left out and why."""

    units: tuple[Unit, ...]
    notes: tuple[str, ...] = field(default=())


def image_units(
    data: Dataset, classes: Sequence[int], limit: int | None, seed: int, labelled: bool, look: Progress = no_progress
) -> Selection:
    """The first `limit` images in the seed's order, each content once; `labelled` leaves out those whose class is unknown.

    `look` is told how many were looked through: the content of an image that is seen for the first time is read.
    `classes` gives the model's class for each class of the data. Raises `DataError` where nothing is left.
    """
    units: dict[str, Unit] = {}
    unlabelled = repeated = 0
    unreadable: list[str] = []
    wanted = len(data) if limit is None else min(limit, len(data))
    for place, index in enumerate(data.order(seed)):
        if limit is not None and len(units) >= limit:
            break
        if place % OFTEN == 0:
            look(len(units), wanted)
        own = data.label(index)
        label = UNKNOWN if own is None else classes[own]
        if labelled and label == UNKNOWN:
            unlabelled += 1
            continue
        try:
            unit = Unit(data.item_id(index), (index,), (label,))
        except ImageError as error:
            unreadable.append(str(error))
            continue
        repeated += unit.id in units
        units.setdefault(unit.id, unit)
    counts = ((unlabelled, "without a known class"), (repeated, "that repeat another"))
    notes = [f"{count} image(s) {what} left out" for count, what in counts if count] + left_out(unreadable, len(unreadable))
    if not units:
        hint = "; give their classes (class folders or a CSV), or choose target=prediction" if unlabelled else ""
        raise DataError(f"{data.name} has no image that can be scored ({'; '.join(notes) or 'it is empty'}){hint}")
    return Selection(tuple(units.values()), tuple(notes))


def grid_units(passed: Sequence[Unit], looked_at: int, n: int, corners: bool, filtered: str, limit: int | None, seed: int) -> Selection:
    """The first `limit` grids of the images that passed the confidence filter, which `filtered` says in words. Raises `DataError` where there is none."""
    grids = compose([unit.labels[0] for unit in passed], n, corners, seed)
    classes = len({unit.labels[0] for unit in passed})
    allowed = f"{len(passed)} of {looked_at} images ({classes} classes) pass the filter {filtered} and allow {len(grids)} grids"
    if not grids:
        needed = n * n - 1 if corners else n * n
        raise DataError(
            f"{allowed}: a {n} x {n} grid needs images of {needed} classes{', two of one of them' if corners else ''}. Lower confidence, "
            "use more images, or a smaller grid"
        )
    chosen = [[passed[position] for position in grid] for grid in grids[:limit]]
    units = tuple(
        Unit(digest(*(u.id for u in cells)), tuple(u.images[0] for u in cells), tuple(u.labels[0] for u in cells)) for cells in chosen
    )
    return Selection(units, (allowed,))
