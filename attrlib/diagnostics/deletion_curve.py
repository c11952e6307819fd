"""Delete pixels or patches of one image in order of attribution, and compute the target's probability at every step."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attrlib.data.images import Photo
from attrlib.deletion import FIXED_BASELINES, cells
from attrlib.errors import ProtocolError
from attrlib.methods import Attribution
from attrlib.models import Classifier
from attrlib.progress import Progress, no_progress
from attrlib.protocols import Batch, EvalBatch, EvalContext
from attrlib.protocols.deletion import deletion_of
from attrlib.protocols.incremental import ORDERS

STEPS = 32
"""Number of steps from no pixel to all, if pixels are deleted instead of patches."""


@dataclass(frozen=True, eq=False)
class DeletionPath:
    """The deletion of one image in n + 1 steps, from no pixel to all. At step i the pixels with `place` < `counts[i]` are deleted.

    Attributes:
        place: Order in which pixels are deleted, (H,W).
        counts: Number of deleted pixels at each step, n + 1 values.
        probabilities: Probability of the target at each step, (n+1).
        replacement_values: Colours that replace deleted pixels, uint8, (H,W,3).
        grid: Patches per side, each deleted as a whole; None if pixels are deleted.
    """

    place: Tensor
    counts: tuple[int, ...]
    probabilities: Tensor
    replacement_values: np.ndarray
    grid: int | None

    @property
    def nbytes(self) -> int:
        """Return the bytes of the tensors and the array."""
        return self.place.nbytes + self.probabilities.nbytes + self.replacement_values.nbytes

    @property
    def steps(self) -> int:
        """Return the number of steps after the complete image."""
        return len(self.counts) - 1

    @property
    def area(self) -> float:
        """Return the mean probability over the steps 0 to n - 1: the image's incremental deletion score if pixels are deleted."""
        return float(self.probabilities[:-1].mean())

    def deleted(self, step: int) -> Tensor:
        """Return a mask (H,W), true on the pixels that are deleted at a step."""
        return self.place < self.counts[step]

    def following(self, step: int) -> Tensor:
        """Return a mask (H,W), true on the pixels that the next step deletes; no pixel at the last step."""
        return (self.place >= self.counts[step]) & (self.place < self.counts[min(step + 1, self.steps)])


def delete_in_order(
    model: Classifier,
    photo: Photo,
    attribution: Attribution,
    order: str = "descending",
    grid: int | None = None,
    baseline: str = "zeros",
    seed: int = 0,
    on_progress: Progress = no_progress,
) -> DeletionPath:
    """Delete pixels or patches of an image in order of a map, resized to the image.

    Without `grid`, floor(H W i / n) pixels are deleted after step i of n = 32, as in incremental deletion. With `grid`, i of grid^2
    patches are deleted after step i, in order of the attribution summed over each. Ties are broken in reading order.

    Args:
        model: The classifier.
        photo: The image.
        attribution: The map (1,1,h,w) and its target.
        order: `descending` to delete the most relevant first, `ascending` to delete the least relevant first.
        grid: Patches per side, None to delete pixels.
        baseline: What replaces deleted pixels, in normalised space.
        seed: Seed of a random baseline.
        on_progress: The progress callback.

    Raises:
        ProtocolError: If the order is unknown, the baseline is imputed from pixels that remain, or the grid does not divide the input.
    """
    if baseline not in FIXED_BASELINES:
        raise ProtocolError(
            f"baseline={baseline} imputes deleted pixels from those that remain, but the last step deletes all; choose one of "
            f"{', '.join(FIXED_BASELINES)}"
        )
    if order not in ORDERS:
        raise ProtocolError(f"order={order!r} is not valid; choose {' or '.join(ORDERS)}")
    context = EvalContext(model, seed)
    target, layer = torch.tensor(attribution.target[:1]), model.layer(attribution.spec.layer)
    batch = Batch((photo.digest,), model.place(model.preprocess(photo)[None]), target)
    values = EvalBatch(context, batch, target, {}, lambda _request: (attribution.maps, layer)).maps()[0, 0].double().nan_to_num(0.0)
    place, counts = _pixels(values, order) if grid is None else _patches(values, order, grid)
    delete = deletion_of(baseline, context, batch)
    probabilities = []
    for first in range(0, len(counts), context.rows):
        on_progress(first, len(counts))
        gone = torch.stack([place < count for count in counts[first : first + context.rows]])[:, None]
        logits = context.logits(delete(gone))
        probabilities.append(model.probabilities(logits)[:, int(target)].double())
    assert delete.values is not None
    colours = model.preprocessing.shown(delete.values[0].cpu()).permute(1, 2, 0)
    return DeletionPath(place.int(), counts, torch.cat(probabilities), (colours * 255).round().byte().numpy(), grid)


def _pixels(values: Tensor, order: str) -> tuple[Tensor, tuple[int, ...]]:
    flat = values.flatten()
    place = torch.empty(len(flat), dtype=torch.long)
    place[_sorted(flat, order)] = torch.arange(len(flat))
    return place.view(values.shape), tuple(len(flat) * step // STEPS for step in range(STEPS + 1))


def _patches(values: Tensor, order: str, grid: int) -> tuple[Tensor, tuple[int, ...]]:
    height, width = values.shape
    if not 1 <= grid <= min(height, width) or height % grid or width % grid:
        raise ProtocolError(f"images of {height} x {width} px cannot be divided into {grid} x {grid} equal patches; choose another grid")
    sums = torch.stack([patch.contiguous().sum() for patch in cells(values[None, None], grid)])
    pixels = height * width // grid**2
    place = torch.empty(1, 1, height, width, dtype=torch.long)
    views = cells(place, grid)
    for turn, patch in enumerate(_sorted(sums, order).tolist()):
        views[patch].fill_(turn * pixels)
    return place[0, 0], tuple(turn * pixels for turn in range(grid**2 + 1))


def _sorted(values: Tensor, order: str) -> Tensor:
    return (values if order == "descending" else -values).argsort(descending=True, stable=True)
