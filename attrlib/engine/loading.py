"""Images from disk to the device, a few chunks ahead of the work."""

import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from attrlib.data.datasets import Dataset
from attrlib.engine.units import Unit
from attrlib.errors import ImageError
from attrlib.models import Classifier
from attrlib.models.cells import stitch
from attrlib.protocols import Batch

AHEAD = 2


class Loader:
    """Batches of units as the model sees them; with `parts`, what shows them and what is left without each.

    `failed` names the images that could not be read; their units are left out.
    """

    def __init__(self, model: Classifier, data: Dataset):
        self.failed: dict[int, str] = {}
        self.parts = False
        self._model, self._data = model, data
        self._pool: ThreadPoolExecutor | None = None
        self._loading: dict[tuple[Unit, ...], Future[tuple[tuple[Unit, ...], Batch | None]]] = {}
        self._queue: list[tuple[Unit, ...]] = []
        self._last: tuple[tuple[Unit, ...], tuple[tuple[Unit, ...], Batch | None]] | None = None

    @contextmanager
    def ahead(self, chunks: Sequence[tuple[Unit, ...]]) -> Iterator[None]:
        """Inside, the chunks are loaded in this order by a thread of their own, at most two ahead of the one in use."""
        self._queue = list(chunks)
        with ThreadPoolExecutor(1, "attrlib-loader") as pool:
            self._pool = pool
            try:
                self._fill()
                yield
            finally:
                self._pool, self._queue = None, []
                for future in self._loading.values():
                    future.cancel()
                self._loading.clear()

    def get(self, chunk: tuple[Unit, ...]) -> tuple[tuple[Unit, ...], Batch | None]:
        """The units that could be read, and their batch on the model's device; None where none could. The last one is kept."""
        if self._last is None or self._last[0] != chunk:
            self._last = (chunk, self._place(chunk))
        return self._last[1]

    def _place(self, chunk: tuple[Unit, ...]) -> tuple[tuple[Unit, ...], Batch | None]:
        future = self._loading.pop(chunk, None)
        self._fill()
        units, batch = self._load(chunk) if future is None else future.result()
        if batch is None:
            return units, None
        with self._model.session():
            return units, dataclasses.replace(batch, images=self._model.place(batch.images))

    def _fill(self) -> None:
        while self._pool is not None and self._queue and len(self._loading) < AHEAD:
            chunk = self._queue.pop(0)
            self._loading[chunk] = self._pool.submit(self._load, chunk)

    def _load(self, chunk: tuple[Unit, ...]) -> tuple[tuple[Unit, ...], Batch | None]:
        good, images, masks, parts, without = [], [], [], [], []
        for unit in chunk:
            try:
                items = [self._data[index] for index in unit.images]
                others = (
                    [self._data.without(unit.images[0], part) for part in self._data.parts] if self.parts and len(unit.images) == 1 else []
                )
            except ImageError as error:
                self.failed[unit.images[0]] = str(error)
                continue
            cells = torch.stack([self._model.preprocess(item.image) for item in items])
            n = round(len(items) ** 0.5)
            good.append(unit)
            images.append(cells[0] if n == 1 else stitch(cells[None], n)[0])
            if self._data.has_masks and n == 1:
                own = [self._model.preprocessing.mask(mask, items[0].image.size) for mask in items[0].masks.values()]
                masks.append(torch.stack(own).any(0) if own else torch.zeros(images[-1].shape[1:], dtype=torch.bool))
            if others and n == 1:
                parts.append(
                    torch.stack([self._model.preprocessing.mask(items[0].masks[p], items[0].image.size) for p in self._data.parts])
                )
                without.append(torch.stack([self._model.preprocess(other) for other in others]))
        if not good:
            return (), None
        labels = torch.tensor([unit.labels for unit in good])
        labels = labels[:, 0] if labels.shape[1] == 1 else labels
        stacked = (torch.stack(found) if found else None for found in (masks, parts, without))
        return tuple(good), Batch(tuple(unit.id for unit in good), torch.stack(images), labels, *stacked)


def part(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some rows of a batch."""
    chosen = list(rows)
    several = (None if found is None else found[chosen] for found in (batch.masks, batch.parts, batch.without))
    return Batch(tuple(batch.ids[row] for row in chosen), batch.images[chosen], batch.labels[chosen], *several)
