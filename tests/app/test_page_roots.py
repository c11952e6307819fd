"""What the app may read of the server's disk."""

import os
from pathlib import Path

import pytest
import streamlit as st
from PIL import Image
from support.pages import open_page, texts

from attrlib import models
from attrlib.errors import DataError, ModelError
from attrlib.models import Card, Preprocessing
from attrlib.specs import ModelSpec
from pages.shared.roots import check_data, check_model, load_data, parse_model, refusal_to_add, roots, upload_limit


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """One that may be read, and one that may not."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        (folder / "data").mkdir(parents=True)
        (folder / "model.pth").touch()
    monkeypatch.setenv("ATTRLIB_DATA_ROOTS", str(inside))
    return inside, outside


def test_only_what_is_in_the_roots_is_read(folders: tuple[Path, Path]) -> None:
    inside, outside = folders
    assert check_data(str(inside / "data")) == str(inside / "data")
    assert check_model(ModelSpec("timm:resnet18", str(inside / "model.pth"))).checkpoint
    for path in (outside / "data", inside / ".." / "outside" / "data", Path("/etc"), Path("~root/data"), Path("a\0b")):
        with pytest.raises(DataError, match="ATTRLIB_DATA_ROOTS"):
            check_data(str(path))
        with pytest.raises(ModelError, match="ATTRLIB_DATA_ROOTS"):
            check_model(ModelSpec("timm:resnet18", str(path)))
        with pytest.raises(ModelError, match="ATTRLIB_DATA_ROOTS"):
            check_model(ModelSpec(str(path / "model.pth")))


def test_no_symbolic_link_leads_out(folders: tuple[Path, Path]) -> None:
    inside, outside = folders
    (inside / "link").symlink_to(outside / "data")
    (inside / "model link.pth").symlink_to(outside / "model.pth")
    with pytest.raises(DataError):
        check_data(str(inside / "link"))
    with pytest.raises(ModelError):
        check_model(ModelSpec("timm:resnet18", str(inside / "model link.pth")))


@pytest.mark.parametrize("name", ["hf:{}", "timm:local-dir:{}", "{}"])
def test_folders_of_models_obey_the_roots(name: str, folders: tuple[Path, Path]) -> None:
    inside, outside = folders
    (inside / "data" / "config.json").write_text("{}")
    spec = ModelSpec(name.format(inside / "data"))
    assert check_model(spec) is spec
    for path in (outside / "data", outside / "gone", inside / ".." / "outside", Path("~root/data"), Path("./data")):
        with pytest.raises(ModelError, match="ATTRLIB_DATA_ROOTS"):
            check_model(ModelSpec(name.format(f"./{path}" if str(path) == "data" else path)))
    (inside / "data" / "model.safetensors").symlink_to(outside / "model.pth")
    with pytest.raises(ModelError, match="ATTRLIB_DATA_ROOTS"):
        check_model(spec)


def test_a_relative_folder_obeys_the_roots(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = folders
    monkeypatch.chdir(inside)
    assert check_model(ModelSpec("data"))
    monkeypatch.chdir(outside)
    with pytest.raises(ModelError, match="ATTRLIB_DATA_ROOTS"):
        check_model(ModelSpec("data"))
    monkeypatch.chdir(inside.parent)
    (inside.parent / "hf:").symlink_to(outside)
    with pytest.raises(ModelError, match="ATTRLIB_DATA_ROOTS"):
        check_model(ModelSpec(f"hf:/{outside}"))


def test_folders_and_prompts_of_clip_models_obey_the_roots(folders: tuple[Path, Path]) -> None:
    inside, outside = folders
    for folder in (inside, outside):
        (folder / "prompts.txt").write_text("cat\ndog\n")
    for name in ("org/name", inside / "data"):
        spec = ModelSpec(f"clip:{name}?prompts={inside / 'prompts.txt'}")
        assert check_model(spec) is spec
        for file in (outside / "prompts.txt", outside / "gone.txt", inside / ".." / "outside" / "prompts.txt"):
            with pytest.raises(ModelError, match="ATTRLIB_DATA_ROOTS"):
                check_model(ModelSpec(f"clip:{name}?prompts={file}"))
    with pytest.raises(ModelError, match="ATTRLIB_DATA_ROOTS"):
        check_model(ModelSpec(f"clip:{outside / 'data'}?classes=cat|dog"))
    # The file is not read before it is checked: whether it exists cannot be told from the name.
    gone, there = (models.parse_model(f"clip:org/name?prompts={outside / name}.txt") for name in ("gone", "prompts"))
    assert gone != there


@pytest.mark.parametrize("name", ["hf:{}", "timm:local-dir:{}", "clip:{}?classes=cat|dog", "{}", "timm:resnet18@{}"])
def test_a_typed_name_does_not_tell_whether_a_path_exists(name: str, folders: tuple[Path, Path]) -> None:
    _, outside = folders
    (outside / "data" / "config.json").write_text("{}")
    for path in (outside / "data", outside / "gone"):
        with pytest.raises(ModelError, match=f"^'{path}' is not in a folder that this app may read; "):
            parse_model(name.format(path))


@pytest.mark.parametrize(
    ("page", "field"), [("inspect", "model"), ("inspect", "also"), ("scores", "model"), ("aggregate", "model"), ("studies", "models")]
)
def test_a_link_does_not_tell_whether_a_path_exists(page: str, field: str, folders: tuple[Path, Path]) -> None:
    _, outside = folders
    for path in (outside / "data", outside / "gone"):
        shown = texts(open_page(page, **{field: f"hf:{path}"}).run())
        assert f"'{path}' is not in a folder that this app may read" in shown.replace("\\", "")


@pytest.mark.parametrize("name", ["hf:org/name", "hf:org/name?revision=v1", "timm:hf-hub:org/name", "clip:org/name?classes=a|b"])
def test_repositories_need_no_root(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRLIB_DATA_ROOTS", "")
    assert check_model(ModelSpec(name))


def test_a_card_leads_to_no_folder_outside(folders: tuple[Path, Path]) -> None:
    inside, outside = folders
    preprocessing = Preprocessing((32, 32))
    for folder, allowed in ((inside, True), (outside, False)):
        card = Card(f"hf:{folder / 'data'}", ("a", "b"), preprocessing)
        (inside / "model.json").write_text(card.text())
        spec = ModelSpec(str(inside / "model.pth"))
        if allowed:
            assert check_model(spec) is spec
        else:
            with pytest.raises(ModelError, match="ATTRLIB_DATA_ROOTS"):
                check_model(spec)
    (inside / "model.json").unlink()
    (outside / "card.json").write_text(card.text())
    (inside / "model.json").symlink_to(outside / "card.json")
    with pytest.raises(ModelError, match="ATTRLIB_DATA_ROOTS"):
        check_model(spec)


def test_no_key_part_or_card_of_a_checkpoint_leads_out(folders: tuple[Path, Path]) -> None:
    inside, outside = folders
    assert check_model(ModelSpec("timm:resnet18", f"{inside / 'model.pth'}#ema")).checkpoint
    (inside / "link.pth").symlink_to(outside / "model.pth")
    (inside / "split.index.json").write_text('{"weight_map": {"a": "link.pth"}}')
    (inside / "carded.pth").touch()
    (inside / "carded.json").symlink_to(outside / "model.pth")
    for path in (f"{outside / 'model.pth'}#ema", f"{inside / 'link.pth'}#ema", inside / "split.index.json", inside / "carded.pth"):
        with pytest.raises(ModelError, match="ATTRLIB_DATA_ROOTS"):
            check_model(ModelSpec("timm:resnet18", str(path)))


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), "red").save(path)


def test_no_link_inside_a_data_set_leads_out(folders: tuple[Path, Path]) -> None:
    inside, outside = folders
    picture(outside / "data" / "secret.png")
    picture(inside / "data" / "a" / "own.png")
    (inside / "data" / "a" / "twin.png").symlink_to(inside / "data" / "a" / "own.png")
    assert len(load_data(str(inside / "data"))) == 2
    for link, target in (("a/link.png", outside / "data" / "secret.png"), ("b", outside / "data")):
        (inside / "data" / link).symlink_to(target)
        with pytest.raises(DataError, match=r"^1 of the files of .*ATTRLIB_DATA_ROOTS") as error:
            load_data(str(inside / "data"))
        assert "secret" not in str(error.value)
        (inside / "data" / link).unlink()
    assert len(load_data(str(inside / "data"))) == 2


def test_no_mask_and_no_line_of_a_table_leads_out(folders: tuple[Path, Path]) -> None:
    inside, outside = folders
    picture(outside / "secret.png")
    picture(inside / "masked" / "images" / "bird.png")
    (inside / "masked" / "masks").mkdir()
    (inside / "masked" / "masks" / "bird.png").symlink_to(outside / "secret.png")
    (inside / "table.csv").write_text("file\nmasked/images/bird.png\n../outside/secret.png\n")
    for source in ("masked", "table.csv"):
        with pytest.raises(DataError, match=r"^1 of the files of "):
            load_data(str(inside / source))


def test_a_link_in_the_place_of_class_names_leads_nowhere(folders: tuple[Path, Path]) -> None:
    inside, outside = folders
    (inside / "own.pth").write_bytes(b"")
    spec = ModelSpec("timm:resnet18", str(inside / "own.pth"))
    assert check_model(spec) is spec
    (outside / "passwords.txt").write_text("secret")
    (inside / "own.txt").symlink_to(outside / "passwords.txt")
    with pytest.raises(ModelError, match="not in a folder that this app may read"):
        check_model(spec)


def test_a_folder_whose_name_begins_as_a_root_is_not_in_it(folders: tuple[Path, Path]) -> None:
    inside, _ = folders
    with pytest.raises(DataError):
        check_data(f"{inside}side")


def test_what_is_there_and_what_is_not_are_refused_alike(folders: tuple[Path, Path]) -> None:
    _, outside = folders
    (outside / "here").mkdir()
    texts = []
    for name in ("here", "gone"):
        with pytest.raises(DataError) as error:
            check_data(str(outside / name))
        texts.append(str(error.value).replace(f"/{name}'", "/NAME'"))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("source", ["birds", "photos", "imagenette", "torchvision:CIFAR10"])
def test_names_and_random_weights_need_no_root(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRLIB_DATA_ROOTS", "")
    assert roots() == ()
    assert check_data(source) == source
    assert check_model(ModelSpec("timm:resnet18", "random:3"))
    assert check_model(ModelSpec("efficientnet_lite0"))


def test_without_the_variable_home_and_the_working_folder_are_read_on_localhost_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATTRLIB_DATA_ROOTS", raising=False)
    address = {"server.address": "localhost"}
    monkeypatch.setattr(st, "get_option", address.get)
    assert roots() == (Path.home().resolve(), Path.cwd().resolve())
    for other in ("0.0.0.0", None, "192.168.1.2"):
        address["server.address"] = other
        assert roots() == ()


def test_several_roots_are_separated_as_those_of_path(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = folders
    monkeypatch.setenv("ATTRLIB_DATA_ROOTS", f"{inside}{os.pathsep}{outside}{os.pathsep}")
    assert check_data(str(inside / "data"))
    assert check_data(str(outside / "data"))


@pytest.fixture
def added(folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The card of an added model whose weights lie beside it, in a folder outside the roots."""
    monkeypatch.setenv("ATTRLIB_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine.pth").write_bytes(b"weights")
    card = tmp_path / "models" / "mine.json"
    card.write_text(Card("timm:resnet18", ("a",), Preprocessing((8, 8))).text())
    return card


