"""Runs: what they compute, what they never compute twice, and what is left when they are stopped."""

import errno
import functools
import itertools
import math
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from support.engine import evaluate_items
from support.numbers import SEED
from support.stores import wait_out
from support.waiting import LIMIT
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import attrlib.engine.evaluations
import attrlib.engine.evaluator
import attrlib.engine.plan
from attrlib import RunResult, RunSpec, Score
from attrlib.data.datasets import load_dataset
from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluations import find_evaluations
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem, chunked
from attrlib.engine.loader import Loader
from attrlib.engine.memory import row_bytes, rows_within
from attrlib.engine.plan import Plan, make_plan
from attrlib.engine.run import MIN_ITEMS_FOR_WIDTH, Event, run
from attrlib.engine.selection import select
from attrlib.errors import AttrlibError, Cancelled, DataError, MethodError, ProtocolError, SpecError
from attrlib.methods import BATCH_SIZE, attribute, resolve
from attrlib.models.cells import stitch
from attrlib.models.preserve import has_bfloat16
from attrlib.protocols import Prediction
from attrlib.specs import MethodSpec, digest, parse_methods, parse_protocols
from attrlib.statistics import spearman, summary
from attrlib.store import Store, engines, files

pytestmark = pytest.mark.usefixtures("own_cache")
CLASSES, SIZE = 5, 16
COLOURS = ((200, 60, 60), (60, 200, 60), (60, 60, 200), (190, 190, 60), (60, 190, 190))
"""The colour of each class, before noise."""
HALF = (0.5, 0.5, 0.5)
GRID = "gridpg:confidence=0.5"


class Stem(nn.Conv2d):
    """Counts the images that really pass through it."""

    passed = 0

    def forward(self, x: Tensor) -> Tensor:
        Stem.passed += len(x)
        return super().forward(x)


class Net(nn.Module):
    """Two random convolutions, and a head that chooses the class whose plain colour is nearest."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU, size: int = SIZE) -> None:
        super().__init__()
        self.conv1, self.act1 = Stem(3, 8, 3, padding=1), activation()
        self.conv2, self.act2 = nn.Conv2d(8, 8, 3, stride=2, padding=1), activation()
        self.fc = nn.Linear(8, CLASSES)
        plain = torch.tensor(COLOURS)[:, :, None, None].expand(-1, -1, size, size) / 127.5 - 1
        with torch.no_grad():
            found = self.features(plain.contiguous())
            self.fc.weight.copy_(2500 * found)
            self.fc.bias.copy_(-1250 * found.square().sum(1))

    def features(self, x: Tensor) -> Tensor:
        return self.act2(self.conv2(self.act1(self.conv1(x)))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


def net(seed: int = 0, **options: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + SEED)
        return Net(**options).eval()


def classifier(seed: int = 0, **options: Any) -> attrlib.Classifier:
    return attrlib.wrap_model(net(seed, **options), options.get("size", SIZE), HALF, HALF)


@pytest.fixture(scope="module")
def model() -> attrlib.Classifier:
    return classifier()


def picture(colour: int, number: int, side: int = 20) -> Image.Image:
    """A picture of a class: its colour, with noise that is the number's own."""
    noise = np.random.default_rng([colour, number + SEED])
    values = np.array(COLOURS[colour]) + noise.normal(0, 25, (side, side, 1)) + noise.normal(0, 10, (side, side, 3))
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def pictures(folder: Path, count: int = 4, classes: int = CLASSES, side: int = 20) -> Path:
    """A folder with `count` pictures of each class in a subfolder named by its index."""
    for k in range(classes):
        (folder / str(k)).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(k, number, side).save(folder / str(k) / f"{number}.png", compress_level=1)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twenty pictures, four of each class."""
    return pictures(tmp_path / "pictures")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(folder=tmp_path / "store")) as store:
        yield store


class Calls(list[tuple[str, str, int]]):
    """Every map that was computed, in order: method with its parameters, digest of the image, class."""

    @property
    def times(self) -> Counter[tuple[str, str, int]]:
        return Counter(self)

    def of(self, method: str) -> int:
        return sum(name.partition("@")[0] == method for name, _, _ in self)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    found, original = Calls(), attrlib.engine.evaluator.attribute_each

    def counted(view: Any, specs: Sequence[MethodSpec], images: Tensor, targets: Sequence[int], *rest: Any) -> list[Any]:
        owners = rest[4] if len(rest) > 4 and rest[4] is not None else range(len(images))
        result = original(view, specs, images, targets, *rest)
        contents = [digest(images[k].contiguous().numpy().tobytes()) for k in owners]
        found.extend((str(resolve(spec)), content, target) for spec in specs for content, target in zip(contents, targets, strict=True))
        return result

    monkeypatch.setattr(attrlib.engine.evaluator, "attribute_each", counted)
    return found


@contextmanager
def passes() -> Iterator[SimpleNamespace]:
    """How many images pass through the stem of any network inside."""
    counted = SimpleNamespace(images=0)
    before = Stem.passed
    yield counted
    counted.images = Stem.passed - before


def compare(model: attrlib.Classifier, protocols: str, methods: str, data: object, store: Store, **options: Any) -> RunResult:
    several = [str(p) for p in parse_protocols(protocols)], [str(m) for m in parse_methods(methods)]
    return attrlib.compare(several[0], model, several[1], data, store=store, **options)  # type: ignore[arg-type]


def spec_of(model: attrlib.Classifier, protocols: str, methods: str, data: object, **options: Any) -> RunSpec:
    return RunSpec(model.spec, str(data), parse_protocols(protocols), parse_methods(methods), **options)


def plan_of(model: attrlib.Classifier, protocols: str, methods: str, data: object, store: Store, **options: Any) -> Plan:
    return make_plan(spec_of(model, protocols, methods, data, **options), model, load_dataset(str(data)), store)


def named(result: RunResult) -> dict[tuple[str, str], Score]:
    return {(str(p), str(m)): score for (p, m), score in result.scores.items()}


def same(one: RunResult, other: RunResult) -> bool:
    """Bit for bit, with items and details."""
    a, b = named(one), named(other)
    return list(a) == list(b) and all(
        a[k].values.tobytes() == b[k].values.tobytes()
        and (a[k].ids, a[k].items) == (b[k].ids, b[k].items)
        and repr([dict(d) for d in a[k].details]) == repr([dict(d) for d in b[k].details])
        for k in a
    )


def alone(folder: Path) -> Store:
    return Store(folder=folder)


def no_threads_left() -> bool:
    return not [t for t in threading.enumerate() if t.name.startswith("attrlib-loader")]


def nothing_to_resume(store: Store) -> bool:
    return not [r for r in store.runs() if r.state in ("running", "cancelled")]


# Values


def read(model: attrlib.Classifier, data: Path) -> tuple[Tensor, list[int]]:
    dataset = load_dataset(data)
    items = [dataset[i] for i in range(len(dataset))]
    return torch.stack([model.preprocess(item.image) for item in items]), [int(dataset.class_names[item.label or 0]) for item in items]


@pytest.mark.parametrize("method", ["IxG", "Grad-CAM", "IG@act1:steps=3"])
def test_a_score_is_that_of_a_plain_loop(method: str, model: attrlib.Classifier, data: Path) -> None:
    score = attrlib.score("sds", model, method, data)
    images, labels = read(model, data)
    expected = {}
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        whole = attrlib.explain(model, image, method, target=label).resized()[0, 0].double()
        clean = model(image[None])[0, label]
        drops, sums = [], []
        for top in range(0, SIZE, SIZE // 4):
            for left in range(0, SIZE, SIZE // 4):
                where = slice(top, top + SIZE // 4), slice(left, left + SIZE // 4)
                changed = image.clone()
                changed[:, *where] = 0
                drops.append(float(clean - model(changed[None])[0, label]))
                sums.append(float(whole[where].sum()))
        expected[index] = scipy.stats.spearmanr(drops, sums).statistic
    assert [item for (item,) in score.items] == load_dataset(data).order(0)
    assert np.allclose(score.values, [expected[item] for (item,) in score.items], rtol=0, atol=1e-9)
    assert np.std(score.values) > 0.01
    assert score.mean == pytest.approx(np.mean(score.values), abs=1e-12)
    assert score.ci95 == pytest.approx(scipy.stats.t.interval(0.95, 19, score.mean, scipy.stats.sem(score.values)))


def test_a_grid_score_is_that_of_a_plain_loop(model: attrlib.Classifier, data: Path) -> None:
    score = attrlib.score(GRID, model, "IxG", data)
    images, labels = read(model, data)
    assert len(score.values) == 5
    assert len({item for items in score.items for item in items}) == 20, "each image once"
    for value, items in zip(score.values, score.items, strict=True):
        assert len({labels[i] for i in items}) == 4, "distinct classes"
        grid = torch.cat([torch.cat([images[i] for i in items[row : row + 2]], 2) for row in (0, 2)], 1)
        shares = []
        for cell, item in enumerate(items):
            leaf = grid[None].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(model.module(leaf)[0, labels[item]], leaf)
            positive = (gradient * leaf).sum(1)[0].detach().double().clamp_min(0)
            top, left = cell // 2 * SIZE, cell % 2 * SIZE
            shares.append(float(positive[top : top + SIZE, left : left + SIZE].sum() / positive.sum()))
        assert value == pytest.approx(np.mean(shares), abs=1e-6)


def test_score_compare_and_run_agree(model: attrlib.Classifier, data: Path, tmp_path: Path) -> None:
    with closing(alone(tmp_path / "a")) as a, closing(alone(tmp_path / "b")) as b, closing(alone(tmp_path / "c")) as c:
        single = attrlib.score("sds", model, "IG", data, layer="act1", limit=7, seed=3, store=a, grid=2)
        several = compare(model, "ids:steps=2,sds:grid=2", "IxG,IG@act1", data, b, limit=7, seed=3)
        lowest = run(make_plan(spec_of(model, "sds:grid=2", "IG@act1", data, limit=7, seed=3), model, load_dataset(data), c))
    dataset = load_dataset(data)
    for other in (named(several)["sds:grid=2", "IG@act1"], named(lowest)["sds:grid=2", "IG@act1"]):
        assert other.values.tobytes() == single.values.tobytes()
        assert (other.ids, other.items) == (single.ids, single.items)
    assert [item for (item,) in single.items] == dataset.order(3)[:7]
    assert list(single.ids) == [dataset.item_id(item) for (item,) in single.items]
    assert [len(d["sums"]) for d in single.details] == [4] * 7  # type: ignore[arg-type]
    assert str(single.method) == "IG@act1"
    assert set(named(several)) == {(p, m) for p in ("ids:steps=2", "sds:grid=2") for m in ("IxG", "IG@act1")}
    assert several.computed == 28
    assert single.seconds > 0


def test_the_table_has_the_best_first(model: attrlib.Classifier, data: Path, store: Store) -> None:
    result = compare(model, "sds,ids:steps=4:order=descending", "Random,IxG,Sobel", data, store)
    rows = result.table()
    for protocol, sign in (("sds", -1), ("ids:steps=4:order=descending", 1)):
        own = [row for row in rows if row["protocol"] == protocol]
        means = [sign * row["mean"] for row in own]  # type: ignore[operator]
        assert len(own) == 3
        assert means == sorted(means)
    for row in rows:
        score = named(result)[row["protocol"], row["method"]]  # type: ignore[index]
        assert (row["mean"], row["low"], row["high"], row["n"]) == (score.mean, *score.ci95, 20)
        assert 1 <= row["first"] <= row["last"] <= 3  # type: ignore[operator]


def test_undefined_items_are_counted_and_left_out_or_count_zero(model: attrlib.Classifier, data: Path, store: Store) -> None:
    Image.new("RGB", (20, 20), (128, 128, 128)).save(data / "0" / "grey.png")
    result = named(compare(model, "sds,sds:undefined=zero", "Sobel", data, store))
    drop, zero = result["sds", "Sobel"], result["sds:undefined=zero", "Sobel"]
    assert (drop.undefined, drop.summary.n, zero.undefined, zero.summary.n) == (1, 20, 1, 21)
    assert zero.mean == pytest.approx(drop.mean * 20 / 21)


# Never twice


class Operations(TorchDispatchMode):
    """Counts what torch computes on this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_a_second_run_computes_nothing(model: attrlib.Classifier, data: Path, store: Store, calls: Calls) -> None:
    ask = functools.partial(compare, model, f"sds,ids:steps=3,{GRID}", "IxG,Grad-CAM,Random,IG:steps=3", data, store)
    with Operations() as first:
        before = ask()
    assert (before.computed, before.known) == (4 * (20 + 20 + 5), 0)
    # One map for each image that two protocols share, four for each grid.
    assert len(calls) == 4 * (20 + 5 * 4)
    calls.clear()
    with Operations() as second, passes() as counted:
        again = ask()
    assert (again.computed, again.known) == (0, 180)
    assert (calls, counted.images) == ([], 0)
    assert same(before, again)
    assert not [name for name in second.names if "conv" in name or "backward" in name]
    assert second.names.total() < 0.02 * first.names.total()


