import errno
import math
import multiprocessing
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sqlalchemy.exc import DBAPIError
from support.stores import wait_out
from support.waiting import LIMIT, ends
from torch import Tensor

from attrlib.errors import StoreError
from attrlib.store import SCHEMA, Record, Store, Verified, engines, files, tables
from attrlib.store import maps as maps_module
from attrlib.store.database import Database
from attrlib.store.failures import Damaged, Notes, Unavailable, reason
from attrlib.store.urls import file_url

SPEC = {"protocol": "GridPG"}
SIDE = 8


def a_map(seed: int, side: int = SIDE) -> Tensor:
    return torch.randn(1, side, side, generator=torch.Generator().manual_seed(seed))


SIZE = len(files.encode(a_map(0), "float32"))


def map_files(folder: Path) -> list[Path]:
    return sorted((folder / "maps").glob("??/*"))


def filled(folder: Path, url: str | None = None) -> None:
    """A store with a record and a map for each of ten items, closed."""
    with closing(Store(url, folder)) as store:
        store.add_records("k", SPEC, {str(i): Record(float(i)) for i in range(10)})
        store.add_maps({str(i): a_map(i) for i in range(10)})
        store.save_run("r", SPEC, {})


def works(store: Store) -> bool:
    """Return whether the next process finds what is written now."""
    store.add_records("later", SPEC, {"a": Record(1.0)})
    store.add_maps({"later": a_map(77)})
    with closing(Store(folder=store.folder)) as other:
        return other.records("later", ["a"]) == {"a": Record(1.0)} and torch.equal(other.maps(["later"])["later"], a_map(77))


KEYS = [str(i) for i in range(10)]


# Map files


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def swap(file: Path) -> None:
    """An intact file of another map."""
    file.write_bytes(files.encode(a_map(55), "float32"))


def no_file(file: Path) -> None:
    """A folder in place of the file."""
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [cut, empty, flip, swap, Path.unlink, no_file])
def test_a_damaged_map_is_dropped_and_can_be_added_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    filled(tmp_path)
    for file in map_files(tmp_path)[:2]:
        damage(file)
    store = Store(folder=tmp_path)
    cached = store.maps(KEYS)
    assert len(cached) == 8
    assert all(torch.equal(cached[key], a_map(int(key))) for key in cached)
    assert len(store.notes) == 1
    assert "damaged or missing" in store.notes[0]
    assert store.sizes().maps == 8
    if damage is no_file:
        for file in map_files(tmp_path):
            if file.is_dir():
                file.rmdir()
    store.add_maps({key: a_map(int(key)) for key in KEYS})
    again = store.maps(KEYS)
    assert all(torch.equal(again[key], a_map(int(key))) for key in KEYS)
    assert len(store.notes) == 1
    store.close()


def test_a_damaged_file_that_two_keys_share_is_dropped_for_both(tmp_path: Path) -> None:
    with closing(Store(folder=tmp_path)) as store:
        store.add_maps({"a": a_map(1), "b": a_map(1), "c": a_map(2)})
        flip(next(f for f in map_files(tmp_path) if f.read_bytes() == files.encode(a_map(1), "float32")))
        assert set(store.maps(["a", "c"])) == {"c"}
        assert (store.sizes().maps, len(map_files(tmp_path))) == (1, 1)


def test_verify_says_what_it_found_and_leaves_a_sound_store(tmp_path: Path) -> None:
    filled(tmp_path)
    files = map_files(tmp_path)
    cut(files[0])
    flip(files[1])
    files[2].unlink()
    (files[3].parent / "0123.safetensors").write_bytes(b"orphan")
    (files[3].parent / f"{files[3].stem}.123-0.part").write_bytes(b"never finished")
    with closing(Store(folder=tmp_path)) as store:
        assert store.verify() == Verified(maps=7, damaged=2, missing=1, orphans=2, databases=0)
        assert store.verify() == Verified(maps=7, damaged=0, missing=0, orphans=0, databases=0)
        assert len(store.maps(KEYS)) == len(map_files(tmp_path)) == 7
        assert len(store.notes) == 1


