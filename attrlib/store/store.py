"""The store: records, maps and runs under one roof."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from platformdirs import user_cache_dir
from sqlalchemy import delete, func, select
from torch import Tensor

from attrlib.errors import SpecError, StoreError, unknown
from attrlib.store import tables
from attrlib.store.database import Database
from attrlib.store.export import export
from attrlib.store.failures import Notes, Unavailable
from attrlib.store.files import DTYPES, rounded
from attrlib.store.maps import Maps, Verified
from attrlib.store.records import Record, Records
from attrlib.store.runs import Run, Runs
from attrlib.store.urls import file_url, read_url


@dataclass(frozen=True)
class Sizes:
    """How much is stored: rows of each kind, bytes of the databases, and bytes of the maps."""

    specs: int
    records: int
    maps: int
    runs: int
    database_bytes: int
    map_bytes: int


class Store:
    """Results on disk, shared by threads and processes. Trouble while reading or writing ends in `notes`, not in an error.

    Records and runs are in the database at `url` (SQLite or PostgreSQL, else an SQLite file in `folder`), maps in `folder`, up to
    `max_bytes` and rounded to `dtype`, float32 or float16. Opening raises `StoreError` where the folder cannot be made, or the
    address makes no sense, leads nowhere, or leads to the tables of another program.
    """

    def __init__(self, url: str | None = None, folder: Path | None = None, max_bytes: int = 10 * 2**30, dtype: str = "float32"):
        if dtype not in DTYPES:
            raise SpecError(unknown("type of stored maps", dtype, DTYPES))
        self.folder = Path(folder or user_cache_dir("attrlib")).expanduser().absolute()
        address = file_url(self.folder / "results.sqlite") if url is None else read_url(url)
        _make(self.folder, "ATTRLIB_CACHE")
        if url is not None and address.get_backend_name() == "sqlite":
            _make(Path(str(address.database)).absolute().parent, "ATTRLIB_STORE_URL")
        self._dtype, self._max_bytes = dtype, max_bytes
        self._notes = Notes()
        self._database = Database(address, tables.results, self._notes)
        self._records = Records(self._database, self._notes)
        self._runs = Runs(self._database, self._notes)
        self._maps = Maps(self.folder / "maps", max_bytes, dtype, self._notes)

    @property
    def dtype(self) -> str:
        """How maps are rounded: float32 or float16."""
        return self._dtype

    @property
    def notes(self) -> tuple[str, ...]:
        """What was repaired, set aside or could not be kept, each once, in a sentence that says what to do."""
        return self._notes.texts

    def records(self, key: str, items: Sequence[str]) -> dict[str, Record]:
        """The records under that key of those items that are known, in their order."""
        return self._records.get(key, items)

    def values(self, key: str, items: Sequence[str]) -> dict[str, float]:
        """The values alone of the records under that key of those items that are known, in their order."""
        return self._records.values(key, items)

    def add_records(self, key: str, spec: Mapping, records: Mapping[str, Record]) -> None:
        """Adds records by item, all or none; those that are known already stay as they are.

        `spec` is what `key` is the digest of, as JSON values; it is stored once. What the database does not take for now stays known
        to this process, with a note, and is written after the next write that succeeds.
        """
        if self._records.add(key, spec, records):
            self._retry()

    def maps(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """The maps of those keys that are known, in their order, float32 (1,h,w). What is damaged or missing on disk is dropped, with a note."""
        return self._maps.get(keys)

    def add_maps(self, maps: Mapping[str, Tensor]) -> None:
        """Adds maps (1,h,w) by key; those that are known already stay as they are. Beyond `max_bytes` the least recently used go.

        What the disk does not take for now stays known to this process, up to 256 MiB, with a note.
        """
        self._maps.add(maps)

    def rounded(self, maps: Tensor) -> Tensor:
        """Maps (1,h,w) or (B,1,h,w) as the store gives them back, so that fresh ones score like stored ones."""
        return rounded(maps, self._dtype)

    def save_run(self, key: str, spec: Mapping, parts: Mapping) -> None:
        """Writes down that a run begins, or begins again; see `Run` for what `parts` holds."""
        if self._runs.save(key, spec, parts):
            self._retry()

    def set_state(self, key: str, state: str) -> None:
        """Writes down that a run is `running`, `done`, `cancelled` or `failed`. A run that was pruned meanwhile stays gone."""
        if self._runs.set_state(key, state):
            self._retry()

    def runs(self) -> list[Run]:
        """All runs, the newest first."""
        return self._runs.known()

    def sizes(self) -> Sizes:
        """How much is stored. Raises `StoreError` where that cannot be read."""
        try:
            counts = [select(func.count()).select_from(table) for table in (tables.specs, tables.records, tables.runs)]
            specs, records, runs = self._database.read(lambda c: [c.execute(count).scalar_one() for count in counts])
            maps, map_bytes = self._maps.measure()
            return Sizes(specs, records, maps, runs, self._database.nbytes() + self._maps.index_bytes(), map_bytes)
        except Unavailable as error:
            raise StoreError(str(error)) from None

    def verify(self) -> Verified:
        """Reads every map, drops what is damaged or missing, removes files that no map refers to, and checks the databases.

        Raises `StoreError` where the store cannot be read and written.
        """
        try:
            sound = self._database.check()
            verified = self._maps.verify()
            return replace(verified, databases=verified.databases + (not sound))
        except Unavailable as error:
            raise StoreError(str(error)) from None

    def prune(self, max_bytes: int | None = None, everything: bool = False) -> int:
        """Removes the least recently used maps down to `max_bytes`, else the store's own; or everything, records and runs too.

        Returns the bytes that were freed. Raises `StoreError` where the store cannot be written.
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
        """The scores of a run as `csv`, `json` or `parquet`; see `attrlib.store.export`."""
        runs = {run.key: run for run in self.runs()}
        if run_key not in runs:
            raise StoreError(unknown("run", run_key, runs))
        return export(runs[run_key], self.records, format)

    def close(self) -> None:
        """Tries once more to write what is kept in memory, and closes all connections; the next use opens new ones."""
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
        self._database.write(lambda c: [c.execute(delete(table)) for table in (tables.records, tables.specs, tables.runs)])
        self._database.compact()
        self._maps.clear()


def _make(folder: Path, variable: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the folder {folder} cannot be made ({error.strerror}); set {variable} to another") from None
