"""Shards on the command line: `score --shard`, Slurm arrays, `cache merge`, and `score --status`."""

import json
import shutil
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from support.runs import classifier, pictures, plan_of, spoil
from typer.testing import CliRunner, Result

import attrlib.cli.score
import attrlib.store

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


# The state of a run


def status(*arguments: object) -> dict[str, dict[str, Any]]:
    rows = as_json(*arguments, "--status")["evaluations"]
    assert all(row["done"] + row["claimed"] + row["failed"] + row["missing"] == row["total"] for row in rows)
    return {row["method"]: row for row in rows}


def test_the_status_counts_what_is_done_claimed_failed_and_missing(data: Path, model: attrlib.Classifier) -> None:
    asked = ("score", "--protocol", "sds", "--methods", "IxG,Rollout", "--data", data)
    assert succeeds(*asked, "--status").stdout.splitlines()[-1].startswith("not started; 20 results are missing: about ")
    as_json(*asked[:-1], data, "--limit", 5)
    before = status(*asked)
    assert (before["IxG"]["done"], before["IxG"]["missing"]) == (5, 15)
    assert (before["Rollout"]["total"], "self-attention" in before["Rollout"]["reason"]) == (0, True)
    store = attrlib.store.open_store()
    plan = plan_of(model, "sds", "IxG", data, store)
    (group,) = plan.groups
    (evaluation,) = group.group.evaluations
    missing = [key for key, cached in zip(group.keys, group.cached[evaluation], strict=True) if not cached]
    other = store.claims()
    other.claim([{evaluation.key: missing[:3]}])
    assert (status(*asked)["IxG"]["claimed"], status(*asked)["IxG"]["missing"]) == (3, 12)
    other.release([{evaluation.key: missing[:3]}])
    as_json(*asked)
    lines = succeeds(*asked, "--status").stdout.splitlines()
    assert lines[-1] == "done; nothing is missing"
    assert " ".join(lines[1].split()) == "IxG 20 done, of 20"


def test_the_status_says_which_pictures_failed_and_why(data: Path) -> None:
    spoil(data)
    as_json(*SCORE, "--data", data)
    row = status(*SCORE, "--data", data)["IxG"]
    assert (row["failed"], row["missing"]) == (row["total"] - row["done"], 0)
    assert "cut.png" in row["reason"]
    assert "failed, of" in succeeds(*SCORE, "--data", data, "--status").stdout


def test_the_status_names_the_shards_that_are_missing(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    succeeds(*SCORE, "--data", data, "--shard", "1/3", "--shard-dir", folder)
    assert "shards: 1 finished, 2 missing (0/3, 2/3)" in succeeds(*SCORE, "--data", data, "--status", "--shard-dir", folder).stdout
    for index in (0, 2):
        succeeds(*SCORE, "--data", data, "--shard", f"{index}/3", "--shard-dir", folder)
    fields = as_json(*SCORE, "--data", data, "--status", "--shard-dir", folder)
    assert (fields["finished_shards"], fields["missing_shards"]) == (["0/3", "1/3", "2/3"], [])


def test_the_status_of_grids_is_an_upper_bound(data: Path) -> None:
    result = succeeds("score", "--protocol", "gridpg:confidence=0.5", "--methods", "IxG", "--data", data, "--status")
    assert "not started; at most 5 results are missing" in result.stdout
