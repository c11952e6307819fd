"""Models that are added to a computer under a name of their own."""

import json
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
from support.method_nets import pictures

from attrlib.errors import ModelError
from attrlib.models.added import add_model, added, named, remove_model, weights_of
from attrlib.models.cards import Card, shipped
from attrlib.models.sources import builder

NAME = "attrlib:small_resnet10_w16"
NAMES = ("ant", "bee")
CHOSEN = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bicubic", "crop": 1.0, "fit": "squash", "input_size": 48}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTRLIB_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(builder(NAME)({"num_classes": 1}, False).module.state_dict(), tmp_path / "mine.pth")
    return tmp_path / "mine.pth"


@pytest.mark.parametrize("copy", [True, False])
def test_an_added_model_is_listed_and_loads_as_it_was(file: Path, folder: Path, copy: bool) -> None:
    model = attrlib.load_model(NAME, "cpu", checkpoint=file, class_names=NAMES, outputs="binary", **CHOSEN)
    card = Card.read(add_model(model, "my.ants", data="ants of May", copy=copy))
    assert [info.note for info in attrlib.list_models("my.*")] == [
        f"small_resnet10_w16 on ants of May, {card.parameters / 1e6:.1f} M parameters"
    ]
    if copy:
        file.unlink()
    again = attrlib.load_model("my.ants", "cpu")
    images = pictures(2, 48)
    assert torch.equal(again(images), model(images))
    assert (again.class_names, again.preprocessing, again.outputs) == (NAMES, model.preprocessing, model.outputs)
    assert again.digest == model.digest
    assert attrlib.load_model("my.ants", "cpu", fit="centre").preprocessing.fit == "centre"
    remove_model("my.ants")
    assert added() == {}
    assert file.exists() is not copy
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("kind", ["key", "parts"])
def test_a_network_of_a_file_with_several_and_one_in_parts_are_added(
    kind: str, copy: bool, file: Path, tmp_path: Path, folder: Path
) -> None:
    state = torch.load(file, weights_only=True)
    place = tmp_path / "both.pth"
    torch.save({"model": {key: value * 0 for key, value in state.items()}, "model_ema": state}, place)
    checkpoint = f"{place}#model_ema"
    if kind == "parts":
        checkpoint = str(tmp_path / "mine.index.json")
        Path(checkpoint).write_text(json.dumps({"weight_map": dict.fromkeys(state, "mine.pth")}))
    model = attrlib.load_model(NAME, "cpu", checkpoint=checkpoint)
    add_model(model, "mine", copy=copy)
    if copy:
        place.unlink()
        file.unlink()
    again = attrlib.load_model("mine", "cpu")
    assert again.digest == model.digest
    assert all(torch.equal(value, state[key]) for key, value in again.module.state_dict().items())
    remove_model("mine")
    assert list(folder.iterdir()) == []


def test_a_model_that_was_tuned_on_deleted_patches_stays_so(file: Path) -> None:
    model = attrlib.load_model(NAME, "cpu", checkpoint=file, outputs="binary", deletion_tuned=True)
    add_model(model, "tuned")
    assert attrlib.load_model("tuned", "cpu").deletion_tuned


@pytest.mark.parametrize("name", ["", "a/b", "../up", "timm:x", "a b", "-x", "x" * 81, ".hidden"])
def test_a_name_that_is_not_one_is_refused(file: Path, name: str) -> None:
    model = attrlib.load_model(NAME, "cpu", checkpoint=file)
    with pytest.raises(ModelError, match="is not a valid name"):
        add_model(model, name)


def test_a_name_is_taken_once(file: Path) -> None:
    model = attrlib.load_model(NAME, "cpu", checkpoint=file)
    add_model(model, "mine")
    for name in ("mine", "efficientnet_lite0", next(iter(shipped()))):
        with pytest.raises(ModelError, match="there is already a model"):
            add_model(model, name)
    assert set(named()) == {*shipped(), "mine"}


def test_a_model_without_a_file_is_not_added() -> None:
    with pytest.raises(ModelError, match="was not loaded from a file"):
        add_model(attrlib.load_model(NAME, "cpu", pretrained=False), "mine")
    with pytest.raises(ModelError, match="there is no added model 'mine'"):
        remove_model("mine")


def test_a_card_whose_weights_are_gone_is_not_listed(file: Path) -> None:
    card = add_model(attrlib.load_model(NAME, "cpu", checkpoint=file), "mine", copy=False)
    file.unlink()
    assert weights_of(card) is None
    assert added() == {}
    with pytest.raises(ModelError, match="unknown model 'mine'"):
        attrlib.load_model("mine")


def test_a_folder_that_cannot_be_written_is_named(file: Path, folder: Path) -> None:
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("not a folder")
    with pytest.raises(ModelError, match="cannot be written to"):
        add_model(attrlib.load_model(NAME, "cpu", checkpoint=file), "mine")