def test_an_index_that_names_a_path_is_damaged_and_nothing_there_is_touched(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    filled(cache)
    other = tmp_path / "mine.safetensors"
    other.write_bytes(b"precious")
    with closing(sqlite3.connect(cache / "maps" / "index.sqlite")) as connection:
        connection.execute("UPDATE maps SET content = ? WHERE key = '0'", (f"../../../{tmp_path}/mine",))
        connection.commit()
    with closing(Store(folder=cache)) as store:
        assert store.maps(KEYS) == {}
        assert other.read_bytes() == b"precious"
        assert "was damaged" in store.notes[0]
        assert works(store)
    assert other.read_bytes() == b"precious"


def test_a_file_that_another_process_needs_again_while_it_is_evicted_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Store(folder=tmp_path), Store(folder=tmp_path)
    one.add_maps({"a": a_map(1), "b": a_map(2)})
    index = one._maps._index
    write = index.write

    def interrupted(work: Callable) -> Any:
        result = write(work)
        two.add_maps({"again": a_map(1)})
        return result

    monkeypatch.setattr(index, "write", interrupted)
    one.prune(0)
    assert torch.equal(two.maps(["again"])["again"], a_map(1))
    assert len(map_files(tmp_path)) == 1
    for store in (one, two):
        store.close()
        assert store.notes == ()


# Databases


def garbage(file: Path) -> None:
    file.write_bytes(random.Random(0).randbytes(50_000))


def no_header(file: Path) -> None:
    file.write_bytes(b"\0" * 100 + file.read_bytes()[100:])


def half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def no_pages(file: Path) -> None:
    """The header is intact, so that the file opens; the pages of the rows are damaged."""
    data = file.read_bytes()
    file.write_bytes(data[:4096] + random.Random(0).randbytes(len(data) - 4096))


def change_file(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(statement)
        connection.commit()


DATABASES = ["results.sqlite", "maps/index.sqlite"]


@pytest.mark.parametrize("name", DATABASES)
@pytest.mark.parametrize(
    ("damage", "alive"),
    # A process that has read the header does not read it again.
    [(garbage, False), (no_header, False), (half, False), (no_pages, False), (garbage, True), (half, True), (no_pages, True)],
)
def test_a_damaged_database_is_set_aside_and_the_call_goes_on(tmp_path: Path, damage: Callable, name: str, alive: bool) -> None:
    filled(tmp_path)
    before = Store(folder=tmp_path) if alive else None
    damage(tmp_path / name)
    bad = (tmp_path / name).read_bytes()
    store = before or Store(folder=tmp_path)
    assert store.records("k", KEYS) == ({} if name == DATABASES[0] else {key: Record(float(key)) for key in KEYS})
    assert len(store.maps(KEYS)) == len(map_files(tmp_path)) == (0 if name == DATABASES[1] else 10)
    assert works(store)
    aside = [f for f in (tmp_path / name).parent.glob("*.damaged-*") if not f.name.endswith(("-wal", "-shm"))]
    assert len(aside) == 1
    assert aside[0].read_bytes() == bad
    assert len(store.notes) == 1
    assert str(tmp_path / name) in store.notes[0]
    assert aside[0].name in store.notes[0]
    assert len(map_files(tmp_path)) == store.sizes().maps, "and no others"
    assert store.verify() == Verified(store.sizes().maps, 0, 0, 0, 0)
    store.close()


def test_the_log_is_set_aside_with_its_database(tmp_path: Path) -> None:
    filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / "results.sqlite", isolation_level=None)) as writer:
        writer.execute("UPDATE about SET value = 'in the log'")
        with closing(Store(folder=tmp_path)) as store:
            assert works(store)
            assert len(store.notes) == 1
        aside = tmp_path / "results.sqlite.schema-in the log"
        assert aside.with_name(aside.name + "-wal").stat().st_size > 0
        shutil.copytree(tmp_path, tmp_path / "copy")
    with closing(sqlite3.connect(tmp_path / "copy" / aside.name)) as connection:
        assert connection.execute("SELECT about.value, COUNT(*) FROM about JOIN records").fetchall() == [("in the log", 10)]


