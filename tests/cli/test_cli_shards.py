"""Shards on the command line: `score --shard`, Slurm arrays, `cache merge`, and `score --status`."""

import json
import shutil
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from support.runs import classifier, pictures
from typer.testing import CliRunner, Result

import attrlib.cli.score

SCORE = ("score", "--protocol", "sds", "--methods", "IxG,Random")
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def model() -> attrlib.Classifier:
    return classifier()


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: attrlib.Classifier) -> Path:
    """Twenty pictures, and a small model in place of the embedded one; no Slurm."""
    monkeypatch.setattr(attrlib.cli.score, "load_model", lambda *_args, **_options: model)
    for name in ("ID", "COUNT", "MIN", "MAX", "STEP"):
        monkeypatch.delenv(f"SLURM_ARRAY_TASK_{name}", raising=False)
    return pictures(tmp_path / "pictures")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(attrlib.cli.app, [str(a) for a in arguments])


def succeeds(*arguments: object) -> Result:
    result = invoke(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def as_json(*arguments: object) -> dict[str, Any]:
    return json.loads(succeeds(*arguments, "--json").stdout)


def fails(*arguments: object) -> str:
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), (result.output, result.exception)
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def on(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRLIB_CACHE", str(machine))


def test_shards_of_two_machines_are_merged_on_a_third(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shared"
    for index in range(2):
        on(tmp_path / f"machine{index}", monkeypatch)
        result = succeeds(*SCORE, "--data", data, "--shard", f"{index}/2", "--shard-dir", folder)
        assert result.stdout.startswith(f"shard {index}/2: ")
        (run,) = folder.iterdir()
        assert result.stdout.endswith(f"wrote {run}; when all shards are done: python -m attrlib cache merge {run}\n")
    on(tmp_path / "third", monkeypatch)
    assert " shards: " in succeeds("cache", "merge", folder).stdout
    assert as_json("cache", "merge", folder)["new"] == 0
    assert as_json(*SCORE, "--data", data)["computed"] == 0


def test_by_default_a_task_of_a_slurm_array_is_a_shard_beside_the_store(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ID": 2, "COUNT": 2, "MIN": 1, "MAX": 2, "STEP": 1}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    result = succeeds(*SCORE, "--data", data, "--json")
    assert "note: shard 1/2, the task of this Slurm array; --shard none scores all items" in result.stderr
    fields = json.loads(result.stdout)
    assert (fields["shard"], Path(fields["folder"]).parent) == ("1/2", tmp_path / "cache" / "shards")
    assert 0 < fields["items"] < 20
    assert as_json(*SCORE, "--data", data, "--shard", "none")["computed"] == 2 * (20 - fields["items"])


def test_the_plan_of_a_shard_is_a_part_of_the_whole(data: Path) -> None:
    missing = [as_json(*SCORE, "--data", data, "--plan", "--shard", f"{index}/3")["missing"] for index in range(3)]
    assert sum(missing) == as_json(*SCORE, "--data", data, "--plan")["missing"] == 40


def test_a_merge_that_is_not_complete_ends_with_what_to_do(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    succeeds(*SCORE, "--data", data, "--shard", "1/2", "--shard-dir", folder)
    assert "1 of 2 shards is missing (0/2): run score with --shard 0/2" in fails("cache", "merge", folder)
    shutil.rmtree(folder)
    assert "there is no folder" in fails("cache", "merge", folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cache", "merge"), "no shards to merge: give the folder"),
        (("cache", "show", "folder"), "cache show takes no folder"),
        ((*SCORE, "--data", "birds", "--shard", "2/2"), "numbered from 0"),
        ((*SCORE, "--data", "birds", "--shard", "0/2", "--ci-width", "0.5"), "which a shard does not know"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    assert message in fails(*arguments)
