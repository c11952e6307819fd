"""One picture by all methods: `attrlib montage`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from PIL import Image
from support.method_nets import Rectified, made
from support.nets import Transformer
from typer.testing import CliRunner

import attrlib
import attrlib.cli
import attrlib.cli.montage
from attrlib.engine.montage import COLUMNS, SIDE, all_methods, draw_montage, explain_all
from attrlib.errors import AttrlibError
from attrlib.methods import METHODS
from attrlib.specs import MethodSpec, ViewSpec, parse_methods

FAST = "IxG,Grad-CAM,Rollout,BagNet,Random"


@pytest.fixture(scope="module")
def models() -> dict[str, attrlib.Classifier]:
    rectified = attrlib.wrap_model(made(Rectified, torch.relu), (16, 24))
    return {"convolutional": rectified, "transformer": attrlib.wrap_model(made(Transformer, 1, 2), (16, 24))}


@pytest.fixture
def _loaded(models: dict[str, attrlib.Classifier], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attrlib.cli.montage, "load_model", lambda name, device, **_options: models[name])


def run(*arguments: object) -> Result:
    return CliRunner().invoke(attrlib.cli.app, ["montage", *(str(a) for a in arguments)])


def test_all_stands_for_every_method_that_is_not_named_with_settings() -> None:
    assert [m.name for m in all_methods("all")] == list(METHODS)
    found = all_methods("all,IG:steps=3,RISE@Final")
    assert [m.name for m in found] == list(METHODS)
    assert {str(m) for m in found} >= {str(m) for m in parse_methods("IG:steps=3,RISE@Final")}
    assert all_methods("IG:steps=3, Random") == parse_methods("IG:steps=3,Random")


def test_a_method_is_shown_on_the_first_model_that_it_is_defined_for(models: dict[str, attrlib.Classifier]) -> None:
    photo, first, second = attrlib.open_image("sample:cat"), *models.values()
    shown = explain_all([first, second], photo, parse_methods(FAST))
    assert [one.method.name for one in shown] == FAST.split(",")
    assert [one.model for one in shown if one.method.name != "BagNet"] == [first, first, second, first]
    refused = [one.method.name for one in shown if isinstance(one.result, AttrlibError)]
    assert refused == ["BagNet"]
    for one in shown:
        if one.method.name != "BagNet":
            images = one.model.preprocess(photo.image)[None]
            expected = attrlib.explain(one.model, images, one.method.name)
            assert np.array_equal(one.result.maps, expected.maps)
            assert one.result.target == expected.target


def test_the_picture_has_the_photo_and_a_tile_for_every_method(models: dict[str, attrlib.Classifier]) -> None:
    photo, first = attrlib.open_image("sample:cat"), models["convolutional"]
    shown = explain_all([first], photo, parse_methods(FAST))
    sheet = draw_montage([first], photo, shown, ViewSpec()).convert("RGB")
    assert sheet.width > 6 * SIDE
    assert sheet.height > SIDE * 16 / 24
    more = explain_all([first], photo, [MethodSpec("IxG", "conv1", ()) for _ in range(COLUMNS)])
    assert draw_montage([first], photo, more, ViewSpec()).height > sheet.height


@pytest.mark.usefixtures("_loaded")
def test_the_command_writes_a_png_and_says_what_is_not_defined(tmp_path: Path) -> None:
    out = tmp_path / "docs" / "methods.png"
    result = run("--out", out, "--model", "convolutional", "--methods", FAST, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert sorted(found["refused"]) == ["BagNet", "Rollout"]
    assert len(found["seconds"]) == 3
    assert Image.open(out).format == "PNG"
    before = out.read_bytes()
    assert run("--out", out, "--model", "convolutional", "--methods", FAST).stderr.startswith("note: Rollout: ")
    assert out.read_bytes() == before
    both = run("--out", out, "--model", "convolutional", "--also", "transformer", "--methods", FAST, "--json")
    assert list(json.loads(both.stdout)["refused"]) == ["BagNet"]


@pytest.mark.usefixtures("_loaded")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "a.jpg"], "not a PNG"),
        (["--out", "a.png", "--methods", "Nonsense"], "unknown method"),
        (["--out", "a.png", "--methods", " , "], "no method given"),
        (["--out", "a.png", "--image", "nowhere.png"], "nowhere.png"),
    ],
)
def test_bad_arguments_end_with_one_line(arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("--model", "convolutional", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert not list(tmp_path.iterdir())
