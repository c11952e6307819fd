"""Plan a run: select its items, look up cached results, and list the missing units of work."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from attrlib.data.datasets import Dataset
from attrlib.engine.cache import RunStore
from attrlib.engine.evaluations import Evaluation, ItemGroup, Refusal, find_evaluations, target_notes
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.fitting import match_maps
from attrlib.engine.items import EvalItem, chunked
from attrlib.engine.memory import Probe, probe, rows_within
from attrlib.engine.selection import Unpredicted, select
from attrlib.engine.sources import cached_forwards
from attrlib.engine.streaming import StreamingStore, map_bytes, streaming_note
from attrlib.engine.work import EvaluateUnit, PredictUnit
from attrlib.errors import DataError, SpecError
from attrlib.methods import BATCH_SIZE
from attrlib.models import Classifier, Layer
from attrlib.progress import Progress, no_progress
from attrlib.specs import RunSpec, Shard

FORWARD_PASSES = Probe(forward=1.0, gradient=2.5, row_bytes=0)
"""Costs relative to a forward pass, to weigh evaluations against each other without timing."""


@dataclass(frozen=True, eq=False)
class GroupPlan:
    """A group of evaluations with its items.

    Attributes:
        group: The evaluations.
        items: The items. While predictions are missing, as many candidate images as there are items at most.
        unpredicted: The images whose predictions must be computed before the items can be selected.
        keys: The key of each item's results.
        values: The cached values of each evaluation, float64 (N,), NaN where undefined or missing.
        cached: Which values are cached, bool (N,).
        positions: Position of each item in the whole run, of which a shard has only some items.
        total: Number of items in the whole run.
    """

    group: ItemGroup
    items: tuple[EvalItem, ...]
    unpredicted: Unpredicted
    keys: tuple[str, ...] = ()
    values: dict[Evaluation, np.ndarray] = field(default_factory=dict)
    cached: dict[Evaluation, np.ndarray] = field(default_factory=dict)
    positions: tuple[int, ...] = ()
    total: int = 0

    @property
    def cached_count(self) -> int:
        """Return the number of cached results."""
        return sum(int(cached.sum()) for cached in self.cached.values())

    @property
    def missing(self) -> int:
        """Return the maximum number of results that must be computed."""
        return len(self.items) * len(self.group.evaluations) - self.cached_count

    def missing_by_evaluation(self) -> list[tuple[Evaluation, int]]:
        """Return each evaluation with the maximum number of its results that must be computed."""
        known = {each: int(cached.sum()) for each, cached in self.cached.items()}
        return [(each, len(self.items) - known.get(each, 0)) for each in self.group.evaluations]

    @property
    def chunks(self) -> list[tuple[EvalItem, ...]]:
        """Return the items in chunks, each of which is loaded and computed together."""
        return chunked(self.items, self.group.chunk_size)

    def units(self, area: float) -> dict[int, EvaluateUnit]:
        """Return the missing units of work by the number of their chunk; see `EvaluateUnit` for `area`."""
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
    """The plan of a run; see `make_plan`.

    Attributes:
        spec: The run.
        data: The data set.
        store: Where results are kept.
        evaluators: Evaluators of the run's model and of each filter model.
        groups: The evaluations, grouped by the items that they share.
        refused: The evaluations that are not defined, with the reason.
        notes: What was left out, and why.
        max_memory: Maximum memory in bytes, None for half of the free memory.
        shard: The share of the items to compute, None for all.
    """

    spec: RunSpec
    data: Dataset
    store: RunStore
    evaluators: tuple[Evaluator, ...]
    groups: tuple[GroupPlan, ...]
    refused: tuple[Refusal, ...]
    notes: tuple[str, ...]
    max_memory: int | None = None
    shard: Shard | None = None

    @property
    def model(self) -> Classifier:
        """Return the model to explain."""
        return self.evaluators[0].model

    @property
    def model_digest(self) -> str:
        """Return the digest of the model's weights when the plan was made."""
        return self.evaluators[0].model_digest

    @property
    def cached(self) -> int:
        """Return the number of cached results."""
        return sum(each.cached_count for each in self.groups)

    @property
    def missing(self) -> int:
        """Return the maximum number of results that must be computed."""
        return sum(each.missing for each in self.groups)

    @property
    def streams(self) -> bool:
        """Return whether maps are not kept, as they are larger than the store may be; the last note says so."""
        return isinstance(self.store, StreamingStore)

    @property
    def upper_bound(self) -> bool:
        """Return whether `missing` is an upper bound, because predictions are missing or the run may stop early."""
        return self.spec.ci_width is not None or any(each.unpredicted for each in self.groups)

    @property
    def area(self) -> float:
        """Return the size of the largest input that must still be explained, as a multiple of the model's input size."""
        incomplete = (each for plan in self.groups for each, cached in plan.cached.items() if not cached.all())
        return max((each.protocol.cost.area for each in incomplete), default=0)

    def predict_units(self) -> list[list[PredictUnit]]:
        """Return the units of the missing predictions, grouped by model."""
        images: dict[int, dict[EvalItem, None]] = {}
        for each in self.groups:
            for model, items in each.unpredicted.items():
                images.setdefault(model, {}).update(dict.fromkeys(items))
        return [[PredictUnit(chunk, model) for chunk in chunked(list(items), BATCH_SIZE)] for model, items in images.items()]

    def predicted(self) -> "Plan":
        """Return the plan with grids selected from the predictions, which must be in the store.

        Raises:
            DataError: If no group has items.
        """
        waiting = [each.group for each in self.groups if each.unpredicted]
        planned, refused, notes, error = _plan_groups(waiting, self.spec, self.data, self.store, self.evaluators, self.shard)
        groups = tuple(planned.get(each.group, each) for each in self.groups if not each.unpredicted or each.group in planned)
        if error is not None and not groups:
            raise error
        return replace(self, groups=groups, refused=(*self.refused, *refused), notes=tuple(dict.fromkeys([*self.notes, *notes])))

    def estimate(self) -> "Estimate":
        """Return the time and memory that the missing results need, estimated from a few timed passes of the models."""
        rows = rows_within(self.model, self.max_memory)
        costs = probe(self.model, rows, self.spec.fast)
        seconds = 0.0
        for each in self.groups:
            for model, items in each.unpredicted.items():
                seconds += len(items) * probe(self.evaluators[model].model, rows).forward
            for evaluation in each.group.evaluations:
                missing = len(each.items) if each.unpredicted else int((~each.cached[evaluation]).sum())
                seconds += missing * item_seconds(evaluation, self.model, costs)
                seconds -= self._cached_forwards(each, evaluation) * costs.forward
            for measurement in {m for evaluation in each.group.evaluations for m in evaluation.protocol.measurements}:
                measured = self.evaluators[0].count_measured(measurement, each.items, each.group.target_choice)
                seconds += (len(each.items) - measured) * measurement.forwards() * costs.forward
        return Estimate(seconds, self.model.nbytes + rows * costs.row_bytes)

    def _cached_forwards(self, group: GroupPlan, evaluation: Evaluation) -> float:
        """Return the forward passes of missing items that are not needed because the outcomes of the protocol's sources are cached."""
        if not evaluation.protocol.sources or group.unpredicted:
            return 0
        names = [group.keys[position] for position in np.flatnonzero(~group.cached[evaluation])]
        return cached_forwards(evaluation.protocol, evaluation.method, names, self.store, self.evaluators[0].keys)


