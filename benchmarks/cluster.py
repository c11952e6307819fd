"""Measure workers and clusters: `python -m benchmarks.cluster`, or simulate a large one: `python -m benchmarks.cluster --simulate`.

Scores the same methods in this process, on one and on two worker processes, and on one and on two Ray actors, with one thread each, and
checks that all give the same bits. Prints wall-clock time, CPU seconds of all processes, how many cores the machine granted (CPU seconds a
second), time to the first result, and ratios. On a machine that other programs use, trust the ratios of CPU seconds: what two workers
spend more than one is what idle cores could not make up for. Then the memory of the driver, for runs of made-up results.

`--simulate` prints what 1, 8 and 64 GPUs take for the methods, images and models of a paper, see `benchmarks.simulation`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

import attrlib
from attrlib.cli.common import duration
from attrlib.engine.executors.crew import Crew
from attrlib.engine.executors.dispatcher import Dispatcher
from attrlib.engine.executors.messages import AddRecords
from attrlib.engine.executors.processes import ProcessCrew
from attrlib.engine.executors.ray_crew import RayCrew
from attrlib.engine.plan import Plan, make_plan
from attrlib.engine.run import Event, ExecutorFactory, local, run
from attrlib.engine.work import Heartbeat, UnitResult, WorkUnit
from attrlib.methods import read_methods
from attrlib.specs import LOGIT, ModelSpec, RunSpec, TargetSpec, parse_methods, parse_protocols
from attrlib.store import Claims, Record, Store
from benchmarks import records
from benchmarks.memory import peak
from benchmarks.simulation import Costs, made_up_units, passes_of, records_of, shares, simulate

CONTROLS = ("Random", "Sobel", "Gaussian")
BATCHES = 200


@dataclass(frozen=True)
class Measured:
    """A run: seconds of the wall clock, CPU seconds of all processes, seconds to the first result, and the values of all scores."""

    wall: float
    cpu: float
    first: float
    values: list[bytes]

    def best(self, other: "Measured") -> "Measured":
        """Return the least of each time."""
        return replace(self, wall=min(self.wall, other.wall), cpu=min(self.cpu, other.cpu), first=min(self.first, other.first))


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of all that it has started."""
    me = psutil.Process()
    total = 0.0
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def measured(spec: RunSpec, executor: ExecutorFactory) -> Measured:
    """Execute a run with an empty store."""
    model, data = attrlib.load_model(spec.model.architecture, "cpu"), attrlib.load_dataset(spec.data)
    first: list[float] = []

    def on_progress(event: Event) -> None:
        if event.done and not first:
            first.append(time.perf_counter() - start)

    with tempfile.TemporaryDirectory() as folder, closing(Store(folder=Path(folder))) as store:
        plan = make_plan(spec, model, data, store)
        start, cpu = time.perf_counter(), cpu_seconds()
        result = run(plan, on_progress, executor)
        wall, cpu = time.perf_counter() - start, cpu_seconds() - cpu
        return Measured(wall, cpu, first[0], [score.values.tobytes() for score in result.scores.values()])


def on(crew: Crew) -> ExecutorFactory:
    """Return the executor of a crew."""
    return lambda plan, heartbeat: Dispatcher(plan, heartbeat, crew)


def measure(options: argparse.Namespace) -> None:
    """Print the times of all executors, and ratios."""
    os.environ["OMP_NUM_THREADS"] = "1"
    methods = parse_methods(options.methods)
    spec = RunSpec(ModelSpec(options.model), options.data, parse_protocols("sds"), methods, options.images)
    crews: dict[str, Callable[[], Crew] | None] = {
        "this process": None,
        "1 process": lambda: ProcessCrew(1),
        "2 processes": lambda: ProcessCrew(2),
        "1 Ray actor": lambda: RayCrew("ray", 1, "cpu"),
        "2 Ray actors": lambda: RayCrew("ray", 2, "cpu"),
    }
    results: dict[str, Measured] = {}
    # In turns, since the speed of a shared machine drifts.
    for turn in range(options.turns):
        for name, start in crews.items():
            # Processes share the threads of this one.
            torch.set_num_threads(2 if name == "2 processes" else 1)
            began = time.perf_counter()
            with closing(start()) if start else nullcontext() as crew:
                started = time.perf_counter() - began
                executor = local if crew is None else on(crew)
                short = measured(RunSpec(spec.model, spec.data, spec.protocols, methods[:1], 32), executor)
                found = replace(measured(spec, executor), first=started + short.first)
            assert all(found.values == other.values for other in results.values()), f"{name}: other scores"
            results[name] = found.best(results[name]) if turn else found
    print(f"{'':14} {'wall s':>8} {'CPU s':>8} {'cores':>6} {'first result s':>15}")
    for name, best in results.items():
        print(f"{name:14} {best.wall:8.1f} {best.cpu:8.1f} {best.cpu / best.wall:6.2f} {best.first:15.1f}", flush=True)
    one, two, ray, rays = (results[name] for name in list(crews)[1:])
    alone = results["this process"]
    for what, of, to in (("2 processes", one, two), ("2 Ray actors", ray, rays)):
        cores = to.cpu / to.wall
        print(
            f"speed-up of {what} over 1: {of.wall / to.wall:.2f} with {cores:.2f} cores; {2 * of.cpu / to.cpu:.2f} by CPU seconds (goal 1.8)"
        )
    for what, to in (("1 process", one), ("1 Ray actor", ray)):
        print(f"{what} over this process: {to.wall / alone.wall - 1:+.1%} wall, {to.cpu / alone.cpu - 1:+.1%} CPU (goal of Ray: 10 %)")


