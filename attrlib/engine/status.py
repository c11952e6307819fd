"""What is done of a run and what is missing, by protocol and method, whoever computes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attrlib.engine.plan import Estimate, GroupPlan, Plan
from attrlib.errors import StoreError
from attrlib.specs import MethodSpec, ProtocolSpec, Shard, digest
from attrlib.store import Run, ShardManifest, Store, manifests_in, missing_shards


@dataclass(frozen=True)
class EvaluationStatus:
    """The state of a protocol with a method. The counts add up to `total`.

    Attributes:
        protocol: The protocol.
        method: The method.
        total: Number of items; an upper bound while predictions are missing.
        done: Number of results in the store.
        claimed: Number of missing results that a process is computing.
        failed: Number of items that cannot be scored.
        missing: Number of the other missing results.
        reason: Why items have failed, or why the method is not defined; empty otherwise.
    """

    protocol: ProtocolSpec
    method: MethodSpec
    total: int = 0
    done: int = 0
    claimed: int = 0
    failed: int = 0
    missing: int = 0
    reason: str = ""


@dataclass(frozen=True)
class RunStatus:
    """The state of a run.

    Attributes:
        evaluations: The state of each protocol with each method.
        state: State of the run in the store: running, done, cancelled or failed; empty if it has not been started.
        estimate: What the missing results need on this machine.
        upper_bound: Whether the counts are upper bounds, because predictions are missing or the run may stop early.
        finished_shards: The shards that have finished and are not merged.
        missing_shards: The shards that are still needed, if any have finished.
    """

    evaluations: tuple[EvaluationStatus, ...]
    state: str
    estimate: Estimate
    upper_bound: bool
    finished_shards: tuple[Shard, ...]
    missing_shards: tuple[Shard, ...]


def run_status(plan: Plan, store: Store, shards: Path) -> RunStatus:
    """Return the state of a run; nothing is computed but the estimate.

    Args:
        plan: The plan of the run.
        store: The store of its results.
        shards: Folder of shards; it need not exist.

    Raises:
        StoreError: If the store cannot be read.
    """
    key = digest(plan.spec, plan.model_digest)
    run = next((run for run in store.runs() if run.key == key), None)
    evaluations = [each for group in plan.groups for each in _group_status(group, run, store)]
    evaluations += [EvaluationStatus(protocol, method, reason=reason) for protocol, method, reason in plan.refused]
    order = {pair: place for place, pair in enumerate((p, m) for p in plan.spec.protocols for m in plan.spec.methods)}
    evaluations.sort(key=lambda each: order[each.protocol, each.method])
    finished = _finished(shards / key[:16])
    needed = tuple(missing_shards(finished)) if finished else ()
    state = run.state if run else ""
    return RunStatus(tuple(evaluations), state, plan.estimate(), plan.upper_bound, finished, needed)


def _group_status(group: GroupPlan, run: Run | None, store: Store) -> list[EvaluationStatus]:
    reasons: Mapping[str, str] = run.spec.get("refused", {}) if run else {}
    failures = run.failures if run else {}
    claims = store.claimed([each.key for each in group.group.evaluations])
    found = []
    for each in group.group.evaluations:
        names, total = (each.protocol_spec, each.method_spec), len(group.items)
        label = f"{each.protocol_spec}|{each.method_spec}"
        if label in reasons:
            found.append(EvaluationStatus(*names, total, failed=total, reason=reasons[label]))
            continue
        absent = [group.keys[k] for k in np.flatnonzero(~group.cached[each])] if group.cached else []
        claimed = sum(item in claims.get(each.key, ()) for item in absent)
        failed = [item for item in absent if item in failures and item not in claims.get(each.key, ())]
        done = int(group.cached[each].sum()) if group.cached else 0
        reason = failures[failed[0]] if failed else ""
        found.append(EvaluationStatus(*names, total, done, claimed, len(failed), total - done - claimed - len(failed), reason))
    return found


def _finished(folder: Path) -> tuple[Shard, ...]:
    """Return the finished shards in a folder. Those whose manifest cannot be read have not finished."""
    shards = []
    for path in manifests_in(folder):
        try:
            shards.append(ShardManifest.read(path).shard)
        except StoreError:
            continue
    return tuple(sorted(shards))
