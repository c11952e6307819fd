"""What the store records of a run: its description, and where its scores are."""

from collections.abc import Collection, Mapping, Sequence

from attrlib.engine.evaluations import Evaluation, Refusal
from attrlib.engine.items import EvalItem
from attrlib.engine.plan import GroupPlan, Plan


def manifest(
    plan: Plan,
    used: Mapping[GroupPlan, Sequence[EvalItem]],
    scored: Collection[Evaluation],
    refused: Sequence[Refusal],
    unreadable: Mapping[str, str],
) -> tuple[dict[str, object], dict[str, object]]:
    """Return the description and the parts of a run, as `RunStore.save_run` takes them.

    Args:
        plan: The plan of the run.
        used: The readable items of each group.
        scored: The evaluations that are defined.
        refused: Those that are not, with the reason.
        unreadable: Why items, by their id, could not be read.
    """
    description: dict[str, object] = {"kind": "score", "title": plan.spec.cli(), "spec": plan.spec, "model_digest": plan.model_digest}
    if refused:
        description["refused"] = {f"{protocol}|{method}": reason for protocol, method, reason in refused}
    if unreadable:
        items = (pair for group in used for pair in zip(group.keys, group.items, strict=True))
        description["failures"] = {key: unreadable[item.id] for key, item in items if item.id in unreadable}
    parts: dict[str, object] = {}
    for group, items_used in used.items():
        readable = set(items_used)
        keys = [key for key, item in zip(group.keys, group.items, strict=True) if item in readable]
        own = [each for each in group.group.evaluations if each in scored]
        parts |= {f"{each.protocol_spec}|{each.method_spec}": {"key": each.key, "items": keys} for each in own}
    return description, parts
