"""One batch of items and the methods that are asked for on it: what they share, and what becomes of it where memory runs out."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from attrlib.errors import AttrlibError, MethodError, OutOfMemory, no_gradients, overwritten
from attrlib.methods.base import Method
from attrlib.methods.task import Task
from attrlib.models import Layer
from attrlib.models.chunks import half, out_of_memory
from attrlib.specs import MethodSpec


@dataclass
class Asked:
    """A method that is asked for, and what has become of it so far: maps and diagnostics batch by batch, or the error that it raised."""

    spec: MethodSpec
    method: Method
    layer: Layer
    maps: list[Tensor] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    diagnostics: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    error: AttrlibError | None = None

    def attribute(self, task: Task) -> None:
        """Adds the maps of a task's items."""
        task.diagnostics, task.spared, start = {}, task.prepared, task.clock()
        found = self.method.attribute(task)
        expected = (len(task), 1, *self.layer.shape[1:])
        if found.shape != expected:
            raise MethodError(f"{self.spec.name} returned maps of shape {tuple(found.shape)}, expected {expected}")
        maps = found.detach().float().cpu().contiguous()
        self.maps.append(maps)
        self.target += task.targets.tolist()
        for name, values in task.diagnostics.items():
            self.diagnostics.setdefault(name, []).extend(values.tolist())
        self.seconds += task.clock() - start + task.spared


@dataclass(frozen=True)
class Items:
    """Images (U,3,H,W) on the model's device, a target (B,) for each item, and the items' images (B,), by default each image once."""

    images: Tensor
    targets: Tensor
    owners: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def some(self, part: slice) -> "Items":
        """Part of the items, with the images that they need."""
        if self.owners is None:
            return Items(self.images[part], self.targets[part])
        used, owners = self.owners[part].unique(return_inverse=True)
        return Items(self.images[used], self.targets[part], owners)


class JointBatch:
    """Items at one layer. All methods that come share one task; where memory runs out, two batches take its place for good.

    `make` makes the task of items with so many rows at once.
    """

    def __init__(self, items: Items, chunk: int, make: Callable[[Items, int], Task]):
        self._items, self._chunk, self._make = items, chunk, make
        self._task: Task | None = None
        self._halves: list[JointBatch] = []

    @property
    def chunk(self) -> int:
        """Rows at once that memory has sufficed for."""
        return min((own.chunk for own in self._halves), default=self._chunk if self._task is None else self._task.chunk)

    def attribute(self, asked: Asked) -> None:
        """Adds the maps of a method. Raises `OutOfMemory` where there is not enough for one item."""
        if not self._halves:
            try:
                asked.attribute(self._shared())
            except (RuntimeError, MemoryError, OutOfMemory) as error:
                if overwritten(error):
                    raise no_gradients(asked.spec.name) from None
                if not out_of_memory(error):
                    raise
            else:
                return
            # Only here, where the error no longer holds what the method had.
            self._halve()
        for own in self._halves:
            own.attribute(asked)

    def _shared(self) -> Task:
        if self._task is None:
            self._task = self._make(self._items, self._chunk)
        return self._task

    def _halve(self) -> None:
        chunk, count = self.chunk, len(self._items)
        self._task = None
        smaller = half(chunk if count == 1 else max(2, chunk))
        parts = [slice(0, (count + 1) // 2), slice((count + 1) // 2, count)][: min(2, count)]
        self._halves = [JointBatch(self._items.some(part), smaller, self._make) for part in parts]
