"""Plan a search: settings to try, items for the search and others for the verdict, and how many items each round scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from attrlib.data.datasets import Dataset
from attrlib.engine.evaluations import Refusal
from attrlib.engine.items import EvalItem
from attrlib.engine.plan import Estimate, Plan, make_plan
from attrlib.errors import DataError, MethodError, SpecError
from attrlib.models import Classifier
from attrlib.progress import Progress, no_progress
from attrlib.specs import MethodSpec, TuneSpec
from attrlib.store import Store
from attrlib.tuning.space import LAYER, SearchSpace, search_space

FEWEST = 4
"""Fewest items on which successive halving compares settings."""


@dataclass(frozen=True, eq=False)
class TunePlan:
    """The plan of a search; see `plan_tuning`.

    Attributes:
        spec: The search.
        space: The checked search space.
        settings: The settings to try, the default first.
        search: The run of all settings on the items of the search.
        verdict: The run of the default on the items of the search and, after them, the held-out ones.
    """

    spec: TuneSpec
    space: SearchSpace
    settings: tuple[MethodSpec, ...]
    search: Plan
    verdict: Plan

    @property
    def refused(self) -> tuple[Refusal, ...]:
        """Return the settings that are not defined for the model or the data, with the reason."""
        return self.search.refused

    @property
    def describe(self) -> str:
        """Return the search space and how much of it is tried, in a sentence."""
        size, others = self.space.size, len(self.settings) - 1
        how = f"all of its {size} settings" if size <= self.spec.trials else f"{others} random settings" + (
            f" of {size}" if math.isfinite(size) else ""
        )  # fmt: skip
        return f"{', '.join(map(str, self.space.dimensions))}: {how}, and the default {self.spec.method}"

    def estimate(self) -> Estimate:
        """Return the time and memory of the missing results, an upper bound with `halving`. The verdict is that of two settings."""
        search, verdict = self.search.estimate(), self.verdict.estimate()
        return Estimate(search.seconds + 2 * verdict.seconds, max(search.nbytes, verdict.nbytes))


def plan_tuning(
    spec: TuneSpec,
    model: Classifier,
    data: Dataset,
    store: Store,
    *,
    max_memory: int | None = None,
    on_progress: Progress = no_progress,
) -> TunePlan:
    """Check a search, choose its settings and items, and look up cached results; nothing is computed.

    Args:
        spec: The search.
        model: The model that it names.
        data: The data set that it names.
        store: Where results are looked up and stored.
        max_memory: Maximum memory in bytes, weights included; None for half of the free memory.
        on_progress: Called with the number of images found and wanted; raises `Cancelled` to stop.

    Raises:
        SpecError: If the space is not valid, or has a single setting.
        DataError: If no items are left for the verdict. For grids, whose number depends on predictions, `run_tuning` raises it.
        AttrlibError: If the protocol or the default setting is not defined for the model or the data, or no other setting is.
    """
    space = search_space(spec)
    for layer in space.values.get(LAYER, ()):
        model.layer(str(layer))
    settings = tuple(space.settings(spec.trials, spec.seed))
    if len(settings) == 1:
        raise SpecError(f"every setting of the search space {', '.join(map(str, space.dimensions))} is the default {spec.method}; widen it")

    def planned(methods: Sequence[MethodSpec], limit: int) -> Plan:
        return make_plan(spec.run(methods, limit), model, data, store, max_memory=max_memory, on_progress=on_progress)

    verdict = planned(settings[:1], spec.limit + spec.held_out)
    search = planned(settings, spec.limit)
    reasons = [refusal.reason for refusal in search.refused]
    if len(reasons) == len(settings) - 1:
        raise MethodError(f"no other setting than the default is defined: {reasons[0]}")
    plan = TunePlan(spec, space, settings, search, verdict)
    if not verdict.groups[0].unpredicted:
        held_out_items(spec, verdict)
    return plan


def held_out_items(spec: TuneSpec, verdict: Plan) -> tuple[EvalItem, ...]:
    """Return the items for the verdict: those that share no image with the items of the search.

    Args:
        spec: The search.
        verdict: The run on the items of both, which must be selected.

    Raises:
        DataError: If there are fewer than two.
    """
    items, data = verdict.groups[0].items, verdict.data
    searched = {data.item_id(image) for item in items[: spec.limit] for image in item.images}
    held_out = tuple(item for item in items if not any(data.item_id(image) in searched for image in item.images))
    if len(held_out) < 2:
        raise DataError(
            f"{data.name} has {len(items)} items for {spec.protocol}, and the search takes {min(spec.limit, len(items))} of them, so that "
            f"{len(held_out) or 'none'} is left to judge the best setting on; lower limit, or give more data"
        )
    return held_out


def rounds(spec: TuneSpec, settings: int) -> tuple[int, ...]:
    """Return the number of items that each round of the search scores.

    Without `halving` there is one round. With it, every round takes twice the items of the one before, until all items of the search,
    and the first has at least `FEWEST` items.

    Args:
        spec: The search.
        settings: Number of settings in the first round.
    """
    sizes = [spec.limit]
    while spec.halving and 2 ** len(sizes) <= settings and -(-sizes[0] // 2) >= FEWEST:
        sizes.insert(0, -(-sizes[0] // 2))
    return tuple(sizes)
