"""Load images from disk to the device, a few chunks ahead of the computation."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from PIL import Image

from attrlib.data.datasets import Dataset, Item
from attrlib.data.labels import match_classes
from attrlib.data.scenes import Scene
from attrlib.engine.items import Chunk
from attrlib.errors import DataError, ImageError
from attrlib.models import Classifier
from attrlib.models.cells import stitch
from attrlib.protocols import Batch

CHUNKS_AHEAD = 2

Loaded = tuple[Chunk, Batch | None]
"""The readable items of a chunk and their batch, None if no item is readable."""


class Loader:
    """Load batches of items, preprocessed for a model.

    Args:
        model: The classifier, whose preprocessing and device are used.
        data: The data set.
        needs: What the protocols need besides images and labels (see `Protocol.needs`): with `parts`, batches contain the masks of
            the parts and the images without each part; with `scenes`, those of the objects of the background and the scenes.

    Attributes:
        unreadable: Why each item, by its id, could not be read; such items are left out.
    """

    def __init__(self, model: Classifier, data: Dataset, needs: Collection[str] = ()):
        self.unreadable: dict[str, str] = {}
        self._model, self._data, self._with_parts, self._with_scenes = model, data, "parts" in needs, "scenes" in needs
        self._class_parts = _class_parts(model, data) if self._with_parts else None
        self._pool: ThreadPoolExecutor | None = None
        self._loading: dict[Chunk, Future[Loaded]] = {}
        self._queue: list[Chunk] = []
        self._last: tuple[Chunk, Loaded] | None = None

    @contextmanager
    def prefetch(self, chunks: Sequence[Chunk]) -> Iterator[None]:
        """Load the chunks in this order in a thread inside the context, at most two ahead of the one in use."""
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

    def expect(self, chunk: Chunk) -> None:
        """Add a chunk to those that `prefetch` loads, unless it is among them."""
        if chunk not in self._queue and chunk not in self._loading:
            self._queue.append(chunk)
            self._fill()

    def get(self, chunk: Chunk) -> Loaded:
        """Return the readable items of a chunk and their batch on the model's device. The last chunk is kept."""
        if self._last is None or self._last[0] != chunk:
            self._last = (chunk, self._place(chunk))
        return self._last[1]

    def skip(self, chunk: Chunk) -> None:
        """Stop loading a chunk that turned out not to be needed."""
        future = self._loading.pop(chunk, None)
        if future is not None:
            future.cancel()
            self._fill()

    def _place(self, chunk: Chunk) -> Loaded:
        future = self._loading.pop(chunk, None)
        self._fill()
        items, batch = self._load(chunk) if future is None else future.result()
        if batch is None:
            return items, None
        grid = round(batch.images.shape[1] ** 0.5)
        with self._model.session():
            return items, dataclasses.replace(batch, images=self._model.place(stitch(batch.images, grid)))

    def _fill(self) -> None:
        while self._pool is not None and self._queue and len(self._loading) < CHUNKS_AHEAD:
            chunk = self._queue.pop(0)
            self._loading[chunk] = self._pool.submit(self._load, chunk)

    def _load(self, chunk: Chunk) -> Loaded:
        """Load a chunk, with the cells of grids still separate: (B,n*n,C,h,w).

        No torch operation runs here: in another thread, torch would start a second thread pool on the same cores.
        """
        readable, images, masks, parts, without, objects, redraw = [], [], [], [], [], [], []
        for item in chunk:
            try:
                pictures = [self._data[index] for index in item.images]
                variants = (
                    [self._data.without(item.images[0], part) for part in self._data.parts]
                    if self._with_parts and len(item.images) == 1
                    else []
                )
                image, other_images = self._preprocess(pictures), self._preprocess(variants) if variants else None
            except ImageError as error:
                self.unreadable[item.id] = str(error)
                continue
            readable.append(item)
            images.append(image)
            if self._data.has_masks and len(pictures) == 1:
                on_object = [self._mask(pictures[0], name) for name in pictures[0].masks]
                masks.append(np.any(on_object, 0) if on_object else np.zeros(images[-1].shape[2:], dtype=bool))
            if other_images is not None:
                parts.append(np.stack([self._mask(pictures[0], name) for name in self._data.parts]))
                without.append(other_images)
            if self._with_scenes and len(pictures) == 1:
                scene = self._data.scene(item.images[0])
                shown = scene.object_masks()
                objects.append(np.stack([self._resized(shown[name], pictures[0]) for name in self._data.objects]))
                redraw.append(partial(self._redraw, scene))
        if not readable:
            return (), None
        labels = torch.tensor([item.labels for item in readable])
        labels = labels[:, 0] if labels.shape[1] == 1 else labels
        with_masks, with_parts, with_removals, with_objects = (
            torch.from_numpy(np.stack(arrays)) if arrays else None for arrays in (masks, parts, without, objects)
        )
        return tuple(readable), Batch(
            tuple(item.id for item in readable), torch.from_numpy(np.stack(images)), labels, with_masks, with_parts, with_removals,
            self._class_parts, with_objects, tuple(redraw) or None,
        )  # fmt: skip

    def _preprocess(self, pictures: Iterable[Item | Image.Image]) -> np.ndarray:
        return np.stack([self._model.preprocess(picture).numpy() for picture in pictures])

    def _mask(self, item: Item, name: str) -> np.ndarray:
        return self._resized(item.masks[name], item)

    def _resized(self, mask: np.ndarray, item: Item) -> np.ndarray:
        return self._model.preprocessing.mask(mask, item.image.size).numpy()

    def _redraw(self, scene: Scene, without: Collection[int]) -> torch.Tensor:
        names = (*self._data.parts, *self._data.objects)
        return self._model.preprocess(Image.fromarray(scene.render([names[k] for k in without])))


def _class_parts(model: Classifier, data: Dataset) -> dict[int, tuple[int, ...]] | None:
    """Return the variant of each part by the model's class; None if the data set does not know them, or the model not its classes."""
    try:
        return dict(zip(match_classes(data.class_names, model.class_names), data.class_parts, strict=True)) if data.class_parts else None
    except DataError:
        return None


def take(batch: Batch, rows: Sequence[int]) -> Batch:
    """Return some rows of a batch."""
    chosen = list(rows)
    masks, parts, without, objects = (
        None if values is None else values[chosen] for values in (batch.masks, batch.parts, batch.without, batch.objects)
    )
    redraw = None if batch.redraw is None else tuple(batch.redraw[row] for row in chosen)
    ids = tuple(batch.ids[row] for row in chosen)
    return Batch(ids, batch.images[chosen], batch.labels[chosen], masks, parts, without, batch.class_parts, objects, redraw)
