"""How much a run computes: limits, intervals, grids and memory."""

import functools
import re
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from support.numbers import SEED
from support.runs import (
    GRID,
    HALF,
    SIZE,
    alone,
    classifier,
    compare,
    named,
    net,
    passes,
    pictures,
    same,
    spec_of,
)
from torch import Tensor

import attrlib.engine.evaluations
import attrlib.engine.evaluator
import attrlib.engine.plan
from attrlib.data.datasets import load_dataset
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.memory import row_bytes, rows_within
from attrlib.engine.plan import make_plan
from attrlib.engine.run import Event
from attrlib.engine.stopping import MIN_ITEMS_FOR_WIDTH
from attrlib.errors import DataError, SpecError
from attrlib.methods import BATCH_SIZE
from attrlib.statistics import summary
from attrlib.store import Store

pytestmark = pytest.mark.usefixtures("own_cache")


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
    assert same(compare(model, "sds", "IxG,Random", data, store, ci_width=width), narrow), "cached results end it at the same item"


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
    with pytest.raises(SpecError, match="no protocol of this run uses grids"):
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
    assert (result.cached, result.computed) == (2, len(every.values) - 2)
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
    # Cached results need no memory.
    assert compare(model, "sds", "IxG", data, store, max_memory=1).cached == 20


def test_a_budget_below_one_grid_is_said(model: attrlib.Classifier, data: Path, store: Store) -> None:
    with pytest.raises(SpecError, match="max_memory"):
        compare(model, GRID, "IxG", data, store, max_memory=model.nbytes + int(1.5 * row_bytes(model)))


def test_a_budget_of_nothing_is_named_as_it_was_given(model: attrlib.Classifier, data: Path, store: Store) -> None:
    with pytest.raises(SpecError) as error:
        compare(model, "sds", "IxG", data, store, max_memory=0)
    assert "-0" not in str(error.value)
    assert "needs 0 MB" not in str(error.value)
