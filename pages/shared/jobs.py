"""Request models, predictions and maps from the library's queues. Pages compute nothing themselves."""

import functools
import re
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch

from attrlib.api import as_batch
from attrlib.data.images import Photo
from attrlib.engine.cache import InMemoryCache, ResultCache
from attrlib.engine.jobs import Job, Priority, Queue, State, Work, queue
from attrlib.engine.keys import ResultKeys, map_key
from attrlib.engine.photo_maps import PhotoMaps
from attrlib.errors import AttrlibError, Cancelled, ModelError
from attrlib.methods import METHODS
from attrlib.models import Classifier, load_model, pick_device
from attrlib.models.added import added, weights_of
from attrlib.progress import NewsProgress
from attrlib.specs import MethodSpec, ModelSpec, digest
from attrlib.store import open_store
from pages.shared.roots import check_model, model_files, paths_of

_digests: WeakKeyDictionary[Classifier, str] = WeakKeyDictionary()
# The app never writes to a loaded model, so its digest is computed once.
_waiting: WeakValueDictionary[tuple[object, ...], PhotoMaps] = WeakValueDictionary()
# The waiting jobs hold the references, so shared passes are freed with the last job.

PATIENCE = 90.0
"""Seconds after which a job is dropped if no page polls for it. Browsers let a hidden tab poll once a minute."""


def model_job(spec: ModelSpec, deletion_tuned: bool = False) -> Job:
    """Return the job that loads a model with its layers; a checkpoint that has changed on disk is loaded again."""

    def load(_progress: Any) -> Classifier:
        check_model(spec)
        model = load_model(spec.architecture, deletion_tuned=deletion_tuned, **spec.options())
        prepare(model)
        return model

    return queue("models").submit(digest("model", spec, stamp(spec), deletion_tuned), load)


def prepare(model: Classifier) -> None:
    """Compute, in the job that loads a model, what pages read of it."""
    _ = model.layers, model.remarks
    digest_of(model)


def stamp(model: ModelSpec) -> list[int] | None:
    """Return sizes and modification times of the files of a model; None if there are none.

    They are a checkpoint with what is read beside it, a folder, or card and weights of an added model. Weights that were replaced under
    the same name are thus recognised as different ones.
    """
    card = None if model.checkpoint else added().get(model.architecture)
    files: list[Path] = [card] if card else []
    for path in filter(None, (model.checkpoint, *paths_of(model.architecture), str(weights_of(card)) if card else None)):
        # Loading reports the error of a card.
        with suppress(ModelError):
            files += [file for file in model_files(path) if file.is_file()]
    return [number for file in files for number in (file.stat().st_size, file.stat().st_mtime_ns)] or None


def device_queue() -> Queue:
    """Return the queue of the device that models are loaded on."""
    # Queues are named by a tensor's device string (cuda:0).
    return queue(str(torch.empty(0, device=pick_device("auto")).device))


def prediction_job(model: Classifier, photo: Photo) -> Job:
    """Return the job that computes the probabilities of the classes of a photo, or the numbers that the model predicts, (C,)."""

    def predict(_progress: Any) -> torch.Tensor:
        with torch.no_grad():
            return model.outputs.readings(model(as_batch(model, photo)))[0].cpu()

    return queue(str(model.device)).submit(digest("predict", digest_of(model), photo.digest), predict, priority=Priority.QUICK)


def map_job(model: Classifier, photo: Photo, method: MethodSpec, target: int, seed: int) -> Job:
    """Return the job that computes the map of one method; `method` must be resolved. Fast methods do not wait for slow ones."""
    priority = Priority.QUICK if METHODS[method.name].fast else Priority.NORMAL
    image = photo.id or photo.digest
    key = map_key(ResultKeys(model, digest_of(model), seed, "").maps(method, model), image, target)
    # Jobs of one priority never interrupt each other, so that they can share passes.
    group = id(model), image, target, seed, priority
    maps = _waiting.get(group)
    if maps is None:
        maps = _waiting[group] = PhotoMaps(model, photo, target, seed, _open_cache)
    return queue(str(model.device)).submit(key, functools.partial(maps.attribute, method), PATIENCE, priority=priority)


def _open_cache() -> ResultCache:
    """Return the store. If it cannot be opened, maps are shown all the same; the page Library gives the reason."""
    try:
        return open_store()
    except AttrlibError:
        return InMemoryCache()


def digest_of(model: Classifier) -> str:
    """Return the digest of a model that is never written to, computed once."""
    if model not in _digests:
        _digests[model] = model.digest
    return _digests[model]


def restart(jobs: Queue, key: str, work: Work, priority: Priority = Priority.NORMAL) -> Job:
    """Return the job of a key, run again if it has ended; a job in progress continues unchanged."""
    job = jobs.find(key)
    if job is not None:
        job.forget()
    return jobs.submit(key, work, priority=priority)


def result_of(job: Job, on_progress: NewsProgress, news: object = None) -> Any:
    """Return the result of a job that another job needs, once it has ended; raise its error, or `Cancelled`."""
    while not job.wait(0.1):
        on_progress(0, 0, news)
    if job.error is not None:
        raise job.error
    if job.state is not State.DONE:
        raise Cancelled("cancelled")
    return job.result


def sentence(message: object) -> str:
    """Return a message of the library as a sentence for the page; a name at its beginning keeps its case."""
    text = str(message)
    first = text.split(" ", 1)[0].rstrip(",;:")
    return plain(text[:1].upper() + text[1:] if first.isalpha() else text)


def plain(text: str) -> str:
    """Return text escaped so that Markdown shows it unchanged: file names and links are untrusted."""
    return re.sub(r"([\\`*_{}\[\]()<>#!|~$:])", r"\\\1", text)
