"""Folders of splits, and what is left out of a folder, against lists written by hand and torchvision's ImageFolder."""

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from attrlib.data.datasets import Dataset, load_dataset
from attrlib.errors import DataError


def write(folder: Path, files: Sequence[str]) -> Path:
    """Write small pictures of different colours; files with another ending are empty."""
    for k, file in enumerate(files):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".jpg"):
            Image.new("RGB", (10, 9), (k, 2 * k, 3 * k)).save(path, "PNG")
        else:
            path.touch()
    folder.mkdir(exist_ok=True)
    return folder


def names(data: Dataset) -> list[str]:
    return [data.item_name(k) for k in range(len(data))]


TRAIN = ["train/cat/1.png", "train/dog/2.png", "train/dog/3.png"]
VAL = ["val/cat/4.png", "val/dog/5.png"]


@pytest.mark.parametrize(
    ("folders", "chosen"),
    [
        (["train", "val"], "val"),
        (["train", "val", "test"], "test"),
        (["training", "validation"], "validation"),
        (["train", "valid"], "valid"),
        (["train", "dev"], "dev"),
        (["TRAIN", "Test"], "Test"),
        (["val", "dev"], "val"),
        (["train"], "train"),
        (["testing", "train"], "testing"),
        (["training_set", "test_set"], "test_set"),
        (["trainset", "Validation-Set"], "Validation-Set"),
        (["train_data", "val images"], "val images"),
    ],
)
def test_splits_with_class_folders_are_no_classes(folders: list[str], chosen: str, tmp_path: Path) -> None:
    write(tmp_path, [f"{folder}/{name}/{k}.png" for folder in folders for k, name in enumerate(("cat", "dog"))])
    data = load_dataset(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert names(data) == ["cat/0.png", "dog/1.png"]
    assert data.name == str(tmp_path / chosen)
    assert any(f"{chosen!r} is used; to use another one, give the path of its folder" in note for note in data.notes)


def test_the_path_of_a_split_loads_it_and_the_name_loads_it_again(tmp_path: Path) -> None:
    write(tmp_path, [*TRAIN, *VAL])
    train = load_dataset(tmp_path / "train")
    assert (names(train), train.notes) == (["cat/1.png", "dog/2.png", "dog/3.png"], ())
    chosen = load_dataset(tmp_path)
    assert (
        [item.id for item in load_dataset(chosen.name)]
        == [item.id for item in chosen]
        == [item.id for item in load_dataset(tmp_path / "val")]
    )
    assert names(load_dataset(tmp_path, training=True)) == names(train)


def test_data_to_judge_on_cannot_be_trained_on(tmp_path: Path) -> None:
    write(tmp_path, [*VAL, "test/cat/1.png"])
    with pytest.raises(DataError, match="the splits 'test' and 'val' are not for training; give the path"):
        load_dataset(tmp_path, training=True)


def test_a_split_without_class_folders_is_left_out(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path, [*TRAIN, "test/6.png"]))
    assert data.name == str(tmp_path / "train")
    assert data.notes[1] == "'test' holds no class folders"


@pytest.mark.parametrize("files", [["train/1.png", "val/2.png"], ["test/1.png"]])
def test_pictures_directly_in_splits_are_refused(files: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"these may be splits or classes; give the path of one of them .* or rename the folders"):
        load_dataset(write(tmp_path, files))
    assert load_dataset(tmp_path / files[0].split("/")[0]).class_names == ()


def test_a_class_may_be_called_train_among_others(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path, ["bus/1.png", "train/2.png", "train/steam/3.png"]))
    assert (data.class_names, data.notes) == (("bus", "train"), ())


def test_each_split_may_have_masks_of_its_own_but_not_share_them(tmp_path: Path) -> None:
    write(tmp_path / "own", ["train/images/a/1.png", "train/masks/a/1.png", "val/images/a/2.png", "val/masks/a/2.png"])
    data = load_dataset(tmp_path / "own")
    assert (names(data), data.has_masks, data.class_names) == (["images/a/2.png"], True, ("a",))
    write(tmp_path / "shared", ["images/train/a/1.png", "images/val/a/2.png", "masks/train/a/1.png"])
    with pytest.raises(DataError, match="holds the splits 'train' and 'val'; give each split folders of its own, images and masks"):
        load_dataset(tmp_path / "shared")