def test_an_added_model_is_read_where_it_was_copied_to(added: Path) -> None:
    assert check_model(ModelSpec("mine"))


def test_a_card_that_leads_out_of_the_roots_is_refused(added: Path, folders: tuple[Path, Path]) -> None:
    inside, outside = folders
    for weights, allowed in ((inside / "model.pth", True), (outside / "model.pth", False)):
        added.write_text(Card("timm:resnet18", ("a",), Preprocessing((8, 8)), weights=str(weights)).text())
        if allowed:
            assert check_model(ModelSpec("mine"))
        else:
            with pytest.raises(ModelError, match="the weights of mine are not in a folder that this app may read"):
                check_model(ModelSpec("mine"))
    added.write_text(Card(f"hf:{outside}", ("a",), Preprocessing((8, 8))).text())
    with pytest.raises(ModelError, match="ATTRLIB_DATA_ROOTS"):
        check_model(ModelSpec("mine"))
    added.write_text(Card("timm:resnet18", ("a",), Preprocessing((8, 8))).text())
    added.with_suffix(".pth").unlink()
    added.with_suffix(".pth").symlink_to(outside / "model.pth")
    with pytest.raises(ModelError, match="the weights of mine"):
        check_model(ModelSpec("mine"))


def test_models_are_added_on_localhost_or_where_the_operator_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    address = {"server.address": "localhost", "server.maxUploadSize": 20}
    monkeypatch.setattr(st, "get_option", address.get)
    monkeypatch.delenv("ATTRLIB_ADD_MODELS", raising=False)
    assert not refusal_to_add()
    assert upload_limit() == 20
    address["server.address"] = "0.0.0.0"
    assert "ATTRLIB_ADD_MODELS=1" in refusal_to_add()
    for text, allowed in (("1", True), ("yes", True), ("0", False), ("", False), ("maybe", False)):
        monkeypatch.setenv("ATTRLIB_ADD_MODELS", text)
        assert bool(refusal_to_add()) is not allowed
