"""Claims: which process computes which items, so that processes that share a database compute nothing twice.

A claim is a lease. Its owner renews it while it is at work; if the owner dies, it expires, and others may take the items. The clock is
that of the database, so that the clocks of machines need not agree. On the machine of the owner, its death is noticed at once.
"""

import os
import platform
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import psutil
from sqlalchemy import ColumnElement, Connection, and_, delete, literal_column, or_, select, update

from attrlib.store.database import Database
from attrlib.store.failures import Unavailable
from attrlib.store.tables import chunks, inserts
from attrlib.store.tables import claims as table

LEASE = 60.0
"""Seconds after which a claim expires unless it is renewed. It is renewed three times as often."""

Pairs = Mapping[str, Sequence[str]]
"""Items by the key of their records."""

_NOW = {
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)",
}


class Claims:
    """The claims of one owner in a database.

    If the database cannot be written, everything counts as claimed: results computed twice are better than none.

    Args:
        database: The database of the records.
        lease: Seconds after which a claim expires unless it is renewed.
    """

    def __init__(self, database: Database, lease: float = LEASE):
        self.owner = f"{_machine()} {os.getpid()} {psutil.Process().create_time()} {uuid.uuid4().hex[:8]}"
        self._database, self._lease = database, lease

    def claim(self, units: Sequence[Pairs]) -> list[bool]:
        """Claim units, each as a whole or not at all.

        Args:
            units: The pairs of each unit. No pair is in two units.

        Returns:
            Whether each unit is claimed by this owner now.
        """
        pairs = sorted((key, item) for unit in units for key, items in unit.items() for item in items)

        def work(connection: Connection) -> list[bool]:
            now = _now(connection)
            insert = inserts(connection)(table)
            free = or_(table.c.expires < now, table.c.owner == self.owner)
            changed = {"owner": insert.excluded.owner, "expires": insert.excluded.expires}
            statement = insert.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed, where=free)
            expires = connection.execute(select(now)).scalar_one() + self._lease
            rows = [dict(key=key, item=item, owner=self.owner, expires=expires) for key, item in pairs]
            taken = (
                {(key, item) for key, item in connection.execute(statement.returning(table.c.key, table.c.item), rows)} if rows else set()
            )
            granted = [all((key, item) in taken for key, items in unit.items() for item in items) for unit in units]
            for unit, whole in zip(units, granted, strict=True):
                if not whole:
                    self._release(connection, {key: [item for item in items if (key, item) in taken] for key, items in unit.items()})
            return granted

        try:
            return self._database.write(work)
        except Unavailable:
            return [True] * len(units)

    def release(self, units: Sequence[Pairs]) -> None:
        """Give up this owner's claims to units, which are stored or were not computed."""

        def work(connection: Connection) -> None:
            for unit in units:
                self._release(connection, unit)

        # What cannot be released expires.
        with suppress(Unavailable):
            if units:
                self._database.write(work)

    def renew(self) -> None:
        """Extend all claims of this owner by a lease, unless others have taken them."""

        def work(connection: Connection) -> None:
            connection.execute(update(table).where(table.c.owner == self.owner).values(expires=_now(connection) + self._lease))

        with suppress(Unavailable):
            self._database.write(work)

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the claims in a thread inside the context."""
        stop = threading.Event()

        def loop() -> None:
            while not stop.wait(self._lease / 3):
                self.renew()

        thread = threading.Thread(target=loop, name="attrlib-claims", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def sweep(self) -> None:
        """Remove the claims that have expired, and those of processes of this machine that have died."""

        def work(connection: Connection) -> None:
            connection.execute(delete(table).where(table.c.expires < _now(connection)))
            dead = [owner for owner in connection.execute(select(table.c.owner).distinct()).scalars() if _has_died(owner)]
            for part in chunks(dead):
                connection.execute(delete(table).where(table.c.owner.in_(part)))

        with suppress(Unavailable):
            self._database.write(work)

    def _release(self, connection: Connection, unit: Pairs) -> None:
        for key, items in sorted(unit.items()):
            mine = and_(table.c.key == key, table.c.owner == self.owner)
            for part in chunks(sorted(items)):
                connection.execute(delete(table).where(mine, table.c.item.in_(part)))


def claimed(database: Database, keys: Sequence[str]) -> dict[str, set[str]]:
    """Return the items that any process has claimed, by key.

    Args:
        database: The database of the records.
        keys: Keys of records.

    Raises:
        Unavailable: If the database cannot be read.
    """

    def work(connection: Connection) -> dict[str, set[str]]:
        items: dict[str, set[str]] = {}
        for part in chunks(keys):
            query = select(table.c.key, table.c.item).where(table.c.key.in_(part), table.c.expires >= _now(connection))
            for key, item in connection.execute(query):
                items.setdefault(key, set()).add(item)
        return items

    return database.read(work)


def _now(connection: Connection) -> ColumnElement[float]:
    """Return the seconds since 1970 by the clock of the database."""
    return literal_column(_NOW[connection.dialect.name])


def _machine() -> str:
    """Return the name of the machine, or of the container on it: where a process number means the same."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = 0
    return f"{platform.node().replace(' ', '-')}/{space}"


def _has_died(owner: str) -> bool:
    """Return whether an owner was a process of this machine that is gone. Another may have its number by now."""
    machine, number, created, _unique = owner.split(" ")
    if machine != _machine():
        return False
    try:
        process = psutil.Process(int(number))
        return process.create_time() != float(created) or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
