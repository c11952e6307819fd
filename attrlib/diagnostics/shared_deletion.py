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
        grid: Patches per side, None to delete pixels.
        baseline: What replaces deleted pixels, in normalised space.
        seed: Seed of everything random.
        on_progress: The progress callback.

    Raises:
        ProtocolError: If the models differ in input size or normalisation, or the grid does not divide the input.
    """
    first, *others = models
    if any(model.preprocessing != first.preprocessing for model in others):
        raise ProtocolError("the models differ in input size or normalisation; choose models that share both")
    paths, rows = [], []
    for number, (photo, target) in enumerate(zip(photos, targets, strict=True)):
        on_progress(number, len(photos))
        map_ = attribute(first, method, first.preprocess(photo)[None], [target], AttributionOptions(seed))
        by_model = [delete_in_order(model, photo, map_, "descending", grid, baseline, seed) for model in models]
        paths.append(by_model[0])
        rows.append(torch.stack([path.probabilities for path in by_model]))
    return SameDeletion(tuple(paths), torch.stack(rows, 1))