# What is left out


def test_files_left_out_are_counted_by_ending(tmp_path: Path) -> None:
    others = [f"a/{k}.gif" for k in range(5)] + [f"b/deep/{k}.GIF" for k in range(4)] + ["read.txt", "b/x.txt", "b/y.txt", "b/none"]
    data = load_dataset(write(tmp_path, ["a/1.png", "b/2.png", *others]))
    assert data.notes == ("13 files left out: 9 .gif, 3 .txt, 1 without an ending",)
    assert load_dataset(write(tmp_path / "flat", ["1.png", "more/x.gif"])).notes == ("1 file left out: 1 .gif",)
    assert load_dataset(write(tmp_path / "clean", ["a/1.png", ".hidden/x.gif", "a/.DS_Store"])).notes == ()


def test_classes_that_vanish_are_named_with_their_files(tmp_path: Path) -> None:
    write(tmp_path, ["cat/1.png", *(f"dog/{k}.heic" for k in range(5)), "fox/1.tga", "fox/2.heic", "cat/2.heic"])
    (tmp_path / "gnu").mkdir()
    data = load_dataset(tmp_path)
    assert data.class_names == ("cat",)
    assert data.notes == (
        "1 file left out: 1 .heic",
        "class 'dog' has no readable pictures and is left out: 5 .heic",
        "class 'fox' has no readable pictures and is left out: 1 .heic, 1 .tga",
        "class 'gnu' has no readable pictures and is left out: it is empty",
    )


def test_many_endings_and_many_vanished_classes_are_summed_up(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path, ["a/1.png", *(f"a/1.x{k}" for k in range(9)), *(f"c{k}/1.gif" for k in range(9))]))
    assert data.notes[0] == "9 files left out: 1 .x0, 1 .x1, 1 .x2, 1 .x3, 1 .x4, ..."
    assert data.notes[4] == "6 more class folders have no readable pictures and are left out"
    assert len(data.notes) == 5


def test_a_folder_of_other_files_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no pictures in .*, only 2 \.heic, 1 \.txt; add files"):
        load_dataset(write(tmp_path, ["a/1.heic", "b/1.heic", "x.txt"]))


def test_masks_left_out_are_counted(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path, ["images/1.png", "images/2.png", "masks/1.png", "masks/2.jpg"]))
    assert data.notes == ("1 file of masks, which are .png, left out: 1 .jpg",)


# Order, against torchvision


def test_the_order_of_classes_is_that_of_image_folder(tmp_path: Path) -> None:
    write(tmp_path, [f"{name}/{k}.png" for name in (*map(str, range(12)), "Zebra", "ant", "Ölk", "a b") for k in (0, 10, 9)])
    data, theirs = load_dataset(tmp_path), ImageFolder(str(tmp_path))
    assert data.class_names == tuple(theirs.classes)
    ours = [(str(tmp_path / data.item_name(k)), data.label(k)) for k in range(len(data))]
    assert sorted(ours) == sorted(theirs.samples)
    assert attrlib.data.labels.match_classes(data.class_names, [f"class {k}" for k in range(16)], "order") == tuple(
        theirs.class_to_idx.values()
    )
    assert os.path.basename(data.name) == tmp_path.name


def test_a_single_class_of_folders_is_said_with_the_path_of_its_folders(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / "images" / kind).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "images" / kind / "1.png")
    data = attrlib.load_dataset(tmp_path)
    assert data.class_names == ("images",)
    assert [note for note in data.notes if "'images' is the only class" in note and str(tmp_path / "images") in note]
    assert attrlib.load_dataset(tmp_path / "images").notes == ()
    Image.new("RGB", (16, 16)).save(tmp_path / "images" / "2.png")
    assert attrlib.load_dataset(tmp_path).notes == ()
