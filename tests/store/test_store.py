import csv
import hashlib
import io
import json
import math
import os
import sqlite3
import struct
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy
import torch
from support.postgres import run_sql
from support.stores import wait_out
from support.waiting import LIMIT, counted_calls
from torch import Tensor

from attrlib.errors import SpecError, StoreError
from attrlib.store import SCHEMA, Record, Sizes, Store, files, open_store, opening, parse_bytes
from attrlib.store import maps as maps_module
from attrlib.store import urls as urls_module

DENORMAL = 5e-324
FLOATS = (0.0, -0.0, 1.0, -1.0, 3.0, 0.1, 1 / 3, DENORMAL, -DENORMAL, 1.7976931348623157e308, math.pi, 1e22, math.inf, -math.inf)
SPEC = {"protocol": "GridPG", "method": "IG"}


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def a_map(seed: int, side: int = 8) -> Tensor:
    return torch.randn(1, side, side, generator=torch.Generator().manual_seed(seed))


def map_files(folder: Path) -> list[Path]:
    return sorted((folder / "maps").glob("??/*"))


def same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit: NaN is NaN, and -0 is not 0."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.int32), b.view(torch.int32))


SIZE = len(files.encode(a_map(0), "float32"))
"""Bytes of the file of a small map."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(folder=tmp_path)
    yield store
    store.close()
    assert store.notes == ()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock for recorded uses of maps."""
    state = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(maps_module, "time", SimpleNamespace(time=lambda: state.now))
    return state


