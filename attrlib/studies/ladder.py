"""Maps that are right to a known degree: from the truth, in steps, to maps that are worth nothing."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.data.datasets import Dataset
from attrlib.data.maps import keep
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem, chunked
from attrlib.errors import DataError
from attrlib.methods import BATCH_SIZE
from attrlib.postprocess import gaussian
from attrlib.progress import Progress, no_progress
from attrlib.protocols import Batch
from attrlib.protocols.parts import PartRemoval, RemovedParts
from attrlib.specs import MethodSpec, digest
from attrlib.specs.maps import maps_spec, path_of

DEGREES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Degrees of damage: 0 is the truth."""
TRUTH = "truth"
CELLS = 8
"""Cells per side of the map whose sign is flipped or not."""
Damage = Callable[[Tensor, float, torch.Generator], Tensor]


def mixed(maps: Tensor, degree: float, generator: torch.Generator) -> Tensor:
    """Mix maps (1,1,H,W) with smooth noise of equal mean square, of which nothing is left of the map at degree 1."""
    noise = gaussian(torch.randn(maps.shape, generator=generator, dtype=maps.dtype), maps.shape[-1] / 32)
    return (1 - degree) * maps + degree * noise * (maps.square().mean() / noise.square().mean()).sqrt()


def blurred(maps: Tensor, degree: float, _generator: torch.Generator) -> Tensor:
    """Blur maps (1,1,H,W) with a Gaussian whose standard deviation is a quarter of the side at degree 1."""
    return gaussian(maps, degree * maps.shape[-1] / 4)


def shifted(maps: Tensor, degree: float, generator: torch.Generator) -> Tensor:
    """Shift maps (1,1,H,W) along a random direction, around the borders, by half the side at degree 1."""
    angle = 2 * torch.pi * torch.rand((), generator=generator)
    steps = [round(float(value) * degree * side / 2) for value, side in zip((angle.sin(), angle.cos()), maps.shape[2:], strict=True)]
    return maps.roll(steps, (2, 3))


def flipped(maps: Tensor, degree: float, generator: torch.Generator) -> Tensor:
    """Flip the sign of maps (1,1,H,W) in random cells, in half of them at degree 1, where a sign tells nothing."""
    order = torch.rand(CELLS * CELLS, generator=generator).argsort().argsort()
    signs = torch.where(order < degree / 2 * CELLS * CELLS, -1.0, 1.0).to(maps).reshape(1, 1, CELLS, CELLS)
    return maps * F.interpolate(signs, maps.shape[2:], mode="nearest-exact")


DAMAGES: dict[str, Damage] = {"noise": mixed, "blur": blurred, "shift": shifted, "signs": flipped}
"""How the truth is damaged. A damage draws the same numbers at each degree, so that the steps differ in degree only."""


def rescaled(maps: Tensor) -> Tensor:
    """Multiply maps by 100."""
    return 100 * maps


def coarser(maps: Tensor) -> Tensor:
    """Average maps (1,1,H,W) over squares of 4 x 4 pixels, without resizing them back."""
    return F.avg_pool2d(maps, 4)


def smoother(maps: Tensor) -> Tensor:
    """Blur maps (1,1,H,W) with a Gaussian whose standard deviation is a 64th of the side."""
    return gaussian(maps, maps.shape[-1] / 64)


NUISANCES: dict[str, Callable[[Tensor], Tensor]] = {"scale": rescaled, "resolution": coarser, "smoothing": smoother}
"""Changes of a map that leave what it says about the parts of an image as it is."""


