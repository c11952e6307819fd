"""The events of a run."""

import itertools
import sys
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from support.runs import GRID, compare, named, pictures, spoil

import attrlib.engine.evaluations
import attrlib.engine.evaluator
import attrlib.engine.plan
from attrlib.engine.run import Event
from attrlib.statistics import summary
from attrlib.store import Store

pytestmark = pytest.mark.usefixtures("own_cache")


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
    assert events[0].scores["sds", "IxG"].n == 12, "cached results are shown from the first event"
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