# Databases


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Either database."""
    return f"sqlite:///{tmp_path}/own/results.db" if request.param == "sqlite" else request.getfixturevalue("server")


@pytest.fixture
def either(url: str, tmp_path: Path) -> Iterator[Store]:
    """A store on either database."""
    store = Store(url, tmp_path / "cache")
    yield store
    store.close()
    assert store.notes == ()


# Records


def test_values_and_details_come_back_bit_for_bit(either: Store) -> None:
    written = {f"item{i}": Record(v, {"same": v, "all": [*FLOATS, v]}) for i, v in enumerate(FLOATS)}
    either.add_records("k", SPEC, written)
    read = either.records("k", list(written))
    assert list(written) == sorted(read, key=lambda item: int(item[4:]))
    for item, record in written.items():
        assert bits(read[item].value) == bits(record.value)
        assert bits(read[item].details["same"]) == bits(record.value)  # type: ignore[arg-type]
        assert [bits(v) for v in read[item].details["all"]] == [bits(v) for v in (*FLOATS, record.value)]  # type: ignore[union-attr]


def test_nan_is_null_in_the_database_and_nan_again_when_read(tmp_path: Path, store: Store) -> None:
    store.add_records("k", SPEC, {"a": Record(math.nan, {"x": math.nan, "curve": [1.0, math.nan]}), "b": Record()})
    read = store.records("k", ["a", "b"])
    assert math.isnan(read["a"].value)
    assert math.isnan(read["b"].value)
    assert read["b"].details == {}
    assert math.isnan(read["a"].details["x"])  # type: ignore[arg-type]
    assert str(read["a"].details["curve"]) == "[1.0, nan]"
    with sqlite3.connect(tmp_path / "results.sqlite") as connection:
        rows = connection.execute("SELECT value, details FROM records ORDER BY item").fetchall()
    assert rows == [(None, '{"x": null, "curve": [1.0, null]}'), (None, None)]


def test_numbers_of_numpy_and_torch_are_numbers(store: Store) -> None:
    third = torch.tensor(1 / 3)
    store.add_records("k", SPEC, {"a": Record(third.numpy()[()], {"x": third.numpy()[()], "n": 3, "t": (third, 1.0)})})  # type: ignore[dict-item]
    assert store.records("k", ["a"])["a"] == Record(float(third), {"x": float(third), "n": 3, "t": [float(third), 1.0]})


def test_only_records_cached_under_that_key_are_returned(either: Store) -> None:
    either.add_records("k", SPEC, {"a": Record(1.0), "b": Record(2.0)})
    either.add_records("other", {}, {"a": Record(3.0)})
    assert either.records("k", ["b", "c", "a", "b"]) == {"a": Record(1.0), "b": Record(2.0)}
    assert either.records("other", ["a", "b"]) == {"a": Record(3.0)}
    assert either.records("none", ["a"]) == {}
    assert either.records("k", []) == {}


def test_the_first_record_stays_and_the_spec_is_stored_once(either: Store) -> None:
    either.add_records("k", SPEC, {"a": Record(1.0, {"x": 1.0})})
    either.add_records("k", {"another": "spec"}, {"a": Record(2.0), "b": Record(3.0)})
    either.add_records("k", SPEC, {})
    assert either.records("k", ["a", "b"]) == {"a": Record(1.0, {"x": 1.0}), "b": Record(3.0)}
    assert (either.sizes().specs, either.sizes().records) == (1, 2)


def test_the_spec_is_stored_as_json(tmp_path: Path, store: Store) -> None:
    store.add_records("k", SPEC, {"a": Record(1.0)})
    with sqlite3.connect(tmp_path / "results.sqlite") as connection:
        assert [(key, json.loads(spec)) for key, spec in connection.execute("SELECT key, spec FROM specs")] == [("k", SPEC)]


def test_more_items_than_one_statement_takes(either: Store) -> None:
    records = {f"item{i}": Record(float(i)) for i in range(1203)}
    either.add_records("k", SPEC, records)
    assert either.records("k", [*records, *(f"no{i}" for i in range(1000))]) == records


def test_it_is_there_after_closing_and_for_others(url: str, tmp_path: Path) -> None:
    first, second = Store(url, tmp_path / "cache"), Store(url, tmp_path / "cache")
    first.add_records("k", SPEC, {"a": Record(1.0)})
    first.add_maps({"m": a_map(1)})
    assert second.records("k", ["a"]) == {"a": Record(1.0)}
    assert same(second.maps(["m"])["m"], a_map(1))
    first.close()
    second.close()
    third = Store(url, tmp_path / "cache")
    assert third.records("k", ["a"]) == {"a": Record(1.0)}
    assert same(third.maps(["m"])["m"], a_map(1))
    third.close()


def test_many_threads_write_and_read_at_once(either: Store) -> None:
    def work(thread: int) -> None:
        for step in range(10):
            names = [f"{thread}-{step}-{i}" for i in range(4)]
            either.add_records("k", SPEC, {name: Record(float(thread)) for name in [*names, f"shared{step}"]})
            either.add_maps({names[0]: a_map(thread), f"shared{step}": a_map(step)})
            assert either.records("k", names) == {name: Record(float(thread)) for name in names}
            assert same(either.maps(names)[names[0]], a_map(thread))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    sizes = either.sizes()
    assert (sizes.records, sizes.maps) == (8 * 10 * 4 + 10, 8 * 10 + 10)


# Maps


def test_maps_come_back_bit_for_bit(store: Store) -> None:
    odd = torch.tensor([[[math.nan, math.inf, -math.inf, -0.0, 1e-45, -1e-45, 3.4e38, 1 / 3]]])
    maps = {"odd": odd, "wide": torch.randn(1, 3, 50), "small": torch.randn(1, 1, 1), "zero": torch.zeros(1, 7, 7)}
    store.add_maps(maps)
    read = store.maps([*maps, "unknown"])
    assert set(read) == set(maps)
    assert all(same(read[key], maps[key]) for key in maps)


def test_a_returned_map_belongs_to_the_caller(store: Store) -> None:
    store.add_maps({"a": a_map(1)})
    store.maps(["a"])["a"].zero_()
    assert same(store.maps(["a"])["a"], a_map(1))


def test_maps_of_other_types_and_layouts_are_stored_as_float32(store: Store) -> None:
    turned = torch.randn(1, 5, 9).transpose(1, 2).requires_grad_()
    store.add_maps({"turned": turned, "double": turned.double(), "half": turned.half()})
    read = store.maps(["turned", "double", "half"])
    assert same(read["turned"], turned.detach().contiguous())
    assert same(read["double"], read["turned"])
    assert same(read["half"], turned.detach().half().float().contiguous())


def test_the_first_map_stays(tmp_path: Path, store: Store) -> None:
    store.add_maps({"a": a_map(1)})
    store.add_maps({"a": a_map(2)})
    assert same(store.maps(["a"])["a"], a_map(1))
    assert len(map_files(tmp_path)) == 1


def test_files_are_named_by_their_content(tmp_path: Path, store: Store) -> None:
    store.add_maps({str(i): a_map(i) for i in range(20)})
    files = map_files(tmp_path)
    assert len(files) == 20
    for file in files:
        name = hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
        assert file.relative_to(tmp_path / "maps") == Path(name[:2], f"{name}.safetensors")


def test_equal_maps_share_a_file_that_goes_with_the_last_key(tmp_path: Path, clock: SimpleNamespace) -> None:
    store = Store(folder=tmp_path, max_bytes=10 * SIZE)
    store.add_maps({"a": a_map(1), "b": a_map(1)})
    clock.now += 100
    store.add_maps({"c": a_map(2)})
    clock.now += 100
    store.add_maps({"d": a_map(1)})
    assert len(map_files(tmp_path)) == 2
    assert (store.sizes().maps, store.sizes().map_bytes) == (4, 2 * SIZE)
    assert store.prune(SIZE) >= SIZE
    assert set(store.maps(["a", "b", "c", "d"])) == {"a", "b", "d"}, "the shared file was used last by d"
    assert len(map_files(tmp_path)) == 1
    store.prune(0)
    assert map_files(tmp_path) == []
    assert store.maps(["a", "b", "c", "d"]) == {}
    store.close()
    assert store.notes == ()


def test_float16_keeps_tiny_and_huge_maps(tmp_path: Path) -> None:
    store = Store(folder=tmp_path, dtype="float16")
    base = a_map(1, 32)
    scales = {"tiny": 1e-30, "small": 1e-9, "one": 1.0, "huge": 1e37}
    maps = {name: base * scale for name, scale in scales.items()}
    store.add_maps(maps)
    for name, read in store.maps(list(maps)).items():
        assert read.dtype == torch.float32
        assert torch.allclose(read, maps[name], rtol=2**-11, atol=float(maps[name].abs().max()) * 2**-40), name
        assert bool((read != 0).all()), name
    assert all(file.stat().st_size < 32 * 32 * 4 for file in map_files(tmp_path))
    store.close()


def test_float16_at_the_ends_of_what_float32_holds(tmp_path: Path) -> None:
    store = Store(folder=tmp_path, dtype="float16")
    largest = torch.finfo(torch.float32).max
    maps = {
        "denormal": torch.tensor([[[1e-45, -3e-45, 0.0, -0.0]]]),
        "largest": torch.tensor([[[largest, -largest / 4, 0.0, 1.0]]]),
        "zero": torch.zeros(1, 2, 2),
        "odd": torch.tensor([[[math.nan, math.inf, -math.inf, 2.0**100]]]),
        "wide": torch.tensor([[[1.0, 2.0**-28, 2.0**-37, -(2.0**-20)]]]),
    }
    store.add_maps(maps)
    read = store.maps(list(maps))
    for name in ("denormal", "zero", "odd", "wide"):
        assert same(read[name], maps[name]), name
    assert read["largest"].isfinite().all()
    assert torch.allclose(read["largest"][..., :3], maps["largest"][..., :3], rtol=2**-11)
    store.close()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rounded_is_what_the_store_gives_back(tmp_path: Path, dtype: str) -> None:
    store = Store(folder=tmp_path, dtype=dtype)
    batch = torch.randn(5, 1, 9, 9) * torch.tensor([1e-40, 1e-6, 1.0, 1e6, 1e38])[:, None, None, None]
    store.add_maps({str(i): batch[i] for i in range(5)})
    read = store.maps([str(i) for i in range(5)])
    assert same(store.rounded(batch), torch.stack([read[str(i)] for i in range(5)]))
    assert same(store.rounded(batch[2]), read["2"])
    assert same(store.rounded(store.rounded(batch)), store.rounded(batch))
    assert same(store.rounded(batch), batch) is (dtype == "float32")
    store.close()


def test_an_unknown_type_of_maps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"float64.*float32"):
        Store(folder=tmp_path, dtype="float64")


# Least recently used


def test_the_least_recently_used_maps_go_down_to_nine_tenths(tmp_path: Path, clock: SimpleNamespace) -> None:
    store = Store(folder=tmp_path, max_bytes=10 * SIZE)
    for i in range(10):
        clock.now += 100
        store.add_maps({str(i): a_map(i)})
    clock.now += 100
    assert set(store.maps(["0", "2"])) == {"0", "2"}
    assert len(map_files(tmp_path)) == 10
    clock.now += 100
    store.add_maps({"new": a_map(99)})
    cached = set(store.maps([*map(str, range(10)), "new"]))
    assert cached == {"0", "2", *map(str, range(4, 10)), "new"}, "1 and 3 were used least recently"
    assert len(map_files(tmp_path)) == 9
    assert store.sizes().map_bytes == 9 * SIZE
    store.close()
    assert store.notes == ()


def test_a_use_is_written_down_once_a_minute(tmp_path: Path, clock: SimpleNamespace) -> None:
    store = Store(folder=tmp_path)

    def used() -> list[float]:
        with sqlite3.connect(tmp_path / "maps" / "index.sqlite") as connection:
            return [row[0] for row in connection.execute("SELECT used FROM maps ORDER BY key")]

    store.add_maps({"a": a_map(1), "b": a_map(2)})
    clock.now += 59
    store.maps(["a", "b"])
    assert used() == [1000, 1000]
    clock.now += 2
    store.maps(["b"])
    assert used() == [1000, 1061]
    store.close()


def test_what_other_processes_add_counts(tmp_path: Path) -> None:
    one, two = (Store(folder=tmp_path, max_bytes=40 * SIZE) for _ in range(2))
    for i in range(60):
        (one if i % 2 else two).add_maps({str(i): a_map(i)})
        assert len(map_files(tmp_path)) <= 40 + 2 * 2, "each may be off by a twentieth"
    assert len(map_files(tmp_path)) > 30
    assert one.verify() == two.verify()
    for store in (one, two):
        store.close()
        assert store.notes == ()


def test_a_map_larger_than_the_cache_is_not_stored_and_noted(tmp_path: Path) -> None:
    store = Store(folder=tmp_path, max_bytes=2 * SIZE)
    store.add_maps({"a": a_map(1)})
    store.add_maps({"large": a_map(2, 64), "larger": a_map(2, 65), "b": a_map(3)})
    store.add_maps({"large": a_map(2, 64)})
    assert set(store.maps(["a", "b", "large", "larger"])) == {"a", "b"}
    assert len(store.notes) == 1
    assert "ATTRLIB_CACHE_BYTES" in store.notes[0]
    store.close()


def test_pruning_frees_the_bytes_that_it_says(tmp_path: Path) -> None:
    store = Store(folder=tmp_path)
    for i in range(10):
        store.add_maps({str(i): a_map(i)})
    assert store.prune() == 0
    assert store.prune(4 * SIZE) == 6 * SIZE
    assert len(map_files(tmp_path)) == 4
    store.close()


def test_pruning_everything(either: Store, tmp_path: Path) -> None:
    either.add_records("k", SPEC, {f"{i:0100}": Record(1.0) for i in range(2000)})
    either.add_maps({str(i): a_map(i) for i in range(10)})
    either.save_run("r", SPEC, {})
    before = either.sizes()
    freed = either.prune(everything=True)
    after = either.sizes()
    assert (after.specs, after.records, after.maps, after.runs, after.map_bytes) == (0, 0, 0, 0, 0)
    assert freed == 10 * SIZE + max(0, before.database_bytes - after.database_bytes)
    assert map_files(tmp_path / "cache") == []
    assert either.records("k", [f"{0:0100}"]) == {}
    either.add_records("k", SPEC, {"a": Record(1.0)})
    assert either.records("k", ["a"]) == {"a": Record(1.0)}


def test_pruning_everything_shrinks_the_file(tmp_path: Path, store: Store) -> None:
    store.add_records("k", SPEC, {f"{i:0100}": Record(1.0) for i in range(5000)})
    before = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())
    freed = store.prune(everything=True)
    after = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())
    assert freed > 500_000
    assert abs(before - after - freed) < 100_000, "log files appear and disappear"


def test_sizes_are_those_on_the_disk(tmp_path: Path, store: Store) -> None:
    assert store.sizes() == Sizes(0, 0, 0, 0, store.sizes().database_bytes, 0)
    store.add_records("k", SPEC, {"a": Record(1.0), "b": Record(2.0)})
    store.add_maps({"a": a_map(1), "b": a_map(2), "c": a_map(2)})
    store.save_run("r", SPEC, {})
    databases = [f for f in tmp_path.rglob("*.sqlite*") if not f.name.endswith(".part")]
    expected = Sizes(1, 2, 3, 1, sum(f.stat().st_size for f in databases), sum(f.stat().st_size for f in map_files(tmp_path)))
    assert store.sizes() == expected


# Runs


def test_runs_and_their_states(either: Store) -> None:
    before = datetime.now(UTC)
    parts = {"GridPG|IG": {"key": "k", "items": ["a", "b"]}}
    either.save_run("r", SPEC, parts)
    either.save_run("s", {"b": 1, "a": [1.5, None]}, {})
    newest, run = either.runs()
    assert (newest.key, newest.spec, newest.parts) == ("s", {"b": 1, "a": [1.5, None]}, {})
    assert (run.key, run.spec, run.parts, run.state, run.updated) == ("r", SPEC, parts, "running", run.created)
    assert before <= datetime.fromisoformat(run.created) <= datetime.now(UTC)
    assert datetime.fromisoformat(run.created).utcoffset() is not None
    either.set_state("r", "done")
    done = either.runs()[1]
    assert (done.state, done.created, done.parts) == ("done", run.created, parts)
    assert done.updated > run.updated
    either.save_run("r", {"again": True}, {})
    again = either.runs()[1]
    assert (again.state, again.created, again.spec, again.parts) == ("running", run.created, {"again": True}, {})
    assert again.updated > done.updated


def test_a_state_of_no_kind_or_of_no_run(store: Store) -> None:
    with pytest.raises(SpecError, match="cancelled"):
        store.set_state("r", "canceled")
    store.set_state("gone", "done")
    assert store.runs() == []


# Export


@pytest.fixture
def finished(either: Store) -> Store:
    """A store with a finished run; one of its items is undefined, and one was never computed."""
    values = {"x": Record(1 / 3, {"more": 1.0}), "y": Record(math.nan), 'comma, "quote"': Record(-0.0)}
    either.add_records("k1", SPEC, values)
    either.add_records("k2", SPEC, {"x": Record(1e-300)})
    items = [*values, "never"]
    parts = {"GridPG|IG@Input:steps=20": {"key": "k1", "items": items}, "Deletion|IG": {"key": "k2", "items": items}}
    either.save_run("r", SPEC, parts)
    either.set_state("r", "done")
    return either


TABLE = [
    ("GridPG", "IG@Input:steps=20", "x", 1 / 3),
    ("GridPG", "IG@Input:steps=20", "y", None),
    ("GridPG", "IG@Input:steps=20", 'comma, "quote"', -0.0),
    ("Deletion", "IG", "x", 1e-300),
]


def test_export_as_csv(finished: Store) -> None:
    head, *rows = csv.reader(io.StringIO(finished.export("r", "csv").decode()))
    assert head == ["protocol", "method", "item", "value"]
    assert [(*names, float(value) if value else None) for *names, value in rows] == TABLE
    assert rows[2][3] == "-0.0"


def test_export_as_json(finished: Store) -> None:
    content = json.loads(finished.export("r", "json"), parse_constant=pytest.fail)
    assert [tuple(row.values()) for row in content["rows"]] == TABLE
    assert list(content["rows"][0]) == ["protocol", "method", "item", "value"]
    run = finished.runs()[0]
    assert content["manifest"] == dict(key="r", spec=SPEC, parts=run.parts, state="done", created=run.created, updated=run.updated)


def test_export_as_parquet(finished: Store) -> None:
    import pandas as pd
    import pyarrow.parquet as pq

    data = finished.export("r", "parquet")
    table = pq.read_table(io.BytesIO(data))
    assert [tuple(row.values()) for row in table.to_pylist()] == TABLE
    assert json.loads(table.schema.metadata[b"attrlib"]) == json.loads(finished.export("r", "json"))["manifest"]
    frame = pd.read_parquet(io.BytesIO(data))
    assert list(frame.columns) == ["protocol", "method", "item", "value"]
    assert frame["value"].dtype == "float64"


def test_export_of_a_run_without_results(store: Store) -> None:
    import pyarrow.parquet as pq

    store.save_run("r", SPEC, {"GridPG|IG": {"key": "k", "items": ["a"]}})
    assert store.export("r", "csv") == b"protocol,method,item,value\n"
    assert json.loads(store.export("r", "json"))["rows"] == []
    assert pq.read_table(io.BytesIO(store.export("r", "parquet"))).shape == (0, 4)


def test_export_of_a_run_that_does_not_exist(store: Store) -> None:
    store.save_run("run1", SPEC, {})
    with pytest.raises(StoreError, match="Did you mean run1"):
        store.export("run2", "csv")
    with pytest.raises(SpecError, match="parquet"):
        store.export("run1", "xlsx")


# URLs


def shown(error: BaseException) -> str:
    """Return the traceback text of an error and its causes."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return str(error) + (shown(before) if before else "")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mysql://u:hush-hush@host/db",
        "oracle://u:hush-hush@host",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?uri=true",
        "sqlite:////tmp",
        "sqlite://host/file.db",
        "postgresql://u:hu@sh:hush-hush@host/db",
        "postgresql://u:p@host:hush-hush/db",
    ],
)
def test_an_invalid_url_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(StoreError, match="ATTRLIB_STORE_URL") as caught:
        Store(url, tmp_path)
    assert "hush" not in shown(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://someone:hush-hush@127.0.0.1:1/results",
        "postgres://someone:hush-hush@127.0.0.1:1/results",
        "postgresql://someone:more@hush-hush@127.0.0.1:1/results",
        "postgresql://someone@127.0.0.1:1/results?password=hush-hush",
        "postgresql://someone:hush%2Dhush@127.0.0.1:1/results",
    ],
)
def test_a_server_that_cannot_be_reached(tmp_path: Path, url: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match=r"results at 127\.0\.0\.1:1") as caught:
        Store(url, tmp_path)
    assert "hush" not in shown(caught.value)


