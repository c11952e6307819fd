"""Execute a plan; results are stored as soon as they are computed, so a run can be interrupted and resumed at any time."""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np

from attrlib.engine.claims import ClaimingExecutor
from attrlib.engine.evaluations import Evaluation, Refusal
from attrlib.engine.executors import Executor, LocalExecutor
from attrlib.engine.fast import map_agreement
from attrlib.engine.items import EvalItem, unreadable_note
from attrlib.engine.manifest import manifest
from attrlib.engine.partial import PartialResults, ScoredItems
from attrlib.engine.plan import FORWARD_PASSES, GroupPlan, Plan, item_seconds
from attrlib.engine.results import RunResult, Score, StoredDetails
from attrlib.engine.stopping import narrow_after
from attrlib.engine.work import Heartbeat, UnitResult, Worker
from attrlib.errors import AttrlibError, Cancelled, DataError, ProtocolError
from attrlib.progress import Listener, no_listener
from attrlib.protocols import Prediction
from attrlib.specs import MethodSpec, digest
from attrlib.statistics import Summary


@dataclass(frozen=True)
class Event:
    """The progress of a run.

    Attributes:
        doing: What is being computed.
        done: Results computed so far.
        total: Results that must be computed.
        rate: Results per second.
        seconds_left: Estimate of the remaining seconds, None before anything is computed.
        scores: The intermediate score of each evaluation, by protocol and method.
        of: What `done` and `total` count: results or images.
        workers: Number of workers that are at work.
    """

    doing: str
    done: int = 0
    total: int = 0
    rate: float = 0.0
    seconds_left: float | None = None
    scores: Mapping[tuple[str, str], Summary] = field(default_factory=dict)
    of: str = "results"
    workers: int = 1


RunListener = Listener[Event]
"""Called every few passes; raises `Cancelled` to stop the run."""
ExecutorFactory = Callable[[Plan, Heartbeat], Executor]
"""Returns the executor of a plan."""


def local(plan: Plan, heartbeat: Heartbeat) -> Executor:
    """Return an executor that runs the units of a plan in this thread."""
    return LocalExecutor(Worker(plan.evaluators, plan.data, plan.max_memory, heartbeat))


def run(plan: Plan, on_progress: RunListener = no_listener, executor: ExecutorFactory = local) -> RunResult:
    """Compute the missing results of a plan, and return the scores.

    Args:
        plan: The plan.
        on_progress: Called every few passes with the progress of the run; raises `Cancelled` to stop.
        executor: Returns the executor of the units of work. Results do not depend on it.

    Returns:
        The scores. Evaluations that turn out not to be defined are in `refused`, with the reason.

    Raises:
        Cancelled: If `on_progress` raises it. Everything computed before is stored, and the next run of the same spec resumes there.
        AttrlibError: If no evaluation is defined.
    """
    state = _RunState(plan, on_progress, executor)
    with closing(state.executor):
        return state.execute()


