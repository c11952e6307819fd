"""Images from disk to the device, a few chunks ahead of the work."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image

from attrlib.data.datasets import Dataset, Item
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
        n = round(batch.images.shape[1] ** 0.5)
        with self._model.session():
            return units, dataclasses.replace(batch, images=self._model.place(stitch(batch.images, n)))

    def _fill(self) -> None:
        while self._pool is not None and self._queue and len(self._loading) < AHEAD:
            chunk = self._queue.pop(0)
            self._loading[chunk] = self._pool.submit(self._load, chunk)

    def _load(self, chunk: tuple[Unit, ...]) -> tuple[tuple[Unit, ...], Batch | None]:
        """The units that could be read, and their batch, of which the images (B,n*n,3,h,w) are still cells.

        Without any operation of torch, which in a thread of its own would start a second team of threads on the same cores.
        """
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
            good.append(unit)
            images.append(self._seen(item.image for item in items))
            if self._data.has_masks and len(items) == 1:
                own = [self._mask(items[0], name) for name in items[0].masks]
                masks.append(np.any(own, 0) if own else np.zeros(images[-1].shape[2:], dtype=bool))
            if others and len(items) == 1:
                parts.append(np.stack([self._mask(items[0], name) for name in self._data.parts]))
                without.append(self._seen(others))
        if not good:
            return (), None
        labels = torch.tensor([unit.labels for unit in good])
        labels = labels[:, 0] if labels.shape[1] == 1 else labels
        stacked = (torch.from_numpy(np.stack(found)) if found else None for found in (masks, parts, without))
        return tuple(good), Batch(tuple(unit.id for unit in good), torch.from_numpy(np.stack(images)), labels, *stacked)

    def _seen(self, pictures: Iterable[Image.Image]) -> np.ndarray:
        return np.stack([self._model.preprocess(picture).numpy() for picture in pictures])

    def _mask(self, item: Item, name: str) -> np.ndarray:
        return self._model.preprocessing.mask(item.masks[name], item.image.size).numpy()


def part(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some rows of a batch."""
    chosen = list(rows)
    several = (None if found is None else found[chosen] for found in (batch.masks, batch.parts, batch.without))
    return Batch(tuple(batch.ids[row] for row in chosen), batch.images[chosen], batch.labels[chosen], *several)
