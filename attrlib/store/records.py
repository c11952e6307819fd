"""Scores of single items, stored as rows of the results database."""

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from sqlalchemy import Connection, select

from attrlib.specs import canonical
from attrlib.store.database import Database
from attrlib.store.failures import NOT_KEPT, NOT_READ, Damaged, Notes, Unavailable
from attrlib.store.tables import chunks, insert_new, specs
from attrlib.store.tables import records as table

Detail = float | Sequence[float]
MANY = 2000
"""Number of items from which values are read in one pass over all records of their key."""


@dataclass(frozen=True)
class Record:
    """Result of one item (an image or a grid) under one spec.

    Attributes:
        value: Score of the item, NaN if undefined.
        details: Further numbers by name.
    """

    value: float = math.nan
    details: Mapping[str, Detail] = field(default_factory=dict)


@dataclass(frozen=True)
class Merged:
    """What a merge of records has added.

    Attributes:
        new: Number of records that were not cached.
        cached: Number of records that were cached already.
        differing: Number of those whose value differs from the cached one, which stays.
        largest: Largest of these differences.
    """

    new: int = 0
    cached: int = 0
    differing: int = 0
    largest: float = 0.0

    def __add__(self, other: "Merged") -> "Merged":
        return Merged(self.new + other.new, self.cached + other.cached, self.differing + other.differing, max(self.largest, other.largest))


