"""Bad luck with workers: a unit that ends them, a driver that dies, files that are elsewhere."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

# isort: split
import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import psutil
import pytest
from PIL import Image
from support.drivers import check_resumed, kill_driver
from support.executors import KILLS, MODEL, CountingStore, copied_birds, crew_of, executed, on
from support.gate import Gate, methods_of_tests
from typer.testing import CliRunner

import attrlib.cli.serve
from attrlib.cli.app import app
from attrlib.engine.executors import choice
from attrlib.engine.executors.choice import executors
from attrlib.engine.executors.processes import ProcessCrew
from attrlib.engine.executors.weights import WeightFile, located_weights, weight_files
from attrlib.engine.executors.worker_spec import ROOTS, load_data, load_worker, worker_spec
from attrlib.engine.plan import make_plan
from attrlib.errors import DataError, ModelError, SpecError
from attrlib.specs import ModelSpec, RunSpec, parse_methods, parse_protocols
from attrlib.store import Store


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with methods_of_tests(tmp_path / "gate") as gate:
        yield gate


def test_a_unit_that_ends_three_workers_is_set_aside(gate: Gate, tmp_path: Path) -> None:
    data = copied_birds(tmp_path / "data", range(17))
    # In the first unit: the run goes on after it.
    Image.new("RGB", (128, 128), "white").save(min(data.iterdir()) / "0000.png")
    spec = RunSpec(ModelSpec(MODEL), str(data), parse_protocols("sds"), parse_methods("IxG,Lethal"))
    with crew_of("processes", 1) as crew:
        result = executed(spec, tmp_path / "store", on(crew))
    (note,) = [note for note in result.notes if "set aside" in note]
    assert note.startswith("16 item(s) were set aside, and the scores are those of the others: computing them ended 3 workers")
    assert "signal SIGKILL" in note
    assert any(re.match(r"3 worker\(s\) died and were replaced: signal SIGKILL", note) for note in result.notes)
    assert {len(score.ids) for score in result.scores.values()} == {2}
    with closing(Store(folder=tmp_path / "store")) as store:
        assert [run.state for run in store.runs()] == ["cancelled"], "it can be resumed"


@pytest.mark.parametrize("attempt", range(KILLS))
def test_a_driver_that_is_killed_takes_its_workers_along_and_resumes(attempt: int, gate: Gate, tmp_path: Path) -> None:
    data, calls = copied_birds(tmp_path / "data", range(20)), 5 + attempt % 12
    kill_driver(["--workers", "2"], data, tmp_path / "killed", gate, calls, lambda pid: psutil.Process(pid).children(recursive=True))
    gate.open()
    check_resumed(data, tmp_path / "killed", calls)


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


def test_studies_and_aggregates_use_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one worker, as its start takes seconds; what it adds is what a run without workers then finds."""
    crew, sizes = ProcessCrew(1), list[int]()

    def shared(size: int) -> ProcessCrew:
        sizes.append(size)
        return crew

    monkeypatch.setattr(choice, "ProcessCrew", shared)
    monkeypatch.setattr(choice, "closing", nullcontext)
    with closing(crew):
        check_studies_and_aggregates(tmp_path)
    assert sizes == [1, 1]


def check_studies_and_aggregates(tmp_path: Path) -> None:
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
