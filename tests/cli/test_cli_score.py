"""Output and exit of `python -m attrlib score`, `protocols`, `datasets` and `cache`."""

import csv
import dataclasses
import io
import itertools
import json
import math
import os
import pty
import re
import select
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
from PIL import Image
from support import runs
from support.gate import Gate
from support.runs import GRID, HALF, SIZE, classifier, net, pictures
from support.waiting import LIMIT, until
from torch import nn
from typer.testing import CliRunner, Result

import attrlib.cli.events
import attrlib.cli.score
from attrlib.analysis.funnybirds import NAMES
from attrlib.engine.plan import Plan
from attrlib.engine.results import RunResult
from attrlib.engine.run import Event, ExecutorFactory
from attrlib.methods import METHODS
from attrlib.models import EMBEDDED, load_model
from attrlib.models.modules.preserve import has_bfloat16
from attrlib.protocols import PROTOCOLS
from attrlib.store import Store, engines, open_store
from attrlib.studies.trust import Evidence, Kind

MODEL = classifier()
GELU = classifier(activation=nn.GELU)
SCORE = ("score", "--protocol", "sds", "--methods", "IxG,Random")
BY_NUMBER = "classes are matched by number: '0' is class 0, '1' is class 1, '2' is class 2, and so on; by order, they match alike"
HERE = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(autouse=True)
def _small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the embedded model by a small one; `--checkpoint gelu` has no ReLU. Other models load as usual."""

    def load(name: str, device: str = "auto", *, checkpoint: str | None = None, deletion_tuned: bool = False) -> attrlib.Classifier:
        if name != EMBEDDED or device != "auto" or checkpoint not in (None, "gelu"):
            return load_model(name, device, checkpoint=checkpoint, deletion_tuned=deletion_tuned)
        if deletion_tuned:
            return attrlib.wrap_model(net(), SIZE, HALF, HALF, deletion_tuned=True)
        return GELU if checkpoint else MODEL

    monkeypatch.setattr(attrlib.cli.score, "load_model", load)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return pictures(tmp_path / "pictures")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(attrlib.cli.app, [str(a) for a in arguments])


def strict(text: str) -> Any:
    """Parse strict JSON in one line, without the NaN and Infinity that Python's parser also accepts."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    assert text.count("\n") == 1
    return json.loads(text, parse_constant=refuse)


def succeeds(*arguments: object) -> Result:
    result = invoke(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def as_json(*arguments: object) -> dict[str, Any]:
    result = succeeds(*arguments, "--json")
    assert result.stderr == ""
    output = strict(result.stdout)
    assert isinstance(output, dict)
    return output


def fails(*arguments: object) -> str:
    """Return the one-line error message; check that there is no standard output and no traceback."""
    result = invoke(*arguments)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) > 30
    return result.stderr


def with_signals(monkeypatch: pytest.MonkeyPatch, numbers: Mapping[int, int]) -> None:
    """Send this process signals at events, by their number from 0."""
    original = attrlib.cli.score.run

    def run(plan: Plan, on_progress: Callable[[Event], None], executor: ExecutorFactory) -> RunResult:
        seen = iter(range(10**6))

        def watched(event: Event) -> None:
            number = next(seen)
            if number in numbers:
                os.kill(os.getpid(), numbers[number])
            on_progress(event)

        return original(plan, watched, executor)

    monkeypatch.setattr(attrlib.cli.score, "run", run)


def cancelled(monkeypatch: pytest.MonkeyPatch, *arguments: object, at: int = 20, number: int = signal.SIGINT) -> Result:
    with monkeypatch.context() as patch:
        with_signals(patch, {at: number})
        result = invoke(*arguments)
    assert result.exit_code == 130, result.output
    return result


# Output


def test_json_is_one_object_with_the_librarys_values(data: Path, tmp_path: Path) -> None:
    output = as_json("score", "--protocol", f"sds,{GRID}", "--methods", "IxG,Grad-CAM", "--data", data, "--limit", 6, "--seed", 2)
    with closing(Store(folder=tmp_path / "other")) as store:
        result = attrlib.compare(["sds", GRID], MODEL, ["IxG", "Grad-CAM"], data, limit=6, seed=2, store=store)
    assert len(output["scores"]) == 4
    for row, expected in zip(output["scores"], result.table(), strict=True):
        (score,) = (s for (p, m), s in result.scores.items() if (str(p), str(m)) == (row["protocol"], row["method"]))
        assert row["values"] == score.values.tolist()
        assert row["ids"] == list(score.ids)
        seconds = row.pop("seconds"), expected.pop("seconds")
        assert {name: row[name] for name in expected} == expected
        assert (seconds[0] is None) == math.isnan(seconds[1]) == (row["protocol"] == GRID)  # type: ignore[arg-type]
    assert (output["computed"], output["cached"], output["refused"], output["agreement"]) == (2 * 6 + 2 * 5, 0, [], {})
    assert output["notes"] == [BY_NUMBER, "20 of 20 images (5 classes) pass the filter confidence=0.5 and allow 5 grids"]
    assert output["seconds"] > 0


def test_undefined_values_are_null_in_json(data: Path, tmp_path: Path) -> None:
    (tmp_path / "one" / "0").mkdir(parents=True)
    Image.new("RGB", (20, 20), (99, 99, 99)).save(tmp_path / "one" / "0" / "grey.png")
    (row,) = as_json("score", "--protocol", "sds", "--methods", "Sobel", "--data", tmp_path / "one")["scores"]
    assert row["values"] == [None]
    assert (row["mean"], row["low"], row["high"], row["n"], row["undefined"]) == (None, None, None, 1, 1)
    assert "1 undefined" in succeeds("score", "--protocol", "sds", "--methods", "Sobel", "--data", tmp_path / "one").stdout


