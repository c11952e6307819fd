"""Batches of items on which several methods are computed with shared values, and which are halved when memory runs out."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from attrlib.errors import AttrlibError, MethodError, OutOfMemory, no_gradients, overwritten
from attrlib.methods.base import Method
from attrlib.methods.context import AttributionContext
from attrlib.models import Layer
from attrlib.models.chunks import half, out_of_memory
from attrlib.specs import MethodSpec


@dataclass
class MethodRequest:
    """A requested method and its results so far: maps, targets and diagnostics batch by batch, or the error that it raised."""

    spec: MethodSpec
    method: Method
    layer: Layer
    maps: list[Tensor] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    diagnostics: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    error: AttrlibError | None = None

    def attribute(self, context: AttributionContext) -> None:
        """Compute the maps of a context's items, and add them to the results.

        Raises:
            MethodError: If the maps have the wrong shape, or the method is not defined.
        """
        context.diagnostics, context.spared, start = {}, context.prepared, context.clock()
        raw = self.method.attribute(context)
        expected = (len(context), 1, *self.layer.shape[1:])
        if raw.shape != expected:
            raise MethodError(f"{self.spec.name} returned maps of shape {tuple(raw.shape)}, expected {expected}")
        maps = raw.detach().float().cpu().contiguous()
        self.maps.append(maps)
        self.target += context.targets.tolist()
        for name, values in context.diagnostics.items():
            self.diagnostics.setdefault(name, []).extend(values.tolist())
        self.seconds += context.clock() - start + context.spared


@dataclass(frozen=True)
class Items:
    """Items to explain, each an image and a target class.

    Attributes:
        images: Images (U,3,H,W) on the model's device.
        targets: Target class of each item (B,).
        owners: Image index of each item (B,). By default, one item per image.
    """

    images: Tensor
    targets: Tensor
    owners: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def some(self, part: slice) -> "Items":
        """Return a slice of the items, with the images that they need."""
        if self.owners is None:
            return Items(self.images[part], self.targets[part])
        used, owners = self.owners[part].unique(return_inverse=True)
        return Items(self.images[used], self.targets[part], owners)


class SharedBatch:
    """Items at one layer. All methods share one context. If memory runs out, two halves replace the batch permanently.

    Args:
        items: The items.
        chunk: Maximum number of rows in one pass.
        make: Returns the context of items, given the items and `chunk`.
    """

    def __init__(self, items: Items, chunk: int, make: Callable[[Items, int], AttributionContext]):
        self._items, self._chunk, self._make = items, chunk, make
        self._context: AttributionContext | None = None
        self._halves: list[SharedBatch] = []

    @property
    def chunk(self) -> int:
        """Return the number of rows at once for which memory was sufficient so far."""
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
        self._halves = [SharedBatch(self._items.some(part), smaller, self._make) for part in parts]
