"""Maps at any location that fsspec knows, with the same care as in a folder."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from torch import Tensor

from attrlib.errors import StoreError
from attrlib.store import Store, open_store

URL = "memory://bucket/maps"


@pytest.fixture(autouse=True)
def memory() -> Iterator[Any]:
    """The file system in memory, empty."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def some_maps(count: int = 3) -> dict[str, Tensor]:
    return {f"map{k}": torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(k)) for k in range(count)}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def place(url: str, tmp_path: Path) -> str:
    return url.format(folder=tmp_path / "elsewhere")


def files(url: str, tmp_path: Path) -> list[str]:
    system, root = fsspec.core.url_to_fs(place(url, tmp_path))
    return sorted(system.find(root))


@pytest.mark.parametrize("url", [URL, "file://{folder}", "{folder}"])
def test_maps_come_back_from_another_location(url: str, tmp_path: Path) -> None:
    maps = some_maps()
    with closing(Store(folder=tmp_path / "cache", maps_url=place(url, tmp_path))) as store:
        store.add_maps(maps)
        assert store.notes == ()
    assert len(files(url, tmp_path)) == 3
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    with closing(Store(folder=tmp_path / "cache", maps_url=place(url, tmp_path))) as store:
        assert same(store.maps([*maps, "absent"]), maps)
        assert store.verify().maps == 3
        assert store.notes == ()


@pytest.mark.parametrize("url", [URL, "file://{folder}"])
def test_the_least_recently_used_are_removed_there_too(url: str, tmp_path: Path) -> None:
    with closing(Store(folder=tmp_path / "cache", maps_url=place(url, tmp_path))) as store:
        store.add_maps(some_maps(4))
        size = store.sizes().map_bytes // 4
        store.prune(2 * size)
        assert (store.sizes().maps, len(files(url, tmp_path))) == (2, 2)
        store.prune(everything=True)
        assert files(url, tmp_path) == []


@pytest.mark.parametrize("url", [URL, "file://{folder}"])
def test_damaged_missing_and_left_over_objects_are_found(url: str, tmp_path: Path) -> None:
    maps = some_maps()
    with closing(Store(folder=tmp_path / "cache", maps_url=place(url, tmp_path))) as store:
        store.add_maps(maps)
        system, _ = fsspec.core.url_to_fs(place(url, tmp_path))
        cut, gone, _whole = files(url, tmp_path)
        system.pipe_file(cut, system.cat_file(cut)[:-3])
        system.rm_file(gone)
        left_over = cut.replace(cut[-20:], "00.safetensors")
        system.pipe_file(left_over, b"x")
        verified = store.verify()
        assert (verified.maps, verified.damaged, verified.missing, verified.orphans) == (1, 1, 1, 1)
        assert len(store.maps(list(maps))) == 1
        assert ("elsewhere" if url != URL else URL) in store.notes[0]


@pytest.mark.parametrize("url", [URL, "file://{folder}"])
def test_two_stores_at_one_location_do_not_remove_each_others_maps(url: str, tmp_path: Path) -> None:
    maps, where = some_maps(), place(url, tmp_path)
    with closing(Store(folder=tmp_path / "one", maps_url=where)) as one, closing(Store(folder=tmp_path / "other", maps_url=where)) as other:
        one.add_maps(maps)
        other.add_maps(maps)
        assert (other.verify().orphans, one.verify().orphans) == (0, 0)
        other.prune(everything=True)
        assert same(one.maps(list(maps)), maps)


def test_a_location_that_fails_keeps_maps_in_memory_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Denied(Exception):
        """An error that is no OSError, as those of cloud libraries."""

    def denied(*_: object, **_options: object) -> None:
        raise Denied("no credentials")

    maps = some_maps()
    with closing(Store(folder=tmp_path / "cache", maps_url=URL)) as store, monkeypatch.context() as patch:
        patch.setattr(type(fsspec.filesystem("memory")), "pipe_file", denied)
        store.add_maps(maps)
        assert same(store.maps(list(maps)), maps)
        (note,) = store.notes
        assert note.startswith("results are kept in memory only")
        assert "memory://bucket/maps cannot be" in note
        assert "no credentials" in note


def test_a_location_that_cannot_be_reached_loses_no_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable(Exception):
        """An error that is no OSError, as those of cloud libraries."""

    def fail(*_: object, **_options: object) -> None:
        raise Unreachable("could not connect")

    maps = some_maps()
    with closing(Store(folder=tmp_path / "cache", maps_url=URL)) as store:
        store.add_maps(maps)
    with closing(Store(folder=tmp_path / "cache", maps_url=URL)) as store, monkeypatch.context() as patch:
        for name in ("cat_file", "exists", "find", "pipe_file"):
            patch.setattr(type(fsspec.filesystem("memory")), name, fail)
        assert store.maps(list(maps)) == {}
        (note,) = store.notes
        assert note == f"stored results cannot be read, and are computed again: {URL} cannot be read: could not connect"
        with pytest.raises(StoreError, match="could not connect"):
            store.verify()
    with closing(Store(folder=tmp_path / "cache", maps_url=URL)) as store:
        assert same(store.maps(list(maps)), maps)
        assert not store.notes


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense://bucket", "maps cannot be kept at nonsense://bucket"),
        ("s3://bucket/maps", "maps at s3://bucket/maps need a Python package: "),
    ],
)
def test_a_location_that_cannot_be_used_is_refused(url: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(StoreError, match=message):
        Store(folder=tmp_path, maps_url=url)


def test_the_location_is_configured_by_a_variable(own_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTRLIB_MAPS_URL", URL)
    store = open_store()
    store.add_maps(some_maps())
    assert len(files(URL, Path())) == 3


def test_a_store_whose_part_of_the_location_is_not_known_is_refused(tmp_path: Path) -> None:
    Store(folder=tmp_path, maps_url=URL).close()
    (owner,) = tmp_path.glob("maps-*/owner")
    owner.write_text("../../other")
    with pytest.raises(StoreError, match="which names the part of the maps that belongs to this store, cannot be used"):
        Store(folder=tmp_path, maps_url=URL)