@pytest.mark.parametrize(("name", "table"), [(DATABASES[0], "records"), (DATABASES[0], "runs"), (DATABASES[1], "maps")])
def test_a_table_that_is_gone_is_damage(tmp_path: Path, name: str, table: str) -> None:
    filled(tmp_path)
    store = Store(folder=tmp_path)
    with closing(sqlite3.connect(tmp_path / name)) as connection:
        connection.execute(f"DROP TABLE {table}")
    store.records("k", KEYS)
    store.maps(KEYS)
    store.runs()
    assert len(store.notes) == 1
    assert "was damaged" in store.notes[0]
    assert works(store)
    store.close()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (DATABASES[0], "UPDATE records SET value = 'text' WHERE item = '3'"),
        (DATABASES[0], "UPDATE records SET details = '{\"x\": [1.0' WHERE item = '3'"),
        (DATABASES[0], "UPDATE records SET details = '[null]' WHERE item = '3'"),
        (DATABASES[0], "UPDATE records SET details = CAST(X'7BFF' AS TEXT) WHERE item = '3'"),
        (DATABASES[0], "UPDATE runs SET spec = ''"),
        (DATABASES[0], "UPDATE runs SET created = X'00'"),
        (DATABASES[1], "UPDATE maps SET used = 'text' WHERE key = '3'"),
        (DATABASES[1], "UPDATE maps SET content = 'short' WHERE key = '3'"),
        (DATABASES[1], "UPDATE maps SET content = X'00' WHERE key = '3'"),
    ],
)
def test_invalid_rows_are_damage(tmp_path: Path, name: str, change: str) -> None:
    filled(tmp_path)
    change_file(tmp_path / name, change)
    with closing(Store(folder=tmp_path)) as store:
        store.records("k", KEYS)
        store.maps(KEYS)
        store.runs()
        assert len(store.notes) == 1
        assert "was damaged" in store.notes[0]
        assert works(store)


def test_invalid_sizes_do_not_stop_evictions(tmp_path: Path) -> None:
    filled(tmp_path)
    change_file(tmp_path / DATABASES[1], "UPDATE maps SET nbytes = 'text' WHERE key = '3'")
    with closing(Store(folder=tmp_path, max_bytes=5 * SIZE)) as store:
        store.add_maps({"new": a_map(50)})
        assert set(store.maps(["new"])) == {"new"}
        assert len(map_files(tmp_path)) <= 5
        assert store.notes == ()