def removal_truth(evaluator: Evaluator, data: Dataset, items: Sequence[EvalItem], on_progress: Progress = no_progress) -> Tensor:
    """Return what the model's logit loses when a part is removed from the scene, spread evenly over the part's pixels: (N,H,W).

    Args:
        evaluator: Measures and caches the model's outputs.
        data: A data set with parts.
        items: The images with their classes.
        on_progress: Called with the number of images done and their total; raises `Cancelled` to stop.

    Raises:
        DataError: If an image cannot be read.
    """
    maps: list[Tensor] = []
    for batch in _batches(evaluator, data, items, on_progress):
        assert batch.parts is not None, "the data set has parts"
        logits = evaluator.measure(RemovedParts(), batch)["logits"][torch.arange(len(batch)), :, batch.labels]
        masks = batch.parts.cpu().double()
        area = masks.sum((2, 3))
        density = torch.where(area > 0, (logits[:, :1] - logits[:, 1:]) / area.clamp_min(1), 0.0)
        maps += (masks * density[..., None, None]).sum(1).float()
    return torch.stack(maps)


def mask_truth(evaluator: Evaluator, data: Dataset, items: Sequence[EvalItem], on_progress: Progress = no_progress) -> Tensor:
    """Return the masks of the images as maps, 1 on the mask and 0 elsewhere: (N,H,W). For data whose masks hold all that decides the class.

    Args:
        evaluator: Loads the images.
        data: A data set with masks.
        items: As in `removal_truth`.
        on_progress: As in `removal_truth`.

    Raises:
        DataError: If an image cannot be read.
    """
    maps: list[Tensor] = []
    for batch in _batches(evaluator, data, items, on_progress):
        assert batch.masks is not None, "the data set has masks"
        maps += batch.masks.cpu().float()
    return torch.stack(maps)


def _batches(evaluator: Evaluator, data: Dataset, items: Sequence[EvalItem], on_progress: Progress) -> Iterator[Batch]:
    loader = evaluator.loader(data, [PartRemoval()] if data.parts else [])
    for number, chunk in enumerate(chunked(items, BATCH_SIZE)):
        on_progress(number * BATCH_SIZE, len(items))
        readable, batch = loader.get(chunk)
        if batch is None or len(readable) < len(chunk):
            raise DataError(f"{data.name}: {next(iter(loader.unreadable.values()))}")
        yield batch


def ladder_of(truth: Tensor, ids: Sequence[str], names: Sequence[str], seed: int, folder: Path) -> tuple[MethodSpec, ...]:
    """Write the truth, its damaged and its changed copies to files of maps, and return the methods that stand for them.

    Args:
        truth: The true maps, (N,H,W).
        ids: Content digest of each image, from which its random numbers are drawn.
        names: Name of each image in the data set.
        seed: Seed of the random numbers.
        folder: Folder of the store.
    """
    sets: dict[str, list[Tensor]] = {TRUTH: list(truth)}
    for kind, damage in DAMAGES.items():
        for degree in DEGREES[1:]:
            sets[f"{kind}-{round(100 * degree)}"] = [
                damage(map_[None, None], degree, _generator(seed, item, kind))[0, 0] for item, map_ in zip(ids, truth, strict=True)
            ]
    for kind, change in NUISANCES.items():
        sets[kind] = [change(map_[None, None])[0, 0] for map_ in truth]
    return tuple(_written(name, torch.stack(maps), names, folder) for name, maps in sets.items())


def step_of(method: MethodSpec) -> str | None:
    """Return the name of a map's step on its ladder, such as `noise-25`, `truth` or `scale`; None for other methods."""
    name = Path(path_of(method)).stem
    kind, _, degree = name.partition("-")
    known = name in (TRUTH, *NUISANCES) or (kind in DAMAGES and degree.isdecimal())
    return name if known else None


def steps_of(kind: str) -> list[str]:
    """Return the names of the steps of a damage, the truth first."""
    return [TRUTH, *(f"{kind}-{round(100 * degree)}" for degree in DEGREES[1:])]


def _generator(seed: int, item: str, kind: str) -> torch.Generator:
    return torch.Generator().manual_seed(int(digest(seed, item, kind)[:15], 16))


def _written(name: str, maps: Tensor, names: Sequence[str], folder: Path) -> MethodSpec:
    file = io.BytesIO()
    np.savez(file, maps=maps.numpy(), names=np.array(names))
    return maps_spec(keep(file.getvalue(), f"{name}.npz", folder))