def test_another_process_knows_it_too(model: attrlib.Classifier, data: Path, tmp_path: Path, calls: Calls) -> None:
    """A store that is opened anew, and a model that is built anew."""
    with closing(alone(tmp_path / "s")) as store:
        before = compare(model, f"sds,{GRID}", "IxG,Random", data, store)
    calls.clear()
    with closing(alone(tmp_path / "s")) as store:
        again = compare(classifier(), f"sds,{GRID}", "IxG,Random", data, store)
    assert (again.computed, again.known, calls) == (0, 50, [])
    assert same(before, again)


def test_a_higher_limit_computes_only_what_is_new(model: attrlib.Classifier, data: Path, store: Store, calls: Calls) -> None:
    ask = functools.partial(compare, model, "sds", "IxG,Random", data, store)
    few, calls_few = ask(limit=8), len(calls)
    more = ask(limit=16)
    assert (few.computed, calls_few) == (16, 16)
    assert (more.computed, more.known, len(calls)) == (16, 16, 32)
    assert max(calls.times.values()) == 1
    for key, score in named(more).items():
        assert score.values[:8].tobytes() == named(few)[key].values.tobytes()
        assert score.ids[:8] == named(few)[key].ids
    fewer = ask(limit=5)
    assert (fewer.computed, fewer.known, len(calls)) == (0, 10, 32)


def other_size(model: attrlib.Classifier) -> attrlib.Classifier:
    return attrlib.wrap_model(model.module, (16, 12), HALF, HALF)


def other_colours(model: attrlib.Classifier) -> attrlib.Classifier:
    return attrlib.wrap_model(model.module, SIZE, (0.5, 0.5, 0.49), HALF)


def other_crop(model: attrlib.Classifier) -> attrlib.Classifier:
    return attrlib.wrap_model(model.module, SIZE, HALF, HALF, crop=0.8)


def other_weights(model: attrlib.Classifier) -> attrlib.Classifier:
    module = net()
    with torch.no_grad():
        module.fc.bias[0] += 1e-6
        module.fc.bias[0] = module.fc.bias[0].nextafter(torch.tensor(1e9))
    return attrlib.wrap_model(module, SIZE, HALF, HALF)


def other_architecture(model: attrlib.Classifier) -> attrlib.Classifier:
    module = net()
    module.act2 = nn.ReLU6()
    return attrlib.wrap_model(module, SIZE, HALF, HALF)


@pytest.mark.parametrize("change", [other_size, other_colours, other_crop, other_weights, other_architecture])
def test_another_model_or_preprocessing_misses(
    change: Callable[[attrlib.Classifier], attrlib.Classifier], model: attrlib.Classifier, data: Path, store: Store, calls: Calls
) -> None:
    compare(model, "sds", "IxG", data, store, limit=6)
    calls.clear()
    result = compare(change(model), "sds", "IxG", data, store, limit=6)
    assert (result.computed, result.known, len(calls)) == (6, 0, 6)
    assert compare(model, "sds", "IxG", data, store, limit=6).computed == 0


@pytest.mark.parametrize(
    ("protocol", "method"),
    [
        ("sds", "IxG@act1"),
        ("sds", "IxG@act2"),
        ("sds", "Gradient"),
        ("sds", "IG:steps=4"),
        ("sds", "IG:steps=3:baseline=black"),
        ("sds:grid=2", "IG:steps=3"),
        ("sds:baseline=blur", "IG:steps=3"),
        ("sds:output=softmax", "IG:steps=3"),
        ("sds:target=prediction", "IG:steps=3"),
        ("sds:sign=absolute", "IG:steps=3"),
        ("ids:steps=2", "IG:steps=3"),
    ],
)
def test_another_protocol_method_layer_or_parameter_misses(
    protocol: str, method: str, model: attrlib.Classifier, data: Path, store: Store
) -> None:
    compare(model, "sds", "IG:steps=3", data, store, limit=6)
    before = compare(model, protocol, method, data, store, limit=6)
    assert (before.computed, before.known) == (6, 0)
    assert compare(model, protocol, method, data, store, limit=6).known == 6
    assert compare(model, "sds", "IG:steps=3", data, store, limit=6).known == 6