def test_what_may_be_a_password_is_taken_out_of_messages() -> None:
    url = urls_module.read_url("postgresql://u:s%40cret@host/db?password=other&sslpassword=third")
    message = "role u: s@cret s%40cret other third"
    assert urls_module.redacted(message, url) == "role u: *** s%40cret *** ***"


def test_a_wrong_password_is_not_shown(tmp_path: Path, server: str) -> None:
    if "hush-hush" not in server:
        pytest.skip("the server may let everybody in")
    with pytest.raises(StoreError, match="password authentication failed") as caught:
        Store(server.replace("hush-hush", "a-secret"), tmp_path)
    assert "secret" not in shown(caught.value)


@pytest.mark.parametrize(("url", "package"), [("postgresql://h/d", r"psycopg\[binary\]"), ("postgresql+psycopg2://h/d", "psycopg2-binary")])
def test_an_absent_driver_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package.partition("\\")[0].partition("-")[0], None)
    with pytest.raises(StoreError, match=f"pip install '{package}'"):
        Store(url, tmp_path)


def test_the_tables_have_a_separate_postgresql_schema(tmp_path: Path, server: str) -> None:
    run_sql(server, "CREATE TABLE IF NOT EXISTS public.records (mine INTEGER)")
    store = Store(server, tmp_path)
    store.add_records("k", SPEC, {"a": Record(1.0)})
    assert store.notes == ()
    assert store.sizes().database_bytes > 0
    store.close()
    run_sql(server, "SELECT value, details FROM attrlib.records", "DROP TABLE public.records")


