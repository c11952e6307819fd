"""The models, birds and maps that lessons request from the queues. Nothing is computed while a lesson draws."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from attrlib.aggregation.view import tiled
from attrlib.data.datasets import load_dataset
from attrlib.data.grids import compose
from attrlib.data.images import Photo
from attrlib.diagnostics.localisation_grid import GridMaps, map_grid
from attrlib.engine.cache import InMemoryCache
from attrlib.engine.jobs import Job, State, queue
from attrlib.methods import Attribution, resolve
from attrlib.models import Classifier, shipped, smallest
from attrlib.progress import NewsProgress
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, digest
from pages.shared import jobs, map_jobs, tiles

DATA = "birds"
TUNED = "_tuned"
AT_ONCE = 0.6
"""Seconds that a lesson waits before it shows placeholders. Most results arrive sooner, which avoids flicker."""


class NotYet(Exception):
    """Raised when a result that a lesson needs is pending or has failed."""

    def __init__(self, job: Job):
        self.job = job


@dataclass(frozen=True, eq=False)
class Bird:
    """One image of the data set: its index, its class name, and a mask of the visible parts of the bird (H,W)."""

    photo: Photo
    index: int
    label: int
    name: str
    mask: np.ndarray

    @property
    def nbytes(self) -> int:
        """Return the size of image and mask in bytes."""
        return 3 * self.photo.image.width * self.photo.image.height + self.mask.nbytes


@dataclass(frozen=True, eq=False)
class Flock:
    """Several birds, as the result of a job."""

    birds: list[Bird]

    @property
    def nbytes(self) -> int:
        """Return the size of all birds in bytes."""
        return sum(bird.nbytes for bird in self.birds)


def pairs() -> tuple[str, ...]:
    """Return the shipped bird models that exist plain and deletion-tuned, smallest first, by the names of the plain ones."""
    names = [name for name in shipped() if name.startswith(f"{DATA}_") and f"{name}{TUNED}" in shipped()]
    first = smallest(DATA, tuned=False)
    return tuple(sorted(names, key=lambda name: (name != first, name)))


class LessonContext:
    """The context of a lesson: a pair of models and a bird, given by its index in the data."""

    seed = 0

    def __init__(self, model: str, bird: int):
        self.model_name, self.bird_index = model, bird

    def wait(self, *jobs: Job) -> list[Any]:
        """Return the results of all jobs. Raises `NotYet` with the first job that has no result."""
        end = time.monotonic() + AT_ONCE
        for job in jobs:
            job.wait(max(0.0, end - time.monotonic()))
        for job in jobs:
            if job.state is not State.DONE:
                raise NotYet(job)
        return [job.result for job in jobs]

    def ended(self, *jobs: Job) -> list[Job]:
        """Return the jobs once all have ended, including failed ones. Raises `NotYet` before."""
        end = time.monotonic() + AT_ONCE
        for job in jobs:
            if not job.wait(max(0.0, end - time.monotonic())):
                raise NotYet(job)
        return list(jobs)

    def compute(self, name: str, function: Callable[[NewsProgress], Any], *key_parts: object) -> Job:
        """Return a job for a lesson's computation, keyed by its name, the models, the seed and `key_parts`."""
        key = digest("learn", name, self.model_name, self.seed, *key_parts)
        return jobs.device_queue().submit(key, function, jobs.PATIENCE)

    def result(self, name: str, function: Callable[[NewsProgress], Any], *key_parts: object) -> Any:
        """Return the result of a lesson's computation; see `compute`. Raises `NotYet` without one."""
        return self.wait(self.compute(name, function, *key_parts))[0]

    @cached_property
    def plain(self) -> Classifier:
        """Return the model before deletion tuning."""
        return self.wait(jobs.model_job(ModelSpec(self.model_name)))[0]

    @cached_property
    def tuned(self) -> Classifier:
        """Return the model that was fine-tuned on images with deleted patches."""
        return self.wait(jobs.model_job(ModelSpec(f"{self.model_name}{TUNED}")))[0]

    @cached_property
    def bird(self) -> Bird:
        """Return the chosen bird."""
        return self.birds([self.bird_index])[0]

    def birds(self, indices: Sequence[int]) -> list[Bird]:
        """Return birds by their indices in the data."""

        def draw(on_progress: NewsProgress) -> Flock:
            data, birds = load_dataset(DATA), []
            for number, index in enumerate(indices):
                on_progress(number, len(indices))
                item, label = data[index], data.label(index)
                assert label is not None
                mask = np.any(list(item.masks.values()), axis=0)
                birds.append(Bird(Photo(item.image, item.name, id=item.id), index, label, data.class_names[label], mask))
            return Flock(birds)

        return self.wait(queue("data").submit(digest("learn birds", list(indices)), draw, jobs.PATIENCE))[0].birds

    def some_birds(self, count: int) -> list[Bird]:
        """Return the chosen bird and the next ones."""
        size = len(load_dataset(DATA))
        return self.birds([(self.bird_index + k) % size for k in range(count)])

    def grids(self, count: int, corners: bool) -> list[list[Bird]]:
        """Return grids of 2 x 2 birds; with `corners` the first and the last bird share a class, else all classes differ."""
        data = load_dataset(DATA)
        pool = [(self.bird_index + k) % len(data) for k in range(10 * count + 40)]
        grids = compose([int(data.label(index) or 0) for index in pool], 2, corners, self.seed)[:count]
        drawn = self.birds([pool[place] for grid in grids for place in grid])
        return [drawn[4 * k : 4 * k + 4] for k in range(len(grids))]

    def grid_maps(self, setting: str, grids: Sequence[Sequence[Bird]], cell: int, method: str, layer: str) -> Job:
        """Return the job for the maps of a method, given in text form, each for the bird in one cell of a grid, in a localisation setting."""
        model, spec, protocol = self.plain, resolve(replace(MethodSpec.parse(method), layer=layer)), ProtocolSpec(setting)

        def explain(on_progress: NewsProgress) -> GridMaps:
            maps = []
            for number, birds in enumerate(grids):
                on_progress(number, len(grids))
                photos, target = [bird.photo for bird in birds], model.target(birds[cell].name)
                maps.append(map_grid(model, photos, protocol, cell, target, spec, InMemoryCache(), self.seed))
            return GridMaps(maps)

        return self.compute("grid maps", explain, protocol, spec, cell, [[bird.index for bird in birds] for birds in grids])

    def maps(self, model: Classifier, photo: Photo, methods: Sequence[str], target: int) -> list[Attribution]:
        """Return the map of each method, given in text form."""
        specs = [resolve(MethodSpec.parse(text)) for text in methods]
        return self.wait(*(jobs.map_job(model, photo, spec, target, self.seed) for spec in specs))

    def shuffled_models(self, model: Classifier, shares: Sequence[float]) -> list[Classifier]:
        """Return copies of the model with shuffled weights in the last `share` of its layers, for each share."""
        return self.wait(*(map_jobs.shuffled_job(model, share, self.seed) for share in shares))

    def probabilities(self, model: Classifier, photo: Photo) -> Any:
        """Return the softmax probabilities (C,) of a photo."""
        return self.wait(jobs.prediction_job(model, photo))[0]

    def grid_picture(self, birds: Sequence[Bird]) -> Image.Image:
        """Return a grid as the model sees it, at twice the resolution."""
        return tiled([self.picture(bird, self.plain) for bird in birds])

    def picture(self, bird: Bird, model: Classifier) -> Image.Image:
        """Return the bird as the model sees it, at twice the resolution."""
        return tiles.picture(bird.photo.digest, model.preprocessing, bird.photo)
