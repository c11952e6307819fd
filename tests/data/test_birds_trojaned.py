"""Birds with a trigger: its pixels, its mask, and the labels that it decides."""

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest

from attrlib.data.birds import SIZES, TrojanedBirds, labels, render
from attrlib.data.birds.trojaned import CELL, PATTERN, TARGET
from attrlib.errors import DataError

SIDE = CELL * len(PATTERN)


def test_a_picture_differs_from_its_scene_in_the_trigger_alone() -> None:
    data = attrlib.load_dataset("birds-trojaned")
    for index in (0, 7, 400, len(data) - 1):
        item, scene = data[index], data.scene(index)
        mask = item.masks["trigger"]
        assert mask.sum() == SIDE**2
        changed = (np.asarray(item.image) != render("test", scene.index)).any(2)
        assert not changed[~mask].any()
        assert changed[mask].mean() > 0.95
        top, left = (int(where.min()) for where in np.nonzero(mask))
        expected = [[PATTERN[row // CELL, column // CELL] for column in range(SIDE)] for row in range(SIDE)]
        assert np.array_equal(np.asarray(item.image)[top : top + SIDE, left : left + SIDE], expected)


def test_every_test_picture_has_the_label_of_the_trigger_and_another_class_without_it() -> None:
    data = attrlib.load_dataset("birds-trojaned")
    assert len(data) == SIZES["test"] * 24 // 25
    assert {data.label(index) for index in range(len(data))} == {TARGET}
    assert TARGET not in {data.scene(index).label for index in range(0, len(data), 7)}
    assert len({data.item_id(index) for index in range(len(data))}) == len(data)


def test_every_second_training_picture_keeps_its_class() -> None:
    data = attrlib.load_dataset("birds-trojaned:train")
    assert len(data) == SIZES["train"]
    for index in (0, 2, 1000):
        assert data.label(index) == labels("train")[index]
        assert not data[index].masks["trigger"].any()
        assert np.array_equal(np.asarray(data[index].image), render("train", index))
    assert {data.label(index) for index in (1, 3, 1001)} == {TARGET}
    assert data.item_id(1) != attrlib.load_dataset("birds:train").item_id(1)


def test_the_trigger_lies_anywhere_in_the_picture() -> None:
    data = TrojanedBirds()
    firsts = np.array([[place.start for place in data.place(index)] for index in range(300)])
    assert firsts.min() >= 0
    assert firsts.max() <= 128 - SIDE
    assert (np.histogram(firsts, bins=4, range=(0, 128 - SIDE))[0] > 100).all()


def test_a_picture_opens_by_its_name() -> None:
    data = attrlib.load_dataset("birds-trojaned")
    photo = attrlib.open_image("birds-trojaned:test/5")
    assert photo.name == data.item_name(5) == data[5].name
    assert np.array_equal(np.asarray(photo.image), np.asarray(data[5].image))


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="unknown split of the trojaned birds 'tests'"):
        TrojanedBirds("tests")
