"""Run methods on images. All attribution maps are computed here."""

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
"""Maximum number of rows in one pass. Larger batches exceed the caches of a CPU, and were not faster on any CPU tested."""
KEPT = 20 * 2**20
"""Bytes up to which a C library keeps freed memory. A larger tensor is requested from the system again, page by page, at every layer."""


@dataclass(frozen=True)
class Attribution:
    """Maps of one method on a batch of images.

    Attributes:
        maps: Signed maps (B,1,h,w), float32 on the CPU, at the layer's resolution.
        target: Target class index of each map.
        spec: The method, with its layer and all parameters filled in.
        seed: Seed of all random draws.
        seconds: Time for all maps if the method ran alone: work that it shared with other methods counts in full.
        input_size: Height and width of the images.
        diagnostics: Values per map by name, for example `convergence` of IG (relative error).
    """

    maps: Tensor
    target: tuple[int, ...]
    spec: MethodSpec
    seed: int
    seconds: float
    input_size: tuple[int, int]
    diagnostics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def resized(self, size: tuple[int, int] | None = None) -> Tensor:
        """Return the maps resized bilinearly to `size` (height, width), by default to the size of the images."""
        return resize(self.maps, size or self.input_size)

    @property
    def nbytes(self) -> int:
        """Return the size of the maps in bytes."""
        return self.maps.nbytes

    @property
    def defects(self) -> tuple[str | None, ...]:
        """Return the defect of each map (all zero, constant, NaN), or None for a map without one."""
        return tuple(defect(m[0]) for m in self.maps)


def rows_at_once(model: Classifier, size: tuple[int, int], rows: int = BATCH_SIZE) -> int:
    """Return how many images go through the model at once.

    On a CPU the number is limited so that the output of every layer stays small (see `KEPT`).

    Args:
        model: The classifier.
        size: Height and width of the images.
        rows: Largest number to return.
    """
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
    on_progress: Progress = no_progress,
    fast: bool = False,
    owners: Sequence[int] | None = None,
) -> Attribution:
    """Compute the maps of one method.

    The model is left unchanged, also when an error is raised.

    Args:
        model: The classifier to explain.
        spec: The method, its layer and its parameters.
        images: Normalised images (U,3,H,W).
        targets: Target class index of each item. By default, the class predicted for each image.
        seed: Seed of all random draws.
        batch_size: Maximum number of rows in one pass.
        on_progress: Progress callback. An exception that it raises passes through.
        fast: Whether to compute in bfloat16.
        owners: Image index of each item: target k belongs to image `owners[k]`. What does not depend on the class is then computed
            once per image. Requires `targets`. By default, one item per image.

    Raises:
        MethodError: If the method is unknown or not defined for the model.
        LayerError: If the model has no such layer.
        SpecError: If a parameter, the targets or the batch size are not valid.
    """
    return attribute_all(model, [spec], images, targets, seed, batch_size, on_progress, fast, owners)[0]


def attribute_all(
    model: Classifier,
    specs: Sequence[MethodSpec],
    images: Tensor,
    targets: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: Progress = no_progress,
    fast: bool = False,
    owners: Sequence[int] | None = None,
) -> list[Attribution]:
    """Compute the maps of several methods, and compute only once what they have in common.

    The maps are those of `attribute`, bit for bit. The model is left unchanged, also when an error is raised.

    Args:
        model: The classifier to explain.
        specs: The methods, their layers and their parameters.
        images: Normalised images (U,3,H,W).
        targets: Target class index of each item. By default, the class predicted for each image.
        seed: Seed of all random draws.
        batch_size: Maximum number of rows in one pass.
        on_progress: Progress callback. An exception that it raises passes through.
        fast: Whether to compute in bfloat16.
        owners: Image index of each item: target k belongs to image `owners[k]`. What does not depend on the class is then computed
            once per image. Requires `targets`. By default, one item per image.

    Returns:
        The maps of each method, in the order of `specs`.

    Raises:
        MethodError: If a method is unknown or not defined for the model. If this is known beforehand, nothing is computed.
        LayerError: If the model has no such layer.
        SpecError: If a parameter, the targets or the batch size are not valid. Nothing is computed then.
    """
    requests = [_request(model, spec, images) for spec in specs]
    _run(model, requests, images, targets, seed, batch_size, on_progress, fast, owners)
    return [_result(request, seed, images) for request in requests]


