"""Score items with an evaluator, without a plan or a run."""

from collections.abc import Sequence

from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem
from attrlib.protocols import Batch, Protocol
from attrlib.specs import MethodSpec
from attrlib.store import Record


def evaluate_items(
    evaluator: Evaluator, protocol: Protocol, method: MethodSpec, items: Sequence[EvalItem], batch: Batch
) -> dict[str, Record]:
    """Return the record of each item, as computed in a work unit."""
    return evaluator.evaluate(protocol, items, batch, evaluator.explainer(method), method)
