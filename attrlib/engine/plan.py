"""What a run consists of, what of it is known already, and what the rest will cost."""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from attrlib.data.datasets import Dataset
from attrlib.data.grids import compose
from attrlib.data.labels import check_way, match_classes, order_note
from attrlib.engine.bench import Bench, Shelf
from attrlib.engine.memory import Probe, probe, rows_within
from attrlib.engine.units import SHOWN, Selection, Unit, grid_units, image_units, left_out
from attrlib.errors import AttrlibError, DataError, ImageError, ProtocolError, SpecError
from attrlib.methods import create as create_method
from attrlib.methods import resolve as resolve_method
from attrlib.models import Classifier, Layer
from attrlib.progress import Progress, no_progress
from attrlib.protocols import Prediction, Protocol
from attrlib.protocols import create as create_protocol
from attrlib.protocols.localisation import Localisation
from attrlib.specs import MethodSpec, ProtocolSpec, RunSpec, digest


@dataclass(frozen=True)
class Part:
    """A protocol on a method: `protocol_spec` and `method_spec` as they were asked for, `method` filled in, and the results' key."""

    protocol_spec: ProtocolSpec
    method_spec: MethodSpec
    protocol: Protocol
    method: MethodSpec
    key: str
    about: dict[str, object] = field(compare=False)

    def __str__(self) -> str:
        return f"{self.protocol_spec} {self.method_spec}"


Refused = tuple[ProtocolSpec, MethodSpec, str]


def by_reason(refused: Sequence[Refused]) -> dict[tuple[str, str], list[str]]:
    """The methods that were refused, by protocol and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for protocol, method, why in refused:
        found.setdefault((str(protocol), why), []).append(str(method))
    return found


@dataclass(frozen=True)
class Group:
    """The parts that are about the same items."""

    parts: tuple[Part, ...]

    @property
    def grids(self) -> Localisation | None:
        """One of the protocols, where the items are grids."""
        first = self.parts[0].protocol
        return first if isinstance(first, Localisation) else None

    @property
    def labelled(self) -> bool:
        """Whether the items need labels."""
        return self.parts[0].protocol.target_choice == "label"

    @property
    def parted(self) -> bool:
        """Whether a protocol needs pictures without single parts."""
        return any("parts" in part.protocol.needs for part in self.parts)

    @property
    def area(self) -> float:
        """The largest input that is explained, in sizes of the model's."""
        return max(part.protocol.cost.area for part in self.parts)

    @property
    def images(self) -> int:
        """Images in one item."""
        return self.grids.grid**2 if self.grids else 1

    def refused(self, error: AttrlibError) -> list[Refused]:
        """All parts, with the reason."""
        return [(part.protocol_spec, part.method_spec, str(error)) for part in self.parts]


def find_parts(spec: RunSpec, model: Classifier, data: Dataset, bench: Bench) -> tuple[list[Group], list[Refused]]:
    """The groups of a run, and what is not defined for the model or the data, with the reason.

    Raises `SpecError`, `MethodError` or `ProtocolError` for what cannot be understood, and where nothing at all is defined.
    """
    if not spec.protocols or not spec.methods:
        raise SpecError("nothing to score: give at least one protocol and one method")
    if spec.limit is not None and (not isinstance(spec.limit, int) or spec.limit < 1):
        raise SpecError(f"limit={spec.limit!s:.40} is not valid: it counts items, from 1; leave it out for all")
    if spec.ci_width is not None and not 0 < spec.ci_width < math.inf:
        raise SpecError(f"ci_width={spec.ci_width} is not valid: it is the width of an interval, above 0")
    check_way(spec.classes)
    methods = {given: resolve_method(given) for given in dict.fromkeys(spec.methods)}
    protocols = {given: create_protocol(given) for given in dict.fromkeys(spec.protocols)}
    if spec.filter_models and not any(own.items == "grids" for own in protocols.values()):
        raise SpecError("filter models choose the images of grids, and no protocol here is about grids; leave them out, or add gridpg")
    parts: list[Part] = []
    refused: list[Refused] = []
    for protocol_spec, protocol in protocols.items():
        for method_spec, method in methods.items():
            try:
                protocol.check(model, data.offers)
                for view in protocol.views(model):
                    made, layer = create_method(method), view.layer(method.layer, view.input_size)
                    made.check(view, layer)
                    made.passes(layer)
                about = bench.describe(protocol, method)
            except AttrlibError as error:
                refused.append((protocol_spec, method_spec, str(error)))
                continue
            parts.append(Part(protocol_spec, method_spec, protocol, method, digest(about), about))
    if not parts:
        raise ProtocolError(refused[0][2])
    groups: dict[object, list[Part]] = {}
    for part in parts:
        own = part.protocol
        about_items = (own.grid, own.corners, own.confidence) if isinstance(own, Localisation) else own.target_choice
        groups.setdefault(about_items, []).append(part)
    # Method by method, so that the protocols share its maps while they are at hand.
    order = {method: place for place, method in enumerate(methods)}
    return [Group(tuple(sorted(group, key=lambda part: order[part.method_spec]))) for group in groups.values()], refused