def test_tables_of_another_version_on_a_server_are_refused(tmp_path: Path, server: str) -> None:
    Store(server, tmp_path).close()
    run_sql(server, f"UPDATE attrlib.about SET value = '{SCHEMA + 1}'")
    with pytest.raises(StoreError, match=f"another version of attrlib .schema {SCHEMA + 1}, this is {SCHEMA}"):
        Store(server, tmp_path)


def test_a_server_that_was_restarted_is_used_again(tmp_path: Path, server: str) -> None:
    store = Store(server, tmp_path)
    store.add_records("k", SPEC, {"a": Record(1.0)})
    run_sql(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()")
    assert store.records("k", ["a"]) == {"a": Record(1.0)}
    store.add_records("k", SPEC, {"b": Record(2.0)})
    assert store.notes == ()
    store.close()


def test_a_table_that_a_server_does_not_give(tmp_path: Path, server: str) -> None:
    store = Store(server, tmp_path)
    run_sql(server, "ALTER TABLE attrlib.records RENAME TO gone")
    store.add_records("k", SPEC, {"a": Record(1.0)})
    assert store.records("k", ["a"]) == {"a": Record(1.0)}
    assert any("in memory only" in note for note in store.notes)
    assert any("cannot be read" in note for note in store.notes)
    assert "hush" not in str(store.notes)
    run_sql(server, "ALTER TABLE attrlib.gone RENAME TO records")
    wait_out(store)
    store.add_records("k", SPEC, {"b": Record(2.0)})
    store.close()
    again = Store(server, tmp_path)
    assert again.records("k", ["a", "b"]) == {"a": Record(1.0), "b": Record(2.0)}
    again.close()


def test_two_writers_of_the_same_records_do_not_block_each_other_on_a_server(tmp_path: Path, server: str) -> None:
    stores = [Store(server, tmp_path / str(i)) for i in range(2)]
    stores[0].add_records("k", SPEC, {"first": Record(1.0)})
    gate = threading.Barrier(2)

    def add(store: Store, records: dict[str, Record]) -> None:
        gate.wait(LIMIT)
        store.add_records("k", SPEC, records)

    for step in range(3):
        records = {f"{step}-{i}": Record(1.0) for i in range(2000)}
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(add, stores, (records, dict(reversed(records.items())))))
    for store in stores:
        assert store.notes == ()
        assert store.sizes().records == 3 * 2000 + 1
        store.close()


