"""What lessons ask for: models, birds and maps, from the queues; nothing is computed while a lesson draws."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from attrlib.aggregation.view import tiled
from attrlib.data.datasets import load_dataset
from attrlib.data.grids import compose
from attrlib.data.images import Photo
from attrlib.diagnostics.localisation_grid import GridMap, map_grid
from attrlib.engine.cache import InMemoryCache
from attrlib.engine.jobs import Job, State, queue
from attrlib.methods import Attribution, resolve
from attrlib.models import Classifier, shipped, smallest
from attrlib.progress import NewsProgress
from attrlib.specs import AggregateView, MethodSpec, ModelSpec, ProtocolSpec, digest
from pages.inspect import map_jobs
from pages.shared import jobs, tiles

DATA = "birds"
TUNED = "_tuned"
AT_ONCE = 0.6
"""Seconds that a lesson waits before it says so: most answers come sooner, and nothing flickers."""


class NotYet(Exception):
    """What a lesson needs is not there yet, or cannot be had."""

    def __init__(self, job: Job):
        self.job = job


@dataclass(frozen=True, eq=False)
class Bird:
    """One picture of the data: its place there, its class by name, and where the bird's parts show (H,W)."""

    photo: Photo
    index: int
    label: int
    name: str
    mask: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes that picture and mask take."""
        return 3 * self.photo.image.width * self.photo.image.height + self.mask.nbytes


@dataclass(frozen=True, eq=False)
class Flock:
    """Several birds, as the result of a job."""

    birds: list[Bird]

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(bird.nbytes for bird in self.birds)


@dataclass(frozen=True, eq=False)
class GridMaps:
    """Maps of several grids, as the result of a job."""

    maps: list[GridMap]

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(found.nbytes for found in self.maps)

    def mean(self, view: AggregateView) -> float:
        """The mean localisation score."""
        return sum(found.shown(view)[1] for found in self.maps) / len(self.maps)


def pairs() -> tuple[str, ...]:
    """The shipped bird models that come plain and deletion-tuned, the smallest first, by the names of the plain ones."""
    names = [name for name in shipped() if name.startswith(f"{DATA}_") and f"{name}{TUNED}" in shipped()]
    first = smallest(DATA, tuned=False)
    return tuple(sorted(names, key=lambda name: (name != first, name)))


class LessonContext:
    """One lesson at work on a pair of models and a bird, given by its place in the data."""

    seed = 0

    def __init__(self, model: str, bird: int):
        self.model_name, self.bird_index = model, bird

    def wait(self, *jobs: Job) -> list[Any]:
        """The results of all jobs. Raises `NotYet` with the first one that has none."""
        end = time.monotonic() + AT_ONCE
        for job in jobs:
            job.wait(max(0.0, end - time.monotonic()))
        for job in jobs:
            if job.state is not State.DONE:
                raise NotYet(job)
        return [job.result for job in jobs]

    def ended(self, *jobs: Job) -> list[Job]:
        """The same jobs once all have ended, also those that failed. Raises `NotYet` before."""
        end = time.monotonic() + AT_ONCE
        for job in jobs:
            if not job.wait(max(0.0, end - time.monotonic())):
                raise NotYet(job)
        return list(jobs)

    def compute(self, what: str, do: Callable[[NewsProgress], Any], *about: object) -> Job:
        """Work of a lesson on the device; `about` is all that it depends on besides the models and the seed."""
        key = digest("learn", what, self.model_name, self.seed, *about)
        return jobs.device_queue().submit(key, do, jobs.PATIENCE)

    @cached_property
    def plain(self) -> Classifier:
        """The model as it was trained."""
        return self.wait(jobs.model_job(ModelSpec(self.model_name)))[0]

    @cached_property
    def tuned(self) -> Classifier:
        """The model that was fine-tuned on pictures with deleted cells."""
        return self.wait(jobs.model_job(ModelSpec(f"{self.model_name}{TUNED}")))[0]

    @cached_property
    def bird(self) -> Bird:
        """The chosen bird."""
        return self.birds([self.bird_index])[0]

    def birds(self, indices: Sequence[int]) -> list[Bird]:
        """Birds by their places in the data."""

        def draw(progress: NewsProgress) -> Flock:
            data, found = load_dataset(DATA), []
            for number, index in enumerate(indices):
                progress(number, len(indices))
                item, label = data[index], data.label(index)
                assert label is not None
                mask = np.any(list(item.masks.values()), axis=0)
                found.append(Bird(Photo(item.image, item.name), index, label, data.class_names[label], mask))
            return Flock(found)

        return self.wait(queue("data").submit(digest("learn birds", list(indices)), draw, jobs.PATIENCE))[0].birds

    def some_birds(self, count: int) -> list[Bird]:
        """The chosen bird and the next ones."""
        size = len(load_dataset(DATA))
        return self.birds([(self.bird_index + k) % size for k in range(count)])

    def grids(self, count: int, corners: bool) -> list[list[Bird]]:
        """Grids of 2 x 2 birds; with `corners` the first and the last are of one class, else all classes differ."""
        data = load_dataset(DATA)
        pool = [(self.bird_index + k) % len(data) for k in range(10 * count + 40)]
        made = compose([int(data.label(index) or 0) for index in pool], 2, corners, self.seed)[:count]
        drawn = self.birds([pool[place] for grid in made for place in grid])
        return [drawn[4 * k : 4 * k + 4] for k in range(len(made))]

    def grid_maps(self, setting: str, grids: Sequence[Sequence[Bird]], cell: int, method: str) -> Job:
        """The map of a method, given in text form, for the bird in one cell of each of some grids, in a localisation setting."""
        model, spec, protocol = self.plain, resolve(MethodSpec.parse(method)), ProtocolSpec(setting)

        def explain(progress: NewsProgress) -> GridMaps:
            found = []
            for number, birds in enumerate(grids):
                progress(number, len(grids))
                photos, target = [bird.photo for bird in birds], model.target(birds[cell].name)
                found.append(map_grid(model, photos, protocol, cell, target, spec, InMemoryCache(), self.seed))
            return GridMaps(found)

        return self.compute("grid maps", explain, protocol, spec, cell, [[bird.index for bird in birds] for birds in grids])

    def maps(self, model: Classifier, photo: Photo, methods: Sequence[str], target: int) -> list[Attribution]:
        """The map of each method, given in text form."""
        specs = [resolve(MethodSpec.parse(text)) for text in methods]
        return self.wait(*(jobs.map_job(model, photo, spec, target, self.seed) for spec in specs))

    def twins(self, model: Classifier, shares: Sequence[float]) -> list[Classifier]:
        """The model with the weights of the last `share` of its layers shuffled, for each share."""

        return self.wait(*(map_jobs.twin_job(model, share, self.seed) for share in shares))

    def probabilities(self, model: Classifier, photo: Photo) -> Any:
        """Softmax probabilities (C,) of a photo."""
        return self.wait(jobs.prediction_job(model, photo))[0]

    def grid_picture(self, birds: Sequence[Bird]) -> Image.Image:
        """A grid as the model sees it, twice as fine."""
        return tiled([self.picture(bird, self.plain) for bird in birds])

    def picture(self, bird: Bird, model: Classifier) -> Image.Image:
        """The bird as the model sees it, twice as fine."""
        return tiles.picture(bird.photo.digest, model.preprocessing, bird.photo.image)
