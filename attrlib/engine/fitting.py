"""Leave out maps made elsewhere that do not fit the items of a run."""

from collections.abc import Sequence

from attrlib.data.datasets import Dataset
from attrlib.engine.evaluations import ItemGroup, Refusal
from attrlib.engine.foreign import matched
from attrlib.engine.items import EvalItem
from attrlib.errors import DataError
from attrlib.models import Classifier
from attrlib.specs import MethodSpec
from attrlib.specs.maps import are_maps


def match_maps(group: ItemGroup, items: Sequence[EvalItem], data: Dataset, model: Classifier) -> tuple[ItemGroup, list[Refusal], list[str]]:
    """Return the group without maps made elsewhere that do not fit the items, those with the reason, and notes on the others."""
    notes: list[str] = []
    reasons: dict[MethodSpec, str] = {}
    for method in dict.fromkeys(each.method for each in group.evaluations if are_maps(each.method)):
        try:
            notes += matched(method, data).check(items, model)
        except DataError as error:
            reasons[method] = str(error)
    refused = [Refusal(each.protocol_spec, each.method_spec, reasons[each.method]) for each in group.evaluations if each.method in reasons]
    return ItemGroup(tuple(each for each in group.evaluations if each.method not in reasons)), refused, notes
