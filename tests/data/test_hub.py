"""Data sets of torchvision and Imagenette: read from disk, without the network, and errors if they are missing."""

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

import attrlib.data.hub
from attrlib.data.datasets import anchored, list_datasets, load_dataset
from attrlib.data.hub import CLASSIFICATION, TorchvisionDataset, root
from attrlib.errors import DataError, ImageError
from attrlib.models import load_model

LAND = ("AnnualCrop", "Forest", "River")
WNIDS = ("n01440764", "n02102040", "n03028079")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTRLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "datasets"


@pytest.fixture(autouse=True)
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Block the network, and record the requests."""
    asked: list[Any] = []

    def refuse(*arguments: Any, **_options: Any) -> None:
        asked.append(arguments[0])
        raise URLError("there is no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return asked


def picture(number: int, side: int = 24) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8))


def lay_out(folder: Path, classes: tuple[str, ...], suffix: str, each: int = 2) -> list[tuple[str, Image.Image]]:
    """Pictures in class folders: class and pixels, in order."""
    found = []
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            file = folder / name / f"{name}_{number}.{suffix}"
            picture(10 * k + number).save(file, "PNG")
            found.append((name, picture(10 * k + number)))
    return found


def test_eurosat_is_read_where_torchvision_expects_it(cache: Path, attempts: list[Any]) -> None:
    expected = lay_out(cache / "eurosat" / "2750", LAND, "jpg")
    data = load_dataset("torchvision:EuroSAT")
    assert attempts == []
    assert (data.name, len(data), data.class_names, data.has_masks, data.offers) == ("torchvision:EuroSAT", 6, LAND, False, ())
    for k, (name, image) in enumerate(expected):
        item = data[k]
        assert (data.class_names[item.label or 0], item.name) == (name, f"torchvision:EuroSAT/{k}")
        assert item.image.mode == "RGB"
        assert item.image.tobytes() == image.tobytes()
        assert data.label(k) == item.label
        assert data.item_id(k) == item.id
    assert data[-1].id == data[5].id == data.item_id(-1)
    with pytest.raises(IndexError):
        data[6]


def test_a_digest_depends_only_on_the_pixels(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(cache / "eurosat" / "2750", LAND, "jpg")
    ids = [load_dataset("torchvision:EuroSAT").item_id(k) for k in range(6)]
    assert len(set(ids)) == 6
    for file in (cache / "eurosat" / "2750").glob("*/*.jpg"):
        Image.open(file).save(file, "PNG", compress_level=9)
    (tmp_path / "other").mkdir()
    cache.rename(tmp_path / "other" / "datasets")
    monkeypatch.setenv("ATTRLIB_CACHE", str(tmp_path / "other"))
    moved = load_dataset("torchvision:EuroSAT")
    assert [moved.item_id(k) for k in range(6)] == ids
    wide = SimpleNamespace(targets=[0, 0], classes=["a"], __getitem__=None)
    images = [Image.new("RGB", (8, 18)), Image.new("RGB", (18, 8))]
    shapes = TorchvisionDataset(
        "x", type("Two", (), {"targets": wide.targets, "classes": ["a"], "__getitem__": lambda _, k: (images[k], 0)})()
    )
    assert shapes.item_id(0) != shapes.item_id(1), "the same bytes in another shape"


@pytest.mark.parametrize(("name", "split"), [("imagenette", "val"), ("imagenette:train", "train")])
def test_imagenette_is_read_where_torchvision_expects_it(cache: Path, attempts: list[Any], name: str, split: str) -> None:
    expected = lay_out(cache / "imagenette2-320" / split, WNIDS, "JPEG")
    (cache / "imagenette2-320" / ("train" if split == "val" else "val") / "n01440764").mkdir(parents=True)
    data = load_dataset(name)
    assert attempts == []
    assert (data.name, len(data), data.class_names) == (name, 6, WNIDS)
    for k, (wnid, image) in enumerate(expected):
        assert data.class_names[data[k].label or 0] == wnid
        assert data[k].image.tobytes() == image.tobytes()
    classes = attrlib.data.labels.match_classes(data.class_names, load_model(device="cpu").class_names)
    assert classes == (0, 217, 497)


def test_a_copy_on_disk_is_the_same_data(cache: Path) -> None:
    lay_out(cache / "imagenette2-320" / "val", WNIDS, "JPEG")
    one, other = load_dataset("imagenette"), load_dataset(cache / "imagenette2-320" / "val")
    assert [one.item_id(k) for k in range(6)] == [other.item_id(k) for k in range(6)]


def test_imagenette_is_listed_and_loaded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {info.name: info for info in list_datasets()}
    assert (known["imagenette"].classes, known["imagenette"].labelled, known["imagenette"].masks) == (10, True, False)
    assert known["imagenette"].count == 3925
    assert known["imagenette:train"].count == 9469
    monkeypatch.chdir(tmp_path)
    for name in ("imagenette", "torchvision:EuroSAT", "torchvision:CIFAR10/train"):
        assert anchored(name) == name


@pytest.mark.parametrize("name", ["torchvision:EuroSAT", "imagenette", "imagenette:train", "torchvision:CIFAR10", "torchvision:DTD/train"])
def test_a_failed_download_is_one_line_with_advice(cache: Path, attempts: list[Any], name: str) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset(name)
    text = str(caught.value)
    assert text.startswith(f"{name} is not in {cache} and could not be downloaded (")
    assert "there is no network" in text
    assert text.endswith("; connect to the internet, or give the path of a local copy")
    assert "\n" not in text
    assert len(attempts) >= 1, "it was tried"


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ATTRLIB_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"torchvision:EuroSAT is not in .*could not be downloaded \(.*give the path of a local copy"):
        load_dataset("torchvision:EuroSAT")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:EuroSat", "unknown data set of torchvision 'EuroSat'. Did you mean EuroSAT"),
        ("torchvision:", "unknown data set of torchvision ''"),
        ("torchvision:CocoDetection", "unknown data set of torchvision 'CocoDetection'"),
        ("torchvision:os", "unknown data set of torchvision 'os'"),
        ("torchvision:CIFAR10/valid", "unknown split of CIFAR10 'valid'. Known: train, test"),
        ("torchvision:DTD/exam", "torchvision:DTD/exam: Unknown value 'exam' for argument split.*train"),
        ("torchvision:EuroSAT/train", "EuroSAT has no splits; leave out /train"),
    ],
)
def test_an_unknown_name_or_split_is_refused_before_any_download(attempts: list[Any], name: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)
    assert attempts == []


def test_a_broken_picture_is_an_error_and_the_others_can_be_read(cache: Path) -> None:
    lay_out(cache / "eurosat" / "2750", LAND, "jpg")
    files = sorted((cache / "eurosat" / "2750").glob("*/*.jpg"))
    files[1].write_bytes(files[1].read_bytes()[:300])
    files[3].write_bytes(b"no picture")
    files[4].unlink()
    data = load_dataset("torchvision:EuroSAT")
    # The list is created again, without the fifth file.
    assert len(data) == 5
    for k in range(5):
        if k not in (1, 3):
            assert data[k].image.size == (24, 24)
            continue
        for read in (data.__getitem__, data.item_id):
            with pytest.raises(ImageError, match=rf"^torchvision:EuroSAT/{k} cannot be read .*delete {root()} to download it again$"):
                read(k)


def test_a_file_deleted_after_loading_is_an_image_error(cache: Path) -> None:
    lay_out(cache / "eurosat" / "2750", LAND, "jpg")
    data = load_dataset("torchvision:EuroSAT")
    next((cache / "eurosat" / "2750" / "River").iterdir()).unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        [data[k] for k in range(6)]


class Labelled:
    """Stores labels in one of the ways of torchvision's data sets."""

    def __init__(self, **own: Any) -> None:
        self.__dict__.update(own)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return picture(index), 0


