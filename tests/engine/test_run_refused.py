"""What a run refuses, and what it says about bad input."""

import math
import re
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from support.runs import (
    GRID,
    HALF,
    SIZE,
    Calls,
    alone,
    classifier,
    compare,
    named,
    no_threads_left,
    nothing_to_resume,
    picture,
    plan_of,
    same,
    spoil,
)
from torch import nn

import attrlib.engine.evaluations
import attrlib.engine.evaluator
import attrlib.engine.plan
from attrlib.data.datasets import load_dataset
from attrlib.engine.run import Event
from attrlib.errors import AttrlibError, DataError, MethodError, ProtocolError, SpecError
from attrlib.store import Store

pytestmark = pytest.mark.usefixtures("own_cache")


def test_what_is_not_defined_is_named_while_the_rest_goes_on(model: attrlib.Classifier, data: Path, store: Store) -> None:
    result = compare(model, "idsds,pointing,sds", "IxG@nowhere,IxG,Grad-CAM@Middle", data, store)
    assert list(named(result)) == [("sds", "IxG"), ("sds", "Grad-CAM@Middle")]
    refused = {(str(p), str(m)): why for p, m, why in result.refused}
    assert len(refused) == len(result.refused) == 7
    assert "use sds" in refused["idsds", "IxG"]
    assert "needs masks" in refused["pointing", "Grad-CAM@Middle"]
    assert "nowhere" in refused["sds", "IxG@nowhere"]
    assert [row["method"] for row in result.table()] == sorted(("IxG", "Grad-CAM@Middle"), key=lambda m: -named(result)["sds", m].mean)


def test_a_method_that_fails_when_it_runs_is_refused_and_the_others_finish(data: Path, store: Store, tmp_path: Path) -> None:
    gelu = classifier(activation=nn.GELU)
    events: list[Event] = []
    result = compare(gelu, f"sds,{GRID}", "IxG,Guided Backprop,Grad-CAM", data, store, on_progress=events.append)
    assert list(named(result)) == [(p, m) for p in ("sds", GRID) for m in ("IxG", "Grad-CAM")]
    assert [(str(p), str(m)) for p, m, _ in result.refused] == [("sds", "Guided Backprop"), (GRID, "Guided Backprop")]
    assert all("ReLU" in why and "use Gradient" in why for _, _, why in result.refused)
    with closing(alone(tmp_path / "without")) as other:
        assert same(result, compare(gelu, f"sds,{GRID}", "IxG,Grad-CAM", data, other))
    assert result.computed == 2 * 25
    assert all(event.done <= event.total for event in events)
    (stored,) = store.runs()
    assert stored.state == "done"
    assert list(stored.parts) == ["sds|IxG", "sds|Grad-CAM", f"{GRID}|IxG", f"{GRID}|Grad-CAM"]
    assert compare(gelu, f"sds,{GRID}", "IxG,Guided Backprop,Grad-CAM", data, store).computed == 0


def test_a_method_that_fails_when_its_cost_is_asked_for_is_refused(model: attrlib.Classifier, data: Path, store: Store) -> None:
    result = compare(model, "sds", "IxG,Occlusion:window=2:stride=4", data, store)
    assert [str(m) for _, m, _ in result.refused] == ["Occlusion:window=2:stride=4"]


@pytest.mark.parametrize("protocol", ["gridpg:grid=4", "difull:grid=3:confidence=0"])
def test_a_protocol_without_items_is_refused_while_the_others_go_on(
    protocol: str, model: attrlib.Classifier, data: Path, store: Store
) -> None:
    result = compare(model, f"{protocol},sds", "IxG", data, store)
    assert list(named(result)) == [("sds", "IxG")]
    (refused,) = result.refused
    assert "grid needs images of" in refused[2]


@pytest.mark.parametrize(
    ("protocols", "methods", "error", "words"),
    [
        ("idsds", "IxG", ProtocolError, "not fine-tuned .* use sds"),
        ("pointing,mass,rank", "IxG", ProtocolError, "pointing needs masks"),
        ("sds", "IxG@nowhere", AttrlibError, "nowhere"),
        ("sdz", "IxG", ProtocolError, "unknown protocol 'sdz'. Did you mean .*sds"),
        ("sds:gird=2", "IxG", SpecError, "unknown parameter of sds 'gird'. Did you mean grid"),
        ("sds:grid=1", "IxG", SpecError, "grid=1 is out of range"),
        ("sds:grid=two", "IxG", SpecError, "grid='two' is not valid"),
        ("gridpg:smoothing=4", "IxG", ProtocolError, "smoothing=4 is even"),
        ("sds", "IXG", MethodError, "unknown method 'IXG'. Did you mean IxG"),
        ("sds", "IG:step=2", SpecError, "unknown parameter of IG 'step'. Did you mean steps"),
        ("difull:grid=3", "IxG", DataError, "a 3 x 3 grid needs images of 8 classes, two of one of them"),
    ],
)
def test_where_nothing_is_defined_the_reason_is_raised(
    protocols: str, methods: str, error: type[Exception], words: str, model: attrlib.Classifier, data: Path, store: Store
) -> None:
    with pytest.raises(error, match=words):
        compare(model, protocols, methods, data, store)
    assert nothing_to_resume(store)