@dataclass(frozen=True)
class Estimate:
    """The estimated cost of a plan: `seconds`, and `nbytes` of peak memory."""

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
    shard: Shard | None = None,
    on_progress: Progress = no_progress,
) -> Plan:
    """Select the items of a run, and look up its cached results; nothing is computed.

    Args:
        spec: The run.
        model: The model that the run names.
        data: The data set that the run names.
        store: Where results are looked up and stored.
        filter_models: The filter models that the run names.
        max_memory: Maximum memory in bytes, weights included; None for half of the free memory.
        shard: The share of the items to compute, None for all.
        on_progress: Called with the number of images found and wanted; raises `Cancelled` to stop.

    Raises:
        SpecError: If the spec is not valid, `filter_models` does not match it, or a shard cannot tell when the run may stop.
        AttrlibError: If nothing is defined for the model and the data.
    """
    if len(filter_models) != len(spec.filter_models):
        raise SpecError(
            f"the run names {len(spec.filter_models)} filter model(s), but {len(filter_models)} were passed; load them and pass them as "
            "filter_models"
        )
    if shard is not None and spec.ci_width is not None:
        raise SpecError("ci_width stops a run by the scores of all its items, which a shard does not know; leave out ci_width or the shard")
    evaluators = (Evaluator(model, store, spec.seed, spec.fast), *(Evaluator(each, store, spec.seed) for each in filter_models))
    groups, refused = find_evaluations(spec, data, evaluators[0])
    planned, refused_groups, notes, error = _plan_groups(groups, spec, data, store, evaluators, shard, on_progress)
    if error is not None and not planned:
        raise error
    plan = Plan(
        spec,
        data,
        store,
        evaluators,
        tuple(planned.values()),
        (*refused, *refused_groups),
        tuple(dict.fromkeys([*evaluators[0].model.remarks, *data.notes, *notes, *target_notes(groups)])),
        max_memory,
        shard,
    )
    nbytes = sum(map_bytes(each.missing_by_evaluation(), model, store.dtype) for each in plan.groups)
    if store.map_limit is None or nbytes <= store.map_limit:
        return plan
    streaming = StreamingStore(store)
    return replace(
        plan,
        store=streaming,
        evaluators=tuple(each.using(streaming) for each in evaluators),
        notes=(*plan.notes, streaming_note(nbytes, store.map_limit)),
    )


