"""Compute one shard of a run, and write its records as Parquet files that are merged into a store later."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attrlib.data.datasets import Dataset
from attrlib.engine.cache import RunStore, StoreView
from attrlib.engine.evaluations import Refusal
from attrlib.engine.plan import Plan, make_plan
from attrlib.engine.results import RunResult
from attrlib.engine.run import ExecutorFactory, RunListener, local, run
from attrlib.errors import StoreError
from attrlib.models import Classifier
from attrlib.progress import no_listener
from attrlib.specs import NUMERICS, RunSpec, Shard, canonical, digest
from attrlib.store import Record, ShardGroup, ShardManifest, Store, import_parts, items_in, parts_in, row_of, write_part

LOOKUP = 4096
"""Number of cached records that are read at once."""
ROWS_PER_PART = 50_000
"""Number of records after which a part file is written."""
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0
"""Seconds between part files: at first, and at most. They double, so that long runs do not write many small files."""


class ShardStore(StoreView):
    """A store that also writes new records to part files.

    The run is not recorded, as a shard is not the run.

    Args:
        store: Where results are looked up and stored.
        folder: Folder of the run's part files.
        run_key: Key of the run.
    """

    def __init__(self, store: RunStore, folder: Path, run_key: str):
        super().__init__(store)
        self._folder, self._run = folder, run_key
        self._specs: dict[str, str] = {}
        self._rows: list[dict[str, object]] = []
        self._pause, self._written = FIRST_PAUSE, time.monotonic()
        self.description: Mapping[str, object] = {}

    def add_records(self, key: str, spec: Mapping[str, object], records: Mapping[str, Record]) -> None:
        super().add_records(key, spec, records)
        self.add_rows(key, canonical(spec), records)

    def add_rows(self, key: str, spec: str, records: Mapping[str, Record]) -> None:
        """Add records to the part files only; `spec` is canonical text."""
        self._specs[key] = spec
        self._rows += [row_of(key, item, record) for item, record in records.items()]
        if len(self._rows) >= ROWS_PER_PART or time.monotonic() > self._written + self._pause:
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self.flush()

    def flush(self) -> None:
        """Write the records that are not in a part file yet. Raises `StoreError` if they cannot be written."""
        if self._rows:
            keys = {row["key"] for row in self._rows}
            write_part(self._folder, self._run, {key: text for key, text in self._specs.items() if key in keys}, self._rows)
        self._rows, self._written = [], time.monotonic()

    def save_run(self, key: str, spec: Mapping[str, object], parts: Mapping[str, object]) -> None:
        self.description = spec

    def set_state(self, key: str, state: str) -> None:
        pass


@dataclass(frozen=True)
class ShardResult:
    """The result of a shard.

    Attributes:
        shard: The shard.
        folder: Folder of the run's shards.
        items: Number of items of the shard under each group of protocols, added up.
        computed: Number of results computed.
        cached: Number of results that were in the store, or in part files.
        refused: The evaluations that are not defined, with the reason.
        notes: What was left out, and why.
        seconds: Duration.
    """

    shard: Shard
    folder: Path
    items: int
    computed: int
    cached: int
    refused: Sequence[Refusal]
    notes: Sequence[str]
    seconds: float


def run_shard(
    spec: RunSpec,
    shard: Shard,
    model: Classifier,
    data: Dataset,
    store: Store,
    folder: Path,
    *,
    filter_models: Sequence[Classifier] = (),
    max_memory: int | None = None,
    on_progress: RunListener = no_listener,
    executor: ExecutorFactory = local,
) -> ShardResult:
    """Compute the missing results of a shard, and write all of its results to part files with a manifest.

    It goes on where earlier shards were stopped, also if there were more or fewer of them: their files in the folder are read first.

    Args:
        spec: The run.
        shard: The share of its items.
        model: The model that the run names.
        data: The data set that the run names.
        store: Where results are looked up and stored.
        folder: Folder of shards, which all machines may share; each run has a subfolder.
        filter_models: The filter models that the run names.
        max_memory: Maximum memory in bytes, weights included; None for half of the free memory.
        on_progress: Called every few passes with the progress of the shard; raises `Cancelled` to stop.
        executor: Returns the executor of the units of work.

    Raises:
        Cancelled: If `on_progress` raises it. Everything computed before is in part files.
        StoreError: If part files cannot be written.
        AttrlibError: If no evaluation is defined.
    """
    start = time.perf_counter()
    run_key = digest(spec, model.digest)
    folder = folder / run_key[:16]
    import_parts(folder, run_key, store)
    shard_store = ShardStore(store, folder, run_key)

    def planned() -> Plan:
        return make_plan(spec, model, data, shard_store, filter_models=filter_models, max_memory=max_memory, shard=shard)

    try:
        result = run(planned(), on_progress, executor)
        # Predictions are stored by now, so this plan has all items, and what is not cached cannot be read.
        final = planned()
        _add_cached(final, shard_store, folder)
    finally:
        shard_store.flush()
    _manifest(final, run_key, shard_store, result, folder).write(folder)
    items = sum(len(each.items) for each in final.groups)
    return ShardResult(shard, folder, items, result.computed, result.cached, result.refused, result.notes, time.perf_counter() - start)


def _add_cached(plan: Plan, store: ShardStore, folder: Path) -> None:
    """Add the cached scores of a plan that are in no part file yet, as they were computed before there were shards."""
    store.flush()
    positions = {group: {key: position for position, key in enumerate(group.keys)} for group in plan.groups}
    absent = {each.key: (positions[group], group.cached[each].copy()) for group in plan.groups for each in group.group.evaluations}
    for path in parts_in(folder):
        for key, item in items_in(path):
            if key in absent and item in absent[key][0]:
                absent[key][1][absent[key][0][item]] = False
    for group in plan.groups:
        for each in group.group.evaluations:
            keys = [group.keys[k] for k in np.flatnonzero(absent[each.key][1])]
            for first in range(0, len(keys), LOOKUP):
                store.add_rows(each.key, canonical(each.key_fields), store.records(each.key, keys[first : first + LOOKUP]))


def _manifest(plan: Plan, run_key: str, store: ShardStore, result: RunResult, folder: Path) -> ShardManifest:
    """Return the manifest of a shard. Raises `StoreError` if results are missing although nothing says why."""
    assert plan.shard is not None
    reasons = {f"{protocol}|{method}": reason for protocol, method, reason in result.refused}
    groups, scores, unreadable, missing = [], dict[str, frozenset[str]](), list[str](), 0
    for group in plan.groups:
        readable = np.array([item.id not in result.unreadable for item in group.items])
        labels = {f"{each.protocol_spec}|{each.method_spec}": each for each in group.group.evaluations}
        missing += sum(int((readable & ~group.cached[each]).sum()) for label, each in labels.items() if label not in reasons)
        unreadable += [group.keys[k] for k in np.flatnonzero(~readable)]
        keys = {label: each.key for label, each in labels.items()}
        groups.append(ShardGroup(keys, group.keys, group.positions, group.total))
        scores |= dict.fromkeys(keys.values(), frozenset(group.keys))
    if missing:
        raise StoreError(f"shard {plan.shard} lacks {missing} of its results; run the same command again, which computes only these")
    files = [path.name for path in parts_in(folder) if any(item in scores.get(key, ()) for key, item in items_in(path))]
    return ShardManifest(run_key, store.description, NUMERICS, store.dtype, plan.shard, groups, reasons, unreadable, files)