def test_the_table_agrees_with_json(data: Path) -> None:
    arguments = ("score", "--protocol", f"ids:steps=4:order=descending,sds,idsds,{GRID}", "--methods", "IxG,Random", "--data", data)
    rows = as_json(*arguments)["scores"]
    result = succeeds(*arguments)
    lines = result.stdout.splitlines()
    assert "ids:steps=4:order=descending: lower is better" in lines
    assert "sds: higher is better, chance 0" in lines
    assert f"{GRID}: higher is better, chance 0.25" in lines
    methods = [line for line in lines if line.startswith(" ")]
    assert len(methods) == len(rows) == 6
    for line, row in zip(methods, rows, strict=True):
        ranks, name, mean, low, high, rest = line.replace("[", "").replace("]", "").replace(",", " ").split(maxsplit=5)
        assert ranks == (f"{row['first']}" if row["first"] == row["last"] else f"{row['first']}–{row['last']}")
        assert name == row["method"]
        assert [float(v) for v in (mean, low, high)] == pytest.approx([row["mean"], row["low"], row["high"]], abs=5e-5)
        assert rest.startswith(f"n={row['n']}")
        assert ("s per map" in rest) == (row["seconds"] is not None)
    assert re.fullmatch(r"0 computed, 90 cached, \d+ s", lines[-1])
    notes = result.stderr.splitlines()
    assert all(note.startswith("note: ") for note in notes)
    assert [note.split(":")[1].strip() for note in notes if "refused" in note] == ["idsds IxG, Random"]
    assert any("20 of 20 images" in note for note in notes)


@pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="no bfloat16 here")
def test_fast_reports_the_agreement(data: Path) -> None:
    arguments = ("score", "--protocol", "sds", "--methods", "IG:steps=3,IxG", "--data", data, "--fast")
    output = as_json(*arguments)
    assert set(output["agreement"]) == {"IG:steps=3", "IxG"}
    assert "--fast" in output["cli"]
    lines = succeeds(*arguments).stdout.splitlines()
    assert f"note: fast IG:steps=3: rank correlation {output['agreement']['IG:steps=3']:.3f} with the exact maps" in lines


def test_the_command_line_of_a_run_repeats_it(data: Path) -> None:
    output = as_json(
        *("score", "--protocol", "sds:grid=2,ids:steps=3", "--methods", "IG:steps=3,IxG", "--layer", "act1", "--data", data, "--limit", 9),
        *("--seed", 4, "--ci-width", 0.01, "--classes", "index"),
    )
    words = shlex.split(output["cli"])
    assert words[:4] == ["python", "-m", "attrlib", "score"]
    again = as_json(*words[3:])
    assert (again["computed"], again["cached"]) == (0, 36)
    assert again["cli"] == output["cli"]
    assert [row["values"] for row in again["scores"]] == [row["values"] for row in output["scores"]]


def test_the_command_line_of_a_run_of_idsds_repeats_it(data: Path) -> None:
    output = as_json("score", "--protocol", "idsds", "--methods", "IxG", "--data", data, "--deletion-tuned")
    assert output["computed"] == 20
    assert as_json(*shlex.split(output["cli"])[3:])["cached"] == 20


def test_a_second_run_computes_nothing_and_a_higher_limit_only_the_rest(data: Path) -> None:
    first = as_json(*SCORE, "--data", data, "--limit", 8)
    second = as_json(*SCORE, "--data", data, "--limit", 8)
    third = as_json(*SCORE, "--data", data, "--limit", 16)
    assert [(r["computed"], r["cached"]) for r in (first, second, third)] == [(16, 0), (0, 16), (16, 16)]
    assert [r["values"] for r in second["scores"]] == [r["values"] for r in first["scores"]]


def test_layer_is_for_methods_that_name_none(data: Path) -> None:
    output = as_json("score", "--protocol", "sds", "--methods", "IxG,Gradient@act2,Grad-CAM", "--layer", "act1", "--data", data)
    assert {row["method"] for row in output["scores"]} == {"IxG@act1", "Gradient@act2", "Grad-CAM@act1"}


def test_all_methods_and_all_protocols(data: Path) -> None:
    output = as_json("score", "--protocol", "sds:grid=2", "--methods", "all", "--data", data, "--limit", 1)
    of_tokens = {"TIS", "ViT-CX"}
    ordinary = {name for name, method in METHODS.items() if method.family not in ("intrinsic", "transformer")} - of_tokens
    assert {row["method"] for row in output["scores"]} == ordinary
    gelu = as_json("score", "--protocol", "sds:grid=2", "--methods", "all", "--data", data, "--limit", 1, "--checkpoint", "gelu")
    of_relus = {"Guided Backprop", "Deconvolution", "Guided Grad-CAM"}
    assert {r["method"] for r in gelu["refused"]} == of_relus | (set(METHODS) - ordinary)
    assert {row["method"] for row in gelu["scores"]} == ordinary - of_relus
    output = as_json("score", "--protocol", "all", "--methods", "Random", "--data", data, "--limit", 1)
    refused = {r["protocol"] for r in output["refused"]}
    assert refused == {"idsds", "parts", "funnybirds", "pointing", "mass", "rank", "energy"}
    assert {row["protocol"] for row in output["scores"]} == set(PROTOCOLS) - refused


def test_classes_by_order(tmp_path: Path, data: Path) -> None:
    for k, name in enumerate(("a", "b", "c", "d", "2")):
        (data / str(k)).rename(data / f"class of {name}")
    output = as_json(*SCORE, "--data", data, "--classes", "order")
    assert output["computed"] == 40
    assert "none of the model's" in fails(*SCORE, "--data", data, "--classes", "index")


