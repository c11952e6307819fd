"""Measure how well the maps of a fast run agree with the exact ones."""

import math
from collections.abc import Mapping, Sequence

import torch

from attrlib.data.datasets import Dataset
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem
from attrlib.protocols import ExplanationRequest, Prediction
from attrlib.specs import MethodSpec
from attrlib.specs.maps import are_maps
from attrlib.statistics import spearman

IMAGES = 2


def map_agreement(
    methods: Mapping[MethodSpec, MethodSpec], evaluator: Evaluator, data: Dataset, items: Sequence[EvalItem]
) -> dict[MethodSpec, float]:
    """Return Spearman's correlation of each method's fast maps with its exact ones, for the predicted class, mean over two images.

    Only methods with several forward passes are computed in bfloat16; for all others the correlation is close to 1.

    Args:
        methods: The resolved methods, by the method as given in the spec.
        evaluator: A fast evaluator.
        data: The data set.
        items: Items of the data set; the first image of each of the first two is used.
    """
    single = tuple(EvalItem(data.item_id(item.images[0]), item.images[:1], item.labels[:1]) for item in items[:IMAGES])
    _, batch = evaluator.loader(data).get(single)
    if batch is None:
        return {}
    targets = evaluator.measure(Prediction(), batch)["class"].long()
    request = ExplanationRequest(evaluator.model, batch.images, targets[:, None], keys=batch.ids)
    agreement = {}
    for asked, method in methods.items():
        if are_maps(method):
            continue
        maps = (each.explainer(method)(request)[0].flatten(1) for each in (evaluator.exact(), evaluator))
        values = spearman(*maps)
        agreement[asked] = float(values.nanmean()) if bool(torch.isfinite(values).any()) else math.nan
    return agreement
