"""Compare methods requested together with the same methods one at a time: `python -m benchmarks.sweep`.

By default these are the methods of IDSDS that are defined on the model, on photos. All variants run alternately in one process; the best of
all turns counts. Maps computed together must equal the others bit for bit. `fast` is the computation of a fast run: BatchNorm is folded into
convolutions, and methods with many forward passes and no gradient use bfloat16; the rank correlation with the exact maps is shown for each
method.
"""

import argparse
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

import attrlib
from attrlib.data.samples import SAMPLES
from attrlib.engine.evaluator import uses_bfloat16
from attrlib.methods import Attribution, AttributionOptions, attribute, attribute_all, create, defined, read_methods
from attrlib.models import EMBEDDED, Classifier
from attrlib.models.folded import Folded
from attrlib.models.modules.preserve import has_bfloat16
from attrlib.specs import MethodSpec
from attrlib.statistics import spearman
from benchmarks.clock import timed

ALONE, TOGETHER, FAST = "one at a time", "together", "fast"
GOALS = {TOGETHER: 1.6, FAST: 2.5}


def fast_maps(model: Classifier, specs: Iterable[MethodSpec], images: Tensor, targets: list[int]) -> list[Attribution]:
    """Return the maps of all methods, in order, as a fast run computes them."""
    folded, groups = Folded(), dict[tuple[Classifier, bool], list[MethodSpec]]()
    for spec in specs:
        layer = model.layer(spec.layer or create(spec).default_layer)
        low = uses_bfloat16(create(spec).passes(layer)) and has_bfloat16(model.device)
        groups.setdefault((folded(model, layer.path), low), []).append(spec)
    maps = {
        spec: attribution
        for (twin, low), members in groups.items()
        for spec, attribution in zip(
            members, attribute_all(twin, members, images, targets, options=AttributionOptions(fast=low)), strict=True
        )
    }
    return [maps[spec] for spec in specs]


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument("--methods", default="idsds", help="as on the command line")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    if not 1 <= options.images <= len(SAMPLES):
        parser.error(f"--images must be from 1 to {len(SAMPLES)}, the number of sample photos")
    model = attrlib.load_model(options.model, device="cpu")
    images = torch.stack([model.preprocess(attrlib.open_image(f"sample:{name}").image) for name in list(SAMPLES)[: options.images]])
    specs, reasons = defined(model, read_methods(options.methods))
    for reason in reasons:
        print(reason)
    with torch.no_grad():
        targets = model(images).argmax(1).tolist()
    variants: dict[str, Callable[[], list[Attribution]]] = {
        ALONE: lambda: [attribute(model, spec, images, targets) for spec in specs],
        TOGETHER: lambda: attribute_all(model, specs, images, targets),
        FAST: lambda: fast_maps(model, specs, images, targets),
    }
    best = {name: np.full(2, np.inf) for name in variants}
    maps: dict[str, list[Attribution]] = {}
    for _ in range(options.turns):
        for name, work in variants.items():
            maps[name], seconds = timed(work)
            best[name] = np.minimum(best[name], seconds)
    print(f"{len(specs)} methods, {len(images)} images, {model.name}")
    print(f"{'method':64} {'s alone':>8} {'s fast':>8} {'rank agreement with exact: least, mean':>40}")
    for one, other, approximate in zip(maps[ALONE], maps[TOGETHER], maps[FAST], strict=True):
        assert torch.equal(one.maps, other.maps), f"{one.spec} differs from the map computed alone"
        ranks = spearman(one.maps.flatten(1), approximate.maps.flatten(1))
        print(f"{one.spec!s:64} {one.seconds:8.2f} {approximate.seconds:8.2f} {float(ranks.min()):31.4f} {float(ranks.nanmean()):8.4f}")
    for name, (wall, cpu) in best.items():
        print(f"{name:14} {cpu:8.2f} CPU s {wall:8.2f} s")
    for name, goal in GOALS.items():
        for i, clock in enumerate(("wall", "CPU")):
            print(f"{clock:5} {best[ALONE][i] / best[name][i]:.2f} times faster {name} (goal {goal})")


if __name__ == "__main__":
    main()
