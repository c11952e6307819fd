"""Execute a search with the engine and its store, so that it can be stopped at any time and resumed."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrlib.analysis.differences import paired
from attrlib.data.datasets import load_dataset
from attrlib.engine.items import EvalItem
from attrlib.engine.plan import Plan, make_plan
from attrlib.engine.results import Score
from attrlib.engine.run import Event, RunListener, local, run
from attrlib.errors import MethodError, ProtocolError, SpecError, unknown
from attrlib.methods import create
from attrlib.models import Classifier
from attrlib.progress import no_listener
from attrlib.specs import Dimension, MethodSpec, ProtocolSpec, TuneSpec, options_of
from attrlib.specs.codec import documented
from attrlib.store import Store, open_store
from attrlib.tuning.plan import TunePlan, held_out_items, plan_tuning, rounds
from attrlib.tuning.result import Trial, TuneResult
from attrlib.tuning.space import read_space

TUNE_OPTIONS = tuple(p for p in options_of(TuneSpec) if p.name != "deletion_tuned")
"""Keyword arguments of `tune`. Whether the model was tuned on deleted patches is read from the model."""


@documented(TUNE_OPTIONS)
def tune(
    model: Classifier,
    data: Any,
    method: str | MethodSpec,
    protocol: str | ProtocolSpec,
    *,
    space: str | Mapping[str, object] | Iterable[Dimension] = (),
    max_memory: int | None = None,
    store: Store | None = None,
    on_progress: RunListener = no_listener,
    **options: Any,
) -> TuneResult:
    """Search the parameters of a method for the setting that a protocol scores best, and judge it on held-out items.

    Every trial is an ordinary score: cached results are not computed again, and settings share passes where methods do. The reported
    scores are those of the best setting and of the default on items that the search has not used.

    Args:
        model: The model to explain.
        data: A data set, or any source that `load_dataset` takes.
        method: The method at its default setting: a name, its text form with layer and parameters, or a spec.
        protocol: The objective: a name, its text form with parameters, or a spec.
        space: The values to try: a mapping from parameters to lists of values, or to ranges such as `"0..1"` or `"1e-6..1e-2:log"`;
            or the text form, such as `steps=5..80:log,baseline=zeros/blur`. `layer` is a name, too. By default the declared choices of
            all parameters that `method` does not name, and numbers around their defaults.
        max_memory: Memory budget in bytes; by default half of the free memory.
        store: Store of results; by default that of `open_store`.
        on_progress: Progress callback for the events of the runs; raises `Cancelled` to stop. The same call then resumes.
        **options: Options of the search, listed below.

    Returns:
        The trials, and the held-out scores of the best setting and of the default with their paired difference.

    Raises:
        AttrlibError: If an argument is not valid, the default is not defined, or no items are left for the verdict.

    Example:
        >>> import attrlib
        >>> model = attrlib.load_model("birds_resnet10", device="cpu")
        >>> result = attrlib.tune(model, "birds", "IG", "sds", space={"steps": [1, 8]}, limit=4, held_out=4)
        >>> len(result.trials), len(result.winner.values)
        (3, 4)
    """
    for name in options:
        if name not in {p.name for p in TUNE_OPTIONS}:
            raise SpecError(unknown("option of a search", name, [p.name for p in TUNE_OPTIONS]))
    dataset = load_dataset(data)
    spec = TuneSpec(
        model.spec,
        dataset.source,
        protocol if isinstance(protocol, ProtocolSpec) else ProtocolSpec.parse(str(protocol)),
        method if isinstance(method, MethodSpec) else MethodSpec.parse(str(method)),
        read_space(space),
        deletion_tuned=model.deletion_tuned,
        **options,
    )
    return run_tuning(plan_tuning(spec, model, dataset, store or open_store(), max_memory=max_memory), on_progress)


def run_tuning(plan: TunePlan, on_progress: RunListener = no_listener) -> TuneResult:
    """Score the settings of a plan on the items of the search, and the best one and the default on the held-out items.

    Args:
        plan: The plan.
        on_progress: Called every few passes with the progress of the present run; raises `Cancelled` to stop.

    Raises:
        Cancelled: If `on_progress` raises it. Everything computed before is stored, and the next call resumes there.
        AttrlibError: If no items are left for the verdict, or no setting has a score.
    """
    return _Search(plan, on_progress).execute()


class _Search:
    """The state of one search."""

    def __init__(self, plan: TunePlan, on_progress: RunListener):
        self.plan, self.spec, self.on_progress = plan, plan.spec, on_progress
        self.default = plan.settings[0]
        self.scores: dict[MethodSpec, Score] = {}
        self.refused: dict[MethodSpec, str] = {}
        self.notes: list[str] = []
        self.computed = 0

    def execute(self) -> TuneResult:
        start = time.perf_counter()
        held_out = held_out_items(self.spec, _with_items(self.plan.verdict, self.on_progress))
        ranking = self._search()
        best = ranking[0]
        if not self.scores[best].summary.n:
            raise ProtocolError(
                f"{self.spec.protocol} is undefined for every setting on all {len(self.scores[best].values)} items of the search; "
                "choose another protocol, or more items"
            )
        scores = self._verdict(best, held_out)
        numbers = {method: number for number, method in enumerate(self.plan.settings)}
        default = self.scores[self.default]
        trials = tuple(Trial(numbers[method], self.scores[method], paired(self.scores[method], default)) for method in ranking)
        total = sum(len(each.values) for each in (*self.scores.values(), *scores.values()))
        notes = [*dict.fromkeys(self.notes), *self._warnings(best, len(held_out))]
        return TuneResult(
            self.spec, self.plan.describe, trials, scores[self.default], scores[best], tuple(self.refused.items()), tuple(notes),
            self.computed, max(0, total - self.computed), time.perf_counter() - start,
        )  # fmt: skip

    def _search(self) -> list[MethodSpec]:
        """Score the settings round by round, and return them, best first."""
        left, dropped = list(self.plan.settings), list[MethodSpec]()
        for size in rounds(self.spec, len(left)):
            if self.scores:
                others = self._ranked([method for method in left if method != self.default])
                kept, out = others[: -(-len(others) // 2)], others[-(-len(others) // 2) :]
                left, dropped = [method for method in left if method in (self.default, *kept)], out + dropped
            found = self._run(left, size)
            self.scores |= found
            left = [method for method in left if method in found]
        return self._ranked(left) + dropped

    def _ranked(self, methods: Sequence[MethodSpec]) -> list[MethodSpec]:
        """Return settings by their mean, best first. Equal means keep their order, and those without a mean come last."""
        means = {method: -self.scores[method].sign * self.scores[method].mean for method in methods}
        return sorted(methods, key=lambda method: math.inf if math.isnan(means[method]) else means[method])

    def _verdict(self, best: MethodSpec, held_out: Sequence[EvalItem]) -> dict[MethodSpec, Score]:
        """Return the scores of the best setting and of the default on the held-out items."""
        wanted = {(item.id, item.labels) for item in held_out}
        scores = self._run(list(dict.fromkeys([self.default, best])), self.spec.limit + self.spec.held_out)
        return {
            method: score.select([k for k, item in enumerate(zip(score.ids, score.labels, strict=True)) if item in wanted])
            for method, score in scores.items()
        }

    def _run(self, methods: Sequence[MethodSpec], limit: int) -> dict[MethodSpec, Score]:
        """Return the scores of settings on the first items. Raises `MethodError` if the default has none."""
        old = self.plan.search
        plan = make_plan(self.spec.run(methods, limit), old.model, old.data, old.store, max_memory=old.max_memory)
        result = run(plan, self.on_progress)
        self.computed += result.computed
        self.notes += result.notes
        self.refused |= {method: reason for _, method, reason in result.refused}
        if self.default in self.refused:
            raise MethodError(f"the default {self.default} is not defined: {self.refused[self.default]}")
        return result.of_protocol(self.spec.protocol)

    def _warnings(self, best: MethodSpec, held_out: int) -> list[str]:
        """Return notes on what the scores leave open."""
        warnings = self.plan.space.edges(list(self.scores), best)
        score = self.scores[best]
        if score.undefined > self.scores[self.default].undefined:
            warnings.append(f"{best} is undefined on {score.undefined} of {len(score.values)} items of the search, the default on fewer")
        if any(create(method).seeded for method in self.plan.settings):
            warnings.append(
                f"{best.name} draws random numbers: all settings used seed {self.spec.seed}; another seed draws others, and other items"
            )
        if held_out < self.spec.held_out:
            warnings.append(f"{held_out} items are left to judge the best setting on, fewer than the {self.spec.held_out} asked for")
        return warnings


def _with_items(plan: Plan, on_progress: RunListener) -> Plan:
    """Return a plan whose items are selected, computing the predictions that grids need."""
    units = plan.predict_units()
    done, total = 0, sum(len(unit.items) for each in units for unit in each)
    executor = local(plan, lambda doing: on_progress(Event(doing, done, total, of="images")))
    for each in units:
        for result in executor.map(each):
            done += len(each[result.unit].items)
    return plan.predicted()
