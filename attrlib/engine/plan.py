"""Plan a run: its items, what of it is cached, and the units of work that are left."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from attrlib.data.datasets import Dataset
from attrlib.engine.cache import RunStore
from attrlib.engine.evaluations import Evaluation, ItemGroup, Refusal, find_evaluations
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem, chunked
from attrlib.engine.memory import Probe, probe, rows_within
from attrlib.engine.selection import Unpredicted, select
from attrlib.engine.work import EvaluateUnit, PredictUnit
from attrlib.errors import DataError, SpecError
from attrlib.methods import BATCH_SIZE
from attrlib.models import Classifier, Layer
from attrlib.progress import Progress, no_progress
from attrlib.specs import RunSpec

LOOKUP = 4096
"""Items in one look-up of cached values."""
FORWARD_PASSES = Probe(forward=1.0, gradient=2.5, row_bytes=0)
"""Costs in units of a forward pass, to weigh evaluations against each other without timing anything."""


@dataclass(frozen=True, eq=False)
class GroupPlan:
    """A group of evaluations with its items.

    Attributes:
        group: The evaluations.
        items: The items; while predictions are missing, an upper bound of what they may be.
        unpredicted: The images whose predictions must be computed before the items are known.
        keys: The key of each item's results.
        values: The cached values of each evaluation, float64 (N,), NaN where undefined or missing.
        cached: Which of them are cached, bool (N,).
    """

    group: ItemGroup
    items: tuple[EvalItem, ...]
    unpredicted: Unpredicted
    keys: tuple[str, ...] = ()
    values: dict[Evaluation, np.ndarray] = field(default_factory=dict)
    cached: dict[Evaluation, np.ndarray] = field(default_factory=dict)

    @property
    def known(self) -> int:
        """Cached results."""
        return sum(int(cached.sum()) for cached in self.cached.values())

    @property
    def missing(self) -> int:
        """Results that must be computed, at most."""
        return len(self.items) * len(self.group.evaluations) - self.known

    @property
    def chunks(self) -> list[tuple[EvalItem, ...]]:
        """The items in chunks that are computed together."""
        return chunked(self.items, self.group.chunk_size)

    def units(self, area: float) -> dict[int, EvaluateUnit]:
        """Return the units of work that are left, by the number of their chunk."""
        units = {}
        for number, chunk in enumerate(self.chunks):
            first = number * self.group.chunk_size
            missing = tuple(
                (each, tuple(np.flatnonzero(~cached[first : first + len(chunk)]).tolist())) for each, cached in self.cached.items()
            )
            missing = tuple((each, positions) for each, positions in missing if positions)
            if missing:
                units[number] = EvaluateUnit(chunk, missing, area)
        return units


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run will do; see `make_plan`.

    Attributes:
        spec: The run.
        data: The data set.
        store: Where results are kept.
        evaluators: Of the run's model, and of each filter model.
        groups: The evaluations by the items they share.
        refused: What is not defined, with the reason.
        notes: What was left out, and why.
        max_memory: Bytes that may be used, None for half of what is free.
    """

    spec: RunSpec
    data: Dataset
    store: RunStore
    evaluators: tuple[Evaluator, ...]
    groups: tuple[GroupPlan, ...]
    refused: tuple[Refusal, ...]
    notes: tuple[str, ...]
    max_memory: int | None = None

    @property
    def model(self) -> Classifier:
        """The model that is explained."""
        return self.evaluators[0].model

    @property
    def known(self) -> int:
        """Cached results."""
        return sum(each.known for each in self.groups)

    @property
    def missing(self) -> int:
        """Results that must be computed, at most."""
        return sum(each.missing for each in self.groups)

    @property
    def upper_bound(self) -> bool:
        """Whether fewer results may be needed: items are not known before predictions are, or the run may stop early."""
        return self.spec.ci_width is not None or any(each.unpredicted for each in self.groups)

    @property
    def area(self) -> float:
        """The largest input that is still to be explained, in sizes of the model's input."""
        left = (each for plan in self.groups for each, cached in plan.cached.items() if not cached.all())
        return max((each.protocol.cost.area for each in left), default=0)

    def predict_units(self) -> list[list[PredictUnit]]:
        """Return the predictions that are missing, model by model."""
        images: dict[int, dict[EvalItem, None]] = {}
        for each in self.groups:
            for model, items in each.unpredicted.items():
                images.setdefault(model, {}).update(dict.fromkeys(items))
        return [[PredictUnit(chunk, model) for chunk in chunked(list(items), BATCH_SIZE)] for model, items in images.items()]

    def predicted(self) -> "Plan":
        """Return the plan with the items that follow from the predictions, once these are in the store."""
        plans: list[GroupPlan] = []
        refused, notes = list(self.refused), list(self.notes)
        for each in self.groups:
            if not each.unpredicted:
                plans.append(each)
                continue
            try:
                plan, more = _plan_group(each.group, self.spec, self.data, self.store, self.evaluators)
            except DataError as error:
                refused += each.group.refuse(error)
                last = error
                continue
            plans.append(plan)
            notes += more
        if not plans:
            raise last
        return replace(self, groups=tuple(plans), refused=tuple(refused), notes=tuple(dict.fromkeys(notes)))

    def estimate(self) -> "Estimate":
        """Return the time and memory of what is missing, from timing a few passes of the models."""
        rows = rows_within(self.model, self.max_memory)
        costs = probe(self.model, rows, self.spec.fast)
        seconds = 0.0
        for each in self.groups:
            for model, items in each.unpredicted.items():
                seconds += len(items) * probe(self.evaluators[model].model, rows).forward
            for evaluation in each.group.evaluations:
                missing = len(each.items) if each.unpredicted else int((~each.cached[evaluation]).sum())
                seconds += missing * item_seconds(evaluation, self.model, costs)
            for measurement in {m for evaluation in each.group.evaluations for m in evaluation.protocol.measurements}:
                measured = self.evaluators[0].count_measured(measurement, each.items, each.group.target_choice)
                seconds += (len(each.items) - measured) * measurement.forwards() * costs.forward
        return Estimate(seconds, self.model.nbytes + rows * costs.row_bytes)