def class_map(spec: RunSpec, model: Classifier, data: Dataset) -> Sequence[int]:
    """The model's class for each class of the data. Raises `DataError` where it has none."""
    try:
        return match_classes(data.class_names, model.class_names, spec.classes) if data.class_names else ()
    except DataError as error:
        # With filter models: which one it is.
        raise DataError(f"{model.name}: {error}" if spec.filter_models else str(error)) from None


def filter_benches(spec: RunSpec, models: Sequence[Classifier], shelf: Shelf) -> list[Bench]:
    """Where the predictions of a run's filter models are kept. Raises `SpecError` where not as many are given as it names."""
    if len(models) != len(spec.filter_models):
        raise SpecError(
            f"the run names {len(spec.filter_models)} filter model(s), and {len(models)} are given; load those, and give them as filter_models"
        )
    return [Bench(own, shelf, spec.seed) for own in models]


Waiting = list[tuple[Bench, list[Unit]]]
"""Images whose prediction by a model is not known yet."""


def select(
    group: Group,
    spec: RunSpec,
    model: Classifier,
    data: Dataset,
    bench: Bench,
    filters: Sequence[Bench] = (),
    look: Progress = no_progress,
) -> tuple[Selection, Waiting]:
    """The items of a group, and the images whose predictions must be known before grids can be made of them.

    A prediction without a class is that of an image that cannot be read.
    """
    grids = group.grids
    if grids is None:
        try:
            classes: Sequence[int] = class_map(spec, model, data)
        except DataError:
            if group.labelled:
                raise
            classes = [-1] * len(data.class_names)
        selection = image_units(data, classes, spec.limit, spec.seed, group.labelled, look)
        return replace(selection, notes=(*selection.notes, *_order_notes(spec, [model], data))) if group.labelled else selection, []
    judges = [bench, *filters]
    classes_of = [class_map(spec, own.model, data) for own in judges]
    found = image_units(data, classes_of[0], None, spec.seed, labelled=True, look=look)
    known = [own.shelf.records(own.measurement_key(Prediction())[1], [unit.id for unit in found.units]) for own in judges]
    waiting = [(own, [u for u in found.units if u.id not in records]) for own, records in zip(judges, known, strict=True)]
    waiting = [(own, units) for own, units in waiting if units]
    if waiting:
        return found, waiting

    def sureness(unit: Unit) -> float:
        """The least probability that a model gives the label; -1 where one predicts another class, or the image cannot be read."""
        # Each model has its own numbers for the classes of the data.
        label = data.label(unit.images[0])
        predictions = [records[unit.id].details for records in known]
        right = label is not None and all(
            own and own["class"] == classes[label] for own, classes in zip(predictions, classes_of, strict=True)
        )
        return min(float(own["probability"]) for own in predictions) if right else -1.0  # type: ignore[arg-type]

    broken = [unit for unit in found.units if not all(records[unit.id].details for records in known)]
    sure = {unit: sureness(unit) for unit in found.units}
    passed = [unit for unit, probability in sure.items() if probability >= grids.confidence]
    of = f" of {' and '.join(own.model.name for own in judges)}" if filters else ""
    try:
        made = grid_units(
            passed, len(found.units), grids.grid, grids.corners, f"confidence={grids.confidence:g}{of}", spec.limit, spec.seed
        )
    except DataError as error:
        raise DataError(f"{error} ({_at_best(sure, grids)})") from None
    notes = left_out([_why(data, unit) for unit in broken[:SHOWN]], len(broken))
    return Selection(made.units, (*found.notes, *notes, *made.notes, *_order_notes(spec, [own.model for own in judges], data))), []


