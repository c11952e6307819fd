"""Runs that are stopped and resumed."""

import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
from support.runs import BUSY, GRID, Calls, alone, compare, named, no_threads_left, pictures, same, stop_at
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import attrlib.engine.evaluations
import attrlib.engine.evaluator
import attrlib.engine.plan
from attrlib.data.datasets import load_dataset
from attrlib.engine.items import EvalItem
from attrlib.engine.loader import Loader
from attrlib.engine.run import Event
from attrlib.errors import Cancelled
from attrlib.methods import BATCH_SIZE
from attrlib.models.cells import stitch
from attrlib.store import Store

pytestmark = pytest.mark.usefixtures("own_cache")


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
            assert resumed.cached + resumed.computed == whole.computed
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
    assert compare(model, "sds", "Random", data, store).cached == 160
    assert len(loaded) == 10, "no image is read for cached results"
