"""A few pictures under several protocols and methods, in memory: for a look, where a run with plan, store and resume would be too much."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from attrlib.data.datasets import Dataset, load_dataset
from attrlib.data.labels import match_classes
from attrlib.engine.bench import Bench, Scratch
from attrlib.engine.loading import Loader
from attrlib.engine.units import Unit
from attrlib.errors import DataError, LayerError, MethodError
from attrlib.models import Classifier
from attrlib.progress import Progress, no_progress
from attrlib.protocols import Protocol
from attrlib.specs import MethodSpec


def score_at_once(
    model: Classifier,
    data: str | Dataset,
    indices: Sequence[int],
    protocols: Sequence[Protocol],
    methods: Sequence[MethodSpec],
    seed: int = 0,
    progress: Progress = no_progress,
) -> Tensor:
    """The scores (protocols, methods, items) of pictures by their places in labelled data; NaN where undefined. As a run's, item by item.

    The protocols are those of single images, the methods resolved. What a method is not defined for is NaN. Raises `ProtocolError` where a
    protocol is not defined for the model or the data, `DataError` where no picture can be read.
    """
    dataset = load_dataset(data)
    classes = match_classes(dataset.class_names, model.class_names, "auto")
    labels = {k: dataset.label(k) for k in indices}
    units = tuple(Unit(dataset.item_id(k), (k,), (classes[own],)) for k, own in labels.items() if own is not None)
    for protocol in protocols:
        protocol.check(model, dataset.offers)
    units, batch = Loader(model, dataset).get(units)
    if batch is None:
        raise DataError(f"none of the {len(indices)} pictures of {dataset.name} has a class and can be read; choose others")
    bench = Bench(model, Scratch(), seed)
    found = torch.full((len(protocols), len(methods), len(units)), math.nan, dtype=torch.float64)
    for row, protocol in enumerate(protocols):
        for column, method in enumerate(methods):
            progress(row * len(methods) + column, len(protocols) * len(methods))
            try:
                records = bench.perform(protocol, method, units, batch)
            except (MethodError, LayerError):
                continue
            found[row, column] = torch.tensor([records[unit.key(protocol.target_choice)].value for unit in units], dtype=torch.float64)
    return found