def test_two_stores_on_a_damaged_database_set_it_aside_once(tmp_path: Path) -> None:
    filled(tmp_path)
    one, two = Store(folder=tmp_path), Store(folder=tmp_path)
    no_pages(tmp_path / "results.sqlite")
    assert one.records("k", KEYS) == {}
    one.add_records("k", SPEC, {"new": Record(1.0)})
    assert two.records("k", ["new"]) == {"new": Record(1.0)}
    two.add_records("k", SPEC, {"newer": Record(2.0)})
    assert set(one.records("k", ["new", "newer"])) == {"new", "newer"}
    assert len(list(tmp_path.glob("*.damaged-*"))) in (1, 2, 3)
    assert (len(one.notes), len(two.notes)) == (1, 0)
    one.close()
    two.close()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_bytes_of_a_database_are_wrong_no_call_fails(tmp_path: Path, seed: int) -> None:
    filled(tmp_path)
    chance = random.Random(seed)
    for name in DATABASES:
        data = bytearray((tmp_path / name).read_bytes())
        for _ in range(chance.choice([1, 10, 300])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        (tmp_path / name).write_bytes(data)
    store = Store(folder=tmp_path)
    store.records("k", KEYS)
    maps = store.maps(KEYS)
    assert all(torch.equal(maps[key], a_map(int(key))) for key in maps)
    store.runs()
    store.verify()
    assert works(store)
    store.close()


def test_damage_that_two_threads_find_is_repaired_once(tmp_path: Path) -> None:
    notes = Notes()
    database = Database(file_url(tmp_path / "db.sqlite"), tables.results, notes)
    calls: list[str] = []

    def inner(_: Any) -> None:
        calls.append("inner")
        if calls.count("inner") == 1:
            raise Damaged

    def outer(_: Any) -> None:
        calls.append("outer")
        if calls.count("outer") == 1:
            database.read(inner)
            raise Damaged

    database.read(outer)
    database.close()
    assert calls == ["outer", "inner", "inner", "outer"]
    assert (database.times_set_aside, len(notes.texts)) == (1, 1)


def test_verify_finds_a_damaged_database_that_still_opens(tmp_path: Path) -> None:
    with closing(Store(folder=tmp_path)) as store:
        store.add_records("k", SPEC, {f"{i:0200}": Record(float(i)) for i in range(1000)})
        store.add_maps({"a": a_map(1)})
    with (tmp_path / "results.sqlite").open("r+b") as file:
        file.seek(40 * 4096)
        file.write(b"\xff" * 4096)
    with closing(Store(folder=tmp_path)) as store:
        assert store.notes == ()
        assert store.verify() == Verified(maps=1, damaged=0, missing=0, orphans=0, databases=1)
        assert store.verify().databases == 0
        assert len(store.notes) == 1
        assert works(store)


@pytest.mark.parametrize("name", DATABASES)
def test_a_database_that_is_removed_is_created_again(tmp_path: Path, name: str) -> None:
    filled(tmp_path)
    store = Store(folder=tmp_path)
    store.records("k", KEYS)
    store.maps(KEYS)
    (tmp_path / name).unlink()
    assert works(store)
    assert len(store.records("k", KEYS)) == (0 if name == DATABASES[0] else 10)
    assert len(store.maps(KEYS)) == (0 if name == DATABASES[1] else 10)
    assert store.notes == ()
    store.close()


def test_a_folder_that_is_removed_is_created_again(tmp_path: Path) -> None:
    filled(tmp_path / "cache")
    store = Store(folder=tmp_path / "cache")
    assert len(store.maps(KEYS)) == len(store.records("k", KEYS)) == 10
    shutil.rmtree(tmp_path / "cache")
    assert store.records("k", KEYS) == store.maps(KEYS) == {}
    assert works(store)
    assert store.notes == ()
    store.close()


# Versions


@pytest.mark.parametrize("name", DATABASES)
def test_a_database_of_another_version_is_set_aside(tmp_path: Path, name: str) -> None:
    for before in range(2):
        filled(tmp_path)
        change_file(tmp_path / name, f"UPDATE about SET value = '{SCHEMA - 1}'")
        store = Store(folder=tmp_path)
        assert store.records("k", KEYS) == ({} if name == DATABASES[0] else {key: Record(float(key)) for key in KEYS})
        assert len(store.maps(KEYS)) == (0 if name == DATABASES[1] else 10)
        assert works(store)
        aside = sorted((tmp_path / name).parent.glob(f"*.sqlite.schema-{SCHEMA - 1}*"))
        assert len(aside) == before + 1
        assert aside[0].name == f"{(tmp_path / name).name}.schema-{SCHEMA - 1}"
        assert len(store.notes) == 1
        assert "another version" in store.notes[0]
        store.close()
    with closing(sqlite3.connect(aside[0])) as connection:
        table = "records" if name == DATABASES[0] else "maps"
        assert connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (10,)


def test_a_database_without_a_version_is_set_aside(tmp_path: Path) -> None:
    filled(tmp_path)
    change_file(tmp_path / "results.sqlite", "DELETE FROM about")
    with closing(Store(folder=tmp_path)) as store:
        assert works(store)
        assert "another version" in store.notes[0]


def test_the_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "bookmarks.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
        connection.commit()
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"another program.*bookmarks.*ATTRLIB_STORE_URL"):
        Store(f"sqlite:///{file}", tmp_path / "cache")
    assert file.read_bytes() == before


