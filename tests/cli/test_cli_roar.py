"""Output, files and exit of `python -m attrlib roar`."""

import csv
import json
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from support.planted import use_small
from support.runs import classifier, pictures
from typer.testing import CliRunner, Result

import attrlib.cli
import attrlib.cli.roar
from attrlib.engine.run import Event
from attrlib.errors import Cancelled
from attrlib.retraining import RoarPlan, RoarResult

MODEL = classifier()
METHODS = "IxG,Sobel"
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True)
def _small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small(monkeypatch)
    monkeypatch.setattr(attrlib.cli.roar, "load_model", lambda *_arguments, **_options: MODEL)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The words of six trainings for two methods, and of those of images as they are and random maps."""
    data = pictures(tmp_path / "pictures", 6)
    settings = ["--size", "16", "--epochs", "1", "--batch", "8", "--shares", "0.5", "--seeds", "2"]
    return ["roar", "--data", str(data), "--methods", METHODS, *settings]


def invoke(*words: object) -> Result:
    return CliRunner().invoke(attrlib.cli.app, [str(word) for word in words])


def succeeds(*words: object) -> Result:
    result = invoke(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def test_the_plan_comes_first_then_areas_accuracies_and_the_finding(words: list[str]) -> None:
    lines = succeeds(*words, "--keep").stdout.splitlines()
    assert lines[0] == (
        "14 trainings of attrlib:small_resnet10_w16 for 1 epochs on 20 images of 16 x 16 px, tested on 10: 0 cached, 14 missing"
    )
    assert lines[1].startswith("ROAR: area under the accuracy, difference to random maps; most relevant pixels replaced; lower is better")
    assert {line.split()[1] for line in lines[2:5]} == {"IxG", "Sobel", "Random"}
    assert sum(line.endswith("chance") for line in lines[2:5]) == 1
    assert all(" 0: " in line and " 0.5: " in line for line in lines[5:8])
    assert lines[8].startswith("KAR: ")
    assert lines[15].startswith("ROAR: ")
    assert " KAR: " in lines[15]
    assert lines[16].startswith("14 trained, 0 cached, ")


def test_json_and_files_hold_the_result_of_the_library(words: list[str], tmp_path: Path) -> None:
    fields = json.loads(succeeds(*words, "--json", "--out", tmp_path / "out").stdout)
    expected = attrlib.roar(MODEL, words[2], METHODS, shares=[0.5], size=16, epochs=1, batch=8, seeds=2)
    assert (expected.computed, expected.cached) == (0, fields["computed"])
    for name in ("rows", "accuracies", "finding", "refused", "tests", "trains", "largest"):
        assert fields[name] == expected.as_json()[name], name
    assert "--methods IxG,Sobel --shares 0.5 --seeds 2 --size 16 --epochs 1 --batch 8" in fields["cli"]
    assert json.loads((tmp_path / "out" / "roar.json").read_text()) == fields
    rows = list(csv.DictReader((tmp_path / "out" / "roar.csv").open()))
    assert [float(row["area"]) for row in rows] == [row["area"] for row in fields["rows"]]
    assert (tmp_path / "out" / "roar.svg").read_bytes().startswith(b"<?xml")


def test_a_plan_counts_and_trains_nothing(words: list[str]) -> None:
    lines = succeeds(*words, "--plan").stdout.splitlines()
    assert lines[0].endswith("0 cached, 8 missing")
    assert lines[1].startswith("at most ")
    fields = json.loads(succeeds(*words, "--plan", "--json").stdout)
    assert (fields["trainings"], fields["cached"], fields["missing"], fields["refused"]) == (8, 0, 8, [])


def test_a_method_that_is_not_defined_is_named_before_anything_runs(words: list[str]) -> None:
    words[4] += ",Rollout"
    result = succeeds(*words, "--plan")
    assert "note: Rollout: refused: " in result.stderr


def test_after_a_stop_the_same_command_resumes(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    original = attrlib.cli.roar.run_roar

    def stopped(plan: RoarPlan, on_progress: Any, workers: int | None) -> RoarResult:
        def on_event(event: Event) -> None:
            on_progress(event)
            if event.done == 3:
                raise Cancelled("enough")

        return original(plan, on_event, workers)

    monkeypatch.setattr(attrlib.cli.roar, "run_roar", stopped)
    result = invoke(*words)
    assert result.exit_code == 130
    assert "stopped: finished trainings are stored; the same command resumes" in result.stderr
    monkeypatch.setattr(attrlib.cli.roar, "run_roar", original)
    fields = json.loads(succeeds(*words, "--json").stdout)
    assert (fields["computed"], fields["cached"]) == (5, 3)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--shares", "0,0.5", "share 0 replaces nothing"),
        ("--shares", "1", "share 1 replaces every pixel"),
        ("--seeds", "0", "seeds=0 is out of range"),
        ("--workers", "0", "workers=0 is not valid"),
        ("--methods", "Rollout", "has no self-attention"),
        ("--data", "nowhere", "unknown data set 'nowhere'"),
    ],
)
def test_an_error_is_one_line_before_anything_runs(words: list[str], flag: str, value: str, message: str) -> None:
    if flag in words:
        words[words.index(flag) + 1] = value
    else:
        words += [flag, value]
    result = invoke(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