def test_where_nothing_is_defined_when_it_runs_the_reason_is_raised(data: Path, store: Store) -> None:
    gelu = classifier(activation=nn.GELU)
    with pytest.raises(AttrlibError, match="ReLU"):
        compare(gelu, "sds,ids:steps=2", "Guided Backprop", data, store)
    with pytest.raises(AttrlibError, match="ReLU"):
        attrlib.score("sds", gelu, "Guided Backprop", data, store=store)
    assert no_threads_left()


def test_a_run_that_cannot_go_on_is_not_left_as_running(data: Path, store: Store) -> None:
    with pytest.raises(AttrlibError, match="ReLU"):
        compare(classifier(activation=nn.GELU), "sds", "Guided Backprop", data, store)
    assert nothing_to_resume(store)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, "limit=0 is out of range: a whole number from 1"),
        ({"limit": -3}, "limit=-3 is out of range"),
        ({"ci_width": 0.0}, "ci_width=0.0 is out of range"),
        ({"ci_width": -1.0}, "ci_width=-1.0 is out of range"),
        ({"ci_width": math.nan}, "ci_width=nan is out of range"),
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"ci_width": math.inf}, "ci_width=inf is out of range"),
        ({"limit": "8"}, "limit"),
        ({"limit": 2.5}, "limit"),
    ],
)
def test_options_that_make_no_sense(
    options: dict[str, Any], words: str, model: attrlib.Classifier, data: Path, store: Store, calls: Calls
) -> None:
    with pytest.raises(SpecError, match=words):
        compare(model, "sds", "IxG", data, store, **options)
    assert calls == []


@pytest.mark.parametrize(("protocols", "methods"), [([], ["IxG"]), (["sds"], [])])
def test_nothing_to_do_is_said(protocols: list[str], methods: list[str], model: attrlib.Classifier, data: Path, store: Store) -> None:
    with pytest.raises(SpecError):
        attrlib.compare(protocols, model, methods, data, store=store)


def test_unreadable_images_are_counted_named_and_skipped(model: attrlib.Classifier, data: Path, store: Store, tmp_path: Path) -> None:
    with closing(alone(tmp_path / "good")) as other:
        good = compare(model, "sds", "IxG", data, other)
    spoil(data)
    for _ in range(2):
        result = compare(model, "sds", "IxG", data, store)
        score = named(result)["sds", "IxG"]
        assert len(score.values) == 20
        assert dict(zip(score.ids, score.values, strict=True)) == dict(
            zip(named(good)["sds", "IxG"].ids, named(good)["sds", "IxG"].values, strict=True)
        )
        assert score.notes
        notes = " ".join(result.notes)
        assert re.search(r"\b[23] (item|image)\(s\)", notes)
        assert all(name in notes for name in ("0 nonsense.png", "9 cut.png", "2 gone.png"))
    assert result.computed == 0
    (stored,) = store.runs()
    assert [len(part["items"]) for part in stored.parts.values()] == [20]


def test_unreadable_images_are_skipped_by_the_filter(model: attrlib.Classifier, data: Path, store: Store, tmp_path: Path) -> None:
    spoil(data)
    result = compare(model, GRID, "IxG", data, store)
    score = named(result)[GRID, "IxG"]
    bad = {i for i in range(23) if Path(load_dataset(data)._listing.names[i]).stem in ("0 nonsense", "9 cut", "2 gone")}  # type: ignore[attr-defined]
    assert len(bad) == 3
    assert len(score.values) == 5
    assert not bad & {item for items in score.items for item in items}
    assert any("2 gone.png" in note for note in result.notes)


def test_unreadable_images_are_named_by_the_filter(model: attrlib.Classifier, data: Path, store: Store) -> None:
    spoil(data)
    notes = " ".join(compare(model, GRID, "IxG", data, store).notes)
    assert "nonsense.png" in notes
    assert "cut.png" in notes


def test_the_filter_does_not_try_for_ever_to_read_what_it_cannot(model: attrlib.Classifier, data: Path, store: Store) -> None:
    spoil(data)
    compare(model, GRID, "IxG", data, store)
    found = plan_of(model, GRID, "IxG", data, store)
    assert (found.cached, found.missing, found.upper_bound) == (5, 0, False)


def test_where_no_image_can_be_read(model: attrlib.Classifier, tmp_path: Path, store: Store) -> None:
    (tmp_path / "bad" / "0").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "bad" / "0" / f"{number}.png").write_bytes(b"nonsense" * (number + 1))
    with pytest.raises(DataError, match=r"none of the 3 images of .* can be read: 0/.\.png"):
        compare(model, "sds", "IxG", tmp_path / "bad", store)
    with pytest.raises(DataError, match="0 of 3 images"):
        compare(model, GRID, "IxG", tmp_path / "bad", store)
    assert no_threads_left()