def _plan_groups(
    groups: Sequence[ItemGroup],
    spec: RunSpec,
    data: Dataset,
    store: RunStore,
    evaluators: Sequence[Evaluator],
    shard: Shard | None,
    on_progress: Progress = no_progress,
) -> tuple[dict[ItemGroup, GroupPlan], list[Refusal], list[str], DataError | None]:
    """Return the plans of groups, the evaluations of groups without items, notes on the items, and the last error."""
    planned: dict[ItemGroup, GroupPlan] = {}
    refused: list[Refusal] = []
    notes: list[str] = []
    last: DataError | None = None
    for group in groups:
        try:
            plan, group_refused, group_notes = _plan_group(group, spec, data, store, evaluators, shard, on_progress)
        except DataError as error:
            refused += group.refuse(error)
            last = error
            continue
        refused += group_refused
        notes += group_notes
        if not plan.group.evaluations:
            last = DataError(group_refused[-1].reason)
        # The items of a short run may all be in other shards.
        elif plan.items or plan.unpredicted:
            planned[group] = plan
    return planned, refused, notes, last


def _plan_group(
    group: ItemGroup,
    spec: RunSpec,
    data: Dataset,
    store: RunStore,
    evaluators: Sequence[Evaluator],
    shard: Shard | None,
    on_progress: Progress = no_progress,
) -> tuple[GroupPlan, list[Refusal], list[str]]:
    """Return the plan of a group, its evaluations of maps made elsewhere that do not fit the items, and notes on the items and the maps."""
    selection, unpredicted = select(group, spec, data, evaluators, on_progress)
    items = selection.items
    if unpredicted:
        most = min(len(items) // group.images_per_item, spec.limit or len(items))
        return GroupPlan(group, items[: most if shard is None else -(-most // shard.count)], unpredicted), [], list(selection.notes)
    # All items are checked, so that every shard refuses the same maps.
    fitting, refused, notes = match_maps(group, items, data, evaluators[0].model)
    positions = tuple(position for position, item in enumerate(items) if shard is None or shard.holds(item.id))
    chosen = tuple(items[position] for position in positions)
    keys = tuple(item.key(group.target_choice) for item in chosen)
    plan = GroupPlan(fitting, chosen, {}, keys, positions=positions, total=len(items))
    for each in fitting.evaluations:
        plan.values[each], plan.cached[each] = _look_up(each, keys, store)
    return plan, refused, [*selection.notes, *notes]


def _look_up(evaluation: Evaluation, keys: Sequence[str], store: RunStore) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of an evaluation and which are cached, looked up at once: the store reads all records of a key in one pass."""
    stored = store.values(evaluation.key, keys)
    cached = np.fromiter(map(stored.__contains__, keys), bool, len(keys))
    return np.fromiter((stored.get(key, np.nan) for key in keys), float, len(keys)), cached


def item_seconds(evaluation: Evaluation, model: Classifier, costs: Probe) -> float:
    """Return the seconds of one item, from the cost of a pass and the passes that the method needs.

    Args:
        evaluation: The evaluation.
        model: The classifier.
        costs: The cost of passes.
    """
    cost, layer = evaluation.protocol.cost, model.layer(evaluation.method.layer)
    passes, downstream = evaluation.passes(model), _share_downstream(model, layer)
    backward = cost.targets * passes.gradient * costs.gradient
    per_input = (1 - downstream) * passes.before * costs.forward + downstream * (passes.forward * costs.forward + backward)
    return cost.inputs * cost.area * per_input + cost.forwards * costs.forward


def _share_downstream(model: Classifier, layer: Layer) -> float:
    """Return the share of the model's layers downstream of a layer."""
    paths = [name for name, each in model.layers.items() if name == each.path]
    return 1 - paths.index(layer.path) / len(paths) if layer.path else 1.0
