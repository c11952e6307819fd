"""CSV files with several labels per picture, against labels written by hand."""

from pathlib import Path

import pytest
from PIL import Image

from attrlib.data.datasets import Dataset, load_dataset
from attrlib.data.derived import Kept, Subset
from attrlib.errors import DataError


def table(folder: Path, text: str, pictures: str = "abcd") -> Path:
    for k, name in enumerate(pictures):
        Image.new("RGB", (9, 9), (k, k, k)).save(folder / f"{name}.png")
    (folder / "list.csv").write_text(text)
    return folder / "list.csv"


def named(data: Dataset) -> list[list[str]]:
    return [[data.class_names[label] for label in data.labels(k)] for k in range(len(data))]


@pytest.mark.parametrize(
    "cells", ["dog;cat", "cat|dog", " dog ; cat ", "dog;;cat;", "dog|cat;dog"], ids=["semicolon", "bar", "spaces", "empty", "twice"]
)
def test_labels_are_separated(cells: str, tmp_path: Path) -> None:
    data = load_dataset(table(tmp_path, f"file,label\na.png,{cells}\nb.png,dog\nc.png,\nd.png,fox\n"))
    assert data.multi_label
    assert data.class_names == ("cat", "dog", "fox")
    assert named(data) == [["cat", "dog"], ["dog"], [], ["fox"]]
    assert [data.label(k) for k in range(4)] == [None, 1, None, 2]
    assert [item.label for item in data] == [None, 1, None, 2]
    assert data.describe() == "4 images, 3 classes, several labels per image"


def test_one_label_each_is_no_multi_label_data_set(tmp_path: Path) -> None:
    data = load_dataset(table(tmp_path, "file,label\na.png,cat\nb.png,dog\n"))
    assert not data.multi_label
    assert [data.labels(k) for k in (0, 1)] == [(0,), (1,)]


def test_columns_of_0_and_1_are_the_classes_in_their_order(tmp_path: Path) -> None:
    data = load_dataset(table(tmp_path, "file,dog,cat\na.png,1,1\nb.png,0,1\nc.png,0,0\nd.png,1.0,0.0\n"))
    assert data.multi_label
    assert data.class_names == ("dog", "cat")
    assert named(data) == [["dog", "cat"], ["cat"], [], ["dog"]]
    assert data.notes == ("list.csv has no column 'label': its 2 other columns, of 0 and 1, are the classes",)


def test_one_hot_columns_of_single_labels(tmp_path: Path) -> None:
    data = load_dataset(table(tmp_path, "dog,file,cat\n1,a.png,0\n0,b.png,1\n"))
    assert not data.multi_label
    assert [data.label(k) for k in (0, 1)] == [0, 1]


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("file,cat,width\na.png,1,64\nb.png,0,32\n", "'width' holds more than 0 and 1, so 'cat' is not taken for a class"),
        ("file,cat,dog\na.png,1,0\nb.png,0\n", "'dog' holds more than 0 and 1, so 'cat' is not taken for a class"),
        ("file,width\na.png,64\nb.png,32\n", ""),
        ("file\na.png\nb.png\n", ""),
    ],
)
def test_other_columns_are_no_labels(text: str, note: str, tmp_path: Path) -> None:
    data = load_dataset(table(tmp_path, text))
    assert (data.class_names, named(data), data.multi_label) == ((), [[], []], False)
    assert [note in own for own in data.notes] == [True] * bool(note)


def test_with_a_label_other_columns_are_ignored(tmp_path: Path) -> None:
    data = load_dataset(table(tmp_path, "file,cat,label\na.png,1,x\nb.png,0,y\n"))
    assert (data.class_names, data.notes) == (("x", "y"), ())


def test_two_columns_of_one_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two columns 'cat'; rename or remove"):
        load_dataset(table(tmp_path, "file,cat,cat\na.png,1,0\n"))


def test_derived_data_sets_keep_labels_and_notes(tmp_path: Path) -> None:
    data = load_dataset(table(tmp_path, "file,dog,cat\na.png,1,1\nb.png,0,1\n"))
    for derived in (Subset(data, [1, 0]), Kept(data)):
        assert (derived.multi_label, derived.notes) == (True, data.notes)
    assert Subset(data, [1, 0]).labels(1) == Kept(data).labels(0) == (0, 1)
