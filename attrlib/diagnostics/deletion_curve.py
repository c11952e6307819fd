"""One picture while more and more of it is deleted in order of attribution: every step of the way, computed at once."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attrlib.data.images import Photo
from attrlib.deletion import cells
from attrlib.errors import ProtocolError
from attrlib.methods import Attribution
from attrlib.models import Classifier
from attrlib.progress import Progress, no_progress
from attrlib.protocols import Batch, EvalBatch, EvalContext
from attrlib.protocols.deletion import ORDERS, instead_of

STEPS = 32
"""Steps from no pixel to all, where pixels are deleted one by one and not cell by cell."""


@dataclass(frozen=True, eq=False)
class DeletionPath:
    """What becomes of a picture. At step i the pixels with `place` < `counts[i]` are deleted; there are n + 1 steps, from none to all.

    `place` (H,W) is the order in which pixels go, `probabilities` (n+1) those of the target, `instead` (H,W,3) the colours
    (uint8) that take the place of deleted pixels; `grid` cells in each direction go at once, None for single pixels.
    """

    place: Tensor
    counts: tuple[int, ...]
    probabilities: Tensor
    instead: np.ndarray
    grid: int | None

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.place.nbytes + self.probabilities.nbytes + self.instead.nbytes

    @property
    def steps(self) -> int:
        """How many steps there are behind the whole picture."""
        return len(self.counts) - 1

    @property
    def area(self) -> float:
        """Mean probability over the steps 0 to n - 1: this picture's incremental deletion score where single pixels go."""
        return float(self.probabilities[:-1].mean())

    def deleted(self, step: int) -> Tensor:
        """The pixels (H,W) that are gone at a step."""
        return self.place < self.counts[step]

    def following(self, step: int) -> Tensor:
        """The pixels (H,W) that the next step deletes; none at the last."""
        return (self.place >= self.counts[step]) & (self.place < self.counts[min(step + 1, self.steps)])


def delete_in_order(
    model: Classifier,
    photo: Photo,
    attribution: Attribution,
    order: str = "descending",
    grid: int | None = None,
    baseline: str = "zeros",
    seed: int = 0,
    progress: Progress = no_progress,
) -> DeletionPath:
    """Deletes pixels in order of the map a (1,1,h,w) at the picture's size, most relevant first (`descending`) or least.

    Without `grid`, floor(H W i / n) pixels are gone after step i of n = 32, as in incremental deletion; with it, i of grid^2
    cells, in order of the attribution summed over each. Ties go in reading order. Raises `ProtocolError` for a grid that does
    not divide the input.
    """
    if order not in ORDERS:
        raise ProtocolError(f"order={order!r} is not known; choose {' or '.join(ORDERS)}")
    context = EvalContext(model, seed)
    target, layer = torch.tensor(attribution.target[:1]), model.layer(attribution.spec.layer)
    batch = Batch((photo.digest,), model.place(model.preprocess(photo.image)[None]), target)
    values = EvalBatch(context, batch, target, {}, lambda _request: (attribution.maps, layer)).maps()[0, 0].double().nan_to_num(0.0)
    place, counts = _pixels(values, order) if grid is None else _cells(values, order, grid)
    instead = instead_of(baseline, context, batch)
    probabilities = []
    for first in range(0, len(counts), context.rows):
        progress(first, len(counts))
        gone = torch.stack([place < count for count in counts[first : first + context.rows]])[:, None].to(batch.images.device)
        logits = context.logits(torch.where(gone, instead, batch.images))
        probabilities.append(logits.softmax(1)[:, int(target)].double())
    colours = model.preprocessing.denormalise(instead[0].cpu()).clamp(0, 1).permute(1, 2, 0)
    return DeletionPath(place.int(), counts, torch.cat(probabilities), (colours * 255).round().byte().numpy(), grid)


def _pixels(values: Tensor, order: str) -> tuple[Tensor, tuple[int, ...]]:
    flat = values.flatten()
    place = torch.empty(len(flat), dtype=torch.long)
    place[_sorted(flat, order)] = torch.arange(len(flat))
    return place.view(values.shape), tuple(len(flat) * step // STEPS for step in range(STEPS + 1))


def _cells(values: Tensor, order: str, grid: int) -> tuple[Tensor, tuple[int, ...]]:
    height, width = values.shape
    if not 1 <= grid <= min(height, width) or height % grid or width % grid:
        raise ProtocolError(f"images of {height} x {width} px cannot be cut into {grid} x {grid} equal cells; choose another grid")
    sums = torch.stack([cell.contiguous().sum() for cell in cells(values[None, None], grid)])
    pixels = height * width // grid**2
    place = torch.empty(1, 1, height, width, dtype=torch.long)
    views = cells(place, grid)
    for turn, cell in enumerate(_sorted(sums, order).tolist()):
        views[cell].fill_(turn * pixels)
    return place[0, 0], tuple(turn * pixels for turn in range(grid**2 + 1))


def _sorted(values: Tensor, order: str) -> Tensor:
    return (values if order == "descending" else -values).argsort(descending=True, stable=True)
