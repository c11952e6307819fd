"""Scores of runs, against plain loops."""

from contextlib import closing
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from support.runs import (
    GRID,
    SIZE,
    alone,
    compare,
    named,
    read,
    spec_of,
)

import attrlib.engine.evaluations
import attrlib.engine.evaluator
import attrlib.engine.plan
from attrlib.data.datasets import load_dataset
from attrlib.engine.plan import make_plan
from attrlib.engine.run import run
from attrlib.store import Store

pytestmark = pytest.mark.usefixtures("own_cache")


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
