"""Run methods on images. All attribution maps are computed here."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attrlib.errors import AttrlibError, Cancelled, SpecError
from attrlib.methods.together import Items, MethodRequest, SharedBatch, Stopwatch
from attrlib.models import Classifier, Layer
from attrlib.models.chunks import in_chunks
from attrlib.postprocess import defect, resize
from attrlib.progress import Progress, no_progress
from attrlib.specs import MethodSpec
from attrlib.targets import Target

BATCH_SIZE = 16
"""Maximum number of rows in one pass. Larger batches exceed the caches of a CPU, and were not faster on any CPU tested."""
MAX_LAYER_BYTES = 20 * 2**20
"""Maximum size of a layer's output on a CPU. The C library reuses freed memory up to this size; it requests larger tensors from the system again."""


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
        notes: What a reader of the maps must know about the model.
    """

    maps: Tensor
    target: tuple[int, ...]
    spec: MethodSpec
    seed: int
    seconds: float
    input_size: tuple[int, int]
    diagnostics: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: MethodRequest, seed: int, images: Tensor, notes: tuple[str, ...] = ()) -> "Attribution":
        """Return the maps that a request has collected, and clear it: the maps of at most one method are then held twice."""
        diagnostics = {name: tuple(values) for name, values in request.diagnostics.items()}
        maps = torch.cat(request.maps)
        request.maps.clear()
        size = images.shape[2], images.shape[3]
        return cls(maps, tuple(request.target), request.spec, seed, request.seconds, size, diagnostics, notes)

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

    On a CPU the number is limited so that no layer's output exceeds `MAX_LAYER_BYTES`.

    Args:
        model: The classifier.
        size: Height and width of the images.
        rows: Largest number to return.
    """
    if model.device.type != "cpu":
        return rows
    largest = max(math.prod(layer.shape) for layer in model.layers.values()) * math.prod(size) / math.prod(model.input_size)
    return max(1, min(rows, int(MAX_LAYER_BYTES / (4 * largest))))


@dataclass(frozen=True)
class AttributionOptions:
    """How maps are computed. Maps depend on `seed` and `fast` only.

    Attributes:
        seed: Seed of all random draws.
        batch_size: Maximum number of rows in one pass.
        fast: Whether to compute in bfloat16.
        on_progress: Progress callback. An exception that it raises passes through.
    """

    seed: int = 0
    batch_size: int = BATCH_SIZE
    fast: bool = False
    on_progress: Progress = no_progress

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise SpecError(f"batch_size={self.batch_size} is not valid: expected a whole number from 1")


DEFAULTS = AttributionOptions()


def attribute(
    model: Classifier,
    spec: MethodSpec,
    images: Tensor,
    targets: Sequence[int] | None = None,
    options: AttributionOptions = DEFAULTS,
    owners: Sequence[int] | None = None,
) -> Attribution:
    """Compute the maps of one method; see `attribute_all`.

    Args:
        model: The classifier to explain.
        spec: The method, its layer and its parameters.
        images: Normalised images (U,C,H,W).
        targets: Target class index of each item. By default, the class predicted for each image.
        options: Seed, batch size, precision and progress callback.
        owners: Image index of each item. By default, one item per image.

    Raises:
        AttrlibError: As in `attribute_all`.
    """
    return attribute_all(model, [spec], images, targets, options, owners)[0]


def attribute_all(
    model: Classifier,
    specs: Sequence[MethodSpec],
    images: Tensor,
    targets: Sequence[int] | None = None,
    options: AttributionOptions = DEFAULTS,
    owners: Sequence[int] | None = None,
) -> list[Attribution]:
    """Compute the maps of several methods, and compute only once what they have in common.

    The maps are those of `attribute`, bit for bit. The model is left unchanged, also when an error is raised.

    Args:
        model: The classifier to explain.
        specs: The methods, their layers and their parameters.
        images: Normalised images (U,C,H,W).
        targets: Target class index of each item. By default, the class predicted for each image.
        options: Seed, batch size, precision and progress callback.
        owners: Image index of each item: target k belongs to image `owners[k]`. What does not depend on the class is then computed
            once per image. Requires `targets`. By default, one item per image.

    Returns:
        The maps of each method, in the order of `specs`.

    Raises:
        MethodError: If a method is unknown or not defined for the model. If this is known beforehand, nothing is computed.
        LayerError: If the model has no such layer.
        TargetError: If what is explained is unknown, or not defined for the model or a class.
        SpecError: If a parameter or the targets are not valid. Nothing is computed then.
        OutOfMemory: If memory is not sufficient for one item.
        Cancelled: If the progress callback cancels the computation.
    """
    requests = [MethodRequest.of(model, spec, images) for spec in specs]
    _run(model, requests, images, targets, options, owners)
    return [Attribution.of(request, options.seed, images, model.remarks) for request in requests]


