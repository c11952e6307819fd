"""Runs on pictures in memory and on pictures with several labels, against runs on files with one label each."""

import json
from itertools import pairwise
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from support.runs import CLASSES, HALF, SIZE, compare, named, net, picture, plan_of
from torchvision.datasets import ImageFolder

from attrlib.analysis.differences import aligned
from attrlib.analysis.examples import judged_item
from attrlib.data.datasets import Dataset, Item, load_dataset
from attrlib.data.derived import Subset
from attrlib.engine.items import EvalItem, compose_grids, image_items, labels_of_images
from attrlib.errors import DataError
from attrlib.progress import no_progress
from attrlib.specs import AggregateSpec, AggregateView, RunSpec
from attrlib.store import Store

METHODS, PROTOCOL = "IxG,Grad-CAM@Middle", "sds:grid=2"
LABELS = {"a": [0, 3], "b": [1], "c": [], "d": [2, 1, 4], "e": [4]}


def table(folder: Path, labels: dict[str, list[int]]) -> Path:
    """Write a picture for each name, and a CSV file with its labels."""
    folder.mkdir(exist_ok=True)
    for k, name in enumerate(LABELS):
        picture(k, 0).save(folder / f"{name}.png")
    rows = [f"{name}.png,{';'.join(map(str, own))}\n" for name, own in labels.items()]
    path = folder / f"list{len(list(folder.glob('*.csv')))}.csv"
    path.write_text("file,label\n" + "".join(rows))
    return path


def values(result: attrlib.RunResult, method: str) -> dict[tuple[str, int], float]:
    """Return the score of each picture and label."""
    score = named(result)[PROTOCOL, method]
    return {(image, labels[0]): value for image, labels, value in zip(score.ids, score.labels, score.values, strict=True)}


# Several labels


def test_each_label_is_scored_as_if_it_were_the_only_one(model: attrlib.Classifier, store: Store, tmp_path: Path) -> None:
    several = compare(model, PROTOCOL, METHODS, table(tmp_path / "p", LABELS), store)
    single: dict[str, dict[tuple[str, int], float]] = {method: {} for _, method in named(several)}
    for place in range(3):
        labels = {name: own[place : place + 1] for name, own in LABELS.items()}
        alone = compare(model, PROTOCOL, METHODS, table(tmp_path / "p", labels), Store(folder=tmp_path / f"s{place}"), classes="index")
        for method in single:
            single[method] |= values(alone, method)
    for method, expected in single.items():
        assert len(expected) == 7
        assert values(several, method) == expected
    assert "2 image(s) with several labels: each label is an item of its own" in " ".join(several.notes)
    assert "1 image(s) without a class skipped" in several.notes


def test_a_second_run_computes_nothing_and_keys_are_those_of_single_labels(model: attrlib.Classifier, store: Store, tmp_path: Path) -> None:
    several = table(tmp_path / "p", LABELS)
    assert compare(model, PROTOCOL, METHODS, several, store).computed == 14
    assert compare(model, PROTOCOL, METHODS, several, store).computed == 0
    single = table(tmp_path / "p", {"a": [3], "b": [1], "d": [4], "c": [0], "e": [2]})
    again = compare(model, PROTOCOL, METHODS, single, store)
    assert (again.cached, again.computed) == (6, 4)


def test_items_with_several_labels_have_keys_of_their_own(model: attrlib.Classifier, store: Store, tmp_path: Path) -> None:
    data = load_dataset(table(tmp_path / "p", LABELS))
    result = compare(model, PROTOCOL, METHODS, data, store)
    a, b = named(result).values()
    assert len(set(a.keys)) == 7 > len(set(a.ids))
    assert [x.tolist() for x in aligned(a, b)] == [a.values.tolist(), b.values.tolist()]
    assert all(
        result.of_item(key) == {pair: score.values[place] for pair, score in result.scores.items()} for place, key in enumerate(a.keys)
    )
    for place, labels in enumerate(a.labels):
        item = judged_item(data, a, place, model, store, no_progress)
        assert item.target == f"class {labels[0]}"
        assert item.name == data.item_name(a.items[place][0])


def test_measurements_are_counted_for_each_label(model: attrlib.Classifier, store: Store, tmp_path: Path) -> None:
    path = table(tmp_path / "p", LABELS)
    compare(model, PROTOCOL, "IxG", path, store)
    plan = plan_of(model, PROTOCOL, "IxG", path, store)
    (group,) = plan.groups
    (measurement,) = group.group.evaluations[0].protocol.measurements
    assert measurement.targeted
    assert plan.evaluators[0].count_measured(measurement, group.items, "label") == len(group.items) == 7


