"""The same deletion on several models: where they differ, it is the model that the deleted pictures do not suit."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.data.images import Photo
from attrlib.diagnostics.deletion_curve import DeletionPath, delete_in_order
from attrlib.errors import ProtocolError
from attrlib.methods import attribute
from attrlib.models import Classifier
from attrlib.progress import Progress, no_progress
from attrlib.specs import MethodSpec


@dataclass(frozen=True, eq=False)
class SameDeletion:
    """Pictures that fade alike for all models.

    `probabilities` (M,B,n+1) are those of picture b's target for model m after each of n steps; `paths` (B) are the ways of the pictures.
    """

    paths: tuple[DeletionPath, ...]
    probabilities: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.probabilities.nbytes + sum(path.nbytes for path in self.paths)

    @property
    def curves(self) -> Tensor:
        """The mean over the pictures: (M,n+1)."""
        return self.probabilities.mean(1)


def delete_alike(
    models: Sequence[Classifier],
    photos: Sequence[Photo],
    targets: Sequence[int],
    method: MethodSpec,
    grid: int | None = None,
    baseline: str = "zeros",
    seed: int = 0,
    progress: Progress = no_progress,
) -> SameDeletion:
    """Deletes the pixels, or the cells of a `grid`, of each picture in the order of the first model's map, most relevant first.

    Every model sees the same deleted pictures. Raises `ProtocolError` for models that look at pictures of different sizes or colours,
    and as `delete_in_order` does.
    """
    first, *others = models
    if any(own.preprocessing != first.preprocessing for own in others):
        raise ProtocolError("the models do not see the same picture; choose models of one input size and normalisation")
    paths, rows = [], []
    for number, (photo, target) in enumerate(zip(photos, targets, strict=True)):
        progress(number, len(photos))
        map_ = attribute(first, method, first.preprocess(photo.image)[None], [target], seed)
        ways = [delete_in_order(own, photo, map_, "descending", grid, baseline, seed) for own in models]
        paths.append(ways[0])
        rows.append(torch.stack([way.probabilities for way in ways]))
    return SameDeletion(tuple(paths), torch.stack(rows, 1))
