"""The evaluations of a run: each protocol with each method, grouped by the items that they share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from attrlib.data.datasets import Dataset
from attrlib.data.labels import check_way, match_classes
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.foreign import check_protocol, resolved
from attrlib.errors import AttrlibError, ProtocolError, SpecError
from attrlib.methods import BATCH_SIZE, Passes, check_defined, instance
from attrlib.models import Classifier
from attrlib.protocols import Protocol
from attrlib.protocols import create as create_protocol
from attrlib.protocols.localisation import Localisation
from attrlib.specs import LOGIT, MethodSpec, ProtocolSpec, RunSpec, digest
from attrlib.specs.maps import are_maps
from attrlib.targets import TARGETS
from attrlib.targets import create as create_target


@dataclass(frozen=True)
class Evaluation:
    """A protocol applied to a method.

    Attributes:
        protocol_spec: The protocol as given in the spec.
        method_spec: The method as given in the spec.
        protocol: The protocol with all parameters.
        method: The method with all parameters and its layer.
        key: Key of the records: the digest of `key_fields`.
        key_fields: The fields that a score depends on besides its item.
    """

    protocol_spec: ProtocolSpec
    method_spec: MethodSpec
    protocol: Protocol
    method: MethodSpec
    key: str
    key_fields: dict[str, object] = field(compare=False)

    def __str__(self) -> str:
        return f"{self.protocol_spec} {self.method_spec}"

    def passes(self, model: Classifier) -> Passes:
        """Return the passes that one map needs."""
        return instance(self.method).passes(model.layer(self.method.layer))


class Refusal(NamedTuple):
    """A protocol and a method that are not defined for the model or the data, and the reason."""

    protocol: ProtocolSpec
    method: MethodSpec
    reason: str


def by_reason(refused: Sequence[Refusal]) -> dict[tuple[str, str], list[str]]:
    """Return the refused methods by protocol and reason."""
    methods: dict[tuple[str, str], list[str]] = {}
    for protocol, method, reason in refused:
        methods.setdefault((str(protocol), reason), []).append(str(method))
    return methods


@dataclass(frozen=True)
class ItemGroup:
    """The evaluations that share the same items, in order of their methods."""

    evaluations: tuple[Evaluation, ...]

    @property
    def grids(self) -> Localisation | None:
        """Return one of the protocols if the items are grids, else None."""
        protocol = self.evaluations[0].protocol
        return protocol if isinstance(protocol, Localisation) else None

    @property
    def target_choice(self) -> str:
        """Return which class is explained: `label` or `prediction`."""
        return self.evaluations[0].protocol.target_choice

    @property
    def images_per_item(self) -> int:
        """Return the number of images in one item."""
        return self.grids.grid**2 if self.grids else 1

    @property
    def chunk_size(self) -> int:
        """Return the number of items that are loaded and computed together."""
        return max(1, BATCH_SIZE // self.images_per_item)

    def refuse(self, error: AttrlibError) -> list[Refusal]:
        """Return all evaluations as refused."""
        return [Refusal(each.protocol_spec, each.method_spec, str(error)) for each in self.evaluations]


def find_evaluations(spec: RunSpec, data: Dataset, evaluator: Evaluator) -> tuple[list[ItemGroup], list[Refusal]]:
    """Return the evaluations of a run, grouped by their items, and those that are not defined for the model or the data.

    Args:
        spec: The run.
        data: The data set.
        evaluator: Evaluator of the run's model.

    Raises:
        SpecError: If the spec is not valid.
        MethodError: If a method is unknown.
        DataError: If maps made elsewhere cannot be read.
        ProtocolError: If a protocol is unknown, or no evaluation is defined.
    """
    _check(spec)
    methods = {asked: resolved(asked, data) for asked in dict.fromkeys(spec.methods)}
    protocols = {asked: create_protocol(asked) for asked in dict.fromkeys(spec.protocols)}
    if spec.filter_models and not any(protocol.items == "grids" for protocol in protocols.values()):
        raise SpecError("filter models select the images of grids, but no protocol of this run uses grids; leave them out, or add gridpg")
    evaluations: list[Evaluation] = []
    refused: list[Refusal] = []
    for protocol_spec, protocol in protocols.items():
        for method_spec, method in methods.items():
            try:
                _check_defined(protocol, method, data, evaluator.model, spec.classes)
                key_fields = evaluator.keys.score(protocol, method)
            except AttrlibError as error:
                refused.append(Refusal(protocol_spec, method_spec, str(error)))
                continue
            evaluations.append(Evaluation(protocol_spec, method_spec, protocol, method, digest(key_fields), key_fields))
    if not evaluations:
        raise ProtocolError(refused[0].reason)
    groups: dict[object, list[Evaluation]] = {}
    for each in evaluations:
        groups.setdefault(_items_key(each.protocol), []).append(each)
    # Method by method, so that its protocols read the same maps while these are in the operating system's cache.
    order = {method: position for position, method in enumerate(methods)}
    return [ItemGroup(tuple(sorted(group, key=lambda each: order[each.method_spec]))) for group in groups.values()], refused


def _check(spec: RunSpec) -> None:
    if not spec.protocols or not spec.methods:
        raise SpecError("nothing to score: give at least one protocol and one method")
    if spec.limit is not None and (not isinstance(spec.limit, int) or spec.limit < 1):
        raise SpecError(f"limit={spec.limit!s:.40} is not valid: expected a number of items from 1; leave it out for all items")
    if spec.ci_width is not None and not 0 < spec.ci_width < math.inf:
        raise SpecError(f"ci_width={spec.ci_width} is not valid: expected the width of a confidence interval, above 0")
    check_way(spec.classes)


def _check_matching(protocol: Protocol, data: Dataset, model: Classifier, classes: str) -> None:
    names = (data.class_names, model.class_names)
    if match_classes(*names, classes) != match_classes(*names):
        raise ProtocolError(
            f"{protocol.name} compares classes by their parts, for which they are matched automatically; leave out classes={classes}, or name "
            "the model's classes as those of the data"
        )


def _check_defined(protocol: Protocol, method: MethodSpec, data: Dataset, model: Classifier, classes: str) -> None:
    protocol.check(model, data.offers)
    if "scenes" in protocol.needs:
        _check_matching(protocol, data, model, classes)
    if are_maps(method):
        check_protocol(protocol)
        return
    target = create_target(method.target)
    if not target.about_class:
        raise ProtocolError(
            f"{protocol.name} judges maps by the logit or the probability of the item's class, but {method} explains something else; choose "
            f"one of the targets {', '.join(name for name, cls in TARGETS.items() if cls.about_class)}"
        )
    for view in protocol.views(model):
        created, layer = instance(method), view.layer(method.layer, view.input_size)
        check_defined(created, view, layer, target)
        created.passes(layer)


def target_notes(groups: Sequence[ItemGroup]) -> list[str]:
    """Return a note for each target other than the logit, since protocols judge all maps by the same output of the model."""
    pairs = dict.fromkeys((each.protocol.name, str(each.method.target)) for group in groups for each in group.evaluations)
    targets = {text: [name for name, other in pairs if other == text] for _, text in pairs if text != LOGIT}
    return [
        f"{', '.join(names)} {'judge' if len(names) > 1 else 'judges'} maps of target={text} by the output of the class, as for the target logit"
        for text, names in targets.items()
    ]


def _items_key(protocol: Protocol) -> object:
    """Return what the items of a protocol depend on."""
    return (protocol.grid, protocol.corners, protocol.confidence) if isinstance(protocol, Localisation) else protocol.target_choice