# Full, locked and read-only


def kept_in_memory(store: Store, word: str, opened: bool = True) -> None:
    """Add results that cannot be written: this process can read them, and notes say why they are not stored (and why nothing is read)."""
    store.add_records("k", SPEC, {"new": Record(3.0, {"x": 1.0})})
    store.add_maps({"new": a_map(50)})
    store.save_run("run", SPEC, {})
    store.set_state("run", "cancelled")
    assert store.records("k", ["new", "none"]) == {"new": Record(3.0, {"x": 1.0})}
    assert torch.equal(store.maps(["new", "none"])["new"], a_map(50))
    assert [(run.key, run.state) for run in store.runs() if run.key == "run"] == [("run", "cancelled")]
    unwritten = [note for note in store.notes if "in memory only" in note and word in note]
    unread = [note for note in store.notes if "cannot be read" in note and word in note]
    assert (len(unwritten), len(unread)) == (2, 0 if opened else 2), "one for the results and one for the maps, for any number of calls"
    assert len(store.notes) == len(unwritten) + len(unread)


def now_on_disk(folder: Path) -> bool:
    """Return whether another process can read what `kept_in_memory` added."""
    with closing(Store(folder=folder)) as other:
        runs = {run.key: run.state for run in other.runs()}
        stored = other.records("k", ["new"]) == {"new": Record(3.0, {"x": 1.0})} and runs.get("run") == "cancelled"
        return stored and "new" in other.maps(["new"])


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "another program has locked the file; close that program"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, "the file cannot be written; set ATTRLIB_CACHE"),
        (sqlite3.SQLITE_FULL, "the disk is full; free some space"),
        (sqlite3.SQLITE_IOERR_READ, r"the file cannot be used (words of SQLite); check"),
    ],
)
def test_reasons_say_what_to_do(code: int, words: str) -> None:
    error = sqlite3.OperationalError("words of SQLite\nand more")
    error.sqlite_errorcode = code
    assert reason(DBAPIError("SELECT", None, error), "the file").startswith(words)


