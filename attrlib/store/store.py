"""The store, which combines records, maps and runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from platformdirs import user_cache_dir
from sqlalchemy import delete, func, select
from torch import Tensor

from attrlib.errors import SpecError, StoreError, unknown
from attrlib.specs import digest
from attrlib.store import tables
from attrlib.store.claims import Claims, claimed
from attrlib.store.database import Database
from attrlib.store.export import export
from attrlib.store.failures import Notes, Unavailable
from attrlib.store.files import DTYPES, rounded
from attrlib.store.maps import Maps, Verified
from attrlib.store.objects import open_files
from attrlib.store.records import Merged, Record, Records
from attrlib.store.runs import Run, Runs
from attrlib.store.urls import file_url, read_url


@dataclass(frozen=True)
class Sizes:
    """Size of a store: rows of each kind, bytes of the databases, and bytes of the maps."""

    specs: int
    records: int
    maps: int
    runs: int
    database_bytes: int
    map_bytes: int


class Store:
    """Results on disk, shared by threads and processes. Failures to read or write results are reported in `notes`, not as errors.

    Args:
        url: URL of the SQLite or PostgreSQL database of records and runs, by default an SQLite file in `folder`.
        folder: Folder of the maps, by default the user's cache folder.
        max_bytes: Maximum bytes of all maps. Beyond that, the least recently used ones are removed.
        dtype: Type that stored maps are rounded to, `float32` or `float16`.
        maps_url: Where the maps lie, any location that fsspec knows, such as `s3://BUCKET/maps`; by default the folder `maps` in `folder`.

    Raises:
        SpecError: If `dtype` is unknown.
        StoreError: If a folder cannot be created, or the database is not reachable, has an invalid URL, or belongs to another program
            or to another version of attrlib.
    """

    def __init__(
        self,
        url: str | None = None,
        folder: Path | None = None,
        max_bytes: int = 10 * 2**30,
        dtype: str = "float32",
        maps_url: str | None = None,
    ):
        if dtype not in DTYPES:
            raise SpecError(unknown("type of stored maps", dtype, DTYPES))
        self.folder = Path(folder or user_cache_dir("attrlib")).expanduser().absolute()
        address = file_url(self.folder / "results.sqlite") if url is None else read_url(url)
        _create_folder(self.folder, "ATTRLIB_CACHE")
        if url is not None and address.get_backend_name() == "sqlite":
            _create_folder(Path(str(address.database)).absolute().parent, "ATTRLIB_STORE_URL")
        self._dtype, self._max_bytes = dtype, max_bytes
        self._notes = Notes()
        self._database = Database(address, tables.results, self._notes)
        self._records = Records(self._database, self._notes)
        self._runs = Runs(self._database, self._notes)
        index = self.folder / ("maps" if maps_url is None else f"maps-{digest(maps_url)[:8]}")
        self._maps = Maps(open_files(maps_url, index), index, max_bytes, dtype, self._notes)

    @property
    def dtype(self) -> str:
        """Return the type that maps are rounded to: `float32` or `float16`."""
        return self._dtype

    @property
    def map_limit(self) -> int:
        """Return the most bytes of maps that the store keeps."""
        return self._max_bytes

    @property
    def notes(self) -> tuple[str, ...]:
        """Return notes on what was repaired, set aside or not stored, each with what to do, without duplicates."""
        return self._notes.texts

    def records(self, key: str, items: Sequence[str]) -> dict[str, Record]:
        """Return the records of the items that are cached under a key, in the order of `items`.

        Args:
            key: Digest of the spec, see `add_records`.
            items: Identifiers of items (images or grids).
        """
        return self._records.get(key, items)

    def values(self, key: str, items: Sequence[str]) -> dict[str, float]:
        """Return only the values of the records of the items that are cached under a key, in the order of `items`.

        Args:
            key: Digest of the spec, see `add_records`.
            items: Identifiers of items (images or grids).
        """
        return self._records.values(key, items)

    def add_records(self, key: str, spec: Mapping, records: Mapping[str, Record]) -> None:
        """Add records in one transaction. Those already cached are not overwritten.

        If the database cannot be written, the records stay in the memory of this process, with a note, and are written after the next
        write that succeeds.

        Args:
            key: Digest of `spec`.
            spec: What was computed, as JSON values. It is stored once for each key.
            records: Records by item.
        """
        if self._records.add(key, spec, records):
            self._retry()

    def merge_records(self, specs: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> Merged:
        """Add records that another store has computed. Those already cached are compared, and stay.

        Args:
            specs: Canonical text of the spec of each key.
            rows: Records with their `key`, `item`, `value` and `details`, as in the table.

        Raises:
            StoreError: If the database cannot be read or written. Nothing is added, and nothing is kept in memory.
        """
        try:
            return self._records.merge(specs, rows)
        except Unavailable as error:
            raise StoreError(str(error)) from None

    def maps(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Return the cached maps of some keys by key, float32 (1,h,w), in the order of `keys`.

        Maps whose files are damaged or missing are dropped from the store, with a note.
        """
        return self._maps.get(keys)

    def add_maps(self, maps: Mapping[str, Tensor]) -> None:
        """Add maps (1,h,w) by key. Those already cached are not overwritten.

        Beyond `max_bytes`, the least recently used maps are removed. If the disk cannot be written, up to 256 MiB of maps stay in the
        memory of this process, with a note.
        """
        self._maps.add(maps)

    def rounded(self, maps: Tensor) -> Tensor:
        """Return maps (1,h,w) or (B,1,h,w) rounded as the store would return them, so that new maps score like stored ones."""
        return rounded(maps, self._dtype)

    def claims(self) -> Claims:
        """Return a new owner of claims, so that processes that share the database compute nothing twice."""
        return Claims(self._database)

    def claimed(self, keys: Sequence[str]) -> dict[str, set[str]]:
        """Return the items that any process has claimed, by key.

        Args:
            keys: Keys of records.

        Raises:
            StoreError: If the store cannot be read.
        """
        try:
            return claimed(self._database, keys)
        except Unavailable as error:
            raise StoreError(str(error)) from None

    def save_run(self, key: str, spec: Mapping, parts: Mapping) -> None:
        """Record that a run has started, or started again.

        Args:
            key: Key of the run.
            spec: What the run computes, as JSON values.
            parts: Where its records are, see `Run`.
        """
        if self._runs.save(key, spec, parts):
            self._retry()

    def set_state(self, key: str, state: str) -> None:
        """Record the state of a run. A run that was pruned in the meantime is not restored.

        Args:
            key: Key of the run.
            state: `running`, `done`, `cancelled` or `failed`.

        Raises:
            SpecError: If the state is unknown.
        """
        if self._runs.set_state(key, state):
            self._retry()

    def runs(self) -> list[Run]:
        """Return all runs, newest first."""
        return self._runs.all()

    def sizes(self) -> Sizes:
        """Return the size of the store.

        Raises:
            StoreError: If the store cannot be read.
        """
        try:
            counts = [select(func.count()).select_from(table) for table in (tables.specs, tables.records, tables.runs)]
            specs, records, runs = self._database.read(lambda c: [c.execute(count).scalar_one() for count in counts])
            maps, map_bytes = self._maps.measure()
            return Sizes(specs, records, maps, runs, self._database.nbytes() + self._maps.index_bytes(), map_bytes)
        except Unavailable as error:
            raise StoreError(str(error)) from None

    def verify(self) -> Verified:
        """Read every map, drop damaged and missing ones, remove files that no map refers to, and check the databases.

        Raises:
            StoreError: If the store cannot be read or written.
        """
        try:
            sound = self._database.check()
            verified = self._maps.verify()
            return replace(verified, databases=verified.databases + (not sound))
        except Unavailable as error:
            raise StoreError(str(error)) from None

    def prune(self, max_bytes: int | None = None, everything: bool = False) -> int:
        """Remove the least recently used maps, or everything.

        Args:
            max_bytes: Bytes of maps to keep, by default the limit of the store.
            everything: Whether to remove all maps, records and runs instead.

        Returns:
            The number of bytes freed.

        Raises:
            StoreError: If the store cannot be read or written.
        """
        before = self.sizes()
        try:
            if everything:
                self._clear()
            else:
                self._maps.evict(self._max_bytes if max_bytes is None else max_bytes)
        except Unavailable as error:
            raise StoreError(str(error)) from None
        after = self.sizes()
        return before.map_bytes - after.map_bytes + max(0, before.database_bytes - after.database_bytes)

    def export(self, run_key: str, format: str) -> bytes:  # noqa: A002
        """Return the scores of a run as a table, see `attrlib.store.export`.

        Args:
            run_key: Key of the run.
            format: `csv`, `json` or `parquet`.

        Raises:
            StoreError: If the run does not exist.
            SpecError: If the format is unknown.
        """
        runs = {run.key: run for run in self.runs()}
        if run_key not in runs:
            raise StoreError(unknown("run", run_key, runs))
        return export(runs[run_key], self.records, format)

    def close(self) -> None:
        """Try once more to write the results that are kept in memory, and close all connections. The next use opens new ones."""
        self._database.insist()
        self._retry()
        self._database.close()
        self._maps.close()

    def _retry(self) -> None:
        self._records.retry()
        self._runs.retry()

    def _clear(self) -> None:
        self._records.forget()
        self._runs.forget()
        self._database.write(lambda c: [c.execute(delete(table)) for table in (tables.records, tables.specs, tables.runs, tables.claims)])
        self._database.compact()
        self._maps.clear()


def _create_folder(folder: Path, variable: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the folder {folder} cannot be created ({error.strerror}); set {variable} to another") from None
