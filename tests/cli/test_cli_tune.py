"""Output, files and exit of `python -m attrlib tune`."""

import csv
import json
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from support.runs import classifier, passes, pictures
from typer.testing import CliRunner, Result

import attrlib.cli
import attrlib.cli.tune
from attrlib.engine.run import Event
from attrlib.errors import Cancelled
from attrlib.store import open_store
from attrlib.tuning import TunePlan, TuneResult

MODEL = classifier()
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True)
def _small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attrlib.cli.tune, "load_model", lambda *_arguments, **_options: MODEL)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The words of a search over two settings besides the default."""
    data = pictures(tmp_path / "pictures", 4)
    search = ["--space", "steps=1/4,baseline=zeros", "--limit", "4", "--held-out", "6"]
    return ["tune", "--data", str(data), "--protocol", "sds", "--method", "IG:steps=2", *search]


def invoke(*words: object) -> Result:
    return CliRunner().invoke(attrlib.cli.app, [str(word) for word in words])


def succeeds(*words: object) -> Result:
    result = invoke(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    assert text.count("\n") == 1
    return json.loads(text, parse_constant=refuse)


def test_the_space_comes_first_then_the_trials_the_verdict_and_how_to_use_it(words: list[str]) -> None:
    lines = succeeds(*words).stdout.splitlines()
    assert lines[0] == "space: steps=1/4, baseline=zeros: all of its 2 settings, and the default IG:steps=2"
    assert lines[1] == "sds: higher is better; trials, best first, with the difference to the default"
    trials = [line.split()[0] for line in lines[2:5]]
    assert set(trials) == {"IG:steps=2", "IG:steps=1:baseline=zeros", "IG:steps=4:baseline=zeros"}
    assert sum(" default " in line for line in lines[2:5]) == 1
    assert "6 held-out items" in lines[5]
    best = trials[0]
    recommended = "IG:steps=2" if "keep the default" in lines[5] else best
    assert lines[6] == f"use: attrlib.explain(model, images, '{recommended}')"
    assert f"explain --model efficientnet_lite0 --image sample:cat --methods {recommended}" in lines[7]
    assert lines[8].startswith(f"{3 * 4 + 6 * (2 - (best == 'IG:steps=2'))} computed, 0 cached")


def test_json_and_files_hold_the_result_of_the_library(words: list[str], tmp_path: Path) -> None:
    result = succeeds(*words, "--json", "--out", tmp_path / "out")
    fields = strict(result.stdout)
    expected = attrlib.tune(MODEL, words[2], "IG:steps=2", "sds", space={"steps": [1, 4], "baseline": ["zeros"]}, limit=4, held_out=6)
    assert (expected.computed, expected.cached) == (0, fields["computed"])
    for name in ("trials", "winner", "default", "difference", "finding", "better", "refused", "higher_is_better"):
        assert fields[name] == expected.as_json()[name], name
    assert "--space steps=1/4,baseline=zeros --limit 4 --held-out 6" in fields["cli"]
    assert json.loads((tmp_path / "out" / "tune.json").read_text()) == fields
    rows = list(csv.DictReader((tmp_path / "out" / "trials.csv").open()))
    assert [row["method"] for row in rows] == [trial["method"] for trial in fields["trials"]]
    assert [float(row["mean"]) for row in rows] == [trial["mean"] for trial in fields["trials"]]


def test_a_plan_lists_the_settings_and_computes_nothing(words: list[str]) -> None:
    lines = succeeds(*words, "--plan").stdout.splitlines()
    assert lines[1:4] == ["  IG:steps=2", "  IG:steps=1:baseline=zeros", "  IG:steps=4:baseline=zeros"]
    assert lines[4] == "0 results of the search cached, 12 missing"
    assert lines[5].startswith("at most ")
    assert not open_store().runs()
    fields = strict(succeeds(*words, "--plan", "--json").stdout)
    assert fields["settings"] == [line.strip() for line in lines[1:4]]
    assert (fields["cached"], fields["missing"], fields["refused"]) == (0, 12, [])


def test_a_stopped_search_says_so_and_the_same_command_resumes(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    original = attrlib.cli.tune.run_tuning

    def stopped(plan: TunePlan, on_progress: Any) -> TuneResult:
        def on_event(event: Event) -> None:
            on_progress(event)
            if event.done == 8:
                raise Cancelled("enough")

        return original(plan, on_event)

    monkeypatch.setattr(attrlib.cli.tune, "run_tuning", stopped)
    result = invoke(*words)
    assert result.exit_code == 130
    assert "stopped: all results so far are stored; the same command resumes" in result.stderr
    monkeypatch.setattr(attrlib.cli.tune, "run_tuning", original)
    fields = strict(succeeds(*words, "--json").stdout)
    assert fields["cached"] == 8
    assert fields["computed"] + fields["cached"] in (18, 24)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--method", "IG,IxG", "'IG,IxG' is not one method"),
        ("--protocol", "sds,ids", "'sds,ids' is not one protocol"),
        ("--protocol", "mass", "mass needs masks of the objects"),
        ("--space", "stepz=1/2", "unknown parameter of IG 'stepz'. Did you mean steps?"),
        ("--space", "steps", "'steps' is not a dimension of a search space"),
        ("--limit", "20", "has 20 items for sds, and the search takes 20 of them, so that none is left"),
        ("--sampler", "tpe", "unknown sampler 'tpe'. Known: grid, random"),
    ],
)
def test_an_error_is_one_line_before_anything_runs(words: list[str], flag: str, value: str, message: str) -> None:
    if flag in words:
        words[words.index(flag) + 1] = value
    else:
        words += [flag, value]
    with passes() as counted:
        result = invoke(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert counted.images == 0
