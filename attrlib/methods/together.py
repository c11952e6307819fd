"""Batches of items on which several methods are computed with shared values, and which are halved when memory runs out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attrlib.errors import AttrlibError, MethodError, OutOfMemory, no_gradients, overwritten
from attrlib.methods.base import Method, instance, resolve
from attrlib.methods.context import AttributionContext
from attrlib.methods.differentiable import check_defined
from attrlib.models import Classifier, Layer
from attrlib.models.chunks import half, out_of_memory
from attrlib.progress import Progress
from attrlib.specs import MethodSpec
from attrlib.targets import Target
from attrlib.targets import create as create_target


class Stopwatch:
    """Clock that excludes the time spent in the progress callback."""

    def __init__(self, on_progress: Progress, device: torch.device):
        self.on_progress, self._device, self._paused = on_progress, device, 0.0

    def read(self) -> float:
        """Return the seconds since an arbitrary moment, once the device has finished all queued work."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - self._paused

    def report(self, done: int, total: int) -> None:
        """Call the progress callback, and exclude the time that it takes."""
        before = time.perf_counter()
        self.on_progress(done, total)
        self._paused += time.perf_counter() - before


@dataclass
class MethodRequest:
    """A requested method and its results so far: maps, targets and diagnostics batch by batch, or the error that it raised.

    `model` is the view of the classifier that the target reads.
    """

    spec: MethodSpec
    method: Method
    model: Classifier
    layer: Layer
    explained: Target
    maps: list[Tensor] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    diagnostics: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    error: AttrlibError | None = None

    @classmethod
    def of(cls, model: Classifier, spec: MethodSpec, images: Tensor) -> "MethodRequest":
        """Return the request for a method, once it is known to be defined.

        Args:
            model: The classifier to explain.
            spec: The method, its layer and its parameters.
            images: Normalised images (U,C,H,W).

        Raises:
            MethodError: If the method is unknown or not defined for the model.
            LayerError: If the model has no such layer.
            TargetError: If the target is unknown or not defined for the model.
            SpecError: If a parameter is not valid.
        """
        spec, size = resolve(spec), (images.shape[2], images.shape[3])
        method, target, layer = instance(spec), create_target(spec.target), model.layer(spec.layer, size)
        check_defined(method, model, layer, target, size)
        view = target.view(model)
        layer = layer if view is model else view.layer(spec.layer, size)
        view.split(layer, images.shape[1:])
        return cls(spec, method, view, layer, target)

    def attribute(self, context: AttributionContext) -> None:
        """Compute the maps of a context's items, and add them to the results.

        Raises:
            MethodError: If the maps have the wrong shape, or the method is not defined.
        """
        context.diagnostics, context.shared_seconds, start = {}, context.setup_seconds, context.clock()
        raw = self.method.attribute(context)
        expected = (len(context), 1, *self.layer.shape[1:])
        if raw.shape != expected:
            raise MethodError(f"{self.spec.name} returned maps of shape {tuple(raw.shape)}, expected {expected}")
        maps = raw.detach().float().cpu().contiguous()
        self.maps.append(maps)
        self.target += context.targets.tolist()
        for name, values in context.diagnostics.items():
            self.diagnostics.setdefault(name, []).extend(values.tolist())
        self.seconds += context.clock() - start + context.shared_seconds


@dataclass(frozen=True)
class Items:
    """Items to explain, each an image and a target class.

    Attributes:
        images: Images (U,C,H,W) on the model's device.
        targets: Target class of each item (B,).
        owners: Image index of each item (B,). By default, one item per image.
    """

    images: Tensor
    targets: Tensor
    owners: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, part: slice) -> "Items":
        """Return a slice of the items, with the images that they need."""
        if self.owners is None:
            return Items(self.images[part], self.targets[part])
        used, owners = self.owners[part].unique(return_inverse=True)
        return Items(self.images[used], self.targets[part], owners)


class SharedBatch:
    """A batch of items at one layer, whose context all methods share. If memory runs out, the batch is split in two for good.

    Args:
        items: The items.
        chunk: Maximum number of rows in one pass.
        make: Returns the context of items, given the items and `chunk`.
    """

    def __init__(self, items: Items, chunk: int, make: Callable[[Items, int], AttributionContext]):
        self._items, self._chunk, self._make = items, chunk, make
        self._context: AttributionContext | None = None
        self._halves: list[SharedBatch] = []

    @classmethod
    def at(
        cls, model: Classifier, layer: Layer, target: Target, items: Items, chunk: int, seed: int, stopwatch: Stopwatch
    ) -> "SharedBatch":
        """Return the batch of items at a layer of a model.

        Args:
            model: The classifier, or the view of it that the target reads.
            layer: The layer.
            target: What is explained.
            items: The items.
            chunk: Maximum number of rows in one pass.
            seed: Seed of all random draws.
            stopwatch: Measures the time, and receives the progress.
        """

        def make(items: Items, rows: int) -> AttributionContext:
            return AttributionContext(
                model, layer, items.images, items.targets, items.owners, target, seed, rows, stopwatch.report, stopwatch.read
            )

        return cls(items, chunk, make)

    @property
    def chunk(self) -> int:
        """Return the number of rows per pass for which memory has been sufficient so far."""
        return min((part.chunk for part in self._halves), default=self._chunk if self._context is None else self._context.chunk)

    def attribute(self, request: MethodRequest) -> None:
        """Compute the maps of a method for all items, and add them to the request.

        Raises:
            OutOfMemory: If memory is not sufficient for one item.
        """
        if not self._halves:
            try:
                request.attribute(self._shared())
            except (RuntimeError, MemoryError, OutOfMemory) as error:
                if overwritten(error):
                    raise no_gradients(request.spec.name) from None
                if not out_of_memory(error):
                    raise
            else:
                return
            # Outside the except block, where the error no longer holds references to the method's tensors.
            self._halve()
        for part in self._halves:
            part.attribute(request)

    def _shared(self) -> AttributionContext:
        if self._context is None:
            self._context = self._make(self._items, self._chunk)
        return self._context

    def _halve(self) -> None:
        chunk, count = self.chunk, len(self._items)
        self._context = None
        smaller = half(chunk if count == 1 else max(2, chunk))
        parts = [slice(0, (count + 1) // 2), slice((count + 1) // 2, count)][: min(2, count)]
        self._halves = [SharedBatch(self._items.subset(part), smaller, self._make) for part in parts]