def test_the_first_items_do_not_depend_on_the_limit_and_the_prediction_is_one_item(tmp_path: Path) -> None:
    data = load_dataset(table(tmp_path / "p", LABELS))
    every = image_items(data, range(CLASSES), None, 3, True).items
    assert [image_items(data, range(CLASSES), limit, 3, True).items for limit in range(1, 8)] == [every[:limit] for limit in range(1, 8)]
    predicted = image_items(data, range(CLASSES), None, 3, False).items
    assert len(predicted) == len({item.id for item in predicted}) == 5
    assert sorted(item.labels for item in predicted) == [(-1,), (-1,), (-1,), (1,), (4,)]
    assert [item.key("prediction") for item in predicted] == [item.id for item in predicted]


def test_equal_pictures_are_one_for_each_label(tmp_path: Path) -> None:
    path = table(tmp_path / "p", {})
    (tmp_path / "p" / "twin.png").write_bytes((tmp_path / "p" / "a.png").read_bytes())
    path.write_text("file,label\na.png,0;1\ntwin.png,1;2\n")
    selection = image_items(load_dataset(path), range(CLASSES), None, 0, True)
    assert sorted(item.labels for item in selection.items) == [(0,), (1,), (2,)]
    path.write_text("file,label\na.png,0\ntwin.png,1\n")
    assert len(image_items(load_dataset(path), range(CLASSES), None, 0, True).items) == 1