@pytest.mark.parametrize(
    ("own", "labels", "names"),
    [
        ({"targets": [1, 0], "classes": ["a", "b"]}, [1, 0], ("a", "b")),
        ({"labels": np.array([2, 0])}, [2, 0], ("0", "1", "2")),
        ({"_labels": [0, 1], "classes": ["a", "b"]}, [0, 1], ("a", "b")),
        ({"_samples": [("x", 1), ("y", 2)]}, [1, 2], ("0", "1", "2")),
        ({"labels": np.array([-1, 1]), "classes": ["a", "b"]}, [None, 1], ("a", "b")),
    ],
    ids=["targets", "labels", "_labels", "_samples", "unlabelled"],
)
def test_labels_are_found_wherever_torchvision_keeps_them(own: dict[str, Any], labels: list[int | None], names: tuple[str, ...]) -> None:
    data = TorchvisionDataset("x", Labelled(**own))
    assert (len(data), data.class_names) == (2, names)
    assert [data.label(k) for k in range(2)] == [data[k].label for k in range(2)] == labels


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_every_listed_data_set_exists_in_torchvision_and_is_downloaded(name: str, attempts: list[Any]) -> None:
    assert isinstance(getattr(torchvision.datasets, name), type)
    with pytest.raises(DataError, match=rf"torchvision:{name} is not in .*connect to the internet, or give the path of a local copy"):
        load_dataset(f"torchvision:{name}")
    assert attempts
