"""The commands `add` and `remove`, and the flags of a model's inputs and outputs."""

import json
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import timm
import torch
from support.hub_models import saved
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


def test_notes_are_printed_once_and_are_in_the_json(file: Path, tmp_path: Path) -> None:
    arguments = ("explain", "--model", NAME, "--checkpoint", file, "--image", "sample:cat", "--methods", "IxG", "--out", tmp_path / "out")
    expected = list(attrlib.load_model(NAME, "cpu", checkpoint=file).notes)
    assert expected
    result = run(*arguments, "--json")
    assert json.loads(result.stdout)["notes"] == expected
    for printed in (result.stderr, run(*arguments).stderr):
        assert printed.splitlines() == [f"note: {note}" for note in expected]


@pytest.mark.parametrize("name", ["net", "hf:./net"])
def test_an_explanation_by_a_folder_is_repeated_from_another_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    saved(tmp_path / "net")
    monkeypatch.chdir(tmp_path)
    result = run("explain", "--model", name, "--image", "sample:cat", "--methods", "IxG", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    monkeypatch.chdir("/")
    again = run("explain", "--from", tmp_path / "out" / "manifest.json", "--out", tmp_path / "again", "--json")
    assert json.loads(again.stdout)["identical"] is True


def test_an_explanation_by_a_file_with_a_card_is_repeated_from_another_folder(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("add", "mine", "--model", NAME, "--checkpoint", file)
    monkeypatch.chdir(tmp_path / "models")
    result = run("explain", "--model", "mine.pth", "--image", "sample:cat", "--methods", "IxG", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    monkeypatch.chdir("/")
    again = run("explain", "--from", tmp_path / "out" / "manifest.json", "--out", tmp_path / "again", "--json")
    assert json.loads(again.stdout)["identical"] is True
    assert (
        "there is no file 'mine.pth'"
        in run("explain", "--model", "mine.pth", "--image", "sample:cat", "--methods", "IxG", "--out", "x").stderr
    )


def test_the_depth_and_the_bands_of_a_model_are_given_and_kept(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18", num_classes=2, in_chans=4).state_dict(), tmp_path / "four.pth")
    four = "0.5/0.5/0.5/0.5"
    flags = ["--mean", four, "--std", four, "--white", "4095", "--bands-shown", "3/2/1", "--input-size", "64"]
    added = run("add", "four", "--model", "timm:resnet18", "--checkpoint", tmp_path / "four.pth", *flags)
    assert added.exit_code == 0, added.output
    np.save(tmp_path / "bands.npy", np.full((64, 64, 4), 4095, np.uint16))
    model = attrlib.load_model("four", "cpu")
    assert (model.preprocessing.white, model.preprocessing.bands_shown) == (4095, (3, 2, 1))
    assert torch.equal(model.preprocess(attrlib.open_image(tmp_path / "bands.npy")), torch.ones(4, 64, 64))
    wrong = run("add", "five", "--model", "timm:resnet18", "--checkpoint", tmp_path / "four.pth", "--bands-shown", "1/2")
    assert "give one channel, or three, as in 3/2/1" in wrong.stderr
