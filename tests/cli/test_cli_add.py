"""The commands `add` and `remove`, and the flags of a model's inputs and outputs."""

import json
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
from typer.testing import CliRunner, Result

import attrlib.cli
from attrlib.models.cards import Card
from attrlib.models.sources import builder

NAME = "attrlib:small_resnet10_w16"
FLAGS = [
    "--mean",
    "0.1,0.2,0.3",
    "--std",
    "0.4/0.5/0.6",
    "--interpolation",
    "bicubic",
    "--crop",
    "1",
    "--fit",
    "squash",
    "--input-size",
    "48",
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRLIB_MODELS", str(tmp_path / "models"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(builder(NAME)({"num_classes": 3}, False).module.state_dict(), tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(attrlib.cli.app, [str(a) for a in arguments])


def test_a_model_is_added_with_its_inputs_and_outputs_used_and_removed(file: Path, tmp_path: Path) -> None:
    result = run("add", "mine", "--model", NAME, "--checkpoint", file, *FLAGS, "--outputs", "sigmoid", "--trained-on", "ants", "--json")
    assert result.exit_code == 0, result.output
    card = Card.read(json.loads(result.stdout)["card"])
    assert (card.outputs, card.data) == ("sigmoid", "ants")
    own = card.preprocessing
    assert (own.mean, own.std, own.interpolation, own.crop, own.fit, own.size) == (
        (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", 1.0, "squash", (48, 48),
    )  # fmt: skip
    assert "mine" in run("models").stdout
    explained = run("explain", "--model", "mine", "--image", "sample:cat", "--methods", "IxG", "--out", tmp_path / "out", "--json")
    assert explained.exit_code == 0, explained.output
    whole = ["--model", NAME, "--checkpoint", file, *FLAGS, "--outputs", "sigmoid"]
    again = run("explain", *whole, "--image", "sample:cat", "--methods", "IxG", "--out", tmp_path / "other", "--json")
    assert (tmp_path / "out" / "maps.npz").read_bytes() == (tmp_path / "other" / "maps.npz").read_bytes()
    assert json.loads(explained.stdout)["target"] == json.loads(again.stdout)["target"]
    assert run("remove", "mine").stdout == "removed mine\n"
    assert "mine" not in run("models").stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mean", "grey"], "'grey' is not valid: write one number for each channel, separated by slashes, as in 0.5/0.5/0.5"),
        (["--fit", "stretch"], "unknown fit 'stretch'"),
        (["--outputs", "logits"], "unknown kind of outputs 'logits'"),
        (["--outputs", "binary"], "outputs=binary needs a model with one output"),
        (["--std", "0/1/1"], "std above 0"),
        (["--crop", "3"], "crop=3"),
    ],
)
def test_a_flag_that_is_not_valid_is_named(file: Path, flags: list[str], message: str) -> None:
    result = run("add", "mine", "--model", NAME, "--checkpoint", file, *flags)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_removing_what_was_not_added_is_refused() -> None:
    result = run("remove", "birds_resnet10")
    assert result.exit_code == 2
    assert "there is no added model 'birds_resnet10'" in result.stderr
