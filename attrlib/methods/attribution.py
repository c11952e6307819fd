"""Runs a method on images: the one place where maps are made."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attrlib.errors import AttrlibError, Cancelled, SpecError
from attrlib.methods.base import create, resolve
from attrlib.methods.context import AttributionContext
from attrlib.methods.together import Items, MethodRequest, SharedBatch
from attrlib.models import Classifier, Layer
from attrlib.models.chunks import in_chunks
from attrlib.postprocess import defect, resize
from attrlib.progress import Progress, no_progress
from attrlib.specs import MethodSpec

BATCH_SIZE = 16
"""Rows that go through the model at once, at most. Larger batches were no faster on any CPU tried and leave its caches."""
KEPT = 20 * 2**20
"""Bytes up to which a C library keeps memory that was freed. What is larger comes anew from the system, page by page, with every layer."""


@dataclass(frozen=True)
class Attribution:
    """Maps of one method on a batch of images.

    `maps` (B,1,h,w), float32 on the CPU, signed, at the layer's resolution; `target` the class index of each image;
    `seconds` for all of them, as the method takes them alone: what it shared with others counts in full; `diagnostics` per image, for example `convergence` of IG (relative error).
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


def rows_at_once(model: Classifier, size: tuple[int, int], rows: int = BATCH_SIZE) -> int:
    """How many of so many images of a size (H,W) go through the model at once: on a CPU no more than keep all layers' outputs small."""
    if model.device.type != "cpu":
        return rows
    largest = max(math.prod(layer.shape) for layer in model.layers.values()) * math.prod(size) / math.prod(model.input_size)
    return max(1, min(rows, int(KEPT / (4 * largest))))


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
    return attribute_all(model, [spec], images, targets, seed, batch_size, progress, fast, owners)[0]


def attribute_all(
    model: Classifier,
    specs: Sequence[MethodSpec],
    images: Tensor,
    targets: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: Progress = no_progress,
    fast: bool = False,
    owners: Sequence[int] | None = None,
) -> list[Attribution]:
    """The maps of several methods, each as by `attribute`, bit for bit; what they have in common is computed once.

    One that is known not to be defined for the model raises before any other is computed, and so do bad targets.
    """
    found = [_ask(model, spec, images) for spec in specs]
    _run(model, found, images, targets, seed, batch_size, progress, fast, owners)
    return [_result(one, seed, images) for one in found]


def attribute_each(
    model: Classifier,
    specs: Sequence[MethodSpec],
    images: Tensor,
    targets: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    progress: Progress = no_progress,
    fast: bool = False,
    owners: Sequence[int] | None = None,
) -> list[Attribution | AttrlibError]:
    """As `attribute_all`, but with the error in place of the maps of a method that raises one. Bad targets are nobody's, and raise."""
    found: list[MethodRequest | AttrlibError] = []
    for spec in specs:
        try:
            found.append(_ask(model, spec, images))
        except AttrlibError as error:
            found.append(error.with_traceback(None))
    request = [one for one in found if isinstance(one, MethodRequest)]
    _run(model, request, images, targets, seed, batch_size, progress, fast, owners, tolerant=True)
    return [one if isinstance(one, AttrlibError) else one.error or _result(one, seed, images) for one in found]


def _ask(model: Classifier, spec: MethodSpec, images: Tensor) -> MethodRequest:
    spec = resolve(spec)
    method, layer = create(spec), model.layer(spec.layer, (images.shape[2], images.shape[3]))
    method.check(model, layer)
    model.split(layer, images.shape[1:])
    return MethodRequest(spec, method, layer)


def _result(request: MethodRequest, seed: int, images: Tensor) -> Attribution:
    diagnostics = {name: tuple(values) for name, values in request.diagnostics.items()}
    size = (images.shape[2], images.shape[3])
    maps = torch.cat(request.maps)
    # So that no more than one method's maps are held twice.
    request.maps.clear()
    return Attribution(maps, tuple(request.target), request.spec, seed, request.seconds, size, diagnostics)


def _run(
    model: Classifier,
    request: Sequence[MethodRequest],
    images: Tensor,
    targets: Sequence[int] | None,
    seed: int,
    batch_size: int,
    progress: Progress,
    fast: bool,
    owners: Sequence[int] | None,
    tolerant: bool = False,
) -> None:
    """Batch by batch and layer by layer, all methods that are asked for. Where `tolerant`, one that raises is left out from then on."""
    if batch_size < 1:
        raise SpecError(f"batch_size={batch_size} is not valid: expected a whole number from 1")
    of = range(len(images)) if owners is None else owners
    if owners is not None and targets is None:
        raise SpecError("items that share images need a target each")
    if targets is not None and (len(targets) != len(of) or not all(0 <= t < len(model.class_names) for t in targets)):
        raise SpecError(f"{len(of)} images need as many targets, each a class from 0 to {len(model.class_names) - 1}")
    watch, chunk = _Stopwatch(progress, model.device), rows_at_once(model, (images.shape[2], images.shape[3]), batch_size)
    layers = {layer: [one for one in request if one.layer == layer] for layer in dict.fromkeys(one.layer for one in request)}
    for part in _batches(of, batch_size):
        several = of[part]
        used = list(dict.fromkeys(several))
        with model.session(fast):
            start = watch.read()
            placed = model.place((images[several.start : several.stop] if isinstance(several, range) else images[used]).detach())
            if targets is None:
                with torch.no_grad():
                    target, chunk = in_chunks(chunk, lambda some: model(some.clone()).argmax(1), placed)
            else:
                target = torch.tensor(list(targets[part]), device=placed.device)
            indices = None if owners is None else torch.tensor([used.index(k) for k in several], device=placed.device)
            begun = watch.read() - start
            for layer, methods in layers.items():

                def make(items: Items, rows: int, layer: Layer = layer) -> AttributionContext:
                    return AttributionContext(model, layer, items.images, items.targets, items.owners, seed, rows, watch.report, watch.read)

                batch = SharedBatch(Items(placed, target, indices), chunk, make)
                for one in methods:
                    if one.error is not None:
                        continue
                    if len(request) > 1:
                        watch.report(0, 0)
                    try:
                        batch.attribute(one)
                        one.seconds += begun
                    except AttrlibError as error:
                        if not tolerant or isinstance(error, Cancelled):
                            raise
                        one.error = error.with_traceback(None)
                chunk = batch.chunk


class _Stopwatch:
    """Seconds, but for those in which whoever watches the progress does other work."""

    def __init__(self, progress: Progress, device: torch.device):
        self._progress, self._device, self._paused = progress, device, 0.0

    def read(self) -> float:
        """Seconds since some moment, when all that was asked of the device is done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - self._paused

    def report(self, done: int, total: int) -> None:
        """Passes it on."""
        before = time.perf_counter()
        self._progress(done, total)
        self._paused += time.perf_counter() - before


def _batches(owners: Sequence[int], size: int) -> Iterator[slice]:
    """Runs of items of about `size`, but never an image in two of them: what its items share is computed once."""
    first = 0
    while first < len(owners):
        last = min(first + size, len(owners))
        while last < len(owners) and owners[last] == owners[last - 1]:
            last += 1
        yield slice(first, last)
        first = last