@dataclass(frozen=True)
class Estimate:
    """What a plan will take: `seconds`, and `nbytes` of memory at its peak."""

    seconds: float
    nbytes: int


def make_plan(
    spec: RunSpec,
    model: Classifier,
    data: Dataset,
    store: RunStore,
    *,
    filter_models: Sequence[Classifier] = (),
    max_memory: int | None = None,
    on_progress: Progress = no_progress,
) -> Plan:
    """Select the items of a run, and look up what of it is cached. Nothing is computed.

    Args:
        spec: The run.
        model: The model that it names.
        data: The data set that it names.
        store: Where results are looked up and kept.
        filter_models: The filter models that it names.
        max_memory: Bytes that may be used, weights included; None for half of what is free.
        on_progress: Called with the number of images looked through; raises `Cancelled` to stop.

    Raises:
        AttrlibError: If the spec makes no sense, or nothing is defined for the model and the data.
    """
    if len(filter_models) != len(spec.filter_models):
        raise SpecError(
            f"the run names {len(spec.filter_models)} filter model(s), and {len(filter_models)} are given; load those, and give them as "
            "filter_models"
        )
    evaluators = (Evaluator(model, store, spec.seed, spec.fast), *(Evaluator(each, store, spec.seed) for each in filter_models))
    groups, refused = find_evaluations(spec, data, evaluators[0])
    plans: list[GroupPlan] = []
    notes: list[str] = []
    for group in groups:
        try:
            plan, more = _plan_group(group, spec, data, store, evaluators, on_progress)
        except DataError as error:
            refused += group.refuse(error)
            last = error
            continue
        plans.append(plan)
        notes += more
    if not plans:
        raise last
    return Plan(spec, data, store, evaluators, tuple(plans), tuple(refused), tuple(dict.fromkeys(notes)), max_memory)


def _plan_group(
    group: ItemGroup,
    spec: RunSpec,
    data: Dataset,
    store: RunStore,
    evaluators: Sequence[Evaluator],
    on_progress: Progress = no_progress,
) -> tuple[GroupPlan, tuple[str, ...]]:
    """Return the plan of a group, and notes on its items."""
    selection, unpredicted = select(group, spec, data, evaluators, on_progress)
    items = selection.items
    if unpredicted:
        items = items[: min(len(items) // group.images_per_item, spec.limit or len(items))]
        return GroupPlan(group, items, unpredicted), selection.notes
    keys = tuple(item.key(group.target_choice) for item in items)
    plan = GroupPlan(group, items, {}, keys)
    for each in group.evaluations:
        plan.values[each], plan.cached[each] = _look_up(each, keys, store)
    return plan, selection.notes


def _look_up(evaluation: Evaluation, keys: Sequence[str], store: RunStore) -> tuple[np.ndarray, np.ndarray]:
    """Return the cached values of an evaluation, and which are cached; a few thousand at a time, to keep memory flat."""
    values, cached = np.full(len(keys), np.nan), np.zeros(len(keys), dtype=bool)
    for first in range(0, len(keys), LOOKUP):
        found = store.values(evaluation.key, keys[first : first + LOOKUP])
        for place, key in enumerate(keys[first : first + LOOKUP], first):
            if key in found:
                values[place], cached[place] = found[key], True
    return values, cached


def item_seconds(evaluation: Evaluation, model: Classifier, costs: Probe) -> float:
    """Return the seconds of one item, from what a pass costs and how many passes the method needs."""
    cost, layer = evaluation.protocol.cost, model.layer(evaluation.method.layer)
    passes, downstream = evaluation.passes(model), _share_downstream(model, layer)
    of_classes = cost.targets * passes.gradient * costs.gradient
    of_input = (1 - downstream) * passes.before * costs.forward + downstream * (passes.forward * costs.forward + of_classes)
    return cost.inputs * cost.area * of_input + cost.forwards * costs.forward


def _share_downstream(model: Classifier, layer: Layer) -> float:
    """Return the share of the model's layers downstream of a layer."""
    paths = [name for name, each in model.layers.items() if name == each.path]
    return 1 - paths.index(layer.path) / len(paths) if layer.path else 1.0
