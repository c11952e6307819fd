"""Drivers of runs in processes of their own, which are killed while their workers wait at a gate, and resumed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from attrlib.specs import ModelSpec, RunSpec, parse_methods, parse_protocols
from support.executors import MODEL, executed
from support.gate import Gate
from support.runs import same
from support.waiting import LIMIT, until

METHODS = "IxG,Held"
COMMAND = [sys.executable, "-m", "attrlib", "score", "--model", MODEL, "--protocol", "sds", "--methods", METHODS]


def kill_driver(
    options: Sequence[str], data: Path, folder: Path, gate: Gate, calls: int, workers: Callable[[int], list[psutil.Process]]
) -> None:
    """Start a run, kill its driver when so many calls have passed the gate, and wait until its workers have ended.

    Args:
        options: Options for two workers.
        data: The data set.
        folder: Folder of the store.
        gate: The gate of the workers, closed.
        calls: Number of calls.
        workers: Returns the processes of the workers, by the process number of the driver.
    """
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "ATTRLIB_CACHE": str(folder), "OMP_NUM_THREADS": "1"}
    command = [*COMMAND, "--data", str(data), *options]
    gate.let(calls)
    with subprocess.Popen(command, env=environment | gate.environment, stdout=subprocess.DEVNULL) as driver:
        try:
            until(lambda: driver.poll() is not None or not list(gate.folder.glob("ticket-*")))
            assert driver.poll() is None, "it ended by itself"
            # One of them may have begun before the other has started.
            until(lambda: len(workers(driver.pid)) == 2)
            found = workers(driver.pid)
        finally:
            driver.send_signal(signal.SIGKILL)
        driver.wait(LIMIT)
    until(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in found))


def check_resumed(data: Path, killed: Path, calls: int) -> None:
    """Resume a run whose driver was killed. Its results are those of a run without a break, and nothing that was stored is added again.

    Args:
        data: The data set.
        killed: Folder of the store.
        calls: Number of calls that had passed the gate, one for each picture.
    """
    spec = RunSpec(ModelSpec(MODEL), str(data), parse_protocols("sds"), parse_methods(METHODS))
    result, whole = executed(spec, killed), executed(spec, killed.with_name("whole"))
    assert same(result, whole)
    assert result.computed + result.cached == whole.computed
    # All that passed is stored, but for what the two workers had in their hands.
    assert result.cached >= calls - 2