def test_another_version_of_the_numerics_misses(
    model: attrlib.Classifier, data: Path, store: Store, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(model, GRID, "IxG", data, store)
    compare(model, "sds", "IxG", data, store)
    calls.clear()
    monkeypatch.setattr(attrlib.engine.evaluator, "NUMERICS", attrlib.engine.evaluator.NUMERICS + 1)
    with passes() as counted:
        assert compare(model, GRID, "IxG", data, store).known == 0
        assert compare(model, "sds", "IxG", data, store).known == 0
    # Maps, the filter's predictions and the outputs without each cell.
    assert len(calls) == 20 + 20
    assert counted.images >= 20 + 17 * 20


def test_a_changed_picture_misses_alone(model: attrlib.Classifier, data: Path, store: Store, calls: Calls) -> None:
    before = named(compare(model, "sds", "IxG", data, store))["sds", "IxG"]
    calls.clear()
    image = picture(2, 3)
    image.putpixel((9, 9), (0, 0, 0))
    image.save(data / "2" / "3.png")
    result = compare(model, "sds", "IxG", data, store)
    after = named(result)["sds", "IxG"]
    assert (result.computed, result.known, len(calls)) == (1, 19, 1)
    assert sum(a != b for a, b in zip(before.ids, after.ids, strict=True)) == 1


def test_renaming_and_moving_pictures_hits(model: attrlib.Classifier, data: Path, store: Store, calls: Calls, tmp_path: Path) -> None:
    before = compare(model, "sds", "IxG,Random", data, store)
    calls.clear()
    moved = tmp_path / "elsewhere" / "other name"
    moved.parent.mkdir()
    data.rename(moved)
    for number, file in enumerate(sorted(moved.glob("*/*.png"), reverse=True)):
        file.rename(file.with_name(f"renamed {number}.PNG"))
    for folder in sorted(moved.iterdir()):
        folder.rename(folder.with_name(f"class {folder.name}"))
    with passes() as counted:
        after = compare(model, "sds", "IxG,Random", moved, store)
    assert (after.computed, after.known, calls, counted.images) == (0, 40, [], 0)
    for key, score in named(after).items():
        assert dict(zip(score.ids, score.values, strict=True)) == dict(zip(named(before)[key].ids, named(before)[key].values, strict=True))


def test_another_class_for_a_picture_misses(model: attrlib.Classifier, data: Path, store: Store, tmp_path: Path) -> None:
    compare(model, "sds", "IxG", data, store)
    (data / "1" / "0.png").rename(data / "2" / "was 1.png")
    result = compare(model, "sds", "IxG", data, store)
    assert (result.computed, result.known) == (1, 19)
    with closing(alone(tmp_path / "fresh")) as fresh:
        expected = named(compare(model, "sds", "IxG", data, fresh))["sds", "IxG"]
    # Nothing is left of the other class; one image alone and sixteen at once differ in the last bits.
    assert np.allclose(named(result)["sds", "IxG"].values, expected.values, rtol=0, atol=1e-6)
    # A prediction is the same whatever the folder is called.
    compare(model, "sds:target=prediction", "IxG", data, store)
    (data / "2" / "was 1.png").rename(data / "3" / "was 1.png")
    assert compare(model, "sds:target=prediction", "IxG", data, store).known == 20


def test_only_what_is_drawn_depends_on_the_seed(model: attrlib.Classifier, data: Path, store: Store, calls: Calls) -> None:
    ask = functools.partial(compare, model, "sds,sds:baseline=random,infidelity:samples=2", "IxG,Random,RISE:samples=4", data, store)
    ask(seed=0)
    calls.clear()
    result = ask(seed=1)
    # Of nine parts only IxG under the baseline of zeros draws nothing.
    assert (result.known, result.computed) == (20, 160)
    assert (calls.of("IxG"), calls.of("Random"), calls.of("RISE")) == (0, 20, 20)
    assert [item for (item,) in named(result)["sds", "IxG"].items] == load_dataset(data).order(1)


def test_a_policy_that_changes_no_value_hits(model: attrlib.Classifier, data: Path, store: Store) -> None:
    compare(model, "sds", "IxG", data, store)
    assert compare(model, "sds:undefined=zero", "IxG", data, store).computed == 0
    tuned = attrlib.wrap_model(model.module, SIZE, HALF, HALF, deletion_tuned=True)
    assert compare(tuned, "idsds", "IxG", data, store).computed == 0, "one implementation, whatever the model was tuned on"


def test_another_confidence_that_lets_the_same_pictures_pass_hits(model: attrlib.Classifier, data: Path, store: Store) -> None:
    compare(model, GRID, "IxG", data, store)
    with passes() as counted:
        result = compare(model, "gridpg:confidence=0.4", "IxG", data, store)
    assert (result.computed, result.known, counted.images) == (0, 5, 0)


def test_what_does_not_depend_on_the_method_is_computed_once(model: attrlib.Classifier, data: Path, tmp_path: Path) -> None:
    def counted(name: str, methods: str) -> int:
        with closing(alone(tmp_path / name)) as store, passes() as found:
            compare(model, "sds,robustness,infidelity:samples=3", methods, data, store)
        return found.images

    counted("warm", "Random,Sobel@Input")
    one, two = counted("one", "Random"), counted("two", "Random,Sobel@Input")
    # The whole image and 16 cells, the image and 4 rotations, the image and 3 noises; what else is looked at is one image.
    assert 20 * (17 + 5 + 4) <= one <= 20 * (17 + 5 + 4) + 2
    assert two == one


@pytest.mark.parametrize("protocol", ["sds", GRID])
def test_what_methods_have_in_common_is_computed_once(protocol: str, model: attrlib.Classifier, data: Path, tmp_path: Path) -> None:
    def counted(name: str, methods: str) -> tuple[int, RunResult]:
        with closing(Store(folder=tmp_path / name)) as store, passes() as found:
            result = compare(model, protocol, methods, data, store)
        return found.images, result

    counted("warm", "Gradient")
    one, several = counted("one", "Gradient"), counted("several", "Gradient,IxG,Gradient:channels=abs-sum")
    assert several[0] == one[0]
    for method in ("IxG", "Gradient:channels=abs-sum"):
        (key,) = (k for k in named(several[1]) if k[1] == method)
        (alone,) = named(counted(method, method)[1]).values()
        assert named(several[1])[key].values.tobytes() == alone.values.tobytes()


def test_what_does_not_depend_on_the_protocol_is_computed_once(model: attrlib.Classifier, data: Path, store: Store, calls: Calls) -> None:
    everything = "sds,sds:grid=2,ids:steps=2,ids:steps=2:mode=insertion,infidelity:samples=2,sds:target=prediction"
    result = compare(model, everything, "IxG,Grad-CAM", data, store)
    assert result.computed == 6 * 2 * 20
    # The pictures' classes are what the model predicts: the same maps serve both targets.
    assert calls.times == Counter(set(calls))
    assert len(calls) == 2 * 20
    compare(model, "ids:steps=3,sensitivity:samples=1", "IxG", data, store)
    # Sensitivity looks at one more image for each.
    assert len(calls) == 2 * 20 + 20


def test_the_filter_is_shared_by_protocols_and_methods(model: attrlib.Classifier, data: Path, store: Store) -> None:
    compare(model, "gridpg:confidence=0.4", "Random", data, store)
    with passes() as counted:
        result = compare(model, "difull:confidence=0.5,gridpg:confidence=0.3", "Random,Sobel@Input", data, store)
    assert result.computed > 0
    assert counted.images <= 2


def test_two_runs_at_once_agree(model: attrlib.Classifier, data: Path, tmp_path: Path) -> None:
    found: dict[int, RunResult] = {}

    def work(number: int) -> None:
        with closing(alone(tmp_path / "shared")) as store:
            found[number] = compare(model, f"sds,{GRID}", "IxG,Random", data, store)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert same(found[0], found[1])
    with closing(alone(tmp_path / "shared")) as store:
        assert compare(model, f"sds,{GRID}", "IxG,Random", data, store).computed == 0


def test_results_from_rounded_maps_are_not_taken_for_exact_ones(model: attrlib.Classifier, data: Path, tmp_path: Path) -> None:
    results = {}
    for dtype in ("float16", "float32"):
        with closing(Store(folder=tmp_path / "shared", dtype=dtype)) as shared, closing(Store(folder=tmp_path / dtype, dtype=dtype)) as own:
            results[dtype] = compare(model, "sds", "IxG", data, shared)
            assert results[dtype].computed == 20
            assert compare(model, "sds:grid=2", "IxG", data, shared).computed == 20
            # From maps that were just computed, and from maps that were read.
            assert same(compare(model, "sds:grid=2", "IxG", data, own), compare(model, "sds:grid=2", "IxG", data, shared))
            assert same(compare(model, "sds", "IxG", data, own), results[dtype])
    assert not same(results["float16"], results["float32"])


def test_rounding_of_stored_maps_is_no_change_between_a_picture_and_its_like(model: attrlib.Classifier, data: Path, tmp_path: Path) -> None:
    with closing(Store(folder=tmp_path / "halves", dtype="float16")) as halves:
        # A map that no picture changes, compared from the store and from perturbed pictures, which are not kept.
        (score,) = compare(model, "sensitivity:samples=2", "Gaussian", data, halves).scores.values()
    assert len(score.values) == 20
    assert (score.values == 0).all()


# Fast


needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="no bfloat16 here")