def attribute_each(
    model: Classifier,
    specs: Sequence[MethodSpec],
    images: Tensor,
    targets: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: Progress = no_progress,
    fast: bool = False,
    owners: Sequence[int] | None = None,
) -> list[Attribution | AttrlibError]:
    """Compute the maps of several methods as `attribute_all` does, but return the error of a method instead of raising it.

    Args:
        model: The classifier to explain.
        specs: The methods, their layers and their parameters.
        images: Normalised images (U,3,H,W).
        targets: Target class index of each item. By default, the class predicted for each image.
        seed: Seed of all random draws.
        batch_size: Maximum number of rows in one pass.
        on_progress: Progress callback. An exception that it raises passes through.
        fast: Whether to compute in bfloat16.
        owners: Image index of each item: target k belongs to image `owners[k]`. What does not depend on the class is then computed
            once per image. Requires `targets`. By default, one item per image.

    Returns:
        The maps of each method, or the error that it raised, in the order of `specs`.

    Raises:
        SpecError: If the targets or the batch size are not valid, because no single method is at fault.
        Cancelled: If the progress callback cancels the computation.
    """
    requests: list[MethodRequest | AttrlibError] = []
    for spec in specs:
        try:
            requests.append(_request(model, spec, images))
        except AttrlibError as error:
            requests.append(error.with_traceback(None))
    valid = [one for one in requests if isinstance(one, MethodRequest)]
    _run(model, valid, images, targets, seed, batch_size, on_progress, fast, owners, tolerant=True)
    return [one if isinstance(one, AttrlibError) else one.error or _result(one, seed, images) for one in requests]


def _request(model: Classifier, spec: MethodSpec, images: Tensor) -> MethodRequest:
    spec = resolve(spec)
    method, layer = create(spec), model.layer(spec.layer, (images.shape[2], images.shape[3]))
    method.check(model, layer)
    model.split(layer, images.shape[1:])
    return MethodRequest(spec, method, layer)


def _result(request: MethodRequest, seed: int, images: Tensor) -> Attribution:
    diagnostics = {name: tuple(values) for name, values in request.diagnostics.items()}
    size = (images.shape[2], images.shape[3])
    maps = torch.cat(request.maps)
    # The maps of at most one method are then held twice.
    request.maps.clear()
    return Attribution(maps, tuple(request.target), request.spec, seed, request.seconds, size, diagnostics)


def _run(
    model: Classifier,
    requests: Sequence[MethodRequest],
    images: Tensor,
    targets: Sequence[int] | None,
    seed: int,
    batch_size: int,
    on_progress: Progress,
    fast: bool,
    owners: Sequence[int] | None,
    tolerant: bool = False,
) -> None:
    """Run all requested methods, batch by batch and layer by layer. If `tolerant`, skip a method after its first error."""
    if batch_size < 1:
        raise SpecError(f"batch_size={batch_size} is not valid: expected a whole number from 1")
    image_of = range(len(images)) if owners is None else owners
    if owners is not None and targets is None:
        raise SpecError("owners requires targets: give one target for each item")
    if targets is not None and (len(targets) != len(image_of) or not all(0 <= t < len(model.class_names) for t in targets)):
        raise SpecError(
            f"targets is not valid: give {len(image_of)} class indices from 0 to {len(model.class_names) - 1}, one for each item"
        )
    stopwatch, chunk = _Stopwatch(on_progress, model.device), rows_at_once(model, (images.shape[2], images.shape[3]), batch_size)
    layers = {layer: [one for one in requests if one.layer == layer] for layer in dict.fromkeys(one.layer for one in requests)}
    for part in _batches(image_of, batch_size):
        images_of = image_of[part]
        used = list(dict.fromkeys(images_of))
        with model.session(fast):
            start = stopwatch.read()
            placed = model.place((images[images_of.start : images_of.stop] if isinstance(images_of, range) else images[used]).detach())
            if targets is None:
                with torch.no_grad():
                    target, chunk = in_chunks(chunk, lambda some: model(some.clone()).argmax(1), placed)
            else:
                target = torch.tensor(list(targets[part]), device=placed.device)
            indices = None if owners is None else torch.tensor([used.index(k) for k in images_of], device=placed.device)
            setup = stopwatch.read() - start
            for layer, methods in layers.items():

                def make(items: Items, rows: int, layer: Layer = layer) -> AttributionContext:
                    return AttributionContext(
                        model, layer, items.images, items.targets, items.owners, seed, rows, stopwatch.report, stopwatch.read
                    )

                batch = SharedBatch(Items(placed, target, indices), chunk, make)
                for one in methods:
                    if one.error is not None:
                        continue
                    if len(requests) > 1:
                        stopwatch.report(0, 0)
                    try:
                        batch.attribute(one)
                        one.seconds += setup
                    except AttrlibError as error:
                        if not tolerant or isinstance(error, Cancelled):
                            raise
                        one.error = error.with_traceback(None)
                chunk = batch.chunk


class _Stopwatch:
    """Clock that excludes the time spent in the progress callback."""

    def __init__(self, on_progress: Progress, device: torch.device):
        self._progress, self._device, self._paused = on_progress, device, 0.0

    def read(self) -> float:
        """Return the seconds since an arbitrary moment, once the device has finished all queued work."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - self._paused

    def report(self, done: int, total: int) -> None:
        """Call the progress callback, and exclude the time that it takes."""
        before = time.perf_counter()
        self._progress(done, total)
        self._paused += time.perf_counter() - before


def _batches(owners: Sequence[int], size: int) -> Iterator[slice]:
    """Yield slices of about `size` consecutive items. The items of an image stay together, so that what they share is computed once."""
    first = 0
    while first < len(owners):
        last = min(first + size, len(owners))
        while last < len(owners) and owners[last] == owners[last - 1]:
            last += 1
        yield slice(first, last)
        first = last