@contextmanager
def lock(*databases: Path) -> Iterator[None]:
    """Another program in a write transaction."""
    connections = [sqlite3.connect(file, isolation_level=None) for file in databases]
    for connection in connections:
        connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        for connection in connections:
            connection.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores that wait for a lock for a twentieth of a second."""
    monkeypatch.setattr(engines, "TIMEOUT", 0.05)


@pytest.mark.usefixtures("impatient")
def test_a_locked_database_is_read_and_written_later(tmp_path: Path) -> None:
    filled(tmp_path)
    store = Store(folder=tmp_path)
    with lock(*(tmp_path / name for name in DATABASES)):
        kept_in_memory(store, "locked")
        assert len(store.records("k", [*KEYS, "new"])) == len(store.maps([*KEYS, "new"])) == 11
        store.set_state("r", "done")
        store.save_run("r", {"again": True}, {})
        assert [(run.state, run.spec) for run in store.runs() if run.key == "r"] == [("running", {"again": True})]
        store.add_records("k", SPEC, {"newer": Record(4.0)})
        store.add_records("k", SPEC, {"newest": Record(5.0), "newer": Record(9.0), "new": Record(9.0)})
        assert store.records("k", ["new", "newer"]) == {"new": Record(3.0, {"x": 1.0}), "newer": Record(4.0)}
    wait_out(store)
    assert not now_on_disk(tmp_path)
    store.add_records("k", SPEC, {"last": Record(6.0)})
    store.add_maps({"last": a_map(51)})
    assert now_on_disk(tmp_path)
    with closing(Store(folder=tmp_path)) as other:
        assert [record.value for record in other.records("k", ["newer", "newest", "last"]).values()] == [4.0, 5.0, 6.0]
        assert set(other.maps(["new", "last"])) == {"new", "last"}
    store.close()


@pytest.mark.usefixtures("impatient")
def test_after_a_wait_in_vain_writes_fail_at_once_for_as_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(file_url(tmp_path / "db.sqlite"), tables.results, Notes())
    times = iter([0.0, 30.0, 59.0, 61.0])
    monkeypatch.setattr("attrlib.store.database.time", SimpleNamespace(monotonic=lambda: next(times)))
    with lock(tmp_path / "db.sqlite"), pytest.raises(Unavailable, match="locked"):
        database.write(lambda _: None)
    with pytest.raises(Unavailable, match="locked"):
        database.write(lambda _: pytest.fail("tried"))
    assert database.write(lambda _: "tried") == "tried"
    database.close()


@pytest.mark.usefixtures("impatient")
def test_a_store_that_opens_while_it_is_locked(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    with lock(*(tmp_path / name for name in DATABASES)):
        store = Store(folder=tmp_path)
        kept_in_memory(store, "locked", opened=False)
    wait_out(store)
    store.add_records("k", SPEC, {"last": Record(6.0)})
    store.add_maps({"last": a_map(51)})
    assert now_on_disk(tmp_path)
    store.close()


@pytest.mark.usefixtures("impatient")
def test_closing_writes_pending_results(tmp_path: Path) -> None:
    store = Store(folder=tmp_path)
    with lock(*(tmp_path / name for name in DATABASES)):
        kept_in_memory(store, "locked")
    wait_out(store)
    store.close()
    assert now_on_disk(tmp_path)


@pytest.mark.usefixtures("impatient")
def test_what_cannot_be_asked_or_done_now_is_an_error(tmp_path: Path) -> None:
    store = Store(folder=tmp_path)
    with lock(tmp_path / "maps" / "index.sqlite"):
        with pytest.raises(StoreError, match="locked"):
            store.prune(0)
        with pytest.raises(StoreError, match="locked"):
            store.verify()
    store.close()


def test_maps_in_memory_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps_module, "MEMORY", 5 * SIZE)
    monkeypatch.setattr(files.os, "replace", no_space)
    store = Store(folder=tmp_path)
    for key in KEYS:
        store.add_maps({key: a_map(int(key))})
    assert set(store.maps(KEYS)) == set(KEYS[5:])
    store.add_maps({"6": a_map(6), "large": a_map(99, 2 * SIDE)})
    assert set(store.maps([*KEYS, "large"])) == {"6", "large"}
    monkeypatch.undo()
    store.close()
    with closing(Store(folder=tmp_path)) as other:
        assert set(other.maps([*KEYS, "large"])) == {"6", "large"}


def no_space(*_args: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_no_part_of_a_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(folder=tmp_path)
    store.add_maps({"before": a_map(1)})
    whole, calls = os.replace, iter([True, True, False])
    monkeypatch.setattr(files.os, "replace", lambda *args: whole(*args) if next(calls, False) else no_space())
    store.add_maps({"a": a_map(2), "b": a_map(3), "c": a_map(4), "same": a_map(1)})
    assert len(map_files(tmp_path)) == 1
    assert len(store.maps(["before", "a", "b", "c", "same"])) == 5
    assert len(store.notes) == 1
    assert "full" in store.notes[0]
    assert "free some space" in store.notes[0]
    monkeypatch.undo()
    store.add_maps({"d": a_map(5)})
    assert len(map_files(tmp_path)) == 5
    store.close()
    with closing(Store(folder=tmp_path)) as other:
        assert len(other.maps(["before", "a", "b", "c", "same", "d"])) == 6
        assert other.verify() == Verified(6, 0, 0, 0, 0)


def test_a_full_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(folder=tmp_path)
    many = {f"{i:0100}": Record(float(i)) for i in range(2000)}
    limit: list[int] = [1]
    make = engines.file_engine

    def limited(*args: Any) -> Any:
        engine = make(*args)

        @engines.event.listens_for(engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql(f"PRAGMA max_page_count={30 if limit else 1_000_000}")

        return engine

    monkeypatch.setattr("attrlib.store.database.file_engine", limited)
    store.close()
    store.add_records("k", SPEC, many)
    assert store.records("k", list(many)) == many
    assert len(store.notes) == 1
    assert "full" in store.notes[0]
    limit.clear()
    wait_out(store)
    store.add_records("k", SPEC, {"one": Record(1.0)})
    with closing(Store(folder=tmp_path)) as other:
        assert other.records("k", list(many)) == many
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_store_that_opens_on_a_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with suppress(OSError), (small_disk / "large").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    # Longer than any test: it is not taken for a lock that one waits for.
    monkeypatch.setattr(engines, "TIMEOUT", 2 * LIMIT)
    with ends():
        store = Store(folder=small_disk)
        store.add_records("k", SPEC, {"new": Record(3.0, {"x": 1.0})})
        store.add_maps({"new": a_map(50)})
        assert store.records("k", ["new"]) == {"new": Record(3.0, {"x": 1.0})}
        assert set(store.maps(["new"])) == {"new"}
    assert any("in memory only" in note and "free some space" in note for note in store.notes)
    (small_disk / "large").unlink()
    wait_out(store)
    store.save_run("run", SPEC, {})
    store.set_state("run", "cancelled")
    store.close()
    assert now_on_disk(small_disk)


def test_a_disk_that_is_full(small_disk: Path) -> None:
    store = Store(folder=small_disk)
    maps = {str(i): a_map(i, 64) for i in range(40)}
    for key, tensor in maps.items():
        store.add_maps({key: tensor})
        store.add_records("k", SPEC, {f"{key}-{j:0100}": Record(float(j)) for j in range(30)})
    items = [f"{key}-{j:0100}" for key in maps for j in range(30)]
    assert len(store.records("k", items)) == len(items)
    cached = store.maps(list(maps))
    assert all(torch.equal(cached[key], maps[key]) for key in maps)
    assert store.notes
    assert all("in memory only" in note for note in store.notes)
    assert any("free some space" in note for note in store.notes)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    wait_out(store)
    store.add_records("k", SPEC, {"last": Record(1.0)})
    store.add_maps({"last": a_map(99)})
    with closing(Store(folder=small_disk)) as other:
        assert len(other.records("k", [*items, "last"])) == len(items) + 1
        assert len(other.maps([*maps, "last"])) == 41
        assert other.verify() == Verified(41, 0, 0, 0, 0)
    store.close()


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of an unprivileged user, as whom the test runs."""
    with tempfile.TemporaryDirectory(prefix="attrlib", dir="/tmp") as name:
        root = os.geteuid() == 0
        if root:
            shutil.chown(name, "nobody")
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            if root:
                os.seteuid(0)
            for folder, _, _ in os.walk(name):
                os.chmod(folder, 0o700)


