"""Measurements of studies besides scores: accuracy of a model without a card, and correlation of the maps of two methods."""

from collections.abc import Callable, Mapping, Sequence

import torch

from attrlib.data.datasets import Dataset
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem, chunked, image_items
from attrlib.engine.plan import make_plan
from attrlib.engine.run import Event, RunListener
from attrlib.engine.selection import class_map
from attrlib.errors import AttrlibError
from attrlib.methods import BATCH_SIZE
from attrlib.models import Classifier
from attrlib.postprocess import resize, smooth
from attrlib.protocols import Prediction
from attrlib.protocols.localisation import Localisation
from attrlib.specs import MethodSpec, ModelSpec, RunSpec, StudySpec, digest
from attrlib.statistics import Summary, proportion, spearman
from attrlib.store import Record, Store


def accuracy_on(model: Classifier, data: Dataset, spec: StudySpec, limit: int, store: Store) -> Summary | None:
    """Measure top-1 accuracy on the items of a study, with Wilson's interval.

    Args:
        model: The model.
        data: The data set.
        spec: The study, which sets seed and classes.
        limit: Number of images.
        store: Store of results.

    Returns:
        The accuracy, or None if the model has no class for the data's labels.
    """
    run_spec = RunSpec(ModelSpec(""), spec.data, (), (), limit, spec.seed, classes=spec.classes)
    try:
        items = image_items(data, class_map(run_spec, model, data), limit, spec.seed, labelled=True).items
    except AttrlibError:
        return None
    evaluator, right = Evaluator(model, store, spec.seed), list[bool]()
    loader = evaluator.loader(data)
    for chunk in chunked(items, BATCH_SIZE):
        readable, batch = loader.get(chunk)
        if batch is not None:
            predicted = evaluator.measure(Prediction(), batch)["class"].tolist()
            right += [item.labels[0] == label for item, label in zip(readable, predicted, strict=True)]
    return proportion(sum(right), len(right)) if right else None


def map_correlations(
    spec: RunSpec, reference: MethodSpec, kernels: Sequence[int], model: Classifier, data: Dataset, store: Store, on_progress: RunListener
) -> Mapping[tuple[str, int], list[float]]:
    """Correlate each method's map, smoothed with each kernel, with the map of a reference method.

    Spearman's correlation is taken over all positions, with both maps at the size of the grid. The reference is not smoothed. Values
    are cached in the store.

    Args:
        spec: A run of a grid protocol without smoothing, with the methods.
        reference: The reference method.
        kernels: Kernel sizes in pixels; 0 for no smoothing.
        model: The model.
        data: The data set.
        store: Store of results.
        on_progress: Called with an event as the work advances; raises `Cancelled` to stop it.

    Returns:
        One value for each grid and target, by method and kernel. Empty if the maps are not defined.
    """
    try:
        plan = make_plan(spec, model, data, store)
    except AttrlibError:
        return {}
    evaluator, planned = plan.evaluators[0], plan.groups[0]
    protocol = planned.group.evaluations[0].protocol
    assert isinstance(protocol, Localisation), "the protocol of the run must be a grid protocol"
    correlations: dict[tuple[str, int], list[float]] = {}
    if planned.unpredicted:
        return correlations
    for each in planned.group.evaluations:
        if each.method == reference:
            continue
        on_progress(Event(f"comparing maps of {each.method_spec}"))
        key_fields = {"kind": "map correlation", "score": each.key_fields, "reference": reference, "kernels": list(kernels)}
        # A map depends on the target, so the labels are part of an item's key.
        key, ids = digest(key_fields), [item.key(planned.group.target_choice) for item in planned.items]
        cached = store.records(key, ids)
        for item, item_key in zip(planned.items, ids, strict=True):
            if item_key not in cached:
                values = _compare(item, protocol, (each.method, reference), kernels, evaluator, data)
                cached[item_key] = Record(details={str(kernel): correlation for kernel, correlation in values.items()})
                store.add_records(key, key_fields, {item_key: cached[item_key]})
        for kernel in kernels:
            of_items = [cached[item].details[str(kernel)] for item in ids]
            correlations[str(each.method_spec), kernel] = [value for values in of_items for value in values]  # type: ignore[union-attr]
    return correlations


def _compare(
    item: EvalItem,
    protocol: Localisation,
    methods: tuple[MethodSpec, MethodSpec],
    kernels: Sequence[int],
    evaluator: Evaluator,
    data: Dataset,
) -> dict[int, list[float]]:
    """Return, for each kernel, the correlation of the two methods' maps for each target of a grid."""
    _, batch = evaluator.loader(data).get((item,))
    if batch is None:
        return {kernel: [] for kernel in kernels}
    size = (batch.images.shape[2], batch.images.shape[3])

    def maps(method: MethodSpec, before: Callable[[torch.Tensor], torch.Tensor] = lambda maps: maps) -> torch.Tensor:
        work = evaluator.eval_batch(protocol, batch, evaluator.explainer(method))
        return torch.cat([resize(work.maps(request, before), size) for request in protocol.requests(work)], 1)[0].flatten(1)

    reference = maps(methods[1])
    return {kernel: spearman(maps(methods[0], lambda maps, k=kernel: smooth(maps, k)), reference).tolist() for kernel in kernels}  # type: ignore[misc]
