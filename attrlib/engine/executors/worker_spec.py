"""What a worker needs to know of a run: specs and digests, from which it loads models and data itself."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from attrlib.data.datasets import NAMED, SOURCES, Dataset, load_dataset
from attrlib.engine.cache import ResultCache
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.executors.weights import WeightFile, located_weights, weight_files
from attrlib.engine.memory import SHARE, free_bytes, rows_within
from attrlib.engine.plan import Plan
from attrlib.engine.work import Heartbeat, Worker
from attrlib.errors import AttrlibError, DataError, ModelError, SpecError
from attrlib.models import Classifier, load_model
from attrlib.specs import ModelSpec, RunSpec, digest

ROOTS = "ATTRLIB_DATA_ROOTS"
"""Environment variable of a worker: folders in which it looks for data that are not at the path of the run, separated as in PATH."""
WRAPPED = "wrapped:"


@dataclass(frozen=True)
class WorkerSpec:
    """A run as a worker sees it.

    Attributes:
        run: The run.
        digests: Digest of the run's model and of each filter model.
        data: Digest of the number of pictures and the classes of the data; the files are compared unit by unit.
        dtype: Precision of cached maps.
        max_memory: Maximum memory of this worker in bytes, weights included; None for its share of half of the free memory.
        sharing: Number of workers that share the memory of a device.
        threads: Number of threads of PyTorch.
        weights: The files that the models' checkpoints are read from.
        data_roots: Folders in which the worker looks for the data, besides those of its environment.
        torch: Version of PyTorch, which decides on the last bits of results.
    """

    run: RunSpec
    digests: tuple[str, ...]
    data: str
    dtype: str
    max_memory: int | None
    sharing: int
    threads: int
    weights: tuple[WeightFile, ...]
    data_roots: tuple[str, ...]
    torch: str


def worker_spec(plan: Plan, sharing: int, threads: int, data_roots: tuple[str, ...] = ()) -> WorkerSpec:
    """Return what workers need to know of a plan.

    Args:
        plan: The plan.
        sharing: Number of workers that share the memory of a device.
        threads: Number of threads of each worker.
        data_roots: Folders in which workers look for the data, besides those of their environment.

    Raises:
        SpecError: If a model or the data exist only in the memory of this process.
    """
    spec = plan.spec
    for evaluator in plan.evaluators:
        if evaluator.model.spec.architecture.startswith(WRAPPED):
            raise SpecError(
                f"{evaluator.model.name} is a module in the memory of this process, so workers cannot load it; save its weights, load them "
                "with load_model(ARCHITECTURE, checkpoint=FILE), or run without workers"
            )
    if spec.in_memory or not plan.data.reopens:
        raise SpecError(
            f"{spec.data} is a data set in the memory of this process, so workers cannot load it; save the pictures in a folder, or run "
            "without workers"
        )
    budget = None if plan.max_memory is None else plan.max_memory // sharing
    digests = tuple(evaluator.model_digest for evaluator in plan.evaluators)
    weights = tuple(file for model in models_of(spec) for file in weight_files(model))
    return WorkerSpec(
        spec, digests, _data_digest(plan.data), plan.store.dtype, budget, sharing, threads, weights, data_roots, torch.__version__
    )


def load_worker(spec: WorkerSpec, device: str, cache: ResultCache, heartbeat: Heartbeat, fetch: Callable[[str], bytes]) -> Worker:
    """Load the models and the data of a run, and check that they are those of the driver.

    Args:
        spec: The run.
        device: The device to load onto.
        cache: The worker's cache.
        heartbeat: Called every few passes.
        fetch: Returns the content of a file of the driver.

    Raises:
        AttrlibError: If something cannot be loaded or differs; the message names it.
    """
    torch.set_num_threads(spec.threads)
    if spec.torch != torch.__version__:
        raise SpecError(f"it has torch {torch.__version__}, but the run uses torch {spec.torch}; install the same version")
    paths = located_weights(spec.weights, fetch)
    tuned = (spec.run.deletion_tuned, *(False for _ in spec.run.filter_models))
    evaluators = []
    for number, (model_spec, expected) in enumerate(zip(models_of(spec.run), spec.digests, strict=True)):
        model = _load(model_spec, paths, device, tuned[number])
        evaluators.append(Evaluator(model, cache, spec.run.seed, spec.run.fast and not number))
        if evaluators[-1].model_digest != expected:
            where = model_spec.checkpoint or model_spec.architecture
            raise ModelError(f"its weights or preprocessing of {where} differ from those of the run; give all workers the same files")
    data = load_data(spec.run.data, spec.data_roots)
    if _data_digest(data) != spec.data:
        raise DataError(
            f"its data {data.name} ({data.describe()}) have other pictures or classes than those of the run; give all workers the same files"
        )
    budget = spec.max_memory
    if budget is None:
        model = evaluators[0].model
        budget = int(SHARE * free_bytes(model.device) / spec.sharing) + model.nbytes
    rows_within(evaluators[0].model, budget)
    return Worker(evaluators, data, budget, heartbeat)


def models_of(spec: RunSpec) -> tuple[ModelSpec, ...]:
    """Return the run's model and its filter models."""
    return (spec.model, *spec.filter_models)


def load_data(source: str, roots: tuple[str, ...]) -> Dataset:
    """Load a data set by its name, or from its path at the driver or the same path below one of the roots of this machine.

    Args:
        source: Name or absolute path of the data set at the driver.
        roots: Folders to look in, before those of the environment.

    Raises:
        DataError: If it is nowhere, or cannot be read.
    """
    path = Path(source)
    if source in NAMED or source.startswith(tuple(SOURCES)) or path.exists():
        return load_dataset(source)
    folders = [folder for folder in (*roots, *os.environ.get(ROOTS, "").split(os.pathsep)) if folder.strip()]
    # The longest part of the path first: /home/me/data/val is ROOT/me/data/val rather than ROOT/val.
    for place in (Path(root).expanduser().joinpath(*path.parts[first:]) for first in range(1, len(path.parts)) for root in folders):
        if place.exists():
            return load_dataset(place)
    below = f" nor below {', '.join(folders)}" if folders else ""
    raise DataError(f"it has no data at {source}{below}; copy the data there, or set {ROOTS} on its machine to the folder that has them")


def is_same_item(data: Dataset, item_id: str, images: tuple[int, ...]) -> bool:
    """Return whether the files of an item have the content that the run expects."""
    ids = [data.item_id(index) for index in images]
    return item_id == (ids[0] if len(ids) == 1 else digest(*ids))


def _load(spec: ModelSpec, paths: dict[str, str], device: str, deletion_tuned: bool) -> Classifier:
    located = spec if spec.checkpoint is None else replace(spec, checkpoint=paths.get(spec.checkpoint, spec.checkpoint))
    try:
        return load_model(located.architecture, device, deletion_tuned=deletion_tuned, **located.options())
    except AttrlibError as error:
        raise ModelError(f"it cannot load {spec.architecture}: {error}") from None


def _data_digest(data: Dataset) -> str:
    return digest(len(data), list(data.class_names), data.has_masks, list(data.parts))