def set_modes(top: Path, folder: int, file: int) -> None:
    for path in [*top.rglob("*"), top]:
        path.chmod(folder if path.is_dir() else file)


def test_a_folder_that_can_only_be_read(unprivileged: Path) -> None:
    filled(unprivileged)
    set_modes(unprivileged, 0o500, 0o400)
    store = Store(folder=unprivileged)
    assert store.records("k", KEYS) == {key: Record(float(key)) for key in KEYS}
    assert len(store.maps(KEYS)) == 10
    assert [run.key for run in store.runs()] == ["r"]
    assert store.notes == ()
    kept_in_memory(store, "ATTRLIB_CACHE")
    assert len(store.records("k", [*KEYS, "new"])) == len(store.maps([*KEYS, "new"])) == 11
    set_modes(unprivileged, 0o700, 0o600)
    wait_out(store)
    store.add_records("k", SPEC, {"last": Record(6.0)})
    store.add_maps({"last": a_map(51)})
    assert now_on_disk(unprivileged)
    store.close()


def test_an_empty_folder_that_can_only_be_read(unprivileged: Path) -> None:
    unprivileged.chmod(0o500)
    store = Store(folder=unprivileged)
    kept_in_memory(store, "ATTRLIB_CACHE", opened=False)
    unprivileged.chmod(0o700)
    wait_out(store)
    store.close()
    assert now_on_disk(unprivileged)


