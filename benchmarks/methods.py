"""Measure the time of every method relative to its bound: `python -m benchmarks.methods`.

The bound of a method is the number of passes that its definition requires (`Method.passes`), times the best time of such a pass measured
in the same run with the same number of rows, in plain PyTorch: weights without gradients, channels_last, no hooks. Methods and passes are
timed alternately, so that slow phases of the machine affect both. The best of all turns counts, on a CPU in CPU seconds of all threads,
which other programs disturb least.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence

import torch

from attrlib.errors import AttrlibError
from attrlib.methods import METHODS, attribute, rows_at_once
from attrlib.models import EMBEDDED, Classifier, Layer
from attrlib.specs import MethodSpec
from benchmarks.nets import VIT_TINY, load

PARAMS: dict[str, dict[str, int]] = {
    "IG": {"steps": 32},
    "SmoothGrad": {"samples": 32},
    "Guided IG": {"steps": 16},
    "Blur IG": {"steps": 16},
    "RISE": {"samples": 64},
    "RISE-U": {"samples": 64},
    "LIME": {"samples": 64},
    "KernelSHAP": {"samples": 64},
    "HSIC": {"samples": 64},
    "Sobol": {"designs": 4, "cells": 4},
    "XRAI": {"steps": 16},
    "Extremal perturbation": {"steps": 16},
    "TIS": {"samples": 64},
    "Score-CAM": {"top": 64},
    "SS-CAM": {"top": 16, "samples": 4},
    "IS-CAM": {"top": 16, "steps": 4},
    "Occlusion": {"window": 32, "stride": 32},
}
LIMIT, LIMIT_PERTURBATION = 1.3, 1.15


LONG_ENOUGH = 0.1
"""Minimum number of seconds per measurement: a CPU clock may tick in milliseconds."""


def best(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds per call, averaged over enough calls to fill `LONG_ENOUGH`.

    Args:
        work: Function to time.
        device: Device of the computation. On a CPU, CPU seconds are returned; on others, wall-clock seconds until the device has finished.
    """

    def now() -> float:
        if device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    start, calls, passed = now(), 0, 0.0
    while passed < LONG_ENOUGH:
        work()
        calls, passed = calls + 1, now() - start
    return passed / calls


class Costs:
    """Best measured seconds of one pass over `rows` images: up to a layer, downstream of it, and downstream with a backward pass."""

    def __init__(self, model: Classifier, layer: Layer, rows: int):
        self._model = model
        generator = torch.Generator().manual_seed(0)
        self._images = model.place(torch.randn(rows, 3, *model.input_size, generator=generator))
        with model.session():
            self._split = model.split(layer).fresh()
            self._inputs = self._split.before(self._images)
        self.to = self.forward = self.gradient = float("inf")

    def measure(self) -> None:
        """Measure another turn."""
        device = self._model.device
        with self._model.session():
            if self._split.path:
                self.to = min(self.to, best(lambda: self._split.before(self._images), device))
            else:
                self.to = 0.0
            with torch.no_grad():
                self.forward = min(self.forward, best(lambda: self._run(self._inputs), device))
            self.gradient = min(self.gradient, best(self._backward, device))

    def _run(self, inputs: torch.Tensor) -> torch.Tensor:
        return self._split.after(inputs) if self._split.path else self._model.module(inputs)

    def _backward(self) -> None:
        leaf = self._inputs.detach().requires_grad_()
        torch.autograd.grad(self._run(leaf)[:, 0].sum(), leaf)


def run(model: Classifier, images: int, turns: int, methods: Sequence[str]) -> list[dict]:
    """Return one row of times for each method at its default layer.

    Args:
        model: Model on which methods are timed.
        images: Number of images in the batch.
        turns: Number of turns after the first; the best of all turns counts.
        methods: Names of methods. Methods that are not defined on the model have no row.
    """
    batch = torch.randn(images, 3, *model.input_size, generator=torch.Generator().manual_seed(1))
    rows: list[dict] = []
    costs: dict[tuple[str, int], Costs] = {}
    for name, cls in ((name, METHODS[name]) for name in methods):
        spec = MethodSpec(name, cls.default_layer, tuple(PARAMS.get(name, {}).items()))
        layer = model.layer(spec.layer)
        method = cls(**PARAMS.get(name, {}))
        try:
            method.check(model, layer)
        except AttrlibError:
            # The method is not defined on this model.
            continue
        passes = method.passes(layer)
        many = passes.forward + passes.gradient > 2
        at_once = rows_at_once(model, model.input_size)
        chunk = max(1, at_once // images) * images if many else images
        single, chunked = (costs.setdefault((layer.path, n), Costs(model, layer, n)) for n in (images, chunk))
        rows.append(
            {
                "method": str(spec),
                "passes": passes,
                "single": single,
                "chunked": chunked,
                "images": images,
                "seconds": float("inf"),
                "spec": spec,
            }
        )
    for _ in range(turns + 1):
        for cost in costs.values():
            cost.measure()
        for row in rows:
            seconds = best(lambda spec=row["spec"]: attribute(model, spec, batch, [0] * images), model.device)  # type: ignore[misc]
            row["seconds"] = min(row["seconds"], seconds)
    return [_finish(row) for row in rows]


def _finish(row: dict) -> dict:
    passes, single, chunked, images = row["passes"], row["single"], row["chunked"], row["images"]
    per_row = images / chunked._images.shape[0]
    again = (passes.before - 1) * chunked.to
    bound = single.to + per_row * (again + passes.forward * chunked.forward + passes.gradient * chunked.gradient)
    runs_model = bound > 0
    return {
        "method": row["method"],
        "images": images,
        "ms_per_image": 1000 * row["seconds"] / images,
        "bound_ms_per_image": 1000 * bound / images if runs_model else None,
        "ratio": row["seconds"] / bound if runs_model else None,
        "limit": LIMIT_PERTURBATION if METHODS[row["spec"].name].family == "perturbation" else LIMIT,
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED, help=f"name of a model, or {VIT_TINY}")
    parser.add_argument("--images", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--methods", default=",".join(METHODS), help="names, separated by commas")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model = load(options.model)
    rows = [row for images in options.images for row in run(model, images, options.turns, options.methods.split(","))]
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{'method':56} images  ms/image     bound   ratio  limit   ({model.name} on {model.device}, {torch.get_num_threads()} threads)")
    for row in rows:
        bound = f"{row['bound_ms_per_image']:9.1f} {row['ratio']:7.2f} {row['limit']:6.2f}" if row["ratio"] else f"{'none':>9}"
        print(f"{row['method']:56} {row['images']:6} {row['ms_per_image']:9.1f} {bound}")


if __name__ == "__main__":
    main()
