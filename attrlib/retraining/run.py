"""Execute a retraining: the result of every training is stored at once, so that it can be stopped at any time and resumed."""

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, nullcontext
from typing import Any

import numpy as np

from attrlib.data.datasets import load_dataset
from attrlib.engine.items import unreadable_note
from attrlib.engine.run import Event, RunListener
from attrlib.errors import MethodError, SpecError, unknown
from attrlib.methods import read_methods, resolve
from attrlib.models import Classifier
from attrlib.progress import no_listener
from attrlib.retraining.images import RoarImages, load_images, with_replaced
from attrlib.retraining.plan import Retraining, RoarPlan, plan_roar
from attrlib.retraining.pool import Task, check_workers, execute_all, task_of
from attrlib.retraining.result import RANDOM, RoarCurve, RoarResult
from attrlib.specs import MethodSpec, RoarSpec, options_of
from attrlib.specs.codec import documented
from attrlib.specs.roar import SHARES, parse_shares
from attrlib.store import Claims, Record, Store, open_store

ROAR_OPTIONS = options_of(RoarSpec)
"""Keyword arguments of `roar` besides `shares`."""
_PAUSE = 1.0
"""Seconds between two looks at what other processes have trained."""


@documented(ROAR_OPTIONS)
def roar(
    model: Classifier,
    data: Any,
    methods: str | MethodSpec | Iterable[str | MethodSpec],
    *,
    shares: str | Iterable[float] = SHARES,
    workers: int | None = None,
    max_memory: int | None = None,
    store: Store | None = None,
    on_progress: RunListener = no_listener,
    **options: Any,
) -> RoarResult:
    """Remove and retrain: judge methods by how well networks learn without the pixels that they hold relevant.

    A small network is trained from random weights on images in which the most relevant share of the pixels is replaced, and tested on
    images of which the same is replaced (Hooker et al., NeurIPS 2019, arXiv 1806.10758). With `keep`, networks are also trained without
    the least relevant pixels. Random maps are always among the methods, as chance. The result of every training is stored; the same
    call trains only what is missing. The model is not changed.

    Args:
        model: The model to explain.
        data: A labelled data set, or any source that `load_dataset` takes; some images of each class are held out to test on.
        methods: Specs, their text forms, names of presets, or `all`.
        shares: Shares of the pixels to replace, between 0 and 1.
        workers: Number of processes that train, each with one thread; by default this process. Results do not depend on it.
        max_memory: Memory budget in bytes for computing maps; by default half of the free memory.
        store: Store of results; by default that of `open_store`.
        on_progress: Progress callback for the events; raises `Cancelled` to stop. The same call then resumes.
        **options: Options of the retraining, listed below.

    Returns:
        The accuracy curve of every method with its area, difference to random maps and ranks.

    Raises:
        AttrlibError: If an argument is not valid, or no method is defined. The message says what to do.

    Example:
        >>> import attrlib
        >>> model = attrlib.load_model("birds_resnet10", device="cpu")
        >>> result = attrlib.roar(model, "birds", "Sobel", shares=[0.5], seeds=1, limit=100, size=16, epochs=1)
        >>> [str(curve.method) for curve in result.curves], result.curves[0].shares
        (['Sobel', 'Random'], (0.0, 0.5))
    """
    for name in options:
        if name not in {p.name for p in ROAR_OPTIONS}:
            raise SpecError(unknown("option of roar", name, [p.name for p in ROAR_OPTIONS]))
    check_workers(workers)
    asked = [methods] if isinstance(methods, str | MethodSpec) else methods
    dataset = load_dataset(data)
    spec = RoarSpec(
        model.spec,
        dataset.source,
        tuple(each for m in asked for each in ((m,) if isinstance(m, MethodSpec) else read_methods(str(m)))),
        shares=parse_shares(shares) if isinstance(shares, str) else tuple(map(float, shares)),
        **options,
    )
    return run_roar(plan_roar(spec, model, dataset, store or open_store(), max_memory=max_memory), on_progress, workers)


def run_roar(plan: RoarPlan, on_progress: RunListener = no_listener, workers: int | None = None) -> RoarResult:
    """Train the networks of a plan whose result is not in the store, and return the curves.

    Args:
        plan: The plan.
        on_progress: Called every few steps with an event; raises `Cancelled` to stop.
        workers: Number of processes that train, each with one thread; None for this process. Results do not depend on it.

    Raises:
        Cancelled: If `on_progress` raises it. Finished trainings are stored, and the next call resumes there.
        TrainingError: If a training diverges.
        AttrlibError: If no method turns out to be defined, or too few images can be read.
    """
    check_workers(workers)
    return _Run(plan, on_progress, workers).execute()


