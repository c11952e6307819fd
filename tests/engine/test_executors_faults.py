"""Bad luck with workers: a unit that ends them, a driver that dies, files that are elsewhere."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

# isort: split
import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import psutil
import pytest
from PIL import Image
from support.executors import MODEL, CountingStore, copied_birds
from support.gate import Gate
from support.waiting import LIMIT, until
from typer.testing import CliRunner

import attrlib.cli.serve
from attrlib.cli.app import app
from attrlib.engine.executors.choice import executors
from attrlib.engine.executors.weights import WeightFile, located_weights, weight_files
from attrlib.engine.executors.worker_spec import ROOTS, load_data, load_worker, worker_spec
from attrlib.engine.plan import make_plan
from attrlib.errors import DataError, ModelError, SpecError
from attrlib.specs import ModelSpec, RunSpec, parse_methods, parse_protocols
from attrlib.store import Store

HERE = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "attrlib", "score", "--model", MODEL, "--protocol", "sds", "--json"]


def environment(folder: Path, **more: str) -> Mapping[str, str]:
    return os.environ | {"PYTHONPATH": str(HERE), "ATTRLIB_CACHE": str(folder), "OMP_NUM_THREADS": "1"} | more


def scored(folder: Path, data: Path, methods: str, *options: str, **more: str) -> Any:
    command = [*COMMAND, "--data", str(data), "--methods", methods, *options]
    done = subprocess.run(command, env=environment(folder, **more), capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def values(result: Any) -> dict[str, Any]:
    return {score["method"]: (score["ids"], score["values"]) for score in result["scores"]}


def test_a_unit_that_ends_three_workers_is_set_aside(tmp_path: Path) -> None:
    data = copied_birds(tmp_path / "data", range(17))
    Image.new("RGB", (128, 128), "white").save(next(data.iterdir()) / "white.png")
    methods = {"ATTRLIB_METHODS": str(Path(__file__).parents[1] / "support" / "methods")}
    result = scored(tmp_path / "store", data, "IxG,Lethal", "--workers", "2", **methods)
    (note,) = [note for note in result["notes"] if "set aside" in note]
    count = int(note.split()[0])
    assert count in (2, 16), "the unit of the white picture"
    assert note.startswith(f"{count} item(s) were set aside, and the scores are those of the others: computing them ended 3 workers")
    assert "signal SIGKILL" in note
    assert any(re.match(r"3 worker\(s\) died and were replaced: signal SIGKILL", note) for note in result["notes"])
    assert {len(ids) for ids, _ in values(result).values()} == {18 - count}
    with closing(Store(folder=tmp_path / "store")) as store:
        assert [run.state for run in store.runs()] == ["cancelled"], "it can be resumed"


def test_a_driver_that_is_killed_takes_its_workers_along_and_resumes(tmp_path: Path) -> None:
    data = copied_birds(tmp_path / "data", range(20))
    (tmp_path / "gate").mkdir()
    gate = Gate(tmp_path / "gate")
    command = [*COMMAND, "--data", str(data), "--methods", "IxG,Held", "--workers", "2"]
    with subprocess.Popen(command, env=environment(tmp_path / "killed", **gate.environment), stdout=subprocess.DEVNULL) as driver:
        gate.let(5)
        until(lambda: not list(gate.folder.glob("ticket-*")), lambda: "the workers wait at the gate")
        workers = psutil.Process(driver.pid).children(recursive=True)
        assert len(workers) == 2
        driver.send_signal(signal.SIGKILL)
        driver.wait(LIMIT)
        until(lambda: not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers))
    gate.open()
    resumed = scored(tmp_path / "killed", data, "IxG,Held", "--workers", "2", **gate.environment)
    whole = scored(tmp_path / "whole", data, "IxG,Held", **gate.environment)
    assert values(resumed) == values(whole)
    # Each call at the gate is one picture: those that passed are stored, but for the two that were in flight.
    assert resumed["cached"] >= 3
    assert resumed["computed"] + resumed["cached"] == whole["computed"] == 40


def test_data_are_found_at_the_same_path_or_below_a_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = copied_birds(tmp_path / "node" / "sets" / "birds", range(3))
    source = "/home/somebody/sets/birds"
    monkeypatch.delenv(ROOTS, raising=False)
    with pytest.raises(DataError, match=rf"it has no data at {source}; copy the data there, or set {ROOTS}"):
        load_data(source, ())
    assert load_data(str(data), ()).name == str(data)
    assert load_data("birds", ()).name == "birds"
    assert len(load_data(source, (str(tmp_path / "node"),))) == 3
    monkeypatch.setenv(ROOTS, os.pathsep.join([str(tmp_path / "nowhere"), str(tmp_path / "node" / "sets")]))
    assert len(load_data(source, ())) == 3
    with pytest.raises(DataError, match=r"nor below .*nowhere"):
        load_data("/home/somebody/others", ())


def test_weights_are_read_where_they_are_or_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "node"))
    (tmp_path / "node").mkdir()
    file = tmp_path / "my.pth"
    file.write_bytes(b"weights")
    file.with_suffix(".txt").write_text("cat\ndog")
    files = weight_files(ModelSpec("timm:resnet18", str(file)))
    assert [Path(each.path).name for each in files] == ["my.pth", "my.txt"]
    assert weight_files(ModelSpec("timm:resnet18", "random:1")) == weight_files(ModelSpec("timm:resnet18")) == []

    def refuse(path: str) -> bytes:
        raise AssertionError(path)

    assert located_weights(files, refuse) == {str(file): str(file)}
    contents = {each.path: Path(each.path).read_bytes() for each in files}
    file.write_bytes(b"other weights")
    (copy,) = located_weights(files, contents.__getitem__).values()
    assert Path(copy).read_bytes() == b"weights"
    assert Path(copy).with_suffix(".txt").read_text() == "cat\ndog"
    assert located_weights(files, refuse) == {str(file): copy}, "the second worker of the machine reads the copy"
    keyed = [WeightFile(f"{file}#ema", each.path, each.digest) for each in files]
    assert located_weights(keyed, refuse) == {f"{file}#ema": f"{copy}#ema"}


def test_a_disk_without_room_for_weights_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").write_text("a file, in which no folder can be made")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "full"))
    with pytest.raises(ModelError, match=r"cannot read .*gone\.pth and cannot write a copy to .*free the disk"):
        located_weights([WeightFile("/gone.pth", "/gone.pth", "0")], lambda path: b"")


@pytest.mark.parametrize("workers", [0, -1, 1000])
def test_a_number_of_workers_is_checked(workers: int) -> None:
    with pytest.raises(SpecError, match=f"workers={workers} is not valid"), executors(workers):
        pass


def test_another_version_of_torch_is_refused(tmp_path: Path) -> None:
    data = copied_birds(tmp_path / "data", range(2))
    model = attrlib.load_model(MODEL, "cpu")
    with closing(Store(folder=tmp_path / "store")) as store:
        run_spec = RunSpec(model.spec, str(data), parse_protocols("sds"), parse_methods("IxG"))
        spec = worker_spec(make_plan(run_spec, model, attrlib.load_dataset(str(data)), store), 1, 1)
        with pytest.raises(SpecError, match=r"it has torch \S+, but the run uses torch 1\.0; install the same version"):
            load_worker(replace(spec, torch="1.0"), "cpu", store, lambda doing: None, lambda path: b"")


def test_studies_and_aggregates_use_workers(tmp_path: Path) -> None:
    """In one process, as importing the library takes seconds; what the workers add is what a run without them then finds."""
    data = copied_birds(tmp_path / "data", range(6))
    options = {"data": data, "methods": ["IxG", "Random"], "limit": 4, "models": [MODEL]}
    with closing(CountingStore(tmp_path / "store")) as store:
        spread = attrlib.study("agreement", **options, store=store, workers=1)
        assert store.repeated == []
        whole = attrlib.study("agreement", **options, store=store)
    with closing(CountingStore(tmp_path / "other")) as store:
        alone = attrlib.study("agreement", **options, store=store)
    assert spread.computed == alone.computed > 0
    assert whole.computed == 0
    assert repr(spread.rows) == repr(whole.rows) == repr(alone.rows)
    command = ["aggregate", "--setting", "sds", "--methods", "IxG", "--model", MODEL, "--data", str(data), "--json"]
    numbers = []
    for name, workers in (("one", []), ("two", ["--workers", "1"])):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ATTRLIB_CACHE", str(tmp_path / name))
            done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / name / "out"), *workers])
        assert done.exit_code == 0, done.output
        numbers.append(json.loads(done.stdout)["rows"])
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "0"], "workers=0 is not valid: give a number of processes from 1 to 256"),
        (["--cluster", "slurm"], "cluster='slurm' is not valid: write ray to start Ray on this machine"),
        (["--workers", "2", "--shard", "1/2"], "a shard is computed in one process; leave out --workers and --cluster"),
        (["--cluster", "ray", "--workers", "0"], "workers=0 is not valid: give a number of actors from 1"),
    ],
)
def test_options_are_checked(options: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["score", "--model", MODEL, "--data", "birds", "--protocol", "sds", "--methods", "IxG", *options])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


@pytest.mark.parametrize(("options", "message"), [(["--workers", "0"], "workers=0"), (["--cluster", "slurm"], "cluster='slurm'")])
def test_options_of_the_app_are_checked_before_it_starts(options: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["app", *options])
    assert done.exit_code == 2
    assert message in done.stderr


def test_the_app_hands_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    started: dict[str, str] = {}
    monkeypatch.setattr(attrlib.cli.serve.os, "execve", lambda _program, _arguments, environment: started.update(environment))
    monkeypatch.setattr(attrlib.cli.serve.subprocess, "run", lambda *_args, **_options: subprocess.CompletedProcess([], 0))
    CliRunner().invoke(app, ["app", "--workers", "3", "--cluster", "ray"])
    assert (started["ATTRLIB_WORKERS"], started["ATTRLIB_CLUSTER"]) == ("3", "ray")