def test_notes_about_unreadable_images(data: Path) -> None:
    runs.spoil(data)
    result = succeeds(*SCORE, "--data", data)
    for name in ("nonsense.png", "cut.png", "gone.png"):
        assert name in result.stderr
    notes = " ".join(as_json(*SCORE, "--data", data)["notes"])
    assert re.search(r"\b[23] (item|image)\(s\)", notes)
    assert all(row["n"] == 20 for row in as_json(*SCORE, "--data", data)["scores"])


def test_ci_width_stops_a_run(tmp_path: Path) -> None:
    output = as_json(*SCORE, "--data", pictures(tmp_path / "many", 8), "--ci-width", "1.5")
    assert {row["n"] for row in output["scores"]} == {16}


# Plan


def test_a_plan_computes_nothing(data: Path) -> None:
    before = as_json(*SCORE, "--data", data, "--plan")
    assert (before["cached"], before["missing"], before["upper_bound"], before["refused"], before["notes"]) == (
        0,
        40,
        False,
        [],
        [BY_NUMBER],
    )
    assert before["seconds"] > 0
    assert before["bytes"] > 0
    assert (open_store().runs(), open_store().sizes().records) == ([], 0)
    lines = succeeds(*SCORE, "--data", data, "--plan").stdout.splitlines()
    assert lines[0] == "0 results cached, 40 missing"
    assert re.fullmatch(r"about \d+ s and \d+ MB", lines[1])
    as_json(*SCORE, "--data", data, "--limit", 5)
    assert "10 results cached, 30 missing" in succeeds(*SCORE, "--data", data, "--plan").stdout


def test_a_plan_of_grids_is_at_most(data: Path) -> None:
    arguments = ("score", "--protocol", f"{GRID},idsds", "--methods", "IxG", "--data", data, "--plan")
    output = as_json(*arguments)
    assert (output["cached"], output["missing"], output["upper_bound"]) == (0, 5, True)
    assert [(r["protocol"], r["method"]) for r in output["refused"]] == [("idsds", "IxG")]
    result = succeeds(*arguments)
    assert "at most 5 missing" in result.stdout
    assert "note: idsds IxG: refused: " in result.stderr
    succeeds(*arguments[:-1])
    after = as_json(*arguments)
    assert (after["cached"], after["missing"], after["upper_bound"], after["seconds"]) == (5, 0, False, 0)


# Cancelled and resumed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cancelled_run_can_be_resumed(number: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("score", "--protocol", f"sds:grid=2,{GRID}", "--methods", "IG:steps=3,Random", "--data", data, "--limit", 20)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    result = cancelled(monkeypatch, *arguments, number=number)
    assert result.stdout == ""
    assert "all results so far are stored; resume with python -m attrlib score --resume" in result.stderr
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    (run,) = open_store().runs()
    assert run.state == "cancelled"
    resumed = as_json("score", "--resume")
    assert resumed["cached"] > 0
    assert resumed["computed"] > 0
    assert resumed["cached"] + resumed["computed"] == 2 * (20 + 5)
    assert [r.state for r in open_store().runs()] == ["done"]
    monkeypatch.setenv("ATTRLIB_CACHE", str(tmp_path / "fresh"))
    whole = as_json(*arguments)
    for name in ("scores", "refused", "notes", "agreement"):
        for row in resumed["scores"] + whole["scores"]:
            row.pop("seconds", None)
        assert resumed[name] == whole[name]