def items_of(labels: dict[str, list[int]]) -> list[EvalItem]:
    return [EvalItem(name, (k,), (label,)) for k, (name, own) in enumerate(labels.items()) for label in own]


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_a_target_is_in_no_other_cell_of_its_grid(corners: bool, seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = {f"p{k}": sorted(draw.choice(8, draw.integers(1, 4), replace=False).tolist()) for k in range(80)}
    items = items_of(labels)
    grids = compose_grids(items, labels_of_images(items), 2, corners, seed)
    assert len(grids) >= 15
    for cells in grids:
        assert len({item.id for item in cells}) == 4
        targets = [item.labels[0] for item in cells]
        assert (targets[0] == targets[3]) == corners
        for item, target in zip(cells, targets, strict=True):
            assert all(target not in labels[other.id] for other, own in zip(cells, targets, strict=True) if own != target), item
    assert compose_grids(items, {}, 2, corners, seed) != grids


def test_grids_are_made_of_the_labels_that_the_model_predicts(model: attrlib.Classifier, store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    rows = []
    for k in range(CLASSES):
        for number in range(4):
            picture(k, number).save(folder / f"{k}{number}.png")
            rows.append(f"{k}{number}.png,{k}{f';{(k + 1) % CLASSES}' if number < 2 else ''}\n")
    (folder / "list.csv").write_text("file,label\n" + "".join(rows))
    data = load_dataset(folder / "list.csv")
    result = compare(model, "difull:confidence=0.5", "IxG", data, store)
    (score,) = named(result).values()
    assert score.values.size
    for images, labels in zip(score.items, score.labels, strict=True):
        assert [int(data.item_name(k)[0]) for k in images] == list(labels)
        assert all(target not in data.labels(k) for target in labels for k, own in zip(images, labels, strict=True) if own != target)
    assert any(note.startswith("20 of 30 images (5 classes) pass the filter") for note in result.notes)


def test_images_that_show_the_classes_of_each_other_allow_no_grid(model: attrlib.Classifier, store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    for k in range(CLASSES):
        picture(k, 0).save(folder / f"{k}.png")
    (folder / "list.csv").write_text("file,label\n" + "".join(f"{k}.png,0;1;2;3;4\n" for k in range(CLASSES)))
    with pytest.raises(DataError, match=r"allow 0 grids: .* needs images of 4 classes, and none of them shows the class of another\."):
        compare(model, "gridpg:confidence=0.5", "IxG", folder / "list.csv", store)


def test_a_model_of_several_labels_gives_grids_of_each_label_that_it_finds(store: Store, tmp_path: Path) -> None:
    """Oracle: a label passes where the sigmoid of its logit reaches the confidence, whatever the other logits are."""
    several = attrlib.wrap_model(net(), SIZE, HALF, HALF, outputs="sigmoid")
    folder, rows = tmp_path / "p", []
    folder.mkdir()
    for k in range(CLASSES):
        for number in range(6):
            picture(k, number).save(folder / f"{k}{number}.png")
            rows.append(f"{k}{number}.png,{k}{f';{(k + 2) % CLASSES}' if number < 3 else ''}\n")
    (folder / "list.csv").write_text("file,label\n" + "".join(rows))
    data = load_dataset(folder / "list.csv")
    with torch.no_grad():
        found = several.module(torch.stack([several.preprocess(item.image) for item in data])).sigmoid()
    passing = sum(float(found[k, label]) >= 0.6 for k in range(len(data)) for label in data.labels(k))
    assert passing >= 20
    result = compare(several, "gridpg:confidence=0.6", "IxG", data, store)
    assert any(note.startswith(f"{passing} of 45 images") for note in result.notes)
    (score,) = named(result).values()
    for images, labels in zip(score.items, score.labels, strict=True):
        assert all(found[k, label] >= 0.6 for k, label in zip(images, labels, strict=True))


# Data in memory


def test_pictures_in_memory_share_the_results_of_their_files(model: attrlib.Classifier, store: Store, data: Path) -> None:
    first = compare(model, PROTOCOL, METHODS, data, store)
    again = compare(model, PROTOCOL, METHODS, ImageFolder(str(data)), store)
    assert (again.computed, again.spec.data) == (0, str(data))
    part = load_dataset([(path, label) for path, label in ImageFolder(str(data)).samples[:8]])
    result = compare(model, PROTOCOL, METHODS, part, store)
    assert result.computed == 0
    assert values(result, "IxG").items() <= values(first, "IxG").items()


def test_arrays_are_scored_as_files_of_the_same_pixels(model: attrlib.Classifier, store: Store, data: Path) -> None:
    files = load_dataset(data)
    array, labels = np.stack([np.asarray(item.image) for item in files]), [item.label for item in files]
    expected = compare(model, PROTOCOL, METHODS, data, store)
    result = compare(model, PROTOCOL, METHODS, load_dataset(array, labels=labels), store)
    for key, score in named(result).items():
        assert score.items == named(expected)[key].items
        assert score.values.tolist() == named(expected)[key].values.tolist()
    assert result.spec.data.startswith("memory:array-")


def test_two_data_sets_in_memory_share_no_manifest(model: attrlib.Classifier, store: Store) -> None:
    for colours in ((0, 1), (2, 3)):
        compare(model, PROTOCOL, "IxG", [(picture(k, 0), k) for k in colours], store)
    assert len(store.runs()) == 2


class Mine(Dataset):
    name, class_names = "mine", ("0", "1")

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Item:
        return Item(picture(index, 0), index, str(index), str(index))

    def label(self, index: int) -> int:
        return index

    def item_id(self, index: int) -> str:
        return str(index)


def test_a_data_set_in_memory_has_no_name_that_another_could_have(
    model: attrlib.Classifier, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    spec = compare(model, PROTOCOL, "IxG", Mine(), store).spec
    assert (spec.data, spec.in_memory) == ("memory:mine", True)
    assert spec.cli().endswith("  # memory:mine is a data set in memory: load it in Python as before, and pass it to attrlib.compare")
    assert "\ndata = ...  # memory:mine is a data set in memory" in spec.snippet()
    compile(spec.snippet(), "snippet", "exec")
    assert "\ndata = ...  # memory:mine" in AggregateSpec(spec, AggregateView()).snippet()
    assert RunSpec.from_json(json.loads(json.dumps(store.runs()[0].spec["spec"]))) == spec
    assert Subset(load_dataset("photos"), [0]).source == "memory:photos"
    assert load_dataset("photos").source == "photos"


# Notes


def test_a_run_says_what_was_assumed_and_left_out(model: attrlib.Classifier, store: Store, data: Path) -> None:
    (data / "0" / "x.gif").touch()
    (data / "5").mkdir()
    result = compare(model, PROTOCOL, "IxG", data, store)
    assert result.notes[:2] == ("1 file left out: 1 .gif", "class '5' has no readable pictures and is left out: it is empty")
    assert any(note.startswith("classes are matched by number: '0' is class 0") for note in result.notes)
    assert next(iter(result.scores.values())).notes == result.notes
    by_order = compare(model, PROTOCOL, "IxG", data, store, classes="order")
    assert any(note.startswith("classes are matched by order: '0' is class 0") for note in by_order.notes)
    assert [a.values.tolist() == b.values.tolist() for a, b in pairwise([*result.scores.values(), *by_order.scores.values()])] == [True]