def _order_notes(spec: RunSpec, models: Sequence[Classifier], data: Dataset) -> list[str]:
    return [note for own in models for note in order_note(data.class_names, own.class_names, spec.classes)]


def _at_best(sure: Mapping[Unit, float], grids: Localisation) -> str:
    """The highest confidence at which the images allow a grid, in words."""
    steps = sorted({probability for probability in sure.values() if probability >= 0}, reverse=True)

    def allows(confidence: float) -> bool:
        labels = [unit.labels[0] for unit, probability in sure.items() if probability >= confidence]
        return bool(compose(labels, grids.grid, grids.corners, seed=0))

    place = bisect_left(steps, True, key=allows)
    if place == len(steps):
        return "no confidence allows one: images of too few classes are classified rightly"
    return f"confidence={math.floor(steps[place] * 1000) / 1000:g} allows one"


def _why(data: Dataset, unit: Unit) -> str:
    try:
        return f"{data[unit.images[0]].name} could not be read before"
    except ImageError as error:
        return str(error)


@dataclass(frozen=True)
class Plan:
    """What a run will do: items that are `known` and `missing` over all parts, seconds and peak bytes of the rest, and notes.

    Before the confidence filter has been computed the number of grids is not known; then `upper_bound` says so.
    """

    known: int
    missing: int
    seconds: float
    nbytes: int
    upper_bound: bool
    refused: tuple[Refused, ...]
    notes: tuple[str, ...]


def make_plan(
    spec: RunSpec,
    model: Classifier,
    data: Dataset,
    shelf: Shelf,
    max_memory: int | None = None,
    filter_models: Sequence[Classifier] = (),
    progress: Progress = no_progress,
) -> Plan:
    """Looks up what is known, and times a few passes to estimate the rest. Raises as `find_parts` does.

    `progress` is told how many images were looked through, and raises `Cancelled` to stop.
    """
    bench, filters = Bench(model, shelf, spec.seed, spec.fast), filter_benches(spec, filter_models, shelf)
    groups, refused = find_parts(spec, model, data, bench)
    rows = rows_within(model, max_memory)
    costs = probe(model, rows, spec.fast)
    known = missing = 0
    notes: list[str] = []
    seconds, upper_bound = 0.0, spec.ci_width is not None
    for group in groups:
        try:
            selection, waiting = select(group, spec, model, data, bench, filters, progress)
        except DataError as error:
            refused += group.refused(error)
            if len(refused) == len(spec.protocols) * len(spec.methods):
                raise
            continue
        notes += selection.notes
        units = selection.units
        if waiting:
            upper_bound = True
            seconds += sum(len(images) * probe(own.model, rows).forward for own, images in waiting)
            units = units[: min(len(units) // group.images, spec.limit or len(units))]
        for part in group.parts:
            keys = [unit.key(part.protocol.target_choice) for unit in units]
            found = 0 if waiting else len(shelf.records(part.key, keys))
            known, missing = known + found, missing + len(units) - found
            seconds += (len(units) - found) * item_seconds(part, model, costs)
        measurements = {m for part in group.parts for m in part.protocol.measurements}
        for measurement in measurements:
            done = bench.measured(measurement, units, group.parts[0].protocol.target_choice)
            seconds += (len(units) - done) * measurement.forwards() * costs.forward
    nbytes = model.nbytes + rows * costs.row_bytes
    return Plan(known, missing, seconds, nbytes, upper_bound, tuple(refused), tuple(dict.fromkeys(notes)))


def item_seconds(part: Part, model: Classifier, costs: Probe) -> float:
    """Seconds of one item, from what a pass costs and how many the method says that it needs."""
    cost, layer = part.protocol.cost, model.layer(part.method.layer)
    passes, behind = create_method(part.method).passes(layer), _share_behind(model, layer)
    of_classes = cost.targets * passes.gradient * costs.gradient
    of_input = (1 - behind) * passes.before * costs.forward + behind * (passes.forward * costs.forward + of_classes)
    return cost.inputs * cost.area * of_input + cost.forwards * costs.forward


def _share_behind(model: Classifier, layer: Layer) -> float:
    """The share of the model's layers that run after this one."""
    paths = [name for name, found in model.layers.items() if name == found.path]
    return 1 - paths.index(layer.path) / len(paths) if layer.path else 1.0