def test_a_second_interrupt_stops_immediately(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, seen = attrlib.cli.score.run, []

    def run(*arguments: Any) -> Any:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("still here")
        return original(*arguments)

    monkeypatch.setattr(attrlib.cli.score, "run", run)
    result = invoke(*SCORE, "--data", data)
    assert (result.exit_code, result.stderr, seen) == (130, "cancelled\n", ["still here"])


def test_resume_keeps_all_options_of_the_run(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (*SCORE, "--data", data, "--limit", 7, "--seed", 5, "--ci-width", 0.001, "--classes", "order", "--layer", "act1")
    cancelled(monkeypatch, *arguments, at=3)
    resumed = as_json("score", "--resume")
    again = as_json(*arguments)
    assert again["computed"] == 0
    assert resumed["cli"] == again["cli"]


def test_filter_models_are_used_and_resumed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("score", "--protocol", "gridpg:confidence=0.5", "--methods", "IxG,Random", "--data", data)
    arguments = (*arguments, "--filter-models", f"{EMBEDDED}@gelu")
    assert "at most" in succeeds(*arguments, "--plan").stdout
    cancelled(monkeypatch, *arguments, at=8)
    resumed = as_json("score", "--resume")
    assert f"confidence=0.5 of {MODEL.name} and {GELU.name}" in resumed["notes"][0]
    assert f"--filter-models {EMBEDDED}@" in resumed["cli"]
    assert as_json(*arguments)["computed"] == 0
    assert "unknown model" in fails(*arguments[:-1], "nothing_such")


def test_resume_of_a_model_that_was_fine_tuned(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled(monkeypatch, "score", "--protocol", "idsds", "--methods", "IxG,Random", "--data", data, "--deletion-tuned", at=3)
    assert len(as_json("score", "--resume")["scores"]) == 2


def test_resume_with_nothing_to_resume(data: Path) -> None:
    assert "no run to resume" in fails("score", "--resume")
    succeeds(*SCORE, "--data", data)
    assert "no run to resume" in fails("score", "--resume")


def test_resume_plans_too(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled(monkeypatch, *SCORE, "--data", data)
    output = as_json("score", "--resume", "--plan")
    assert output["cached"] + output["missing"] == 40
    assert open_store().runs()[0].state == "cancelled"


def test_resume_may_be_combined_with_a_complete_command(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled(monkeypatch, *SCORE, "--data", data)
    assert as_json(*SCORE, "--data", data, "--resume")["computed"] < 40


@pytest.mark.parametrize(
    "option",
    [
        ("--limit", 3),
        ("--seed", 1),
        ("--fast",),
        ("--layer", "act1"),
        ("--ci-width", 0.5),
        ("--filter-models", EMBEDDED),
        ("--model", "timm:resnet18"),
        ("--checkpoint", "random:1"),
        ("--input-size", "64"),
        ("--deletion-tuned",),
        ("--classes", "index"),
    ],
)
def test_resume_does_not_ignore_other_options(option: tuple[object, ...], data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled(monkeypatch, *SCORE, "--data", data)
    assert option[0] in fails("score", "--resume", *option)


def test_resume_continues_the_last_stopped_run(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (*SCORE, "--data", data, "--seed", 1), (*SCORE, "--data", data, "--seed", 2)
    for arguments in (one, other, one):
        cancelled(monkeypatch, *arguments, at=1)
    assert "--seed 1" in as_json("score", "--resume")["cli"]


def test_resume_skips_runs_that_only_python_can_resume(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled(monkeypatch, *SCORE, "--data", data)
    with pytest.raises(attrlib.Cancelled):
        attrlib.compare(["sds"], GELU, ["IxG"], data, on_progress=runs.stop_at(1))
    assert as_json("score", "--resume")["cached"] > 0


def test_resume_from_another_folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data.parent)
    cancelled(monkeypatch, *SCORE, "--data", data.name)
    monkeypatch.chdir("/")
    assert as_json("score", "--resume")["cached"] > 0


def test_resume_skips_runs_of_another_kind(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled(monkeypatch, *SCORE, "--data", data)
    open_store().save_run("later", {"kind": "tuning"}, {})
    assert as_json("score", "--resume")["cached"] > 0


# Bad input


def flat(folder: Path) -> None:
    for k in range(5):
        runs.picture(k, 0).save(folder / f"{k}.png")


def mixed(folder: Path) -> None:
    flat(folder)
    pictures(folder, 1)


def animals(folder: Path) -> None:
    pictures(folder, 1, classes=4)
    for k, name in enumerate(("ant", "bee", "99", "n01440764")):
        (folder / str(k)).rename(folder / name)


def unreadable(folder: Path) -> None:
    (folder / "0").mkdir()
    (folder / "0" / "a.png").write_bytes(b"nonsense")


@pytest.mark.parametrize(
    ("make", "protocol", "words"),
    [
        (lambda folder: None, "sds", "no pictures in"),
        (flat, "sds", "5 image(s) without a class"),
        (mixed, "sds", "both directly and in subfolders"),
        (animals, "sds", "4 of the 4 classes of the data match none of the model's 5: '99', 'ant', 'bee', ..."),
        (unreadable, "sds", "none of the 1 images"),
        (lambda folder: pictures(folder, 2, classes=3), GRID, "a 2 x 2 grid needs images of 4 classes"),
        (lambda folder: pictures(folder, 2), "difull:grid=3:confidence=0", "a 3 x 3 grid needs images of 8 classes, two of one of them"),
        (lambda folder: pictures(folder, 2), "gridpg:grid=4", "Lower confidence, use more images, or a smaller grid"),
    ],
)
def test_data_that_cannot_be_used(make: Callable[[Path], object], protocol: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    make(tmp_path / "data")
    assert words in fails("score", "--protocol", protocol, "--methods", "Random", "--data", tmp_path / "data")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--limit", "0"), "limit=0 is out of range: a whole number from 1"),
        (("--limit", "-4"), "limit=-4 is out of range"),
        (("--limit", "many"), "limit='many' is not valid"),
        (("--seed", "x"), "seed='x' is not valid"),
        (("--ci-width", "0"), "ci_width=0 is out of range: a number above 0"),
        (("--ci-width", "nan"), "ci_width='nan' is not valid"),
        (("--max-memory", "10KB"), "for a single image, more than the"),
        (("--max-memory", "lots"), "max-memory='lots' is not valid; give a number of bytes, such as 4GB"),
        (("--max-memory", "-1GB"), "max-memory='-1GB' is not valid"),
        (("--classes", "wnids"), "unknown way to match classes 'wnids'. Did you mean wnid"),
        (("--classes", "wnid"), "none of the model's 5"),
        (("--data", "nowhere/at/all"), "unknown data set 'nowhere/at/all'"),
        (("--data", ""), "unknown data set"),
        (("--data", "photos"), "none of the model's 5"),
        (("--model", "efficientnet_lite"), "unknown model 'efficientnet_lite'. Did you mean efficientnet_lite0"),
        (("--model", "resnet18"), "unknown model 'resnet18'. Did you mean timm:resnet18 or torchvision:resnet18?"),
        (("--model", "timm:resnet19"), "unknown timm model 'resnet19'. Did you mean"),
        (("--checkpoint", "missing.pth"), "missing.pth"),
        (("--device", "tpu9"), "device 'tpu9' cannot be used here"),
        (("--protocol", "idsd"), "unknown protocol 'idsd'. Did you mean idsds"),
        (("--protocol", "SDS"), "unknown protocol 'SDS'. Did you mean sds"),
        (("--protocol", ","), "no protocol given"),
        (("--protocol", "sds:gird=2"), "unknown parameter of sds 'gird'. Did you mean grid"),
        (("--protocol", "sds:grid=99"), "sds: grid=99 is out of range: a whole number from 2 to 16"),
        (("--protocol", "sds:grid"), "'grid' in 'sds:grid' is not key=value"),
        (("--protocol", "sds:baseline=noise"), "unknown baseline 'noise'. Known: zeros, random, blur"),
        (("--protocol", "idsds"), "use sds"),
        (("--protocol", "pointing"), "needs masks"),
        (("--protocol", "gridpg:smoothing=2"), "smoothing=2 is even"),
        (("--methods", "GradCAM"), "unknown method 'GradCAM'. Did you mean Grad-CAM"),
        (("--methods", ""), "no method given"),
        (("--methods", "IG:step=3"), "unknown parameter of IG 'step'. Did you mean steps"),
        (("--methods", "Sobel:steps=3"), "Sobel has no parameters, so 'steps' cannot be set"),
        (("--methods", "IG:steps=0"), "IG: steps=0 is out of range"),
        (("--methods", "IxG@act9"), "unknown layer of wrapped:Net 'act9'. Did you mean act2 or act1"),
        (("--layer", "fc"), "layer 'fc' of wrapped:Net yields no spatial map"),
        (("--methods", "Guided Backprop", "--checkpoint", "gelu"), "use Gradient or IxG instead"),
        (("--protocol", "sds:grid=3"), "cannot be divided into 3 x 3"),
        (("--ci-width", "inf"), "ci_width"),
        (("--ci-width", "narrow"), "ci_width"),
    ],
)
def test_bad_input_ends_in_one_line(arguments: tuple[str, ...], words: str, data: Path) -> None:
    defaults = {"--protocol": "sds", "--methods": "IxG,Random", "--data": str(data)}
    overrides = {name: value for name, value in itertools.pairwise(arguments) if name in defaults}
    rest = [a for k, a in enumerate(arguments) if a not in overrides and not (k and arguments[k - 1] in overrides)]
    command = [part for pair in (defaults | overrides).items() for part in pair]
    assert words in fails("score", *command, *rest)


@pytest.mark.parametrize("memory", ["0", "10KB"])
def test_small_amounts_of_memory_are_not_rounded_to_nothing(memory: str, data: Path) -> None:
    message = fails(*SCORE, "--data", data, "--max-memory", memory)
    assert "needs 0 MB" not in message
    assert "-0 MB" not in message


def test_max_memory_changes_no_value(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = as_json(*SCORE, "--data", data, "--max-memory", "200KB")
    monkeypatch.setenv("ATTRLIB_CACHE", str(tmp_path / "fresh"))
    large = as_json(*SCORE, "--data", data, "--max-memory", "1.5 GiB")
    assert [row["mean"] for row in small["scores"]] == pytest.approx([row["mean"] for row in large["scores"]], abs=1e-5)


@pytest.mark.parametrize("leave_out", ["--protocol", "--methods", "--data"])
def test_a_missing_option_is_reported_with_an_example(leave_out: str, data: Path) -> None:
    options = {"--protocol": "sds", "--methods": "IxG", "--data": str(data)}
    message = fails("score", *[part for name, value in options.items() if name != leave_out for part in (name, value)])
    assert f"add for example {leave_out}" in message


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ATTRLIB_STORE_URL", "nonsense", "ATTRLIB_STORE_URL"),
        ("ATTRLIB_STORE_URL", "mysql://x/y", "cannot use 'mysql'"),
        ("ATTRLIB_CACHE", "/dev/null/cache", "set ATTRLIB_CACHE to another"),
        ("ATTRLIB_CACHE_BYTES", "much", "ATTRLIB_CACHE_BYTES='much' is not valid"),
        ("ATTRLIB_MAPS", "float8", "unknown type of stored maps 'float8'. Did you mean"),
    ],
)
def test_a_store_that_cannot_be_opened(variable: str, value: str, words: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    assert words in fails(*SCORE, "--data", data)
    assert words in fails("cache")


def test_a_locked_database_is_reported_in_a_note(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "TIMEOUT", 0.05)
    succeeds("cache")
    with closing(sqlite3.connect(tmp_path / "cache" / "results.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        output = as_json(*SCORE, "--data", data)
        assert any("locked" in note for note in output["notes"])
        assert [row["n"] for row in output["scores"]] == [20, 20]
        assert "locked" in succeeds(*SCORE, "--data", data).stderr


# Lists


def test_protocols_lists_every_protocol_with_its_parameters() -> None:
    output = {p["name"]: p for p in json.loads(succeeds("protocols", "--json").stdout, parse_constant=float.fromhex)}
    assert list(output) == list(PROTOCOLS)
    for name, cls in PROTOCOLS.items():
        info = output[name]
        assert [p["name"] for p in info["params"]] == [f.name for f in dataclasses.fields(cls)]
        assert info["paper"]["url"].startswith("https://")
        assert info["higher_is_better"] == cls().higher_is_better
        assert info["reading"] == cls.reading
        assert info["bounds"] == [b if math.isfinite(b) else None for b in cls.bounds]
        assert info["items"] in ("images", "grids")
    text = succeeds("protocols").stdout
    for name, cls in PROTOCOLS.items():
        (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
        assert ("higher is better" in line) == cls().higher_is_better
        assert cls.paper.authors in line
    assert "grid=4: Patches per side (a whole number from 2 to 16)" in text


def test_datasets_lists_named_data_sets() -> None:
    output = json.loads(succeeds("datasets", "--json").stdout)
    assert [d["name"] for d in output] == [d.name for d in attrlib.list_datasets()]
    assert "photos" in {d["name"] for d in output}
    text = succeeds("datasets").stdout
    for info in output:
        (line,) = (line for line in text.splitlines() if line.startswith(f"{info['name']} "))
        assert info["summary"] in line
        assert info["count"] is None or f"{info['count']} images" in line
    assert "folder of class folders" in text


def splits(folder: Path) -> Path:
    """Write pictures of two splits, and files that are left out."""
    for split in ("train", "val"):
        pictures(folder / split, 2)
    (folder / "val" / "0" / "x.gif").touch()
    return folder


def test_datasets_describes_a_folder_with_what_was_assumed_and_left_out(tmp_path: Path) -> None:
    folder = splits(tmp_path / "root")
    result = succeeds("datasets", folder)
    assert result.stdout.splitlines() == [f"{folder / 'val'}: 10 images, 5 classes", "classes: 0, 1, 2, 3, 4"]
    notes = [
        f"'{folder}' holds the splits 'train' and 'val': 'val' is used; to use another one, give the path of its folder",
        "1 file left out: 1 .gif",
    ]
    assert result.stderr.splitlines() == [f"note: {note}" for note in notes]
    output = json.loads(succeeds("datasets", folder, "--json").stdout)
    assert (output["name"], output["count"], output["class_names"], output["notes"]) == (str(folder / "val"), 10, list("01234"), notes)


def test_score_and_aggregate_say_what_was_assumed_and_left_out(tmp_path: Path) -> None:
    folder = splits(tmp_path / "root")
    score = succeeds(*SCORE, "--data", folder).stderr
    aggregate = succeeds("aggregate", "--setting", "sds", "--methods", "IxG", "--data", folder, "--out", tmp_path / "out").stderr
    for text in (score, aggregate):
        assert "note: 1 file left out: 1 .gif" in text
        assert "'val' is used" in text
        assert "note: classes are matched by number: '0' is class 0" in text


# The store


@pytest.fixture
def scored(data: Path) -> dict[str, Any]:
    """Return a stored run; the store also has an older run of another method."""
    succeeds("score", "--protocol", "sds", "--methods", "Sobel", "--data", data, "--limit", 2)
    return as_json("score", "--protocol", f"sds,{GRID}", "--methods", "IxG,Random", "--data", data)


def test_cache_shows_sizes_and_runs(scored: dict[str, Any], tmp_path: Path) -> None:
    output = as_json("cache", "show")
    assert (output["folder"], output["runs"], len(output["run_keys"])) == (str(tmp_path / "cache"), 2, 2)
    assert output["maps"] == 2 * (20 + 5 * 4) + 2
    assert output["records"] >= 52
    assert output["map_bytes"] == sum(file.stat().st_size for file in (tmp_path / "cache" / "maps").glob("??/*"))
    assert output["database_bytes"] > 0
    lines = succeeds("cache").stdout.splitlines()
    assert lines[0] == str(tmp_path / "cache")
    assert f"maps: {output['maps']}" in lines[1]
    assert [line.split()[0] for line in lines[2:]] == [key[:12] for key in output["run_keys"]]
    assert all(" done " in line for line in lines[2:])
    assert scored["cli"] in lines[2]


def test_cache_shows_an_empty_store() -> None:
    output = as_json("cache")
    assert (output["records"], output["maps"], output["runs"], output["run_keys"]) == (0, 0, 0, [])


def test_cache_verifies(scored: dict[str, Any], tmp_path: Path) -> None:
    assert as_json("cache", "verify") == {"maps": 82, "damaged": 0, "missing": 0, "orphans": 0, "databases": 0}
    files = sorted((tmp_path / "cache" / "maps").glob("??/*"))
    files[0].write_bytes(b"nonsense")
    files[1].unlink()
    files[2].with_name("0" * 32 + ".safetensors").write_bytes(b"orphan")
    output = as_json_with_notes("cache", "verify")
    assert {**output, "maps": 0} == {"maps": 0, "damaged": 1, "missing": 1, "orphans": 1, "databases": 0}
    assert output["maps"] < 82
    assert "damaged: 0, missing: 0" in succeeds("cache", "verify").stdout


def as_json_with_notes(*arguments: object) -> dict[str, Any]:
    result = succeeds(*arguments, "--json")
    assert all(line.startswith("note: ") for line in result.stderr.splitlines())
    return strict(result.stdout)  # type: ignore[no-any-return]


def test_cache_prunes_maps_and_everything(scored: dict[str, Any], data: Path) -> None:
    size = as_json("cache")["map_bytes"]
    assert as_json("cache", "prune") == {"freed": 0}
    freed = as_json("cache", "prune", "--max-bytes", size // 2)["freed"]
    assert 0 < freed < size
    assert as_json("cache")["map_bytes"] == size - freed
    assert as_json("cache", "prune", "--max-bytes", "0")["freed"] == size - freed
    assert as_json("score", "--protocol", "sds", "--methods", "IxG", "--data", data)["computed"] == 0, "scores need no maps"
    assert re.fullmatch(r"freed \d+\.\d MB\n", succeeds("cache", "prune", "--everything").stdout)
    output = as_json("cache")
    assert (output["records"], output["maps"], output["runs"]) == (0, 0, 0)
    assert as_json("score", "--protocol", "sds", "--methods", "IxG", "--data", data)["computed"] == 20


def rows_of(scored: dict[str, Any]) -> dict[tuple[str, str], list[float]]:
    return {(row["protocol"], row["method"]): row["values"] for row in scored["scores"]}


def by_part(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[float]]:
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        values.setdefault((row["protocol"], row["method"]), []).append(float(row["value"]))
    return values


def test_cache_exports_a_run_with_its_manifest(scored: dict[str, Any], tmp_path: Path) -> None:
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    written = {kind: tmp_path / f"scores.{kind}" for kind in ("csv", "json", "parquet", "JSON")}
    keys = as_json("cache")["run_keys"]
    for file in written.values():
        assert as_json("cache", "export", "--out", file) == {"run": keys[0], "out": str(file)}
    assert by_part(list(csv.DictReader(io.StringIO(written["csv"].read_text())))) == rows_of(scored)
    content = json.loads(written["json"].read_text())
    assert by_part(content["rows"]) == rows_of(scored)
    assert content["manifest"]["spec"]["title"] == scored["cli"]
    assert content["manifest"]["spec"]["model_digest"] == MODEL.digest
    table = pq.read_table(written["parquet"])
    assert by_part(table.to_pylist()) == rows_of(scored)
    assert json.loads(table.schema.metadata[b"attrlib"]) == content["manifest"]
    assert written["JSON"].read_bytes() == written["json"].read_bytes()
    succeeds("cache", "export", "--run", keys[1][:6], "--out", tmp_path / "older.csv")
    assert {row["method"] for row in csv.DictReader((tmp_path / "older.csv").open())} == {"Sobel"}
    assert "wrote run" in succeeds("cache", "export", "--run", keys[0], "--out", tmp_path / "again.csv").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export",), "add --out FILE.csv"),
        (("export", "--out", "scores.xlsx"), "unknown format of an export 'xlsx'. Known: csv, json, parquet"),
        (("export", "--out", "scores"), "unknown format of an export ''"),
        (("export", "--run", "zzz", "--out", "scores.csv"), "no run key starts with 'zzz'"),
        (("export", "--run", "", "--out", "scores.csv"), "2 run keys start with ''; give more characters"),
        (("export", "--out", "/dev/null/scores.csv"), "cannot write"),
        (("prune", "--max-bytes", "all"), "max-bytes='all' is not valid"),
        (("shwo",), "show"),
    ],
)
def test_invalid_arguments_of_cache(arguments: tuple[str, ...], words: str, scored: dict[str, Any]) -> None:
    assert words in fails("cache", *arguments)


def test_nothing_to_export(tmp_path: Path) -> None:
    assert "there is no run to export" in fails("cache", "export", "--out", tmp_path / "x.csv")


def test_cache_exports_the_latest_run(scored: dict[str, Any], data: Path, tmp_path: Path) -> None:
    succeeds("score", "--protocol", "sds", "--methods", "Sobel", "--data", data, "--limit", 2)
    succeeds("cache", "export", "--out", tmp_path / "last.csv")
    assert {row["method"] for row in csv.DictReader((tmp_path / "last.csv").open())} == {"Sobel"}


# Progress


def test_progress_is_printed_as_lines_without_a_terminal(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attrlib.cli.events, "EVERY", -1.0)
    result = succeeds("score", "--protocol", f"sds,{GRID}", "--methods", "IxG,Random", "--data", data)
    lines = result.stderr.splitlines()
    progress = [line for line in lines if re.match(r"\d+/\d+ ", line)]
    assert len(progress) > 10
    assert re.fullmatch(r"0/20 confidence filter", progress[0])
    scored = [line for line in progress if "confidence filter" not in line]
    assert re.fullmatch(r"0/50 sds IxG", scored[0])
    so_far = r"; mean \S+, 95 % CI \S+ to \S+, n=\d+"
    assert re.fullmatch(rf"\d+/50 sds IxG, \S+ per second, \d+ s left{so_far}", next(line for line in scored if "sds IxG," in line))
    assert any(re.match(rf"\d+/50 {GRID} (IxG|Random), \S+ per second, \d+ s left", line) for line in scored[-2:])
    assert all(line in progress or line.startswith("note: ") for line in lines)
    assert "\x1b" not in result.output
    assert succeeds("score", "--protocol", "sds", "--methods", "Sobel", "--data", data, "--json").stderr == ""


@pytest.mark.parametrize(("quiet", "terminal"), [(True, True), (True, False), (False, True)])
def test_progress_goes_to_a_terminal_only_without_json(quiet: bool, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    screen = Screen()
    monkeypatch.setattr(attrlib.cli.events, "EVERY", -1.0)
    monkeypatch.setattr(sys, "stderr", screen)
    with attrlib.cli.events.show_events(quiet) as show:
        show(Event("sds IxG", 1, 2))
    assert ("1/2 sds IxG" in screen.getvalue()) == (terminal and not quiet)


@pytest.mark.parametrize(("step", "some"), [(0.0, False), (1.0, True), (6.0, True)])
def test_lines_come_only_every_few_seconds(step: float, some: bool, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock advances by `step` at every reading."""
    looks = itertools.count()
    monkeypatch.setattr(attrlib.cli.events, "time", SimpleNamespace(monotonic=lambda: step * next(looks)))
    lines = [line for line in succeeds(*SCORE, "--data", data).stderr.splitlines() if "/" in line]
    assert bool(lines) is some
    assert len(lines) * attrlib.cli.events.EVERY <= step * next(looks)
    assert attrlib.cli.events.EVERY >= 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (3600, "1 h 00 min"), (90000, "25 h 00 min")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert attrlib.cli.common.duration(seconds) == text


# Real processes


@contextmanager
def process(*arguments: object, cache: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process that is killed at the end, so that a failed test does not wait for it."""
    environment = os.environ | {
        "ATTRLIB_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(HERE),
        "COLUMNS": "120",
        "TERM": "xterm",
    }
    with subprocess.Popen([sys.executable, "-m", "attrlib", *map(str, arguments)], env=environment, **options) as running:
        try:
            yield running
        finally:
            running.kill()


def records(cache: Path) -> int:
    """Return the number of stored scores."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{cache / 'results.sqlite'}?mode=ro", uri=True, timeout=LIMIT)) as database:
        query = 'SELECT COUNT(*) FROM records JOIN specs USING (key) WHERE spec LIKE \'%"kind":"score"%\''
        return int(database.execute(query).fetchone()[0])
    return 0


class Terminal:
    """A pseudo-terminal and the text written to it."""

    def __init__(self) -> None:
        self.master, self.child = pty.openpty()
        self.text = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        # Unlike select(), poll() supports any number of open files.
        ready = select.poll()
        ready.register(self.master, select.POLLIN)
        with suppress(OSError):
            while True:
                if ready.poll(100):
                    self.text += os.read(self.master, 65536).decode(errors="replace")

    @property
    def plain(self) -> str:
        """Return the text without colours and cursor movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text)

    def close(self) -> None:
        os.close(self.child)
        os.close(self.master)
        self._reader.join(LIMIT)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Return the gate at which `Held` waits in the processes, image by image."""
    (tmp_path / "gate").mkdir()
    return Gate(tmp_path / "gate")


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[object, ...]:
    """Return a command for real processes: the smallest ResNet of timm, with random weights, and a method that can be held."""
    data = pictures(tmp_path / "pictures", 2)
    words = ("score", "--protocol", "sds:target=prediction:grid=2", "--methods", "Random,Held", "--data", data)
    return (*words, "--model", "timm:test_resnet", "--checkpoint", "random:3")


def test_a_real_process_is_interrupted_killed_and_resumed(
    tiny: tuple[object, ...], tmp_path: Path, terminal: Terminal, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "real"
    for name, value in gate.environment.items():
        monkeypatch.setenv(name, value)
    gate.let(3)
    # On a terminal: a live table with a running mean, and Ctrl-C.
    with process(*tiny, cache=cache, stdout=subprocess.PIPE, stderr=terminal.child) as first:
        until(lambda: re.search(r"Held\s+-?\d\.\d+", terminal.plain) is not None or first.poll() is not None, lambda: terminal.plain)
        until(lambda: records(cache) == 13)
        # In the middle of the fourth image, which by itself would never end.
        first.send_signal(signal.SIGINT)
        out, _ = first.communicate(timeout=LIMIT)
    assert first.returncode == 130
    assert out == b""
    until(lambda: "cancelled" in terminal.plain)
    shown = terminal.plain
    assert "\x1b[" in terminal.text
    assert re.search(r"protocol\s+method\s+mean\s+95 % CI\s+n", shown)
    assert re.search(r"\d+/20 sds:target=prediction:grid=2 (Random|Held)", shown)
    assert re.search(r"sds:target=prediction:grid=2\s+Random\s+-?\d\.\d+\s+-?\d\S* to -?\d\S*\s+\d+", shown)
    assert "all results so far are stored; resume with python -m attrlib score --resume" in " ".join(shown.split())
    stopped = records(cache)
    assert stopped == 13
    # Killed, after it has computed one more.
    with process("score", "--resume", cache=cache, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as second:
        gate.let(1)
        until(lambda: records(cache) > stopped or second.poll() is not None)
        second.kill()
        assert second.wait(LIMIT) == -signal.SIGKILL
    killed = records(cache)
    assert killed == 14
    gate.open()
    # To its end, piped.
    with process("score", "--resume", "--json", cache=cache, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as third:
        out, err = third.communicate(timeout=LIMIT)
    assert (third.returncode, err) == (0, b"")
    output = strict(out.decode())
    assert (output["cached"], output["computed"]) == (killed, 20 - killed)
    assert {row["n"] for row in output["scores"]} == {10}
    assert records(cache) == 20


def test_the_dimensions_of_funnybirds_are_printed_and_named() -> None:
    arguments = [
        "score",
        "--model",
        "birds_resnet10",
        "--protocol",
        "funnybirds,parts",
        "--methods",
        "IxG,Random",
        "--data",
        "birds",
        "--limit",
        3,
    ]
    rows = {(row["protocol"], row["method"]): row for row in as_json(*arguments)["scores"]}
    own = rows["funnybirds", "IxG"]["dimensions"]
    assert set(own) == set(NAMES)
    assert own["Mean"]["mean"] == pytest.approx(sum(own[name]["mean"] for name in ("Com", "Cor", "Con")) / 3)
    assert 0.01 <= rows["funnybirds", "IxG"]["threshold"] <= 0.5
    assert "dimensions" not in rows["parts", "IxG"]
    lines = succeeds(*arguments).stdout.splitlines()
    place = next(k for k, line in enumerate(lines) if line.split()[:1] == ["dimensions"])
    assert lines[place].split()[1:] == [*NAMES, "at", "t"]
    printed = next(line for line in lines[place:] if line.split()[0] == "IxG").split()[1:]
    assert printed[:-1] == [f"{value['mean']:.2f}" for value in own.values()]
    assert all(f"{short} {name}" in " ".join(lines) for short, name in NAMES.items())
    assert "the paper's of its own" in " ".join(lines)


def test_the_protocols_to_trust_are_named_where_that_is_known(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = [
        Evidence(Kind(False, False), name, mean, mean - 0.1, mean + 0.1, True, {}) for name, mean in (("sds:grid=2", 0.8), ("entropy", 0.1))
    ]
    asked = ("score", "--protocol", "sds:grid=2,entropy", "--methods", "IxG", "--data", data, "--limit", 3)
    monkeypatch.setattr("attrlib.cli.score.shipped", lambda: evidence)
    assert "trust sds:grid=2: it ordered maps of known quality best" in succeeds(*asked).stdout
    assert as_json(*asked)["advice"].startswith("On a convolutional network that was not tuned")
    monkeypatch.setattr("attrlib.cli.score.shipped", list)
    assert as_json(*asked)["advice"] is None
