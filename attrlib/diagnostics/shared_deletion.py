"""Apply the same deletion to several models, to see for which of them deleted images are out of domain."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.data.images import Photo
from attrlib.diagnostics.deletion_curve import DeletionPath, delete_in_order
from attrlib.errors import ProtocolError
from attrlib.methods import AttributionOptions, attribute
from attrlib.models import Classifier
from attrlib.progress import Progress, no_progress
from attrlib.specs import MethodSpec


@dataclass(frozen=True, eq=False)
class SameDeletion:
    """The deletion of the same images, in the same order, for several models.

    Attributes:
        paths: The deletion of each of the B images, with the first model's probabilities.
        probabilities: Probability of each image's target for each model at each of n + 1 steps, (M,B,n+1).
    """

    paths: tuple[DeletionPath, ...]
    probabilities: Tensor

    @property
    def nbytes(self) -> int:
        """Return the bytes of the probabilities and the paths."""
        return self.probabilities.nbytes + sum(path.nbytes for path in self.paths)

    @property
    def curves(self) -> Tensor:
        """Return the mean probabilities over the images, (M,n+1)."""
        return self.probabilities.mean(1)


def delete_alike(
    models: Sequence[Classifier],
    photos: Sequence[Photo],
    targets: Sequence[int],
    method: MethodSpec,
    grid: int | None = None,
    baseline: str = "zeros",
    seed: int = 0,
    on_progress: Progress = no_progress,
) -> SameDeletion:
    """Delete pixels or patches of each image in order of the first model's map, most relevant first, for all models.

    Every model sees the same deleted images.

    Args:
        models: The classifiers; the first one gives the maps.
        photos: The images.
        targets: Target class of each image.
        method: The method.
        grid: Patches in each direction, None to delete pixels.
        baseline: What replaces deleted pixels, in normalised space.
        seed: Seed of everything random.
        on_progress: The progress callback.

    Raises:
        ProtocolError: If the models differ in input size or normalisation, or the grid does not divide the input.
    """
    first, *others = models
    if any(own.preprocessing != first.preprocessing for own in others):
        raise ProtocolError("the models do not see the same picture; choose models of one input size and normalisation")
    paths, rows = [], []
    for number, (photo, target) in enumerate(zip(photos, targets, strict=True)):
        on_progress(number, len(photos))
        map_ = attribute(first, method, first.preprocess(photo.image)[None], [target], AttributionOptions(seed))
        ways = [delete_in_order(own, photo, map_, "descending", grid, baseline, seed) for own in models]
        paths.append(ways[0])
        rows.append(torch.stack([way.probabilities for way in ways]))
    return SameDeletion(tuple(paths), torch.stack(rows, 1))