@needs_bfloat16
def test_fast_has_results_of_its_own_and_says_how_well_they_agree(
    model: attrlib.Classifier, data: Path, store: Store, calls: Calls
) -> None:
    methods = "IG:steps=3,IxG,RISE:samples=8"
    exact = compare(model, "sds", methods, data, store)
    calls.clear()
    fast = compare(model, "sds", methods, data, store, fast=True)
    assert (fast.computed, fast.known, exact.agreement) == (60, 0, {})
    assert (calls.of("IG"), calls.of("IxG"), calls.of("RISE")) == (0, 0, 20), "a gradient is never rounded"
    assert ",".join(str(m) for m in fast.agreement) == methods
    order = load_dataset(data).order(0)[:2]
    images, labels = read(model, data)
    for method, value in fast.agreement.items():
        rounded = method.name == "RISE"
        maps = [attribute(model, method, images[order], [labels[i] for i in order], fast=f).maps.flatten(1) for f in (False, rounded)]
        # In another batch the last of bfloat16's 8 bits is another, and near ties change places.
        assert value == pytest.approx(float(spearman(*maps).mean()), abs=5e-3 if rounded else 1e-4)
        assert 0.5 < value < 1 if rounded else value == 1
    details = {
        m: [repr(d) for d in named(fast)["sds", m].details] == [repr(d) for d in named(exact)["sds", m].details] for m in methods.split(",")
    }
    assert details == {"IG:steps=3": True, "IxG": True, "RISE:samples=8": False}
    calls.clear()
    again = compare(model, "sds", methods, data, store, fast=True)
    assert (again.computed, again.agreement, calls) == (0, fast.agreement, [])
    assert compare(model, "sds", methods, data, store).known == 60


@needs_bfloat16
def test_fast_folds_and_folded_maps_are_not_taken_for_exact_ones(data: Path, store: Store, calls: Calls) -> None:
    module = net()
    module.conv2 = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
    model = attrlib.wrap_model(module.eval(), SIZE, HALF, HALF)
    exact, fast = (
        compare(model, f"sds,{GRID.replace('gridpg', 'difull')}", "IG:steps=3,IxG@conv2.0", data, store, fast=f) for f in (False, True)
    )
    for key, score in named(exact).items():
        np.testing.assert_allclose(named(fast)[key].values, score.values, rtol=1e-3)
    assert fast.agreement.keys() == {m for _, m in exact.scores}
    assert min(fast.agreement.values()) > 0.999
    # Exactly the maps at a convolution that would be folded are those of the exact run.
    assert (calls.of("IG"), calls.of("IxG")) == (2 * calls.of("IxG"), calls.of("IxG"))
    assert sum(isinstance(own, nn.BatchNorm2d) for own in module.modules()) == 1


@needs_bfloat16
def test_fast_goes_on_without_what_is_refused(data: Path, store: Store) -> None:
    result = compare(classifier(activation=nn.GELU), "sds", "IxG,Guided Backprop,IxG@nowhere", data, store, fast=True)
    assert [str(m) for m in result.agreement] == ["IxG"]
    assert len(result.refused) == 2