def test_stores_that_open_at_once_on_a_server(tmp_path: Path, server: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(lambda i: Store(server, tmp_path / str(i)), range(6)))
    for store in stores:
        assert store.notes == ()
        store.close()


# The store of the process


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """The environment for `open_store`, with a folder for this test."""
    for name in ("ATTRLIB_STORE_URL", "ATTRLIB_CACHE_BYTES", "ATTRLIB_MAPS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ATTRLIB_CACHE", str(tmp_path / "cache"))
    yield monkeypatch
    for settings, store in list(opening._stores.items()):
        if store.folder.is_relative_to(tmp_path):
            del opening._stores[settings]
            store.close()


def test_the_store_is_opened_once_however_many_threads_ask(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gate = threading.Barrier(8)

    def ask(_: int) -> Store:
        gate.wait(LIMIT)
        return open_store()

    with ThreadPoolExecutor(8) as pool:
        stores = set(pool.map(ask, range(8)))
    assert stores == {open_store()}
    assert open_store().folder == tmp_path / "cache"
    assert (tmp_path / "cache" / "results.sqlite").exists()


def test_the_environment_describes_the_store(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("ATTRLIB_STORE_URL", f"sqlite:///{tmp_path}/elsewhere/db.sqlite")
    environment.setenv("ATTRLIB_CACHE_BYTES", "1KB")
    environment.setenv("ATTRLIB_MAPS", "float16")
    store = open_store()
    store.add_maps({"small": a_map(1), "large": a_map(1, 32)})
    assert list(store.maps(["small", "large"])) == ["small"]
    assert same(store.maps(["small"])["small"], files.rounded(a_map(1), "float16"))
    assert (tmp_path / "elsewhere" / "db.sqlite").exists()
    assert not (tmp_path / "cache" / "results.sqlite").exists()


def test_an_empty_variable_is_none(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ATTRLIB_STORE_URL", "ATTRLIB_CACHE_BYTES", "ATTRLIB_MAPS"):
        environment.setenv(name, "")
    assert open_store().folder == tmp_path / "cache"


@pytest.mark.parametrize(("name", "value"), [("ATTRLIB_CACHE_BYTES", "many"), ("ATTRLIB_MAPS", "bfloat16")])
def test_an_invalid_environment_is_refused(environment: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment.setenv(name, value)
    with pytest.raises(SpecError, match=value):
        open_store()


def test_the_users_cache_folder_is_the_default(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.delenv("ATTRLIB_CACHE")
    environment.setattr("attrlib.store.store.user_cache_dir", lambda name: str(tmp_path / "user" / name))
    assert open_store().folder == tmp_path / "user" / "attrlib"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("1000", 1000),
        ("10GB", 10 * 2**30),
        ("4gb", 2**32),
        ("512 MiB", 2**29),
        (" 1.5G ", 3 * 2**29),
        ("2K", 2048),
        ("1TB", 2**40),
        ("7B", 7),
    ],
)
def test_bytes_from_text(text: str, number: int) -> None:
    assert parse_bytes(text) == number


@pytest.mark.parametrize("text", ["", "GB", "-1", "-1GB", "1PB", "1 0", "nan", "1e9", "inf", "1..5G", "1GBB", "١GB", "1,5GB"])
def test_text_that_is_no_bytes(text: str) -> None:
    with pytest.raises(SpecError, match=r"most=.* is not valid"):
        parse_bytes(text, "most")


# Speed


@pytest.fixture
def statements() -> Iterator[list[str]]:
    """The statements that databases receive, in order."""
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        statements.append(statement)

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", note)
    yield statements
    sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", note)


def test_adding_and_finding_records_takes_few_steps(store: Store, statements: list[str]) -> None:
    store.add_records("many", SPEC, {f"{i:032x}": Record(float(i), {"x": 1.0}) for i in range(5000)})
    store.add_records("k", SPEC, {"first": Record(1.0)})
    records = {f"{j:032}": Record(1 / (j + 1), {"x": 0.1, "y": 0.2}) for j in range(16)}
    items = [f"{(7 + j) % 5000:032x}" for j in range(1000)]
    statements.clear()
    with counted_calls(most=150 * len(records)):
        store.add_records("k", SPEC, records)
    assert len(statements) <= 4
    statements.clear()
    with counted_calls(most=75 * len(items)):
        records = store.records("many", items)
    assert len(records) == 1000
    assert len(statements) <= 4


def test_adding_maps_hashes_and_writes_them_once_and_does_little_more(
    store: Store, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", pytest.fail)
    hashed, written = 0, 0
    real_hash, real_write = hashlib.blake2b, files.Files.write

    def blake2b(blob: bytes, **options: Any) -> Any:
        nonlocal hashed
        hashed += len(blob)
        return real_hash(blob, **options)

    def write(self: files.Files, content: str, blob: bytes) -> None:
        nonlocal written
        written += len(blob)
        real_write(self, content, blob)

    store.add_maps({"first": torch.randn(1, 224, 224)})
    maps = {str(j): torch.randn(1, 224, 224) for j in range(16)}
    size = sum(tensor.nbytes for tensor in maps.values())
    monkeypatch.setattr(files.hashlib, "blake2b", blake2b)
    monkeypatch.setattr(files.Files, "write", write)
    statements.clear()
    with counted_calls(most=500 * len(maps)):
        store.add_maps(maps)
    assert size <= hashed < 1.01 * size
    assert size <= written < 1.01 * size
    assert len(statements) <= 6
