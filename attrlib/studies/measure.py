"""What studies measure besides scores: the accuracy of a model without card, and how alike the maps of two methods are."""

from collections.abc import Callable, Mapping, Sequence

import torch

from attrlib.data.datasets import Dataset
from attrlib.engine.bench import Bench
from attrlib.engine.loading import Loader
from attrlib.engine.plan import class_map, find_parts, select
from attrlib.engine.run import Event, Watch
from attrlib.engine.units import Unit, image_units
from attrlib.errors import AttrlibError
from attrlib.methods import BATCH_SIZE
from attrlib.models import Classifier
from attrlib.postprocess import resize, smooth
from attrlib.protocols import Evaluation, Prediction
from attrlib.protocols.localisation import Localisation
from attrlib.specs import MethodSpec, ModelSpec, RunSpec, StudySpec, digest
from attrlib.statistics import Summary, proportion, spearman
from attrlib.store import Record, Store


def accuracy_on(model: Classifier, data: Dataset, given: StudySpec, limit: int, store: Store) -> Summary | None:
    """Top-1 on the items of a study with Wilson's interval; None where the data have no labels that the model knows."""
    spec = RunSpec(ModelSpec(""), given.data, (), (), limit, given.seed, classes=given.classes)
    try:
        units = image_units(data, class_map(spec, model, data), limit, given.seed, labelled=True).units
    except AttrlibError:
        return None
    bench, loader, right = Bench(model, store, given.seed), Loader(model, data), list[bool]()
    for first in range(0, len(units), BATCH_SIZE):
        readable, batch = loader.get(units[first : first + BATCH_SIZE])
        if batch is not None:
            found = bench.measure(Prediction(), batch)["class"].tolist()
            right += [unit.labels[0] == own for unit, own in zip(readable, found, strict=True)]
    return proportion(sum(right), len(right)) if right else None


def map_correlations(
    spec: RunSpec, reference: MethodSpec, kernels: Sequence[int], model: Classifier, data: Dataset, store: Store, watch: Watch
) -> Mapping[tuple[str, int], list[float]]:
    """Spearman's correlation over all positions of each method's map, smoothed with each kernel, with the map of the reference.

    `spec` is a run of a grid protocol without smoothing: one value for each of its grids and targets, both maps at the size of the
    grid, the reference as it is. Values are kept in the store. Empty where the maps are not defined.
    """
    bench = Bench(model, store, spec.seed)
    try:
        groups, _ = find_parts(spec, model, data, bench)
        units = select(groups[0], spec, model, data, bench)[0].units
    except AttrlibError:
        return {}
    protocol = groups[0].parts[0].protocol
    assert isinstance(protocol, Localisation), "the run is about grids"
    found: dict[tuple[str, int], list[float]] = {}
    for part in groups[0].parts:
        if part.method == reference:
            continue
        watch(Event(f"comparing maps of {part.method_spec}"))
        about = {"kind": "map correlation", "score": part.about, "reference": reference, "kernels": list(kernels)}
        key, ids = digest(about), [unit.id for unit in units]
        known = store.records(key, ids)
        for unit in (unit for unit in units if unit.id not in known):
            values = _compare(unit, protocol, (part.method, reference), kernels, bench, Loader(model, data))
            store.add_records(key, about, {unit.id: Record(details={str(k): v for k, v in values.items()})})
            known[unit.id] = Record(details={str(k): v for k, v in values.items()})
        for kernel in kernels:
            found[str(part.method_spec), kernel] = [v for i in ids if i in known for v in known[i].details[str(kernel)]]  # type: ignore[union-attr]
    return found


def _compare(
    unit: Unit, protocol: Localisation, methods: tuple[MethodSpec, MethodSpec], kernels: Sequence[int], bench: Bench, loader: Loader
) -> dict[int, list[float]]:
    readable, batch = loader.get((unit,))
    if batch is None or not readable:
        return {kernel: [] for kernel in kernels}

    def maps(method: MethodSpec, before: Callable[[torch.Tensor], torch.Tensor] = lambda own: own) -> torch.Tensor:
        assert batch is not None
        work = Evaluation(bench.setting, batch, batch.labels, {}, bench.explain(method))
        return torch.cat([resize(work.maps(scene, before), size) for scene, _ in protocol.scenes(work)], 1)[0].flatten(1)

    size = (batch.images.shape[2], batch.images.shape[3])
    other = maps(methods[1])
    return {kernel: spearman(maps(methods[0], lambda own, k=kernel: smooth(own, k)), other).tolist() for kernel in kernels}  # type: ignore[misc]