@needs_bfloat16
def test_agreement_is_measured_within_the_memory_too(
    model: attrlib.Classifier, data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    original = attrlib.engine.evaluator.attribute_each

    def spy(*args: Any) -> list[Any]:
        rows.append(args[5])
        return original(*args)

    monkeypatch.setattr(attrlib.engine.evaluator, "attribute_each", spy)
    compare(model, "sds", "IG:steps=3", data, store, fast=True, max_memory=model.nbytes + int(1.5 * row_bytes(model)))
    assert set(rows) == {1}


# How much is computed


def test_a_run_ends_when_intervals_are_narrow(model: attrlib.Classifier, tmp_path: Path, store: Store) -> None:
    data = pictures(tmp_path / "many", 20)
    whole = compare(model, "sds", "IxG,Random", data, store)
    spans = {
        n: max(s.high - s.low for score in whole.scores.values() for s in [summary(score.counted[:n])])
        for n in range(BATCH_SIZE, 101, BATCH_SIZE)
    }
    width = spans[48] * 1.0001
    expected = next(n for n, span in spans.items() if span <= width)
    with closing(alone(tmp_path / "narrow")) as other:
        narrow = compare(model, "sds", "IxG,Random", data, other, ci_width=width)
        assert {len(score.values) for score in narrow.scores.values()} == {expected}
        assert narrow.computed == 2 * expected < whole.computed
        for key, score in named(narrow).items():
            assert score.summary.high - score.summary.low <= width
            assert score.values.tobytes() == named(whole)[key].values[:expected].tobytes()
        assert compare(model, "sds", "IxG,Random", data, other, ci_width=width).computed == 0
        (stored,) = (r for r in other.runs() if r.state == "done")
        assert {len(part["items"]) for part in stored.parts.values()} == {expected}
        assert compare(model, "sds", "IxG,Random", data, other, ci_width=width / 100).computed == 2 * (100 - expected)
    assert same(compare(model, "sds", "IxG,Random", data, store, ci_width=width), narrow), "what is known ends it at the same item"


def test_each_confidence_has_grids_of_its_own(model: attrlib.Classifier, data: Path, tmp_path: Path, store: Store) -> None:
    protocols = [f"difull:confidence={c}" for c in (0, 0.999)]
    together = named(compare(model, ",".join(protocols), "IxG", data, store))
    assert SEED or len({score.items for score in together.values()}) == 2
    for protocol in protocols:
        with closing(alone(tmp_path / protocol)) as other:
            single = named(compare(model, protocol, "IxG", data, other))[protocol, "IxG"]
        assert together[protocol, "IxG"].items == single.items
        assert together[protocol, "IxG"].values.tobytes() == single.values.tobytes()


def test_grids_are_of_images_that_the_filter_models_are_sure_of_too(tmp_path: Path, store: Store) -> None:
    names = ["rose", "grass", "sky", "sand", "ice"]
    data = pictures(tmp_path / "named")
    for k, name in enumerate(names):
        (data / str(k)).rename(data / name)
    one, other = net(), net(1)
    with torch.no_grad():
        # The other has the classes in another order, and never says grass.
        other.fc.weight.copy_(other.fc.weight.flip(0))
        other.fc.bias.copy_(other.fc.bias.flip(0))
        other.fc.bias[names[::-1].index("grass")] = -1e9
    models = [attrlib.wrap_model(m, SIZE, HALF, HALF, class_names=own) for m, own in ((one, names), (other, names[::-1]))]
    images = load_dataset(data)
    sure = set(range(len(images)))
    for own in models:
        for k in range(len(images)):
            said = own(own.preprocess(images[k].image)[None]).softmax(1)[0]
            if said.max() < 0.5 or own.class_names[int(said.argmax())] != images.class_names[images.label(k)]:
                sure.discard(k)
    assert 8 <= len(sure) <= 16
    found = []
    for own, filters in (models, models[::-1]):
        result = compare(own, GRID, "IxG", data, store, filter_models=[filters])
        score = named(result)[GRID, "IxG"]
        found.append(score.items)
        assert result.notes[0].startswith(f"{len(sure)} of 20 images (4 classes) pass the filter confidence=0.5 of ")
    assert found[0] == found[1]
    assert {image for grid in found[0] for image in grid} <= sure
    assert any(image not in sure for grid in named(compare(models[0], GRID, "IxG", data, store))[GRID, "IxG"].items for image in grid)
    with passes() as counted:
        compare(models[0], GRID, "IxG", data, store, filter_models=[models[1]])
    assert counted.images == 0, "predictions are kept for each model"


@pytest.mark.parametrize("protocol", ["gridpg", "difull"])
def test_where_no_grid_passes_it_says_which_confidence_allows_one(protocol: str, data: Path, store: Store) -> None:
    own = net()
    with torch.no_grad():
        own.fc.weight /= 300
        own.fc.bias /= 300
    unsure = attrlib.wrap_model(own, SIZE, HALF, HALF)
    with pytest.raises(DataError, match=r"\(confidence=0\.\d+ allows one\)") as caught:
        compare(unsure, f"{protocol}:confidence=1", "Random", data, store)
    best = float(re.findall(r"confidence=(0\.\d+) allows", str(caught.value))[0])
    assert compare(unsure, f"{protocol}:confidence={best}", "Random", data, store).scores
    with pytest.raises(DataError, match="allows one"):
        compare(unsure, f"{protocol}:confidence={best + 0.001:.3f}", "Random", data, store)
    with pytest.raises(DataError, match="no confidence allows one"):
        compare(unsure, f"{protocol}:grid=3", "Random", data, store)


def test_filter_models_that_are_not_given(model: attrlib.Classifier, data: Path, store: Store) -> None:
    spec = spec_of(model, GRID, "IxG", data, filter_models=(model.spec,))
    with pytest.raises(SpecError, match="names 1 filter model"):
        make_plan(spec, model, load_dataset(data), store)


def test_a_filter_model_of_other_classes_is_told_before_anything_is_computed(data: Path, store: Store) -> None:
    other = attrlib.wrap_model(net(), SIZE, HALF, HALF, class_names=["rose", "grass", "sky", "sand", "ice"])
    (data / "0").rename(data / "nothing such")
    own = attrlib.wrap_model(net(), SIZE, HALF, HALF, class_names=["nothing such", "1", "2", "3", "4"])
    events: list[Event] = []
    with pytest.raises(DataError, match=f"^{other.name}: .*none of the model's"):
        compare(own, GRID, "IxG", data, store, filter_models=[other], on_progress=events.append)
    assert not events


def test_filter_models_without_grids(model: attrlib.Classifier, data: Path, store: Store) -> None:
    with pytest.raises(SpecError, match="no protocol here is about grids"):
        compare(model, "sds", "IxG", data, store, filter_models=[model])
    assert compare(model, f"sds,{GRID}", "IxG", data, store, filter_models=[model]).scores


def test_filter_models_stay_within_the_memory(model: attrlib.Classifier, data: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    original = Evaluator.measure

    def spy(self: Evaluator, *args: Any) -> dict[str, Tensor]:
        rows.append(self.context.rows)
        return original(self, *args)

    monkeypatch.setattr(Evaluator, "measure", spy)
    with suppress(SpecError):
        # A grid takes more than is allowed here.
        memory = model.nbytes + int(1.5 * row_bytes(model))
        compare(model, GRID, "IxG", data, store, filter_models=[classifier(1)], max_memory=memory)
    assert rows == [1] * 4


def test_few_items_do_not_end_a_run(model: attrlib.Classifier, data: Path, store: Store) -> None:
    assert BATCH_SIZE > MIN_ITEMS_FOR_WIDTH > 5, "five grids are one chunk"
    result = compare(model, f"sds,{GRID}", "Random", data, store, ci_width=1e9)
    assert [len(score.values) for score in result.scores.values()] == [16, 5]


def test_the_limit_counts_grids(model: attrlib.Classifier, data: Path, store: Store) -> None:
    protocol = "difull:confidence=0.5"
    few = named(compare(model, protocol, "IxG", data, store, limit=2))[protocol, "IxG"]
    result = compare(model, protocol, "IxG", data, store)
    every = named(result)[protocol, "IxG"]
    assert (len(few.values), few.items) == (2, every.items[:2])
    assert {len(items) for items in every.items} == {4}
    assert (result.known, result.computed) == (2, len(every.values) - 2)
    assert f"20 of 20 images (5 classes) pass the filter confidence=0.5 and allow {len(every.values)} grids" in result.notes


@pytest.mark.parametrize(("memory", "protocols"), [(1, "sds,ids:steps=3"), (2.5, "sds,ids:steps=3"), (5, f"sds,{GRID}")])
def test_no_result_depends_on_how_many_rows_fit(
    memory: float, protocols: str, model: attrlib.Classifier, data: Path, tmp_path: Path, store: Store
) -> None:
    budget = model.nbytes + int(memory * row_bytes(model))
    assert rows_within(model, budget) == int(memory) < rows_within(model) == BATCH_SIZE
    ask = functools.partial(compare, model, protocols, "IG:steps=4,RISE:samples=7,Grad-CAM", data)
    with closing(alone(tmp_path / "narrow")) as other:
        few, many = ask(other, max_memory=budget), ask(store)
    for key, score in named(few).items():
        assert np.allclose(score.values, named(many)[key].values, rtol=0, atol=1e-5)
    assert ask(store, max_memory=budget).computed == 0


@pytest.mark.parametrize("below", [1, 10_000])
def test_a_budget_below_one_image_is_said(below: int, model: attrlib.Classifier, data: Path, store: Store) -> None:
    budget = model.nbytes + row_bytes(model) - below
    with pytest.raises(SpecError, match=r"for a single image, more than the .* allowed; raise max_memory") as error:
        compare(model, "sds", "IxG", data, store, max_memory=budget)
    assert model.name in str(error.value)
    assert compare(model, "sds", "IxG", data, store, max_memory=budget + below).computed == 20
    # What is known needs no memory.
    assert compare(model, "sds", "IxG", data, store, max_memory=1).known == 20


def test_a_budget_below_one_grid_is_said(model: attrlib.Classifier, data: Path, store: Store) -> None:
    with pytest.raises(SpecError, match="max_memory"):
        compare(model, GRID, "IxG", data, store, max_memory=model.nbytes + int(1.5 * row_bytes(model)))


def test_a_budget_of_nothing_is_named_as_it_was_given(model: attrlib.Classifier, data: Path, store: Store) -> None:
    with pytest.raises(SpecError) as error:
        compare(model, "sds", "IxG", data, store, max_memory=0)
    assert "-0" not in str(error.value)
    assert "needs 0 MB" not in str(error.value)


# Refused, and bad input


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


def spoil(data: Path) -> None:
    """One file that is no picture, one that is cut off, one that is not there."""
    (data / "2" / "0 nonsense.png").write_bytes(b"nonsense")
    (data / "1" / "9 cut.png").write_bytes((data / "1" / "0.png").read_bytes()[:300])
    (data / "0" / "2 gone.png").symlink_to("nowhere.png")


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
    assert (found.known, found.missing, found.upper_bound) == (5, 0, False)


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
    notes = compare(model, "sds", "IxG", data, store).notes
    assert len(notes) == 1
    assert "30" in notes[0]


def test_a_picture_that_comes_twice_counts_once(model: attrlib.Classifier, data: Path, store: Store, calls: Calls) -> None:
    shutil.copy(data / "0" / "0.png", data / "0" / "again.png")
    shutil.copy(data / "0" / "0.png", data / "0" / "and again.png")
    result = compare(model, "sds", "IxG", data, store)
    assert len(set(named(result)["sds", "IxG"].ids)) == len(named(result)["sds", "IxG"].values) == len(calls) == 20
    assert "2 image(s) that repeat another left out" in result.notes
    assert len(named(compare(model, GRID, "IxG", data, store))[GRID, "IxG"].values) == 5


def test_pictures_without_a_class(model: attrlib.Classifier, data: Path, store: Store) -> None:
    rows = [f"{k}/{n}.png,{k if n else ''}" for k in range(5) for n in range(4)]
    (data / "list.csv").write_text("\n".join(["file,label", *rows]))
    result = compare(model, "sds", "IxG", data / "list.csv", store)
    assert len(named(result)["sds", "IxG"].values) == 15
    assert "5 image(s) without a known class left out" in result.notes
    predicted = compare(model, "sds:target=prediction", "IxG", data / "list.csv", store)
    assert len(named(predicted)["sds:target=prediction", "IxG"].values) == 20


def test_a_folder_without_classes(model: attrlib.Classifier, tmp_path: Path, store: Store) -> None:
    (tmp_path / "flat").mkdir()
    for k in range(5):
        picture(k, 0).save(tmp_path / "flat" / f"{k}.png")
    with pytest.raises(DataError, match=r"5 image\(s\) without a known class .* choose target=prediction"):
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
    with pytest.raises(DataError, match="5 of the 5 classes of the data are none of the model's 5: 'ant', 'bee', 'cat', "):
        compare(other, "sds", "IxG", data, store)
    with pytest.raises(AttrlibError, match="unknown way to match classes 'nme'"):
        compare(other, "sds", "IxG", data, store, classes="nme")
    assert compare(other, "sds:target=prediction", "IxG", data, store).computed == 20
    assert compare(other, "sds", "IxG", data, store, classes="order").computed == 20
    by_name = attrlib.wrap_model(model.module, SIZE, HALF, HALF, class_names=["Ant", "bee", "cat, kitten", "dog", "elk"])
    assert compare(by_name, "sds", "IxG", data, store).known == 20, "the same classes by name"


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


# Stopped and resumed


BUSY = "IG:steps=3,Random"


def stop_at(number: int) -> Callable[[Event], None]:
    """Cancels at the event of that number, from 0."""
    seen = iter(range(number))

    def on_progress(_event: Event) -> None:
        if next(seen, None) is None:
            raise Cancelled("enough")

    return on_progress


def test_a_run_that_is_cancelled_at_any_event_goes_on_where_it_was(
    model: attrlib.Classifier, tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (attrlib.engine.evaluations, attrlib.engine.plan):
        monkeypatch.setattr(module, "BATCH_SIZE", 8)
    data = pictures(tmp_path / "few", 2)
    events: list[Event] = []
    with closing(alone(tmp_path / "whole")) as store:
        whole = compare(model, f"sds:grid=2,{GRID}", BUSY, data, store, on_progress=events.append)
    needed = Counter(calls)
    assert len(events) > 20
    assert max(needed.values()) == 1
    for number in range(len(events)):
        calls.clear()
        with closing(alone(tmp_path / f"cancelled {number}")) as store:
            with pytest.raises(Cancelled):
                compare(model, f"sds:grid=2,{GRID}", BUSY, data, store, on_progress=stop_at(number))
            assert no_threads_left()
            stopped = store.sizes()
            assert {r.state for r in store.runs()} <= {"cancelled"}
        with closing(alone(tmp_path / f"cancelled {number}")) as store:
            resumed = compare(model, f"sds:grid=2,{GRID}", BUSY, data, store)
            assert same(whole, resumed), number
            assert resumed.known + resumed.computed == whole.computed
            assert stopped.records <= store.sizes().records
            assert [r.state for r in store.runs()] == ["done"]
        assert calls.times == needed, f"maps computed twice after event {number}"


def test_it_is_cancelled_in_the_middle_again_and_again(model: attrlib.Classifier, data: Path, tmp_path: Path, calls: Calls) -> None:
    with closing(alone(tmp_path / "whole")) as store:
        whole = compare(model, f"sds:grid=2,{GRID}", BUSY, data, store)
    calls.clear()
    cancelled = 0
    with closing(alone(tmp_path / "again")) as store:
        while cancelled < 50:
            try:
                result = compare(model, f"sds:grid=2,{GRID}", BUSY, data, store, on_progress=stop_at(20))
                break
            except Cancelled:
                cancelled += 1
    assert cancelled > 2
    assert same(whole, result)
    assert max(calls.times.values()) == 1


def test_cancelling_ends_within_the_chunk(model: attrlib.Classifier, data: Path, store: Store, calls: Calls) -> None:
    """Not one map more is computed after the event at which it is cancelled."""
    with pytest.raises(Cancelled):
        compare(model, "sds", "IxG,Random", data, store, on_progress=stop_at(3))
    computed = len(calls)
    assert computed <= BATCH_SIZE
    assert no_threads_left()


def test_the_state_of_a_run(model: attrlib.Classifier, data: Path, store: Store) -> None:
    seen: list[str] = []
    whole = compare(model, "sds", "IxG", data, store, on_progress=lambda _event: seen.extend(r.state for r in store.runs()))
    assert set(seen) == {"running"}
    (stored,) = store.runs()
    assert (stored.state, stored.spec["kind"], stored.spec["model_digest"]) == ("done", "score", model.digest)
    assert stored.spec["title"] == whole.spec.cli()
    records = store.records(stored.parts["sds|IxG"]["key"], stored.parts["sds|IxG"]["items"])
    assert [r.value for r in records.values()] == named(whole)["sds", "IxG"].values.tolist()
    with pytest.raises(Cancelled):
        compare(model, "sds", "Random", data, store, on_progress=stop_at(1))
    assert store.runs()[0].state == "cancelled"


def test_a_run_that_is_cancelled_in_the_filter_can_be_resumed(model: attrlib.Classifier, data: Path, store: Store) -> None:
    with pytest.raises(Cancelled):
        compare(model, GRID, "IxG", data, store, on_progress=stop_at(0))
    assert [r.state for r in store.runs()] == ["cancelled"]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), MemoryError()])
