"""Runs a method on images: the one place where maps are made."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attrlib.errors import MethodError, SpecError
from attrlib.methods.base import create, resolve
from attrlib.methods.task import Progress, Task, no_progress
from attrlib.models import Classifier
from attrlib.postprocess import defect, resize
from attrlib.specs import MethodSpec

BATCH_SIZE = 16
"""Rows that go through the model at once. Larger batches were no faster on any CPU tried and leave its caches."""


@dataclass(frozen=True)
class Attribution:
    """Maps of one method on a batch of images.

    `maps` (B,1,h,w), float32 on the CPU, signed, at the layer's resolution; `target` the class index of each image;
    `seconds` for the whole batch; `diagnostics` per image, for example `convergence` of IG (relative error).
    """

    maps: Tensor
    target: tuple[int, ...]
    spec: MethodSpec
    seed: int
    seconds: float
    input_size: tuple[int, int]
    diagnostics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def resized(self, size: tuple[int, int] | None = None) -> Tensor:
        """The maps at `size` (height, width), by default the model's input size, bilinear."""
        return resize(self.maps, size or self.input_size)

    @property
    def nbytes(self) -> int:
        """Bytes that the maps take."""
        return self.maps.nbytes

    @property
    def defects(self) -> tuple[str | None, ...]:
        """For each map why it says nothing (all zero, constant, NaN), or None."""
        return tuple(defect(m[0]) for m in self.maps)


def attribute(
    model: Classifier,
    spec: MethodSpec,
    images: Tensor,
    targets: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: Progress = no_progress,
    fast: bool = False,
    owners: Sequence[int] | None = None,
) -> Attribution:
    """Maps of normalised images (U,3,H,W) for target classes, by default each image for its predicted one; `fast` in bfloat16.

    With `owners`, target k is of image `owners[k]`: what does not depend on the class is then computed once for an image.
    Raises `MethodError`, `LayerError` or `SpecError` before or without a trace on the model; what `progress` raises passes through.
    """
    spec = resolve(spec)
    method = create(spec)
    if batch_size < 1:
        raise SpecError(f"batch_size={batch_size} is not valid: expected a whole number from 1")
    of = range(len(images)) if owners is None else owners
    if owners is not None and targets is None:
        raise SpecError("items that share images need a target each")
    if targets is not None and (len(targets) != len(of) or not all(0 <= t < len(model.class_names) for t in targets)):
        raise SpecError(f"{len(of)} images need as many targets, each a class from 0 to {len(model.class_names) - 1}")
    size = (images.shape[2], images.shape[3])
    layer = model.layer(spec.layer, size)
    method.check(model, layer)
    with model.session():
        model.split(layer, images.shape[1:])
    start, paused = time.perf_counter(), 0.0

    def report(done: int, total: int) -> None:
        # Whoever watches may do other work in between, which is not this method's time.
        nonlocal paused
        before = time.perf_counter()
        progress(done, total)
        paused += time.perf_counter() - before

    maps: list[Tensor] = []
    chosen: list[int] = []
    diagnostics: dict[str, list[float]] = {}
    for part in _batches(of, batch_size):
        several = of[part]
        used = list(dict.fromkeys(several))
        with model.session(fast):
            batch = model.place((images[several.start : several.stop] if isinstance(several, range) else images[used]).detach())
            if targets is None:
                with torch.no_grad():
                    target = model(batch.clone()).argmax(1)
            else:
                target = torch.tensor(list(targets[part]), device=batch.device)
            indices = None if owners is None else torch.tensor([used.index(k) for k in several], device=batch.device)
            task = Task(model, layer, batch, target, indices, seed, batch_size, report)
            found = method.attribute(task)
        if found.shape != (len(several), 1, *layer.shape[1:]):
            raise MethodError(f"{spec.name} returned maps of shape {tuple(found.shape)}, expected {(len(several), 1, *layer.shape[1:])}")
        maps.append(found.detach().float().cpu().contiguous())
        chosen += target.tolist()
        for name, values in task.diagnostics.items():
            diagnostics.setdefault(name, []).extend(values.tolist())
    return Attribution(
        torch.cat(maps),
        tuple(chosen),
        spec,
        seed,
        time.perf_counter() - start - paused,
        size,
        {name: tuple(values) for name, values in diagnostics.items()},
    )


def _batches(owners: Sequence[int], size: int) -> Iterator[slice]:
    """Runs of items of about `size`, but never an image in two of them: what its items share is computed once."""
    first = 0
    while first < len(owners):
        last = min(first + size, len(owners))
        while last < len(owners) and owners[last] == owners[last - 1]:
            last += 1
        yield slice(first, last)
        first = last
