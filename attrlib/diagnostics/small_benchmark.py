"""Score a few images under several protocols and methods in memory, without the plan, store and resume of a run."""

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from attrlib.data.datasets import Dataset, load_dataset
from attrlib.data.labels import match_classes
from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem
from attrlib.errors import DataError, LayerError, MethodError
from attrlib.models import Classifier
from attrlib.progress import Progress, no_progress
from attrlib.protocols import Protocol
from attrlib.specs import MethodSpec
from attrlib.statistics import ranks, spearman


def score_at_once(
    model: Classifier,
    data: str | Dataset,
    indices: Sequence[int],
    protocols: Sequence[Protocol],
    methods: Sequence[MethodSpec],
    seed: int = 0,
    on_progress: Progress = no_progress,
) -> Tensor:
    """Return the scores of some images of a labelled data set; each item's scores are the same as in a run.

    Args:
        model: The classifier.
        data: The data set, or its name or path.
        indices: Indices of the images in the data set; those without a label or that cannot be read are left out.
        protocols: The protocols, all of single images.
        methods: The methods, resolved.
        seed: Seed of everything random.
        on_progress: The progress callback.

    Returns:
        The scores, (protocols, methods, items), NaN where a score is undefined or a method is not defined for the model.

    Raises:
        ProtocolError: If a protocol is not defined for the model or the data.
        DataError: If no image is readable and has a class of the model.
    """
    dataset = load_dataset(data)
    classes = match_classes(dataset.class_names, model.class_names, "auto")
    labels = {k: dataset.label(k) for k in indices}
    items = tuple(EvalItem(dataset.item_id(k), (k,), (classes[label],)) for k, label in labels.items() if label is not None)
    for protocol in protocols:
        protocol.check(model, dataset.offers)
    evaluator = Evaluator(model, InMemoryCache(), seed)
    items, batch = evaluator.loader(dataset, protocols).get(items)
    if batch is None:
        raise DataError(f"none of the {len(indices)} images of {dataset.name} is readable and has a class of the model; choose others")
    scores = torch.full((len(protocols), len(methods), len(items)), math.nan, dtype=torch.float64)
    for row, protocol in enumerate(protocols):
        for column, method in enumerate(methods):
            on_progress(row * len(methods) + column, len(protocols) * len(methods))
            try:
                records = evaluator.evaluate(protocol, items, batch, evaluator.explainer(method))
            except (MethodError, LayerError):
                continue
            values = [records[item.key(protocol.target_choice)].value for item in items]
            scores[row, column] = torch.tensor(values, dtype=torch.float64)
    return scores


def method_ranks(scores: Tensor, protocols: Sequence[Protocol]) -> Tensor:
    """Rank methods under each protocol by their mean over the items.

    Args:
        scores: The scores, (protocols, methods, items); undefined ones (NaN) are left out of the mean.
        protocols: The protocols, which tell whether higher is better.

    Returns:
        Ranks (protocols, methods), 1 for the best; equal means share their average rank, and methods without any score come last.
    """
    signs = torch.tensor([[-1.0 if protocol.higher_is_better else 1.0] for protocol in protocols], dtype=torch.float64)
    return ranks((scores.double().nanmean(2) * signs).nan_to_num(nan=math.inf))


def rank_correlations(places: Tensor) -> dict[tuple[int, int], float]:
    """Return Spearman's correlation of each pair of rows of `places`, ranks (protocols, methods), by their indices."""
    pairs = list(combinations(range(len(places)), 2))
    firsts, seconds = zip(*pairs, strict=True)
    return dict(zip(pairs, spearman(places[list(firsts)], places[list(seconds)]).tolist(), strict=True))