def test_no_thread_outlives_an_error(
    error: BaseException, model: attrlib.Classifier, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pictures(tmp_path / "many", 12)

    def fail(*_args: object) -> None:
        raise error

    monkeypatch.setattr(attrlib.engine.evaluator, "attribute_each", fail)
    before = threading.active_count()
    with pytest.raises(type(error)):
        compare(model, "sds", "IxG", data, store)
    assert threading.active_count() <= before
    assert no_threads_left()
    monkeypatch.undo()
    assert compare(model, "sds", "IxG", data, store).computed == 60
    assert no_threads_left()


class Large(TorchDispatchMode):
    """The operations whose results are more than a few numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        if isinstance(result, Tensor) and result.numel() > 100:
            self.seen.append(str(func))
        return result


@pytest.mark.parametrize("cells", [1, 4])
def test_pictures_are_loaded_without_torch_and_are_what_the_model_sees(cells: int, model: attrlib.Classifier, data: Path) -> None:
    dataset = load_dataset(data)
    units = tuple(EvalItem(f"{k}", tuple(range(k, k + cells)), (0,) * cells) for k in range(3))
    loader = Loader(model, dataset)
    with Large() as large:
        loader._load(units)
    # An array becomes a tensor, and that is all.
    assert set(large.seen) <= {"aten.lift_fresh.default", "aten.detach.default"}
    _, batch = loader.get(units)
    assert batch is not None
    n = round(cells**0.5)
    expected = torch.stack([stitch(torch.stack([model.preprocess(dataset[i].image) for i in u.images])[None], n)[0] for u in units])
    assert torch.equal(batch.images, expected)


def test_images_are_loaded_ahead_by_a_thread_and_not_too_far(
    model: attrlib.Classifier, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pictures(tmp_path / "many", 32)
    loaded: list[str] = []
    ahead: list[int] = []
    original = Loader._load

    def load(self: Loader, chunk: Any) -> Any:
        loaded.append(threading.current_thread().name)
        return original(self, chunk)

    monkeypatch.setattr(Loader, "_load", load)
    used: set[str] = set()

    def on_progress(event: Event) -> None:
        used.add(event.doing)
        ahead.append(len(loaded) - event.done // BATCH_SIZE)

    compare(model, "sds", "Random", data, store, on_progress=on_progress)
    assert len(loaded) == 10
    assert all(name.startswith("attrlib-loader") for name in loaded), "none by the thread that computes"
    assert 2 <= max(ahead) <= 4
    assert compare(model, "sds", "Random", data, store).known == 160
    assert len(loaded) == 10, "nothing is read for what is known"


# Events


def phases(events: Iterable[Event]) -> tuple[list[Event], list[Event]]:
    """Events of the confidence filter, and the others."""
    several = list(events)
    return [e for e in several if e.doing == "confidence filter"], [e for e in several if e.doing != "confidence filter"]


def test_events_count_up_and_agree_with_the_result(model: attrlib.Classifier, data: Path, store: Store) -> None:
    events: list[Event] = []
    result = compare(model, f"{GRID},sds", "IxG,IG:steps=30,Random", data, store, on_progress=events.append)
    for own in phases(events):
        assert all(0 <= e.done <= e.total for e in own)
        assert [e.done for e in own] == sorted(e.done for e in own)
        assert len({e.total for e in own}) == 1
    filtered, scored = phases(events)
    assert filtered[0].total == 20
    assert scored[0].total == result.computed == 75
    assert scored[0].done == 0
    assert scored[0].seconds_left is None
    assert all(e.seconds_left is not None and e.seconds_left >= 0 and e.rate > 0 for e in scored if e.done)
    assert {e.doing for e in scored if e.done < e.total} == {f"{p} {m}" for p, m in named(result)}
    checked = 0
    for event in scored:
        for key, partial in event.scores.items():
            score = named(result)[key]
            seen = partial.n + partial.undefined
            assert astuple(partial) == pytest.approx(astuple(summary(score.counted[:seen])), nan_ok=True)
            checked += 0 < seen < len(score.values)
        assert sum(s.n + s.undefined for s in event.scores.values()) == event.done
    assert checked


def test_events_count_only_what_must_be_computed(model: attrlib.Classifier, data: Path, store: Store) -> None:
    compare(model, "sds", "IxG", data, store, limit=12)
    events: list[Event] = []
    compare(model, "sds", "IxG,Random", data, store, on_progress=events.append)
    assert {e.total for e in events} == {28}
    assert events[0].scores["sds", "IxG"].n == 12, "what is known is shown from the first"
    events.clear()
    compare(model, "sds", "IxG,Random", data, store, on_progress=events.append)
    assert [e for e in events if e.done < e.total] == []


def test_the_last_event_says_that_all_is_done(model: attrlib.Classifier, data: Path, store: Store) -> None:
    events: list[Event] = []
    result = compare(model, "sds", "IxG,Random", data, store, on_progress=events.append)
    last = events[-1]
    assert (last.done, last.total, last.seconds_left) == (40, 40, 0.0)
    assert {key: s.n for key, s in last.scores.items()} == {key: len(s.values) for key, s in named(result).items()}


def test_the_time_left_falls(model: attrlib.Classifier, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that goes on by a second from one unit of work to the next."""
    data = pictures(tmp_path / "many", 16)
    events: list[Event] = []
    looks = itertools.count()
    monkeypatch.setattr(sys.modules["attrlib.engine.run"], "time", SimpleNamespace(perf_counter=lambda: float(next(looks))))
    compare(model, "sds", "IG:steps=30", data, store, on_progress=events.append)
    known = [e.seconds_left for e in events if e.seconds_left is not None]
    distinct = list(dict.fromkeys(known))
    assert len(distinct) >= 4
    assert distinct == sorted(distinct, reverse=True)
    assert distinct[-1] == 0


@pytest.mark.parametrize("case", ["unreadable", "width"])
def test_the_total_counts_only_what_is_computed(case: str, model: attrlib.Classifier, tmp_path: Path, store: Store) -> None:
    data = pictures(tmp_path / "many", 8)
    if case == "unreadable":
        spoil(data)
    events: list[Event] = []
    protocols = "sds,sds:target=prediction"
    result = compare(model, protocols, "IxG", data, store, on_progress=events.append, ci_width=1e9 if case == "width" else None)
    # The last event comes before the last unit, of at most 16 items.
    assert events[-1].total - result.computed == 0


# Plans


def test_a_plan_says_what_is_known_before_between_and_after(model: attrlib.Classifier, data: Path, store: Store, calls: Calls) -> None:
    ask = functools.partial(plan_of, model, "sds,ids:steps=2", "IxG,Random", data, store)
    before = ask()
    assert (before.known, before.missing, before.upper_bound, before.refused) == (0, 80, False, ())
    assert before.estimate().seconds > 0
    assert before.estimate().nbytes == model.nbytes + BATCH_SIZE * row_bytes(model)
    assert (calls, store.runs(), store.sizes().records) == ([], [], 0), "a plan computes nothing"
    compare(model, "sds", "IxG,Random", data, store, limit=8)
    assert (ask().known, ask().missing) == (16, 64)
    assert (ask(limit=8).known, ask(limit=8).missing) == (16, 16)
    with pytest.raises(Cancelled):
        compare(model, "sds,ids:steps=2", "IxG,Random", data, store, on_progress=stop_at(20))
    between = ask()
    assert 16 < between.known < 80
    assert between.known + between.missing == 80
    result = compare(model, "sds,ids:steps=2", "IxG,Random", data, store)
    assert (result.known, result.computed) == (between.known, between.missing)
    after = ask()
    assert (after.known, after.missing, after.estimate().seconds) == (80, 0, 0.0)


def test_a_plan_of_grids_is_an_upper_bound_until_the_filter_has_run(model: attrlib.Classifier, data: Path, store: Store) -> None:
    (data / "4" / "0.png").rename(data / "3" / "wrong.png")
    before = plan_of(model, GRID, "IxG,Random", data, store)
    assert (before.known, before.missing, before.upper_bound) == (0, 2 * 5, True)
    result = compare(model, GRID, "IxG,Random", data, store, limit=1)
    assert result.computed == 2
    between = plan_of(model, GRID, "IxG,Random", data, store)
    assert (between.known, between.missing, between.upper_bound) == (2, 2 * 3, False)
    assert any("19 of 20 images" in note for note in between.notes)
    compare(model, GRID, "IxG,Random", data, store)
    after = plan_of(model, GRID, "IxG,Random", data, store)
    assert (after.known, after.missing, after.estimate().seconds) == (8, 0, 0.0)


def test_a_plan_names_what_is_refused(model: attrlib.Classifier, data: Path, store: Store) -> None:
    found = plan_of(model, "sds,idsds", "IxG,IxG@nowhere", data, store)
    assert {(str(p), str(m)) for p, m, _ in found.refused} == {("sds", "IxG@nowhere"), ("idsds", "IxG"), ("idsds", "IxG@nowhere")}
    assert found.missing == 20
    with pytest.raises(ProtocolError, match="use sds"):
        plan_of(model, "idsds", "IxG", data, store)
    with pytest.raises(SpecError, match="limit=0"):
        plan_of(model, "sds", "IxG", data, store, limit=0)


def test_a_plan_estimates_more_for_more_work(model: attrlib.Classifier, data: Path, store: Store) -> None:
    def seconds(protocol: str, method: str, **options: Any) -> float:
        return plan_of(model, protocol, method, data, store, **options).estimate().seconds

    assert seconds("sds", "IG:steps=200") > 5 * seconds("sds", "IG:steps=5")
    assert seconds("sds", "IG:steps=200", limit=4) < 0.6 * seconds("sds", "IG:steps=200")
    assert seconds("ids:steps=500", "IxG") > 5 * seconds("ids:steps=5", "IxG")


def test_a_plan_costs_nothing_when_all_is_known_of_the_predictions(model: attrlib.Classifier, data: Path, store: Store) -> None:
    (data / "0" / "1.png").rename(data / "1" / "wrong.png")
    compare(model, "sds:target=prediction", "IxG", data, store)
    found = plan_of(model, "sds:target=prediction", "IxG", data, store)
    assert (found.missing, found.estimate().seconds) == (0, 0.0)


def test_a_plan_with_a_stop_rule_is_an_upper_bound(model: attrlib.Classifier, data: Path, store: Store) -> None:
    assert plan_of(model, "sds", "IxG", data, store, ci_width=0.5).upper_bound


# Units of work elsewhere


class Recorder(InMemoryCache):
    """What is added to a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[str, tuple[Any, Any]] = {}  # type: ignore[assignment]
        self.maps: dict[str, Tensor] = {}  # type: ignore[assignment]

    def add_records(self, key: str, spec: Any, records: Any) -> None:
        self.records[key] = spec, records

    def add_maps(self, maps: Any) -> None:
        self.maps |= maps


def test_a_unit_of_work_elsewhere_gives_the_same_records(model: attrlib.Classifier, data: Path, store: Store) -> None:
    """What a cluster does: a spec and items in, records and maps out, with nothing but a scratch."""
    compare(model, f"sds,{GRID}", "IxG,Random,IG:steps=3", data, store)
    spec, dataset = spec_of(model, f"sds,{GRID}", "IxG,Random,IG:steps=3", data), load_dataset(data)
    cache, other = InMemoryCache(), classifier()
    bench = Evaluator(other, cache, spec.seed, spec.fast)
    groups, refused = find_evaluations(spec, dataset, bench)
    assert (len(groups), refused) == (2, [])
    for group in groups:
        selection, unpredicted = select(group, spec, dataset, [bench])
        loader = Loader(other, dataset)
        assert set(unpredicted) <= {0}
        for units in unpredicted.values():
            _, batch = loader.get(units)
            assert batch is not None
            bench.measure(Prediction(), batch)
        selection, unpredicted = select(group, spec, dataset, [bench])
        assert unpredicted == {}
        for chunk in chunked(selection.items, group.chunk_size):
            units, batch = loader.get(chunk)
            assert batch is not None
            for own in group.evaluations:
                records = evaluate_items(bench, own.protocol, own.method, units, batch)
                assert list(records) == [unit.key(own.protocol.target_choice) for unit in units]
                assert store.records(own.key, list(records)) == records
    # Measurements and maps have the keys of the run, too, so that all of it can be sent back.
    sent = Recorder()
    cache.move_to(sent)
    for key, (about, records) in sent.records.items():
        stored = store.records(key, list(records))
        assert list(stored) == list(records)
        if about["kind"] == "measurement":
            assert stored == records
    maps = store.maps(list(sent.maps))
    assert len(maps) == len(sent.maps) > 60
    assert all(torch.equal(values, sent.maps[key]) for key, values in maps.items())
    cache.move_to(sent)
    assert cache.maps(list(maps)) == {}


@pytest.mark.parametrize("several", [1, 3])
def test_a_unit_may_have_any_number_of_items(several: int, model: attrlib.Classifier, data: Path, store: Store) -> None:
    result = named(compare(model, "sds", "IG:steps=3", data, store))["sds", "IG:steps=3"]
    spec, dataset = spec_of(model, "sds", "IG:steps=3", data), load_dataset(data)
    bench = Evaluator(model, InMemoryCache())
    (group,), _ = find_evaluations(spec, dataset, bench)
    (own,) = group.evaluations
    units = select(group, spec, dataset, [bench])[0].items
    values = []
    for first in range(0, len(units), several):
        good, batch = Loader(model, dataset).get(units[first : first + several])
        assert batch is not None
        values += [r.value for r in evaluate_items(bench, own.protocol, own.method, good, batch).values()]
    assert np.allclose(values, result.values, rtol=0, atol=1e-6)


# What must not change


def fingerprint(module: nn.Module) -> object:
    """Everything about a module that somebody else may rely on."""
    modules = list(module.modules())
    return (
        {name: (values.clone().numpy().tobytes(), values.data_ptr(), values.dtype) for name, values in module.state_dict().items()},
        [p.requires_grad for p in module.parameters()],
        [p.grad is None for p in module.parameters()],
        [m.training for m in modules],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in modules],
        [sorted(vars(m)) for m in modules],
        torch.get_rng_state().numpy().tobytes(),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("how", ["whole", "cancelled", "failed", "fast"])
def test_a_run_leaves_the_model_as_it_was(how: str, data: Path, store: Store) -> None:
    if how == "fast" and not has_bfloat16(torch.device("cpu")):
        pytest.skip("no bfloat16 here")
    module = net(activation=nn.GELU if how == "failed" else nn.ReLU)
    module.train()
    module.fc.requires_grad_(False)
    model = attrlib.wrap_model(module, SIZE, HALF, HALF)
    before = fingerprint(module)
    ask = functools.partial(compare, model, f"sds,{GRID},randomisation:stages=2,dipart:confidence=0.5", "IxG,Grad-CAM", data, store)
    if how == "cancelled":
        for number in (0, 3, 9):
            with pytest.raises(Cancelled):
                ask(on_progress=stop_at(number))
    elif how == "failed":
        with pytest.raises(AttrlibError):
            compare(model, "sds", "Guided Backprop", data, store)
    else:
        ask(fast=how == "fast")
    assert fingerprint(module) == before


# Trouble with the store


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """While `full`, neither a map nor a page of a database finds room."""
    state = SimpleNamespace(full=False)
    make, move = engines.file_engine, os.replace

    def moved(*args: Any) -> None:
        if state.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        move(*args)

    def limited(*args: Any) -> Any:
        engine = make(*args)

        @engines.event.listens_for(engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql(f"PRAGMA max_page_count={1 if state.full else 1_000_000}")

        return engine

    monkeypatch.setattr("attrlib.store.database.file_engine", limited)
    monkeypatch.setattr(files.os, "replace", moved)
    return state


@pytest.mark.parametrize("when", ["planning", "confidence filter", "sds IxG", "sds Random", f"{GRID} Random"])
def test_a_full_disk_ends_no_run(
    when: str, model: attrlib.Classifier, data: Path, tmp_path: Path, disk: SimpleNamespace, calls: Calls
) -> None:
    with closing(alone(tmp_path / "whole")) as good:
        whole = compare(model, f"sds,{GRID}", "IxG,Random", data, good)
    calls.clear()
    store = alone(tmp_path / "full")
    disk.full = when == "planning"

    def on_progress(event: Event) -> None:
        disk.full |= event.doing == when

    result = compare(model, f"sds,{GRID}", "IxG,Random", data, store, on_progress=on_progress)
    assert disk.full
    assert same(whole, result)
    assert any("disk is full" in note and "memory only" in note for note in result.notes)
    assert compare(model, f"sds,{GRID}", "IxG,Random", data, store).computed == 0, "known to this process"
    assert max(calls.times.values()) == 1
    disk.full = False
    wait_out(store)
    store.close()
    with closing(alone(tmp_path / "full")) as later:
        assert compare(model, f"sds,{GRID}", "IxG,Random", data, later).computed == 0, "written when there was room again"


def test_a_locked_database_ends_no_run(
    model: attrlib.Classifier, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: Calls
) -> None:
    monkeypatch.setattr(engines, "TIMEOUT", 0.05)
    with closing(alone(tmp_path / "whole")) as good:
        whole = compare(model, "sds", "IxG,Random", data, good)
    store = alone(tmp_path / "locked")
    calls.clear()
    others: list[sqlite3.Connection] = []

    def on_progress(event: Event) -> None:
        if not others:
            for name in ("results.sqlite", "maps/index.sqlite"):
                others.append(sqlite3.connect(tmp_path / "locked" / name, isolation_level=None))
                others[-1].execute("BEGIN EXCLUSIVE")

    result = compare(model, "sds", "IxG,Random", data, store, on_progress=on_progress)
    assert same(whole, result)
    assert any("locked" in note and "memory only" in note for note in result.notes)
    assert max(calls.times.values()) == 1
    for connection in others:
        connection.close()
    wait_out(store)
    store.close()
    with closing(alone(tmp_path / "locked")) as later:
        assert compare(model, "sds", "IxG,Random", data, later).computed == 0
        assert [r.state for r in later.runs()] == ["done"]


def test_what_was_kept_is_written_at_the_end(
    model: attrlib.Classifier, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "TIMEOUT", 0.5)
    store = alone(tmp_path / "locked")
    with closing(sqlite3.connect(tmp_path / "locked" / "results.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        compare(model, "sds", "IxG", data, store, limit=2)
    store.close()
    with closing(alone(tmp_path / "locked")) as later:
        assert compare(model, "sds", "IxG", data, later, limit=2).computed == 0


def test_maps_that_were_damaged_are_computed_again(
    model: attrlib.Classifier, data: Path, tmp_path: Path, calls: Calls, store: Store
) -> None:
    compare(model, "sds", "IxG", data, store)
    several = sorted((store.folder / "maps").glob("??/*.safetensors"))
    several[0].write_bytes(several[0].read_bytes()[:-9])
    several[1].unlink()
    calls.clear()
    result = compare(model, "sds:grid=2", "IxG", data, store)
    assert (result.computed, len(calls)) == (20, 2)
    assert any("damaged or missing" in note for note in result.notes)
    with closing(alone(tmp_path / "whole")) as good:
        assert same(result, compare(model, "sds:grid=2", "IxG", data, good))


# Memory


MEASURE = """
import sys
from contextlib import closing
from pathlib import Path
import numpy as np
import psutil
from attrlib.store import Store
from test_run import classifier, compare, pictures

folder, side, process = Path(sys.argv[1]), 96, psutil.Process()
model = classifier(size=side)
few, many = pictures(folder / "few", 13, side=side), pictures(folder / "many", 103, side=side)
for name, data, limit in (("warm", few, 64), ("few", few, 64), ("many", many, 512)):
    sizes = []
    with closing(Store(folder=folder / f"store {name}")) as store:
        watch = lambda _event: sizes.append(process.memory_info().rss)
        result = compare(model, "infidelity:samples=1", "Gradient", data, store, limit=limit, watch=watch)
    assert result.computed == limit
    # Single peaks are the allocator's; what is kept is there to the end.
    print(int(np.median(sizes[-len(sizes) // 4 :])))
"""


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """An image takes 110 kB, a map 37 kB: 448 more of either would be seen. In a process of its own, whose heap nothing else has used."""
    tests = Path(__file__).parent
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], env=variables, capture_output=True, text=True, check=True, timeout=LIMIT
    )
    _, few, many = map(int, done.stdout.split())
    assert many - few < 9 * 2**20


def test_looking_through_the_images_can_be_cancelled(model: attrlib.Classifier, data: Path, store: Store) -> None:
    """A folder whose images are read for the first time takes as long as it is large."""
    told: list[tuple[int, int]] = []

    def look(done: int, total: int) -> None:
        told.append((done, total))
        if done:
            raise Cancelled("enough")

    many = pictures(data, 8)
    with pytest.raises(Cancelled):
        make_plan(spec_of(model, "sds", "IxG", many), model, load_dataset(many), store, on_progress=look)
    assert told == [(0, 40), (16, 40)]
    assert make_plan(spec_of(model, "sds", "IxG", many), model, load_dataset(many), store).missing == 40
