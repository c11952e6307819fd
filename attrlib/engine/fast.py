"""What `fast` costs: how well the maps in bfloat16 agree with the exact ones."""

import math
from collections.abc import Callable

import torch

from attrlib.data.datasets import Dataset
from attrlib.engine.bench import Bench, Shelf
from attrlib.engine.loading import Loader
from attrlib.engine.units import Unit
from attrlib.methods import resolve
from attrlib.models import Classifier
from attrlib.protocols import Prediction, Scene
from attrlib.specs import MethodSpec, RunSpec
from attrlib.statistics import spearman

IMAGES = 2


def map_agreement(
    spec: RunSpec, model: Classifier, data: Dataset, units: tuple[Unit, ...], shelf: Shelf, progress: Callable[[int, int], None]
) -> dict[MethodSpec, float]:
    """Spearman's correlation of each method's fast maps with its exact ones, at the predicted class, mean over two images.

    Methods with a single pass are computed exactly in a fast run too: theirs is 1.
    """
    single = tuple(Unit(data.item_id(unit.images[0]), unit.images[:1], unit.labels[:1]) for unit in units[:IMAGES])
    _, batch = Loader(model, data).get(single)
    if batch is None:
        return {}
    found = {}
    for method in spec.methods:
        maps = []
        for fast in (False, True):
            bench = Bench(model, shelf, spec.seed, fast, progress=progress)
            targets = Bench(model, shelf, spec.seed, progress=progress).measure(Prediction(), batch)["class"].long()
            maps.append(bench.explain(resolve(method))(Scene(model, batch.images, targets[:, None], keys=batch.ids))[0])
        values = spearman(*(m.flatten(1) for m in maps))
        found[method] = float(values.nanmean()) if bool(torch.isfinite(values).any()) else math.nan
    return found