def test_a_folder_that_cannot_be_created(unprivileged: Path) -> None:
    (unprivileged / "file").write_bytes(b"")
    unprivileged.chmod(0o500)
    for folder in (unprivileged / "new", unprivileged / "file" / "new", unprivileged / "file"):
        with pytest.raises(StoreError, match=r"cannot be created.*ATTRLIB_CACHE"):
            Store(folder=folder)
    with pytest.raises(StoreError, match=r"cannot be created.*ATTRLIB_STORE_URL"):
        Store(f"sqlite:///{unprivileged}/new/db.sqlite", folder=Path(tempfile.gettempdir()))


# Killed and concurrent writers


CAP = 60 * SIZE
"""Most bytes of maps for these writers: fewer than they write."""


def number(name: str) -> float:
    return random.Random(name).random()


def tensor(name: str) -> Tensor:
    return a_map(zlib.crc32(name.encode()) % 1000)


def batch(writer: str, step: int) -> list[str]:
    return [f"{writer}-{step}-{i}" for i in range(16)]


def write(folder: Path, writer: str, steps: int, begun: Any) -> None:
    """Add batches of sixteen records and of four maps."""
    store = Store(folder=folder, max_bytes=CAP)
    for step in range(steps):
        items = batch(writer, step)
        store.add_records("k", SPEC, {item: Record(number(item), {"all": [number(item), math.nan]}) for item in items})
        store.add_maps({item: tensor(item) for item in items[:4]})
        store.save_run(writer, SPEC, {"GridPG|IG": {"key": "k", "items": items}})
        begun.set()
    store.close()
    assert store.notes == ()


def written(folder: Path, writer: str) -> int:
    """Return the number of batches of a writer, which must be complete, without gaps, and as they were written."""
    step = 0
    with closing(Store(folder=folder, max_bytes=CAP)) as store:
        while records := store.records("k", batch(writer, step)):
            assert list(records) == batch(writer, step)
            assert all(str(records[item]) == str(Record(number(item), {"all": [number(item), math.nan]})) for item in records)
            maps = store.maps(batch(writer, step))
            assert all(torch.equal(maps[item], tensor(item)) for item in maps)
            step += 1
        assert store.records("k", batch(writer, step + 1)) == {}
        assert store.notes == ()
    return step


def sound(folder: Path) -> bool:
    """Return whether everything on disk is intact, except files that nothing refers to."""
    with closing(Store(folder=folder, max_bytes=CAP)) as store:
        result = store.verify()
        assert store.verify() == Verified(result.maps, 0, 0, 0, 0)
        assert store.sizes().map_bytes <= CAP * 1.2
        return (result.damaged, result.missing, result.databases) == (0, 0, 0) and store.notes == ()


FORK = multiprocessing.get_context("fork")
"""Start processes that have already imported torch, as importing it takes longer than these tests."""


def test_a_writer_that_is_killed_leaves_a_sound_store(tmp_path: Path) -> None:
    chance = random.Random(time.time_ns())
    steps = []
    for kill in range(10):
        begun = FORK.Event()
        process = FORK.Process(target=write, args=(tmp_path, f"w{kill}", 1_000_000, begun))
        process.start()
        assert begun.wait(LIMIT)
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        process.join()
        assert process.exitcode == -9
        assert sound(tmp_path)
        steps.append(written(tmp_path, f"w{kill}"))
    assert all(steps)
    assert works(Store(folder=tmp_path))


def test_two_processes_and_two_threads_write_at_once(tmp_path: Path) -> None:
    begun = FORK.Event()
    processes = [FORK.Process(target=write, args=(tmp_path, f"w{i}", 25, begun)) for i in range(2)]
    threads = [threading.Thread(target=write, args=(tmp_path, f"t{i}", 25, threading.Event())) for i in range(2)]
    for worker in [*processes, *threads]:
        worker.start()
    for worker in [*processes, *threads]:
        worker.join(LIMIT)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [written(tmp_path, name) for name in ("w0", "w1", "t0", "t1")] == [25] * 4
    assert sound(tmp_path)
