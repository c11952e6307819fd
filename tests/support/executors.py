"""An executor that shuffles work units and executes them in two other processes, as a cluster would."""

import multiprocessing
import random
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache

import torch

import attrlib
from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.plan import Plan
from attrlib.engine.work import Heartbeat, UnitResult, Worker, WorkUnit
from attrlib.progress import no_listener
from attrlib.specs import RunSpec

_worker: Worker
_cache: InMemoryCache


def _start(spec: RunSpec, dtype: str, threads: int) -> None:
    """Load the models and the data of a run, once per process.

    The number of threads must be the same in all processes, as the last bits of a sum depend on it.
    """
    global _worker, _cache
    torch.set_num_threads(threads)
    _cache = InMemoryCache(dtype)
    models = [
        attrlib.load_model(model_spec.architecture, "cpu", **model_spec.options()) for model_spec in (spec.model, *spec.filter_models)
    ]
    evaluators = [Evaluator(model, _cache, spec.seed, spec.fast and not number) for number, model in enumerate(models)]
    _worker = Worker(evaluators, attrlib.load_dataset(spec.data), None, no_listener)


def _execute(number: int, unit: WorkUnit) -> tuple[list[UnitResult], InMemoryCache]:
    results = list(_worker.execute(number, unit, _worker.loader([unit])))
    sent = InMemoryCache(_cache.dtype)
    _cache.move_to(sent)
    return results, sent


@cache
def _processes(spec: RunSpec, dtype: str) -> ProcessPoolExecutor:
    """Return two processes with the models and the data of a run; cached, as importing PyTorch takes seconds."""
    return ProcessPoolExecutor(
        2, mp_context=multiprocessing.get_context("spawn"), initializer=_start, initargs=(spec, dtype, torch.get_num_threads())
    )


class ShuffledProcesses:
    """Execute work units in random order in two processes that exchange only plain data."""

    workers = 2
    notes: tuple[str, ...] = ()

    def __init__(self, plan: Plan, _heartbeat: Heartbeat):
        self._plan = plan

    def map(self, units: Sequence[WorkUnit]) -> Generator[UnitResult, None, None]:
        """Yield the results of work units as they arrive."""
        order = list(enumerate(units))
        random.Random(0).shuffle(order)
        pool = _processes(self._plan.spec, self._plan.store.dtype)
        for future in as_completed([pool.submit(_execute, number, unit) for number, unit in order]):
            results, sent = future.result()
            sent.move_to(self._plan.store)
            yield from results

    def close(self) -> None:
        """Do nothing: the processes are kept for the next run."""
