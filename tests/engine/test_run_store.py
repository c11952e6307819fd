"""Runs on a store in trouble."""

import errno
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from support.runs import GRID, Calls, alone, compare, same
from support.stores import wait_out

import attrlib.engine.evaluations
import attrlib.engine.evaluator
import attrlib.engine.plan
from attrlib.engine.run import Event
from attrlib.store import Store, engines, files

pytestmark = pytest.mark.usefixtures("own_cache")


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
    assert compare(model, f"sds,{GRID}", "IxG,Random", data, store).computed == 0, "cached in this process"
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
