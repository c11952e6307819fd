"""On-disk cache of maps that evicts the least recently used: files named by their content, and an SQLite index of them.

The index belongs to the files and not to the results database, because machines that share a database server each have their own files.
"""

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Connection, cast, delete, func, select, update
from torch import Tensor

from attrlib.store.database import Database
from attrlib.store.failures import NOT_KEPT, NOT_READ, Damaged, Notes, Unavailable, reason
from attrlib.store.files import Files, checked, content_of, decode, encode
from attrlib.store.tables import chunks, index, insert_new
from attrlib.store.tables import maps as table
from attrlib.store.urls import file_url

MEMORY = 256 << 20
"""Most bytes of maps that are kept in memory while the disk cannot be written."""

FRESH = 60.0
"""Seconds within which a further use of a map is not recorded."""

_SIZE = func.coalesce(cast(func.max(table.c.nbytes), BigInteger), 0)
"""Bytes of a file. The cast makes it a number even if the index is damaged."""


@dataclass(frozen=True)
class Verified:
    """Result of a check of everything on disk.

    Attributes:
        maps: Number of intact maps.
        damaged: Number of files dropped because they were damaged or unreadable.
        missing: Number of files dropped because they were missing.
        orphans: Number of files removed because no map refers to them, left by programs that were killed.
        databases: Number of databases set aside because they were damaged.
    """

    maps: int
    damaged: int
    missing: int
    orphans: int
    databases: int