class _Run:
    """The state of one retraining."""

    def __init__(self, plan: RoarPlan, on_progress: RunListener, workers: int | None):
        self.plan, self.on_progress, self.workers = plan, on_progress, workers
        self.store = plan.store
        self.results = dict(plan.cached)
        self.refused = dict(plan.refused)
        self.notes = list(plan.notes)
        self.computed, self.total = 0, len(plan.missing)
        self.event = Event("planning", total=self.total, of="trainings")
        self.started = time.perf_counter()
        self.out: set[MethodSpec] = set()

    def execute(self) -> RoarResult:
        start = time.perf_counter()
        if self.plan.missing:
            images = load_images(self.plan, list(dict.fromkeys(each.method for each in self.plan.missing if each.method)), self._loading)
            self._leave_out(images)
            self._train(images)
        plan = self.plan
        shown = {method: asked for method, asked in plan.methods.items() if method not in self.out}
        orders = (False, True) if plan.spec.keep else (False,)
        curves = tuple(self._curve(method, asked, keep) for keep in orders for method, asked in shown.items())
        wanted = [each for each in plan.trainings if each.method not in self.out]
        labels = [item.labels[0] for item in plan.test]
        largest = max(map(labels.count, set(labels))) / len(labels)
        return RoarResult(
            plan.spec, curves, len(plan.test), len(plan.train), largest, tuple(self.refused.items()), tuple(dict.fromkeys([*self.notes, *self.store.notes])),
            self.computed, len(wanted) - self.computed, time.perf_counter() - start,
        )  # fmt: skip

    def _loading(self, doing: str, share: float) -> None:
        self.on_progress(Event(f"{doing}, {100 * share:.0f} % of the images", self.computed, self.total, of="trainings"))

    def _leave_out(self, images: RoarImages) -> None:
        """Leave out the methods that turned out not to be defined, and note the images that cannot be read."""
        self.out = set(images.refused)
        self.refused |= {self.plan.methods[method]: reason for method, reason in images.refused.items()}
        self.notes += unreadable_note(list(images.unreadable), len(images.unreadable))
        left = [method for method in self.plan.methods if method not in self.out and method != resolve(RANDOM)]
        if not left and self.out:
            raise MethodError(next(iter(images.refused.values())))

    def _train(self, images: RoarImages) -> None:
        waiting = [each for each in self.plan.missing if each.method not in self.out]
        self.total, self.started = len(waiting), time.perf_counter()
        count = int(images.tests.sum())
        claims = self.store.claims()
        with claims.renewed() if claims else nullcontext():
            while waiting:
                with (
                    closing(self._tasks(waiting, images, claims)) as tasks,
                    closing(execute_all(tasks, self.workers, self._beat)) as results,
                ):
                    for each, correct in results:
                        self._add(each, Record(correct / count, {"correct": float(correct), "count": float(count)}))
                        if claims:
                            claims.release([self._pairs(each)])
                waiting = [each for each in waiting if each not in self.results]
                if waiting:
                    self._report("waiting for other processes")
                    time.sleep(_PAUSE)

    def _tasks(
        self, waiting: Sequence[Retraining], images: RoarImages, claims: Claims | None
    ) -> Generator[tuple[Retraining, Task], None, None]:
        """Yield the trainings that no other process has claimed or stored, each with its task."""
        if claims:
            claims.sweep()
        mine: list[Retraining] = []
        try:
            for each in waiting:
                if claims and not claims.claim([self._pairs(each)])[0]:
                    continue
                mine.append(each)
                self.results |= self.plan.looked_up([each])
                if each not in self.results:
                    self._report("training", each)
                    yield each, self._task(each, images)
        finally:
            if claims:
                claims.release([self._pairs(each) for each in mine])

    def _pairs(self, each: Retraining) -> dict[str, list[str]]:
        return {self._key(each)[1]: [each.item]}

    def _add(self, each: Retraining, record: Record) -> None:
        fields, key = self._key(each)
        self.store.add_records(key, fields, {each.item: record})
        self.results[each] = record
        self.computed += 1
        self._report("training", each)

    def _task(self, each: Retraining, images: RoarImages) -> Task:
        plan = self.plan
        changed = images.images if each.method is None else with_replaced(images, plan, each.method, each.share, each.keep, self._beat)
        device = str(plan.model.device)
        return task_of(plan.spec.net, len(plan.data.class_names), device, plan.recipe, each.seed, changed, images.labels, images.tests)

    def _key(self, each: Retraining) -> tuple[dict[str, object], str]:
        return self.plan.key(each.method, each.keep)

    def _beat(self) -> None:
        """Report the latest event again, so that the progress callback can stop the run."""
        self.on_progress(self.event)

    def _report(self, doing: str, each: Retraining | None = None) -> None:
        elapsed = time.perf_counter() - self.started
        left = elapsed / self.computed * (self.total - self.computed) if self.computed else None
        if each is not None:
            what = (
                "images as they are"
                if each.method is None
                else f"{self.plan.methods[each.method]}, {'KAR' if each.keep else 'ROAR'} {each.share:g}"
            )
            doing = f"{doing}: {what}, seed {each.seed}"
        rate = self.computed / elapsed if elapsed else 0.0
        self.event = Event(doing, self.computed, self.total, rate, left, of="trainings", workers=self.workers or 1)
        self.on_progress(self.event)

    def _curve(self, method: MethodSpec, asked: MethodSpec, keep: bool) -> RoarCurve:
        spec = self.plan.spec
        rows = [[self.results[Retraining(None, False, 0.0, seed)].value for seed in range(spec.seeds)]]
        rows += [[self.results[Retraining(method, keep, share, seed)].value for seed in range(spec.seeds)] for share in spec.shares]
        return RoarCurve(asked, keep, (0.0, *spec.shares), np.array(rows), len(self.plan.test))
