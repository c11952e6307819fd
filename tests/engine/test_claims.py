"""Several processes share a run by their claims: nothing is computed twice, and nothing is lost when some of them die or freeze."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from support import runs
from support.executors import KILLS
from support.runs import GRID, Calls, pictures, stop_at
from support.sharing import METHODS, PROTOCOLS, Together, summary
from support.waiting import LIMIT, until

import attrlib.engine.claims
from attrlib.errors import Cancelled
from attrlib.store import Claims, Store
from attrlib.store.failures import Unavailable

PICTURES = 20
RESULTS = PICTURES * 4
LONG, SHORT = 600.0, 0.3
"""Leases that never expire in a test, and that expire at once if they are not renewed."""


@pytest.fixture(scope="module")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def whole(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Any, Any]]:
    """The scores of a run that shares nothing."""
    with closing(Store(folder=tmp_path_factory.mktemp("whole"))) as store:
        yield summary(runs.compare(runs.classifier(), PROTOCOLS, METHODS, shared_data, store))


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/own/results.db" if request.param == "sqlite" else request.getfixturevalue("server")


def on(*databases: str) -> Any:
    return pytest.mark.parametrize("url", databases, indirect=True)


def ended(process: Any) -> int:
    process.join(LIMIT)
    return process.exitcode


def stored(url: str, folder: Path) -> tuple[int, dict[str, set[str]]]:
    """Return the number of scores in the database, and what is claimed."""
    with closing(Store(url, folder)) as store:
        parts = next(run.parts for run in store.runs())
        keys = {part["key"]: part["items"] for part in parts.values()}
        return sum(len(store.values(key, items)) for key, items in keys.items()), store.claimed(list(keys))


@pytest.mark.parametrize(("url", "count"), [("sqlite", 2), ("postgresql", 8)], indirect=["url"])
def test_processes_share_a_run_and_compute_nothing_twice(
    url: str, count: int, shared_data: Path, whole: dict[Any, Any], tmp_path: Path
) -> None:
    together = Together(url, tmp_path / "together", shared_data)
    assert [ended(process) for process in together.start([("go on", LONG)] * count)] == [0] * count
    begun = together.begun()
    assert len(begun) == count, "all take part"
    assert set(sum(begun.values(), Counter()).values()) == {1}
    results = [together.result(number) for number in range(count)]
    assert all(scores == whole for scores, _, _ in results)
    assert sum(computed for _, computed, _ in results) == RESULTS
    assert {computed + cached for _, computed, cached in results} == {RESULTS}
    assert stored(url, tmp_path / "look") == (RESULTS, {})


@on("sqlite", "postgresql")
@pytest.mark.parametrize("attempt", range(KILLS))
def test_what_killed_processes_had_claimed_is_computed_by_the_others(
    url: str, attempt: int, shared_data: Path, whole: dict[Any, Any], tmp_path: Path
) -> None:
    together = Together(url, tmp_path / "together", shared_data)
    count = 8 if KILLS > 1 else 4
    half = count // 2
    processes = together.start([("die", LONG)] * half + [("go on", LONG)] * half)
    assert [ended(process) for process in processes] == [-signal.SIGKILL] * half + [0] * half
    begun = together.begun()
    lost = sum((begun[number] for number in range(half)), Counter())
    times = sum(begun.values(), Counter())
    assert len(lost) == 2 * half, "each had begun a chunk"
    assert {pair: count for pair, count in times.items() if count > 1} == dict.fromkeys(lost, 2)
    assert len(times) == RESULTS
    assert all(together.result(number)[0] == whole for number in range(half, count))
    assert stored(url, tmp_path / "look") == (RESULTS, {})


@on("sqlite", "postgresql")
def test_a_process_that_was_frozen_beyond_its_lease_stores_nothing_twice(
    url: str, shared_data: Path, whole: dict[Any, Any], tmp_path: Path
) -> None:
    together = Together(url, tmp_path / "together", shared_data)
    frozen, other = together.start([("freeze", SHORT), ("go on", LONG)])
    try:
        assert ended(other) == 0
        assert together.result(1)[0] == whole
        assert stored(url, tmp_path / "look")[0] == RESULTS
    finally:
        os.kill(frozen.pid or 0, signal.SIGCONT)
    assert ended(frozen) == 0
    scores, computed, cached = together.result(0)
    begun = together.begun()
    assert scores == whole
    assert (computed, cached) == (len(begun[0]), RESULTS - len(begun[0]))
    assert {pair for pair, count in sum(begun.values(), Counter()).items() if count > 1} == set(begun[0]), "only what was in flight"
    assert stored(url, tmp_path / "look") == (RESULTS, {})


# In one process


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were spent waiting for other processes."""
    seconds: list[float] = []
    monkeypatch.setattr(attrlib.engine.claims.time, "sleep", seconds.append)
    return seconds