class Maps:
    """The maps in files, and an index of them in a folder. Keys with equal maps share a file, which is removed with the last of them."""

    def __init__(self, files: Files, folder: Path, max_bytes: int, dtype: str, notes: Notes):
        self._files, self._max_bytes, self._dtype, self._notes = files, max_bytes, dtype, notes
        self._lock = threading.Lock()
        self._pending: dict[str, bytes] = {}
        self._pending_bytes = 0
        # Bytes that may be added before all files are counted again, because other processes add too. The first add counts them.
        self._room = 0
        self._index = Database(file_url(folder / "index.sqlite"), index, self._on_new_index)

    def get(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Return the cached maps of some keys by key, float32 (1,h,w), in the order of `keys`.

        Maps whose files are damaged or missing are dropped, with a note.
        """
        with self._lock:
            maps = {key: decode(self._pending[key]) for key in keys if key in self._pending}
        try:
            rows = self._index.read(lambda c: _rows(c, keys))
        except Unavailable as error:
            self._notes(NOT_READ.format(why=error))
            rows = []
        lost = set()
        try:
            for key, content, _used in rows:
                blob = self._files.read(content)
                if blob is None:
                    lost.add(content)
                else:
                    maps[key] = decode(blob)
        except Unavailable as error:
            self._notes(NOT_READ.format(why=error))
        now = time.time()
        with suppress(Unavailable):
            self._drop(lost)
            self._touch([key for key, _content, used in rows if key in maps and used < now - FRESH], now)
        return {key: maps[key] for key in keys if key in maps}

    def add(self, maps: Mapping[str, Tensor]) -> None:
        """Add maps (1,h,w) whose keys are new. If the disk cannot be written, keep them in memory, with a note."""
        blobs = {key: encode(tensor, self._dtype) for key, tensor in maps.items()}
        fitting = {key: blob for key, blob in blobs.items() if len(blob) <= self._max_bytes}
        if len(fitting) < len(blobs):
            self._notes(f"maps larger than the whole cache ({self._max_bytes} bytes) are not cached; increase ATTRLIB_CACHE_BYTES")
        if not fitting or self._write(fitting):
            self.retry()
        else:
            self._hold(fitting)

    def retry(self) -> None:
        """Try again to write the maps that are kept in memory."""
        with self._lock:
            pending = dict(self._pending)
        if pending and self._write(pending):
            with self._lock:
                for key in pending:
                    self._pending_bytes -= len(self._pending.pop(key, b""))

    def measure(self) -> tuple[int, int]:
        """Return the number of maps and the bytes of their files."""
        sizes = select(_SIZE.label("nbytes")).group_by(table.c.content).subquery()
        total = select(func.coalesce(func.sum(sizes.c.nbytes), 0))
        count = select(func.count()).select_from(table)
        return self._index.read(lambda c: (c.execute(count).scalar_one(), c.execute(total).scalar_one()))

    def evict(self, limit: int) -> int:
        """Remove the least recently used maps until at most `limit` bytes are left, in one transaction. Return the bytes left."""
        query = select(table.c.content, _SIZE).group_by(table.c.content).order_by(func.max(table.c.used))

        def choose(connection: Connection) -> tuple[list[str], int]:
            rows = connection.execute(query).all()
            left, old = sum(size for _content, size in rows), []
            for content, size in rows:
                if left <= limit:
                    break
                old.append(checked(content))
                left -= size
            _delete(connection, old)
            return old, left

        old, left = self._index.write(choose)
        # Only after the rows are committed: a program killed in between leaves files without rows, not rows without files.
        self._index.write(lambda c: self._remove_unused(c, old))
        return left

    def clear(self) -> None:
        """Remove all maps."""
        with self._lock:
            self._pending, self._pending_bytes = {}, 0
        self._index.write(lambda c: c.execute(delete(table)))
        self._sweep()
        self._index.compact()

    def verify(self) -> Verified:
        """Read every file, drop damaged and missing ones, remove files that no map refers to, and check the index."""
        sound = self._index.check()
        contents = self._index.read(_contents)
        damaged, missing = self._drop({content for content in contents if self._files.read(content) is None})
        return Verified(self.measure()[0], damaged, missing, self._sweep(), int(not sound))

    def index_bytes(self) -> int:
        """Return the size of the index in bytes."""
        return self._index.nbytes()

    def close(self) -> None:
        """Try once more to write the maps that are kept in memory, and close the connections."""
        self.retry()
        self._index.close()

    def _write(self, blobs: Mapping[str, bytes]) -> bool:
        now = time.time()
        rows: list[dict[str, Any]] = [dict(key=key, content=content_of(blob), nbytes=len(blob), used=now) for key, blob in blobs.items()]

        def work(connection: Connection) -> int:
            existing = {key for key, *_ in _rows(connection, list(blobs))}
            new = [row for row in rows if row["key"] not in existing]
            try:
                for row in new:
                    self._files.write(row["content"], blobs[row["key"]])
            except OSError:
                self._remove_unused(connection, [row["content"] for row in new])
                raise
            insert_new(connection, table, new)
            return sum(row["nbytes"] for row in new)

        try:
            added = self._index.write(work)
            with self._lock:
                self._room -= added
            if self._room < 0:
                self._trim()
        except (Unavailable, OSError) as error:
            self._notes(NOT_KEPT.format(why=reason(error, self._files.place) if isinstance(error, OSError) else error))
            return False
        return True

    def _trim(self) -> None:
        total = self.measure()[1]
        if total > self._max_bytes:
            total = self.evict(self._max_bytes * 9 // 10)
        self._room = min(self._max_bytes - total, self._max_bytes // 20)

    def _hold(self, blobs: Mapping[str, bytes]) -> None:
        with self._lock:
            for key, blob in blobs.items():
                self._pending_bytes += len(blob) - len(self._pending.pop(key, b""))
                self._pending[key] = blob
            for key in list(self._pending):
                if self._pending_bytes <= MEMORY:
                    break
                self._pending_bytes -= len(self._pending.pop(key))

    def _touch(self, keys: Sequence[str], now: float) -> None:
        if keys:
            self._index.write(lambda c: [c.execute(update(table).where(table.c.key.in_(k)).values(used=now)) for k in chunks(keys)])

    def _drop(self, contents: Collection[str]) -> tuple[int, int]:
        """Drop contents whose files are still damaged or missing. Return how many were damaged, and how many missing."""

        def work(connection: Connection) -> tuple[int, int]:
            # Another thread or process may have evicted or rewritten them in the meantime.
            lost = [content for content in _used(connection, contents) if self._files.read(content) is None]
            missing = sum(not self._files.exists(content) for content in lost)
            _delete(connection, lost)
            for content in lost:
                self._files.remove(content)
            return len(lost) - missing, missing

        damaged, missing = self._index.write(work) if contents else (0, 0)
        if damaged or missing:
            self._notes(f"maps in {self._files.place} were damaged or missing, and will be computed again; check the disk if this recurs")
        return damaged, missing

    def _remove_unused(self, connection: Connection, contents: Collection[str]) -> None:
        for content in set(contents) - _used(connection, contents):
            self._files.remove(content)

    def _sweep(self) -> int:
        return self._index.write(lambda c: self._files.sweep(_contents(c)))

    def _on_new_index(self, text: str) -> None:
        self._notes(text)
        # There is no index to lock: files that another process adds at this moment may be removed, and are then treated as missing.
        self._files.sweep(set())


def _rows(connection: Connection, keys: Sequence[str]) -> list[tuple[str, str, float]]:
    query = select(table.c.key, table.c.content, table.c.used)
    rows: list[Any] = [row for part in chunks(keys) for row in connection.execute(query.where(table.c.key.in_(part)))]
    try:
        return [(key, checked(content), float(used)) for key, content, used in rows]
    except (TypeError, ValueError):
        raise Damaged from None


def _used(connection: Connection, contents: Collection[str]) -> set[str]:
    """Return those of the contents that a key refers to."""
    query = select(table.c.content).distinct()
    return {content for part in chunks(contents) for content in connection.execute(query.where(table.c.content.in_(part))).scalars()}


def _contents(connection: Connection) -> set[str]:
    return {checked(content) for content in connection.execute(select(table.c.content).distinct()).scalars()}


def _delete(connection: Connection, contents: Collection[str]) -> None:
    for part in chunks(contents):
        connection.execute(delete(table).where(table.c.content.in_(part)))
