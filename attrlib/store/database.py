"""A database that is checked before each use. A damaged SQLite file is set aside and replaced by a new one."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, MetaData, text

from attrlib.errors import StoreError
from attrlib.store.engines import NAMESPACE, OtherSchema, file_engine, prepare, server_engine
from attrlib.store.failures import TROUBLE, Damaged, Refused, Unavailable, is_damage, reason
from attrlib.store.tables import SCHEMA
from attrlib.store.urls import place_of, redacted

T = TypeVar("T")


class Database:
    """The tables at a URL. `read` and `write` run a function in one transaction and themselves raise only `Unavailable`.

    An SQLite file that is damaged or of another version is set aside with a note, and the function runs again on a new file.

    Args:
        url: URL of an SQLite file or a PostgreSQL database.
        tables: The tables, created if they do not exist.
        note: Called with each note for the user.

    Raises:
        StoreError: If the server does not respond, or the tables belong to another program or, on a server, to another version.
    """

    def __init__(self, url: URL, tables: MetaData, note: Callable[[str], None]):
        self.times_set_aside = 0
        self._url, self._tables, self._note = url, tables, note
        self._place = place_of(url)
        self._file = Path(str(url.database)).absolute() if url.get_backend_name() == "sqlite" else None
        self._opening, self._writing = threading.RLock(), threading.Lock()
        self._engine: Engine | None = None
        self._seen: object = None
        self._again, self._failure = 0.0, ""
        try:
            self._ready()
        except Unavailable as error:
            if self._file is None or isinstance(error, Refused):
                raise StoreError(str(error)) from None

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction and return its result. In SQLite it never waits for a writer."""
        return self._run(work, write=False)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a write transaction and return its result.

        Write transactions of one process never overlap; in SQLite, those of different processes do not either. After a failed write,
        further writes fail immediately for as long as that one took, so that not every write waits for a lock or a server.
        """
        with self._writing:
            start = time.monotonic()
            if start < self._again:
                raise Unavailable(self._failure)
            try:
                return self._run(work, write=True)
            except Unavailable as error:
                now = time.monotonic()
                self._failure, self._again = str(error), now + (now - start)
                raise

    def insist(self) -> None:
        """Allow the next write even if one has just failed."""
        self._again = 0.0

    def nbytes(self) -> int:
        """Return the bytes on disk of the file, or of the tables on the server."""
        if self._file is not None:
            return sum(_size(file) for file in self._files())
        size = (
            "SELECT COALESCE(SUM(pg_total_relation_size(oid)), 0) FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace(:n)"
        )
        return int(self.read(lambda c: c.execute(text(size), {"n": NAMESPACE}).scalar_one()))

    def check(self) -> bool:
        """Return whether an SQLite file is intact, and set it aside if not. A server is not checked."""

        def work(connection: Connection) -> None:
            if connection.execute(text("PRAGMA integrity_check")).scalars().all() != ["ok"]:
                raise Damaged

        before = self.times_set_aside
        if self._file is not None:
            self.read(work)
        return self.times_set_aside == before

    def compact(self) -> None:
        """Free the disk space of deleted rows. A server does so by itself."""
        if self._file is not None:
            self.read(lambda c: [c.execute(text(sql)) for sql in ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)")])

    def close(self) -> None:
        """Close the connections. The next use opens new ones."""
        with self._opening:
            if self._engine is not None:
                self._engine.dispose()
            self._engine = None

    def _run(self, work: Callable[[Connection], T], write: bool, repaired: bool = False) -> T:
        engine = self._ready()
        try:
            with engine.connect().execution_options(write=write) as connection, connection.begin():
                return work(connection)
        except TROUBLE as error:
            self._repair(error, engine, repaired)
        return self._run(work, write, repaired=True)

    def _ready(self) -> Engine:
        with self._opening:
            seen = self._look()
            if self._engine is None or seen != self._seen:
                self.close()
                self._engine = self._opened()
            return self._engine

    def _opened(self, repaired: bool = False) -> Engine:
        self._create()
        self._seen = self._look()
        mode = "" if self._file is None else self._mode()
        engine = server_engine(self._url) if self._file is None else file_engine(self._file, mode)
        try:
            prepare(engine, self._tables, self._place, writable=not mode)
            return engine
        except OtherSchema as version:
            engine.dispose()
            if self._file is None:
                raise Refused(
                    f"{self._place} holds results of another version of attrlib (schema {version}, this is {SCHEMA}); "
                    "set ATTRLIB_STORE_URL to another database"
                ) from None
            self._set_aside(f"schema-{version}", "belongs to another version of attrlib")
        except TROUBLE as error:
            engine.dispose()
            self._repair(error, None, repaired)
        return self._opened(repaired=True)

    def _repair(self, error: Exception, engine: Engine | None, repaired: bool) -> None:
        """Set a damaged file aside. Raise `Unavailable` for any other failure, and if the new file is damaged, too."""
        if self._file is None or repaired or not is_damage(error):
            raise Unavailable(redacted(reason(error, self._place), self._url)) from None
        with self._opening:
            # Another thread or process may have replaced the file already.
            if self._engine is engine and self._seen == self._look():
                self._set_aside("damaged", "was damaged")

    def _set_aside(self, suffix: str, why: str) -> None:
        assert self._file is not None
        self.close()
        aside = self._file.with_name(f"{self._file.name}.{suffix}")
        if suffix == "damaged" or aside.exists():
            aside = aside.with_name(f"{aside.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        try:
            # The log is moved first: SQLite would apply a leftover log to the new file.
            for file in reversed(self._files()):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(file, aside.with_name(aside.name + file.name.removeprefix(self._file.name)))
        except OSError as error:
            raise Unavailable(f"{self._place} {why} and cannot be set aside ({error.strerror}); delete it") from None
        self.times_set_aside += 1
        self._note(
            f"{self._place} {why}: a new one was created, and results will be computed again; delete {aside.name} unless you need it"
        )

    def _create(self) -> None:
        """Create an empty file, so that a later replacement can be recognised. An existing file is never opened here.

        Closing a file releases all locks that this process holds on it, including those of other connections.
        """
        if self._file is None or self._file.exists():
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.open("xb").close()
        except FileExistsError:
            pass
        except OSError as error:
            raise Unavailable(reason(error, self._place)) from None

    def _look(self) -> object:
        """Return the identity of the file and the mode in which it can be opened. If they change, connections must be reopened."""
        if self._file is None:
            return "server"
        try:
            stat = self._file.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino, self._mode()

    def _mode(self) -> str:
        """Return the SQLite URI parameter for a read-only file, else an empty string. A log next to the file means that other processes write it."""
        assert self._file is not None
        effective = os.access in os.supports_effective_ids
        if all(os.access(path, os.W_OK, effective_ids=effective) for path in (self._file, self._file.parent)):
            return ""
        return "mode=ro" if self._files()[-1].exists() else "immutable=1"

    def _files(self) -> list[Path]:
        assert self._file is not None
        return [self._file.with_name(self._file.name + side) for side in ("", "-shm", "-wal")]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        # Log files appear and disappear with the connections of all processes.
        return 0