def test_a_run_waits_for_what_others_have_claimed_and_can_be_cancelled_meanwhile(
    model: attrlib.Classifier, data: Path, store: Store, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = runs.plan_of(model, "sds", "IxG", data, store)
    (group,) = plan.groups
    (evaluation,) = group.group.evaluations
    other = store.claims()
    assert other.claim([{evaluation.key: group.keys[:3]}]) == [True]
    doing = []

    def on_progress(event: Any) -> None:
        doing.append(event.doing)
        if event.doing == "waiting for other processes":
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        runs.compare(model, "sds", "IxG", data, store, on_progress=on_progress)
    assert sorted(store.values(evaluation.key, group.keys)) == sorted(group.keys[16:]), "the chunk that nobody had claimed"
    assert store.claimed([evaluation.key]) == {evaluation.key: set(group.keys[:3])}
    other.release([{evaluation.key: group.keys[:3]}])
    assert runs.compare(model, "sds", "IxG", data, store).computed == 16
    assert max(calls.times.values()) == 1


def test_results_that_arrive_while_a_run_waits_are_taken_from_the_store(
    model: attrlib.Classifier, data: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(runs.alone(tmp_path / "other")) as elsewhere:
        whole = runs.compare(model, f"sds,{GRID}", "IxG,Random", data, elsewhere)
        plan = runs.plan_of(model, f"sds,{GRID}", "IxG,Random", data, elsewhere)
        evaluations = {each.key: (each, group.keys) for group in plan.groups for each in group.group.evaluations}
        other = store.claims()
        other.claim([{key: list(keys)[::2] for key, (_, keys) in evaluations.items()}])

        def arrive(_seconds: float) -> None:
            for key, (each, keys) in evaluations.items():
                store.add_records(key, each.key_fields, elsewhere.records(key, list(keys)[::2]))

        monkeypatch.setattr(attrlib.engine.claims.time, "sleep", arrive)
        found = runs.compare(model, f"sds,{GRID}", "IxG,Random", data, store)
        arrived = sum(len(keys[::2]) for _, keys in evaluations.values())
        assert (found.computed, found.cached) == (whole.computed - arrived, arrived)
        assert runs.same(found, whole)


def test_a_cancelled_run_gives_up_its_claims(model: attrlib.Classifier, data: Path, store: Store) -> None:
    with pytest.raises(Cancelled):
        runs.compare(model, "sds", "IxG,Random", data, store, on_progress=stop_at(5))
    keys = [each.key for group in runs.plan_of(model, "sds", "IxG,Random", data, store).groups for each in group.group.evaluations]
    assert store.claimed(keys) == {}


def test_unreadable_pictures_and_methods_that_are_not_defined_end_a_shared_run(
    model: attrlib.Classifier, data: Path, store: Store, spent: list[float]
) -> None:
    runs.spoil(data)
    found = runs.compare(model, "sds", "IxG,Rollout", data, store)
    assert (len(found.unreadable), [str(each.method) for each in found.refused]) == (2, ["Rollout"])
    assert spent == []


def test_without_a_database_results_are_computed_all_the_same(
    model: attrlib.Classifier, data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise Unavailable("no connection")

    monkeypatch.setattr(store._database, "write", broken)
    assert runs.compare(model, "sds", "IxG", data, store).computed == 20


# The claims themselves


@pytest.fixture
def either(url: str, tmp_path: Path) -> Iterator[Store]:
    with closing(Store(url, tmp_path / "cache")) as store:
        yield store
        assert store.notes == ()


def claims(store: Store, lease: float = LONG) -> Claims:
    return Claims(store._database, lease)


@on("sqlite", "postgresql")
def test_a_unit_is_claimed_as_a_whole_or_not_at_all(either: Store) -> None:
    one, other = claims(either), claims(either)
    assert one.claim([{"k": ["a", "b"], "m": ["a"]}, {"k": ["c"]}]) == [True, True]
    assert one.claim([{"k": ["a", "b"]}]) == [True], "its own"
    assert other.claim([{"k": ["b", "d"], "n": ["a"]}, {"k": ["e"]}, {}]) == [False, True, True]
    assert either.claimed(["k", "m", "n"]) == {"k": {"a", "b", "c", "e"}, "m": {"a"}}
    one.release([{"k": ["a", "b", "e"]}])
    assert either.claimed(["k", "m", "n"]) == {"k": {"c", "e"}, "m": {"a"}}, "not what another has claimed"
    assert other.claim([{"k": ["b", "d"], "n": ["a"]}]) == [True]


@on("sqlite", "postgresql")
def test_a_claim_that_is_not_renewed_expires(either: Store) -> None:
    dead, other = claims(either, lease=-1.0), claims(either)
    assert dead.claim([{"k": ["a", "b"]}]) == [True]
    assert dead.owner.split()[:3] == other.owner.split()[:3]
    assert either.claimed(["k"]) == {}
    assert other.claim([{"k": ["b"]}]) == [True]
    dead.renew()
    dead.release([{"k": ["b"]}])
    assert either.claimed(["k"]) == {"k": {"b"}}, "the dead one has lost it"
    other.sweep()
    with either._database._ready().connect() as connection:
        assert connection.exec_driver_sql(f"SELECT COUNT(*) FROM {table_of(either)}").scalar_one() == 1


@on("sqlite", "postgresql")
def test_the_claims_of_dead_processes_of_this_machine_alone_are_swept(either: Store) -> None:
    machine, number, created, unique = claims(either).owner.split()
    for item, owner in {
        "lives": f"{machine} {number} {created} {unique}",
        "gone": f"{machine} {2**22 + 5} {created} {unique}",
        "other process with the number": f"{machine} {number} 1.5 {unique}",
        "elsewhere": f"elsewhere/1 {2**22 + 5} {created} {unique}",
    }.items():
        each = claims(either)
        each.owner = owner
        assert each.claim([{"k": [item]}]) == [True]
    claims(either).sweep()
    assert either.claimed(["k"]) == {"k": {"lives", "elsewhere"}}


def table_of(store: Store) -> str:
    return "claims" if store._database._file else "attrlib.claims"


@on("sqlite", "postgresql")
def test_a_claim_is_renewed_in_a_thread(either: Store) -> None:
    short, other = claims(either, lease=SHORT), claims(either)
    renewed: list[int] = []
    original = short.renew

    def renew() -> None:
        original()
        renewed.append(1)

    short.renew = renew  # type: ignore[method-assign]
    assert short.claim([{"k": ["a"]}]) == [True]
    with short.renewed():
        until(lambda: len(renewed) > 5)
    assert short.owner != other.owner


@on("sqlite", "postgresql")
def test_the_table_of_claims_is_added_to_an_older_database(url: str, tmp_path: Path) -> None:
    with closing(Store(url, tmp_path / "cache")) as store:
        store.add_records("k", {"a": 1}, {"item": attrlib.store.Record(1.0)})
        with store._database._ready().begin() as connection:
            connection.exec_driver_sql(f"DROP TABLE {table_of(store)}")
    with closing(Store(url, tmp_path / "cache")) as store:
        assert store.claims().claim([{"k": ["a"]}]) == [True]
        assert store.values("k", ["item"]) == {"item": 1.0}
        assert store.notes == ()