def test_many_that_are_gone_are_counted_not_listed(model: attrlib.Classifier, data: Path, store: Store) -> None:
    for number in range(30):
        (data / "0" / f"gone {number}.png").symlink_to("nowhere.png")
    result = compare(model, "sds", "IxG", data, store)
    assert len(named(result)["sds", "IxG"].values) == 20
    assert sum("gone" in note for note in result.notes) >= 1


def test_many_that_are_gone_make_one_note(model: attrlib.Classifier, data: Path, store: Store) -> None:
    for number in range(30):
        (data / "0" / f"gone {number}.png").symlink_to("nowhere.png")
    notes = [note for note in compare(model, "sds", "IxG", data, store).notes if "cannot be read" in note]
    assert len(notes) == 1
    assert "30" in notes[0]


def test_a_picture_that_comes_twice_counts_once(model: attrlib.Classifier, data: Path, store: Store, calls: Calls) -> None:
    shutil.copy(data / "0" / "0.png", data / "0" / "again.png")
    shutil.copy(data / "0" / "0.png", data / "0" / "and again.png")
    result = compare(model, "sds", "IxG", data, store)
    assert len(set(named(result)["sds", "IxG"].ids)) == len(named(result)["sds", "IxG"].values) == len(calls) == 20
    assert "2 image(s) that duplicate another skipped" in result.notes
    assert len(named(compare(model, GRID, "IxG", data, store))[GRID, "IxG"].values) == 5


def test_pictures_without_a_class(model: attrlib.Classifier, data: Path, store: Store) -> None:
    rows = [f"{k}/{n}.png,{k if n else ''}" for k in range(5) for n in range(4)]
    (data / "list.csv").write_text("\n".join(["file,label", *rows]))
    result = compare(model, "sds", "IxG", data / "list.csv", store)
    assert len(named(result)["sds", "IxG"].values) == 15
    assert "5 image(s) without a class skipped" in result.notes
    predicted = compare(model, "sds:target=prediction", "IxG", data / "list.csv", store)
    assert len(named(predicted)["sds:target=prediction", "IxG"].values) == 20


def test_a_folder_without_classes(model: attrlib.Classifier, tmp_path: Path, store: Store) -> None:
    (tmp_path / "flat").mkdir()
    for k in range(5):
        picture(k, 0).save(tmp_path / "flat" / f"{k}.png")
    with pytest.raises(DataError, match=r"5 image\(s\) without a class .* choose target=prediction"):
        compare(model, "sds", "IxG", tmp_path / "flat", store)
    assert compare(model, "sds:target=prediction", "IxG", tmp_path / "flat", store).computed == 5


def test_an_empty_folder(model: attrlib.Classifier, tmp_path: Path, store: Store) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        compare(model, "sds", "IxG", tmp_path / "empty", store)
    with pytest.raises(DataError, match="unknown data set"):
        compare(model, "sds", "IxG", tmp_path / "absent", store)


def test_classes_that_are_not_the_models(model: attrlib.Classifier, data: Path, store: Store) -> None:
    for k, name in enumerate(("ant", "bee", "cat", "dog", "elk")):
        (data / str(k)).rename(data / name)
    other = attrlib.wrap_model(model.module, SIZE, HALF, HALF, class_names=["red", "green", "blue", "yellow", "cyan"])
    with pytest.raises(DataError, match="5 of the 5 classes of the data match none of the model's 5: 'ant', 'bee', 'cat', "):
        compare(other, "sds", "IxG", data, store)
    with pytest.raises(AttrlibError, match="unknown way to match classes 'nme'"):
        compare(other, "sds", "IxG", data, store, classes="nme")
    assert compare(other, "sds:target=prediction", "IxG", data, store).computed == 20
    assert compare(other, "sds", "IxG", data, store, classes="order").computed == 20
    by_name = attrlib.wrap_model(model.module, SIZE, HALF, HALF, class_names=["Ant", "bee", "cat, kitten", "dog", "elk"])
    assert compare(by_name, "sds", "IxG", data, store).cached == 20, "the same classes by name"


def test_an_unknown_way_to_match_classes_is_said_whatever_the_target(model: attrlib.Classifier, data: Path, store: Store) -> None:
    with pytest.raises(AttrlibError, match="unknown way to match classes 'nme'"):
        compare(model, "sds:target=prediction", "IxG", data, store, classes="nme")


def test_too_few_images_for_a_grid(model: attrlib.Classifier, data: Path, store: Store) -> None:
    for k in (2, 3, 4):
        shutil.rmtree(data / str(k))
    with pytest.raises(DataError, match=r"8 of 8 images \(2 classes\) pass .* allow 0 grids: a 2 x 2 grid needs images of 4 classes"):
        compare(model, GRID, "IxG", data, store)
    with pytest.raises(DataError, match=r"a 2 x 2 grid needs images of 3 classes, two of one of them"):
        compare(model, "difull:confidence=0.5", "IxG", data, store)
