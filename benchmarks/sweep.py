"""Several methods asked for together against one at a time: `python -m benchmarks.sweep`.

By default the methods of IDSDS that are defined for the model. Both ways in turns in one process; the best of all turns counts, and
maps must be equal, bit for bit.
"""

import argparse
import time
from collections.abc import Callable

import torch

import attrlib
from attrlib.methods import Attribution, attribute, attribute_all, defined, read_methods

GOAL = 1.6


def timed(work: Callable[[], list[Attribution]]) -> tuple[list[Attribution], float, float]:
    """The maps, CPU seconds of all threads, and seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--methods", default="idsds", help="as for the command line")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    model = attrlib.load_model(*[options.model] if options.model else [], device="cpu")
    images = torch.randn(options.images, 3, *model.input_size, generator=torch.Generator().manual_seed(1))
    specs, reasons = defined(model, read_methods(options.methods))
    for reason in reasons:
        print(reason)
    targets = [0] * len(images)
    ways: dict[str, Callable[[], list[Attribution]]] = {
        "one at a time": lambda: [attribute(model, spec, images, targets) for spec in specs],
        "together": lambda: attribute_all(model, specs, images, targets),
    }
    best = {name: (float("inf"), float("inf")) for name in ways}
    maps: dict[str, list[Attribution]] = {}
    for _ in range(options.turns):
        for name, work in ways.items():
            maps[name], cpu, wall = timed(work)
            best[name] = (min(best[name][0], cpu), min(best[name][1], wall))
    for one, other in zip(*maps.values(), strict=True):
        assert torch.equal(one.maps, other.maps), f"{one.spec} is not what it is alone"
    print(f"{len(specs)} methods, {len(images)} images, {model.name}: {', '.join(str(spec) for spec in specs)}")
    for name, (cpu, wall) in best.items():
        print(f"{name:14} {cpu:8.2f} CPU s {wall:8.2f} s")
    for i, what in enumerate(("CPU", "wall")):
        print(f"{what:5} {best['one at a time'][i] / best['together'][i]:.2f} times faster together (goal {GOAL})")


if __name__ == "__main__":
    main()
