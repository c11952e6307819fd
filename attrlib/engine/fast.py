"""What `fast` costs: how well its maps agree with the exact ones."""

import math
from collections.abc import Mapping

import torch

from attrlib.data.datasets import Dataset
from attrlib.engine.bench import Bench
from attrlib.engine.loading import Loader
from attrlib.engine.units import Unit
from attrlib.protocols import Prediction, Scene
from attrlib.specs import MethodSpec
from attrlib.statistics import spearman

IMAGES = 2


def map_agreement(
    methods: Mapping[MethodSpec, MethodSpec], bench: Bench, data: Dataset, units: tuple[Unit, ...]
) -> dict[MethodSpec, float]:
    """Spearman's correlation of each method's fast maps with its exact ones, at the predicted class, mean over two images.

    `methods` are those to compare, filled in, by how they were asked for. Only methods of many forward passes are in bfloat16, so
    that the others are close to 1.
    """
    model = bench.model
    single = tuple(Unit(data.item_id(unit.images[0]), unit.images[:1], unit.labels[:1]) for unit in units[:IMAGES])
    _, batch = Loader(model, data).get(single)
    if batch is None:
        return {}
    targets = bench.measure(Prediction(), batch)["class"].long()
    scene = Scene(model, batch.images, targets[:, None], keys=batch.ids)
    exact = Bench(model, bench.shelf, bench.setting.seed, False, bench.setting.rows, bench.setting.progress)
    found = {}
    for asked, method in methods.items():
        values = spearman(*(own.explain(method)(scene)[0].flatten(1) for own in (exact, bench)))
        found[asked] = float(values.nanmean()) if bool(torch.isfinite(values).any()) else math.nan
    return found
