"""Measure the memory that the driver of a large run needs: `python -m benchmarks.records`.

Fills a store with synthetic records of a run (by default 20 methods on 100,000 images), then plans and executes that run in a separate
process with everything cached, which reveals memory per record. Prints the growth of the peak resident memory of the process.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import attrlib
from attrlib.data.datasets import Dataset, Item
from attrlib.engine.plan import Plan, make_plan
from attrlib.engine.run import run
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, RunSpec
from attrlib.store import Record, Store
from benchmarks.memory import peak

CHUNK = 10_000
"""Number of records written at once."""


class Synthetic(Dataset):
    """A data set whose images are never opened."""

    name, class_names = "made-up", ("a", "b")

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]
        raise AssertionError("everything is cached")

    def label(self, index: int) -> int:
        return index % 2

    def item_id(self, index: int) -> str:
        return f"{index:032x}"


def plan(store: Store, images: int, methods: int) -> Plan:
    """Return the plan of the run."""
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(0.1)
    model = attrlib.wrap_model(module, 32, class_names=("a", "b"))
    specs = tuple(MethodSpec.parse(f"SmoothGrad:samples={number + 2}") for number in range(methods))
    return make_plan(RunSpec(ModelSpec(model.name), "made-up", (ProtocolSpec("sds"),), specs), model, Synthetic(images), store)


def fill(store: Store, run_plan: Plan) -> None:
    """Write a record for each item of each evaluation."""
    (group,) = run_plan.groups
    details = {"drops": [0.25] * 16, "attributions": [0.5] * 16}
    for number, evaluation in enumerate(group.group.evaluations):
        for first in range(0, len(group.keys), CHUNK):
            records = {key: Record((place + number) % 100 / 100, details) for place, key in enumerate(group.keys[first : first + CHUNK])}
            store.add_records(evaluation.key, evaluation.key_fields, records)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--methods", type=int, default=20)
    parser.add_argument("--folder", help="store filled by an earlier call")
    options = parser.parse_args()
    if options.folder is None:
        with tempfile.TemporaryDirectory() as folder:
            store = Store(folder=Path(folder))
            begun = time.perf_counter()
            fill(store, plan(store, options.images, options.methods))
            store.close()
            print(f"{options.images * options.methods:,} records written in {time.perf_counter() - begun:.0f} s", flush=True)
            command = ("--images", str(options.images), "--methods", str(options.methods), "--folder", folder)
            sys.exit(subprocess.call([sys.executable, "-m", "benchmarks.records", *command]))
    store = Store(folder=Path(options.folder))
    plan(Store(folder=Path(tempfile.mkdtemp())), 16, options.methods)
    before, begun = peak(), time.perf_counter()
    run_plan = plan(store, options.images, options.methods)
    middle = peak()
    result = run(run_plan)
    assert (result.computed, result.cached) == (0, options.images * options.methods)
    print(f"{result.cached:,} cached records: plan {middle - before:.0f} MB, plan and run {peak() - before:.0f} MB, "
          f"{peak():.0f} MB in all, {time.perf_counter() - begun:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