class _RunState:
    """The state of one run."""

    def __init__(self, plan: Plan, on_progress: RunListener, executor: ExecutorFactory):
        self.plan, self.spec, self.store, self.on_progress = plan, plan.spec, plan.store, on_progress
        self.executor = self._sharing(executor(plan, self._heartbeat))
        self.event = Event("planning")
        self.progress: dict[Evaluation, PartialResults] = {}
        self.refused: list[Refusal] = list(plan.refused)
        self.notes: list[str] = []
        self.set_aside: dict[str, str] = {}
        self.unreadable: dict[str, str] = {}
        self.of = "results"
        self.cached, self.computed, self.weight_done, self.predicted, self.to_predict = 0, 0, 0.0, 0, 0
        self.changed = True

    def _sharing(self, executor: Executor) -> Executor:
        """Return the executor such that processes that share the store compute nothing twice."""
        claims = self.store.claims()
        if claims is None:
            return executor
        keys = [each.keys.measurement(Prediction())[1] for each in self.plan.evaluators]
        return ClaimingExecutor(executor, claims, self.store, keys, self._heartbeat)

    def execute(self) -> RunResult:
        start = time.perf_counter()
        key = digest(self.spec, self.plan.model_digest)
        used: dict[GroupPlan, tuple[EvalItem, ...]] = {}
        self._save(key, used)
        try:
            self._predict()
            self._begin()
            self.cached = self.plan.cached
            self._save(key, {each: each.items for each in self.plan.groups})
            self.started = time.perf_counter()
            for each in self.plan.groups:
                used[each] = self._evaluate(each)
            # A shard may have no items, or only unreadable ones.
            if not self.progress and self.plan.shard is None:
                raise ProtocolError(self.refused[-1].reason)
            agreement = self._agreement(used) if self.spec.fast and self.plan.shard is None else {}
            self._report_progress("done")
        except Cancelled:
            self.store.set_state(key, "cancelled")
            raise
        except AttrlibError:
            self.store.set_state(key, "failed")
            raise
        # A run with items that were set aside can be resumed.
        self._save(key, used, "cancelled" if self.set_aside else "done")
        scores = self._scores(used)
        notes = tuple(dict.fromkeys([*self.plan.notes, *self.notes, *self.executor.notes, *self.store.notes]))
        seconds = time.perf_counter() - start
        return RunResult(self.spec, scores, self.refused, notes, self.computed, self.cached, seconds, agreement, self.unreadable)

    def _predict(self) -> None:
        """Compute the predictions on which grids depend, and select the grids."""
        for units in self.plan.predict_units():
            self.of, self.predicted, self.to_predict = "images", 0, sum(len(unit.items) for unit in units)
            for result in self.executor.map(units):
                self.predicted += len(units[result.unit].items)
                self.set_aside |= result.set_aside
                self.changed = True
        self.of = "results"
        before = len(self.plan.refused)
        self.plan = self.plan.predicted()
        self._refuse_unpredicted()
        self.refused += self.plan.refused[before:]

    def _refuse_unpredicted(self) -> None:
        """Refuse the evaluations of grids that cannot be selected, because predictions were set aside."""
        unpredicted = [each for each in self.plan.groups if each.unpredicted]
        if unpredicted:
            error = DataError(f"the predictions of {len(self.set_aside)} image(s) are missing: {next(iter(self.set_aside.values()))}")
            refused = [refusal for each in unpredicted for refusal in each.group.refuse(error)]
            groups = tuple(each for each in self.plan.groups if not each.unpredicted)
            self.plan = replace(self.plan, groups=groups, refused=(*self.plan.refused, *refused))

    def _begin(self) -> None:
        for each in self.plan.groups:
            for evaluation in each.group.evaluations:
                weight = item_seconds(evaluation, self.plan.model, FORWARD_PASSES)
                self.progress[evaluation] = PartialResults(evaluation, each, weight)

    def _evaluate(self, plan: GroupPlan) -> tuple[EvalItem, ...]:
        """Compute the missing results of a group; return the readable items among those used."""
        size, units = plan.group.chunk_size, plan.units(self.plan.area)
        numbers = list(units)
        open_chunks, unreadable, set_aside = set(numbers), dict[str, str](), dict[str, str]()
        enough = self._narrow_after(plan, open_chunks, 0)
        with closing(self.executor.map([] if enough else list(units.values()))) as results:
            for result in results:
                number = numbers[result.unit]
                evaluation = units[number].missing[result.evaluation][0]
                if result.refused:
                    self._refuse(evaluation, result.refused)
                elif result.values and evaluation in self.progress:
                    self._add(self.progress[evaluation], number * size, result)
                set_aside |= result.set_aside
                if result.finished:
                    unreadable |= result.unreadable
                    self._give_up(plan, slice(number * size, (number + 1) * size))
                    first = min(open_chunks)
                    open_chunks.remove(number)
                    enough = self._narrow_after(plan, open_chunks, first)
                    if enough:
                        break
        self._give_up(plan, slice(None))
        self.unreadable |= unreadable
        items = plan.items[:enough]
        given_up = sum(item.id in set_aside for item in items)
        readable = tuple(item for item in items if item.id not in unreadable and item.id not in set_aside)
        self.notes += unreadable_note(list(unreadable.values()), len(items) - len(readable) - given_up)
        if given_up:
            self.set_aside |= set_aside
            reason = next(iter(set_aside.values()))
            self.notes.append(f"{given_up} item(s) were set aside, and the scores are those of the others: {reason}; resume to try again")
        if not readable and given_up:
            raise AttrlibError(f"no item of {self.plan.data.name} could be scored: {next(iter(set_aside.values()))}")
        if not readable and self.plan.shard is None:
            raise DataError(f"none of the {len(items)} images of {self.plan.data.name} can be read: {next(iter(unreadable.values()))}")
        return readable

    def _add(self, progress: PartialResults, first: int, result: UnitResult) -> None:
        progress.add(first, result)
        self.cached += len(result.values) - result.computed
        self.computed += result.computed
        self.weight_done += result.computed * progress.weight
        self.changed = True

    def _refuse(self, evaluation: Evaluation, reason: str) -> None:
        """Drop an evaluation whose method turns out not to be defined for the model."""
        if self.progress.pop(evaluation, None) is not None:
            self.refused.append(Refusal(evaluation.protocol_spec, evaluation.method_spec, reason))
            self.changed = True

    def _give_up(self, plan: GroupPlan, items: slice) -> None:
        for evaluation in plan.group.evaluations:
            if evaluation in self.progress:
                self.progress[evaluation].give_up(items)
        self.changed = True

    def _narrow_after(self, plan: GroupPlan, open_chunks: set[int], first: int) -> int | None:
        progress = [self.progress[each] for each in plan.group.evaluations if each in self.progress]
        return narrow_after(plan, progress, self.spec, open_chunks, first)

    def _heartbeat(self, doing: str) -> None:
        """Report progress even without new results, so that the progress callback can stop the run."""
        if self.of == "images":
            self.event = Event(doing, self.predicted, self.to_predict, of="images", workers=self.executor.workers)
            self.on_progress(self.event)
        elif self.changed or (doing, self.executor.workers) != (self.event.doing, self.event.workers):
            self._report_progress(doing)
        else:
            self.on_progress(self.event)

    def _report_progress(self, doing: str) -> None:
        elapsed = time.perf_counter() - self.started
        weight_left = sum(each.missing * each.weight for each in self.progress.values())
        left = elapsed / self.weight_done * weight_left if self.weight_done else None
        scores = {(str(e.protocol_spec), str(e.method_spec)): each.running.summary() for e, each in self.progress.items()}
        rate = self.computed / elapsed if elapsed else 0.0
        missing = sum(each.missing for each in self.progress.values())
        self.event = Event(doing, self.computed, self.computed + missing, rate, left, scores, workers=self.executor.workers)
        self.changed = False
        self.on_progress(self.event)

    def _agreement(self, used: Mapping[GroupPlan, tuple[EvalItem, ...]]) -> dict[MethodSpec, float]:
        """Return the rank correlation of fast and exact maps by method."""
        methods = {each.method_spec: each.method for plan in used for each in plan.group.evaluations if each in self.progress}
        evaluator = self.plan.evaluators[0].reporting_to(lambda _done, _total: self.on_progress(self.event))
        return map_agreement(methods, evaluator, self.plan.data, next(iter(used.values())))

    def _scores(self, used: Mapping[GroupPlan, tuple[EvalItem, ...]]) -> dict:
        """Return the scores, in the order of the spec."""
        pairs = [(each, plan) for plan in used for each in plan.group.evaluations if each in self.progress]
        pairs.sort(key=lambda pair: self.spec.protocols.index(pair[0].protocol_spec))
        readable = {plan: set(items) for plan, items in used.items()}
        scored: dict[tuple[GroupPlan, bytes], ScoredItems] = {}
        scores = {}
        for each, plan in pairs:
            done = self.progress[each].done & np.array([item in readable[plan] for item in plan.items], dtype=bool)
            # Methods share their items, so that a result takes little more than its values.
            chosen = scored.setdefault((plan, done.tobytes()), ScoredItems(plan, done))
            scores[each.protocol_spec, each.method_spec] = self._score(each, chosen)
        return scores

    def _score(self, evaluation: Evaluation, scored: ScoredItems) -> Score:
        return Score(
            replace(self.spec, protocols=(evaluation.protocol_spec,), methods=(evaluation.method_spec,)),
            evaluation.protocol,
            self.progress[evaluation].values[scored.done],
            scored.ids,
            scored.images,
            StoredDetails(self.store, evaluation.key, scored.keys),
            self.plan.evaluators[0].mean_seconds(evaluation.method, scored.ids),
            tuple(dict.fromkeys([*self.plan.notes, *self.notes])),
            scored.labels,
        )

    def _save(self, key: str, used: Mapping[GroupPlan, tuple[EvalItem, ...]], state: str = "running") -> None:
        """Write the run's manifest."""
        self.store.save_run(key, *manifest(self.plan, used, self.progress, self.refused, self.unreadable))
        self.store.set_state(key, state)