def attribute_each(
    model: Classifier,
    specs: Sequence[MethodSpec],
    images: Tensor,
    targets: Sequence[int] | None = None,
    options: AttributionOptions = DEFAULTS,
    owners: Sequence[int] | None = None,
) -> list[Attribution | AttrlibError]:
    """Compute the maps of several methods as `attribute_all` does, but return the error of a method instead of raising it.

    Args:
        model: The classifier to explain.
        specs: As in `attribute_all`.
        images: As in `attribute_all`.
        targets: As in `attribute_all`.
        options: As in `attribute_all`.
        owners: As in `attribute_all`.

    Returns:
        The maps of each method, or the error that it raised, in the order of `specs`.

    Raises:
        SpecError: If the targets are not valid, because no single method is at fault.
        Cancelled: If the progress callback cancels the computation.
    """
    requests: list[MethodRequest | AttrlibError] = []
    for spec in specs:
        try:
            requests.append(MethodRequest.of(model, spec, images))
        except AttrlibError as error:
            requests.append(error.with_traceback(None))
    defined = [request for request in requests if isinstance(request, MethodRequest)]
    _run(model, defined, images, targets, options, owners, tolerant=True)
    return [
        request if isinstance(request, AttrlibError) else request.error or Attribution.of(request, options.seed, images, model.remarks)
        for request in requests
    ]


def _run(
    model: Classifier,
    requests: Sequence[MethodRequest],
    images: Tensor,
    targets: Sequence[int] | None,
    options: AttributionOptions,
    owners: Sequence[int] | None,
    tolerant: bool = False,
) -> None:
    """Run all requested methods, batch by batch and layer by layer. If `tolerant`, skip a method after its first error."""
    image_of = range(len(images)) if owners is None else owners
    if owners is not None and targets is None:
        raise SpecError("owners requires targets: give one target for each item")
    if targets is not None and (len(targets) != len(image_of) or not all(0 <= t < len(model.class_names) for t in targets)):
        raise SpecError(
            f"targets is not valid: give {len(image_of)} class indices from 0 to {len(model.class_names) - 1}, one for each item"
        )
    stopwatch = Stopwatch(options.on_progress, model.device)
    size = 1 if model.behaviour.one_by_one else options.batch_size
    chunk = rows_at_once(model, (images.shape[2], images.shape[3]), size)
    shared: dict[tuple[Classifier, Layer, Target], list[MethodRequest]] = {}
    for request in requests:
        shared.setdefault((request.model, request.layer, request.explained), []).append(request)
        _check_classes(request.explained, model, targets)
    for part in _batches(image_of, size):
        images_of = image_of[part]
        used = list(dict.fromkeys(images_of))
        with model.session(options.fast):
            start = stopwatch.read()
            placed = model.place((images[images_of.start : images_of.stop] if isinstance(images_of, range) else images[used]).detach())
            if targets is None:
                with torch.no_grad():
                    target, chunk = in_chunks(chunk, lambda rows: model.outputs.predicted(model(rows.clone())), placed)
            else:
                target = torch.tensor(list(targets[part]), device=placed.device)
            indices = None if owners is None else torch.tensor([used.index(k) for k in images_of], device=placed.device)
            setup = stopwatch.read() - start
            for (view, layer, explained), methods in shared.items():
                if targets is None:
                    _check_classes(explained, model, target.tolist())
                batch = SharedBatch.at(view, layer, explained, Items(placed, target, indices), chunk, options.seed, stopwatch)
                # The session of the model itself is open already.
                with nullcontext() if view is model else view.session(options.fast):
                    _attribute(batch, methods, setup, stopwatch, len(requests) > 1, tolerant)
                chunk = batch.chunk


def _attribute(
    batch: SharedBatch, requests: Sequence[MethodRequest], setup: float, stopwatch: Stopwatch, several: bool, tolerant: bool
) -> None:
    """Compute the maps of methods that share a batch. `setup`: seconds that count for each of them."""
    for request in requests:
        if request.error is not None:
            continue
        if several:
            stopwatch.report(0, 0)
        try:
            batch.attribute(request)
            request.seconds += setup
        except AttrlibError as error:
            if not tolerant or isinstance(error, Cancelled):
                raise
            request.error = error.with_traceback(None)


def _check_classes(target: Target, model: Classifier, classes: Sequence[int] | None) -> None:
    for each in sorted(set(classes or ())):
        target.check_class(model, each)


def _batches(owners: Sequence[int], size: int) -> Iterator[slice]:
    """Yield slices of about `size` consecutive items. The items of an image stay together, so that what they share is computed once."""
    first = 0
    while first < len(owners):
        last = min(first + size, len(owners))
        while last < len(owners) and owners[last] == owners[last - 1]:
            last += 1
        yield slice(first, last)
        first = last