class MadeUp:
    """An executor that makes results up."""

    workers, notes = 1, ()

    def __init__(self, plan: Plan, heartbeat: Heartbeat):
        pass

    def map(self, units: Sequence[WorkUnit]) -> Generator[UnitResult, None, None]:
        """Yield a value for each item and evaluation."""
        for number, unit in enumerate(units):
            for index, (_, positions) in enumerate(unit.missing):  # type: ignore[union-attr]
                yield UnitResult(number, index, dict.fromkeys(positions, 0.5), computed=len(positions))
            yield UnitResult(number, finished=True)

    def close(self) -> None:
        """Do nothing."""


class Unshared(Store):
    """A store without claims. Made-up results take no time, so that ever more units would be claimed at once; real ones, two minutes' worth."""

    def claims(self) -> Claims:
        """Return None, as no other process uses the store."""
        return None  # type: ignore[return-value]


def driver_memory(count: int) -> None:
    """Print the memory of the driver for so many results of 20 methods."""
    with tempfile.TemporaryDirectory() as folder, closing(Unshared(folder=Path(folder))) as store:
        run(records.plan(store, 16, 20), executor=MadeUp)
        before = peak()
        result = run(records.plan(store, count // 20, 20), executor=MadeUp)
        grown = peak() - before
        print(
            f"driver, {result.computed:,} results: {grown:.0f} MB more, {grown * 2**20 / result.computed:.0f} bytes each, {peak():.0f} MB in all"
        )


def record_seconds(url: str | None) -> float:
    """Return the seconds that the driver takes for a record of a worker: to receive and to store it, 16 at once."""
    with tempfile.TemporaryDirectory() as folder, closing(Store(url, Path(folder))) as store:
        details = {"drops": [0.25] * 16, "attributions": [0.5] * 16}
        batches = [
            AddRecords("made-up", {"kind": "made-up"}, {f"{number * 16 + each:032x}": Record(0.5, details) for each in range(16)})
            for number in range(BATCHES)
        ]
        start = time.perf_counter()
        for message in batches:
            store.add_records(message.key, message.fields, message.records)
        return (time.perf_counter() - start) / (16 * BATCHES)


def simulated(options: argparse.Namespace) -> None:
    """Print what the run of a paper takes on some numbers of GPUs."""
    model = attrlib.load_model(options.architecture, "cpu", checkpoint="random:0")
    names = read_methods(options.methods or "all", "", TargetSpec.parse(LOGIT))
    left_out = {*CONTROLS, *options.without.split(",")}
    chosen = tuple(each for each in names if options.methods or each.name not in left_out)
    spec = RunSpec(ModelSpec(options.architecture, checkpoint="random:0"), "photos", parse_protocols("sds:target=prediction"), chosen)
    plan = make_plan(spec, model, attrlib.load_dataset("photos"), Store(folder=Path(tempfile.mkdtemp())))
    (group,) = (each.group for each in plan.groups)
    units = made_up_units(group, options.images)
    record = record_seconds(options.url)
    passes = sum(passes_of(unit, model) for unit in units) * options.models
    rows = sum(records_of(unit) for unit in units) * options.models
    print(f"{options.images:,} images x {len(group.evaluations)} methods x {options.models} models on {options.architecture}:")
    print(f"{passes:.2e} forward passes, {passes / options.images / options.models:,.0f} an image; {rows:,} records")
    print(
        f"{passes / options.passes / 3600:,.0f} GPU hours at {options.passes:,.0f} passes a second; units of {len(units[0].items)} images"
    )
    print("of these: " + ", ".join(f"{name} {share:.0%}" for name, share in list(shares(group, model).items())[:8]))
    print(f"a record takes the driver {record * 1e6:.0f} µs here, so it bears {1 / record:,.0f} a second\n")
    print(f"{'GPUs':>5} {'time':>12} {'utilisation':>12} {'records a second':>17} {'driver busy':>12}")
    for workers in options.workers:
        one = simulate(plan, units, workers, Costs(options.passes, options.load, record))
        print(f"{workers:5} {duration(one.seconds * options.models):>12} {one.utilisation:12.1%} {one.rate:17.1f} {one.driver:12.1%}")
    most = options.passes * rows / passes * record
    print(f"\nthe driver would be busy all the time from about {1 / most:,.0f} GPUs on")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--model", default="birds_resnet10")
    parser.add_argument("--data", default="birds")
    parser.add_argument("--methods", help="by default four, or with --simulate all but the controls")
    parser.add_argument("--images", type=int)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--results", type=int, nargs="*", default=[100_000, 2_000_000], help="sizes of runs of made-up results")
    parser.add_argument("--driver", type=int, help=argparse.SUPPRESS)
    simulation = parser.add_argument_group("simulation")
    simulation.add_argument("--architecture", default="timm:resnet50")
    simulation.add_argument("--without", default="", help="methods to leave out, separated by commas")
    simulation.add_argument("--models", type=int, default=16, help="models, one after the other")
    simulation.add_argument("--workers", type=int, nargs="*", default=[1, 8, 64])
    simulation.add_argument("--passes", type=float, default=2_500, help="forward passes a second of a GPU")
    simulation.add_argument("--load", type=float, default=30, help="seconds until a worker has loaded a model")
    simulation.add_argument("--url", help="database whose speed is measured; by default an SQLite file in a temporary folder")
    options = parser.parse_args()
    if options.driver:
        driver_memory(options.driver)
        return
    if options.simulate:
        options.images = options.images or 50_000
        simulated(options)
        return
    options.images = options.images or 128
    options.methods = options.methods or "IG,SmoothGrad,Grad-CAM,RISE:samples=250"
    measure(options)
    for count in options.results:
        # In a process of its own, as the peak of a process never falls.
        subprocess.run([sys.executable, "-m", "benchmarks.cluster", "--driver", str(count)], check=True)


if __name__ == "__main__":
    main()