class Records:
    """The records in a database. Those that cannot be written stay in memory, with a note."""

    def __init__(self, database: Database, notes: Notes):
        self._database, self._notes = database, notes
        self._lock = threading.Lock()
        self._pending: dict[tuple[str, str], tuple[str, Record]] = {}

    def get(self, key: str, items: Sequence[str]) -> dict[str, Record]:
        """Return the records of the items that are cached under a key, in the order of `items`."""
        query = select(table.c.item, table.c.value, table.c.details).where(table.c.key == key)

        def work(connection: Connection) -> dict[str, Record]:
            parts = (connection.execute(query.where(table.c.item.in_(part))) for part in chunks(items))
            return {item: record_of(value, details) for part in parts for item, value, details in part}

        with self._lock:
            results = {item: self._pending[key, item][1] for item in items if (key, item) in self._pending} if self._pending else {}
        try:
            results |= self._database.read(work)
        except Unavailable as error:
            self._notes(NOT_READ.format(why=error))
        return {item: results[item] for item in items if item in results}

    def values(self, key: str, items: Sequence[str]) -> dict[str, float]:
        """Return only the values of the cached items, in the order of `items`, without reading the much larger details."""
        query = select(table.c.item, table.c.value).where(table.c.key == key)

        def work(connection: Connection) -> dict[str, float]:
            if len(items) < MANY:
                queries = [query.where(table.c.item.in_(part)) for part in chunks(items)]
            else:
                # One pass over the records of the key is faster than looking up thousands of them.
                queries = [query.where(table.c.item.between(min(items), max(items)))]
            found = dict[str, Any]()
            for each in queries:
                # From the driver's cursor, as SQLAlchemy's rows take longer than the query.
                found.update(connection.execute(each).cursor.fetchall())
            types = set(map(type, found.values()))
            if types <= {float}:
                return found
            if types <= {float, int, NoneType}:
                return {item: math.nan if value is None else float(value) for item, value in found.items()}
            raise Damaged

        with self._lock:
            results = {item: self._pending[key, item][1].value for item in items if (key, item) in self._pending} if self._pending else {}
        try:
            results |= self._database.read(work)
        except Unavailable as error:
            self._notes(NOT_READ.format(why=error))
        return {item: results[item] for item in items if item in results}

    def add(self, key: str, spec: Mapping, records: Mapping[str, Record]) -> bool:
        """Add the new records in one transaction. Return whether the database was written."""
        text = canonical(spec)
        entries = {(key, item): (text, record) for item, record in records.items()}
        written = self._write(entries)
        if not written:
            with self._lock:
                self._pending = entries | self._pending
        return written

    def merge(self, specs_by_key: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> Merged:
        """Add rows from elsewhere in one transaction. Those already cached are compared, and stay.

        Args:
            specs_by_key: Canonical text of the spec of each key.
            rows: Rows of the table `records`.

        Raises:
            Unavailable: If the database cannot be read or written. Nothing is added.
        """
        items: dict[str, dict[str, float | None]] = {}
        for row in sorted(rows, key=lambda row: (row["key"], row["item"])):
            items.setdefault(row["key"], {})[row["item"]] = row["value"]

        def work(connection: Connection) -> Merged:
            differing, largest, cached = 0, 0.0, set()
            for key, values in items.items():
                query = select(table.c.item, table.c.value).where(table.c.key == key)
                for part in chunks(values):
                    for item, value in connection.execute(query.where(table.c.item.in_(part))):
                        cached.add((key, item))
                        if value != values[item]:
                            differing += 1
                            largest = max(
                                largest, abs(value - other) if value is not None and (other := values[item]) is not None else math.inf
                            )
            new = [row for row in rows if (row["key"], row["item"]) not in cached]
            insert_new(connection, specs, [dict(key=key, spec=text) for key, text in sorted(specs_by_key.items())])
            insert_new(connection, table, sorted(new, key=lambda row: (row["key"], row["item"])))
            return Merged(len(new), len(rows) - len(new), differing, largest)

        return self._database.write(work)

    def retry(self) -> None:
        """Try again to write the records that are kept in memory."""
        with self._lock:
            pending = dict(self._pending)
        if pending and self._write(pending):
            with self._lock:
                self._pending = {name: entry for name, entry in self._pending.items() if name not in pending}

    def forget(self) -> None:
        """Discard the records that are kept in memory."""
        with self._lock:
            self._pending = {}

    def _write(self, entries: Mapping[tuple[str, str], tuple[str, Record]]) -> bool:
        # Sorted, because transactions that insert the same rows in different orders can deadlock on a server.
        texts = {key: text for (key, _item), (text, _record) in sorted(entries.items(), key=_name)}
        rows = [row_of(key, item, record) for (key, item), (_text, record) in sorted(entries.items(), key=_name)]

        def work(connection: Connection) -> None:
            insert_new(connection, specs, [dict(key=key, spec=text) for key, text in texts.items()])
            insert_new(connection, table, rows)

        try:
            self._database.write(work)
        except Unavailable as error:
            self._notes(NOT_KEPT.format(why=error))
            return False
        return True


def _name(entry: tuple[tuple[str, str], object]) -> tuple[str, str]:
    return entry[0]


def row_of(key: str, item: str, record: Record) -> dict[str, object]:
    """Return a record as a row of the table."""
    value = None if math.isnan(record.value) else float(record.value)
    return dict(key=key, item=item, value=value, details=_text(record.details) if record.details else None)


def record_of(value: float | None, text: str | None) -> Record:
    """Return the record with a value and details as in the table. Raises `Damaged` if they are not valid."""
    try:
        details = json.loads(text) if text else {}
        if text and ("null" in text or "inf" in text):
            details = {name: _number(detail) for name, detail in details.items()}
        return Record(math.nan if value is None else float(value), details)
    except (TypeError, ValueError, AttributeError):
        raise Damaged from None


def _text(details: Mapping[str, Detail]) -> str:
    """Return details as JSON. It has neither NaN nor infinity: they become null and a string. Few details contain any."""
    try:
        return json.dumps(dict(details), allow_nan=False, default=float)
    except ValueError:
        return json.dumps({name: _plain(detail) for name, detail in details.items()})


def _plain(detail: Detail) -> object:
    if isinstance(detail, Sequence):
        return [_plain(number) for number in detail]
    number = float(detail)
    return number if math.isfinite(number) else None if math.isnan(number) else str(number)


def _number(detail: object) -> Detail:
    if isinstance(detail, list):
        return [_number(number) for number in detail]  # type: ignore[misc]
    return math.nan if detail is None else float(detail)  # type: ignore[arg-type]
