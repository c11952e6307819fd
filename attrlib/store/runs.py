"""Runs: what was requested, which records belong to it, and its state."""

import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from attrlib.errors import SpecError, unknown
from attrlib.specs import canonical, digest
from attrlib.store.database import Database
from attrlib.store.failures import NOT_KEPT, NOT_READ, Damaged, Notes, Unavailable
from attrlib.store.tables import runs as table
from attrlib.store.tables import upsert

STATES = ("running", "done", "cancelled", "failed")


@dataclass(frozen=True)
class Run:
    """The manifest of one run.

    Attributes:
        key: Key of the run.
        spec: What the run computes, as JSON values.
        parts: Where its records are: for each label `PROTOCOL|METHOD`, an object with the `key` of the records and the list `items`.
        state: `running`, `done`, `cancelled` or `failed`.
        created: Time when the run first started, UTC in ISO 8601.
        updated: Time of the last change, UTC in ISO 8601.
    """

    key: str
    spec: Mapping[str, Any]
    parts: Mapping[str, Any]
    state: str
    created: str
    updated: str

    @property
    def failures(self) -> Mapping[str, str]:
        """Return why items, by their key, could not be scored."""
        return self.spec.get("failures", {})


class Runs:
    """The runs in a database. Those that cannot be written stay in memory, with a note."""

    def __init__(self, database: Database, notes: Notes):
        self._database, self._notes = database, notes
        self._lock = threading.Lock()
        self._pending: dict[str, Run] = {}
        self._states: dict[str, tuple[str, str]] = {}

    def save(self, key: str, spec: Mapping, parts: Mapping) -> bool:
        """Record that a run has started, or started again. Return whether the database was written."""
        now = _now()
        with self._lock:
            self._pending[key] = Run(key, json.loads(canonical(spec)), parts, "running", now, now)
            self._states.pop(key, None)
        return self.retry()

    def set_state(self, key: str, state: str) -> bool:
        """Record the state of a run. Return whether the database was written. A deleted run is not restored."""
        if state not in STATES:
            raise SpecError(unknown("state of a run", state, STATES))
        with self._lock:
            self._states[key] = state, _now()
        return self.retry()

    def all(self) -> list[Run]:
        """Return all runs, newest first."""
        try:
            stored = self._database.read(lambda c: {row.key: _run(row) for row in c.execute(select(table))})
        except Unavailable as error:
            self._notes(NOT_READ.format(why=error))
            stored = {}
        with self._lock:
            for key, run in self._pending.items():
                stored[key] = replace(run, created=stored[key].created if key in stored else run.created)
            for key, (state, updated) in self._states.items():
                stored |= {key: replace(stored[key], state=state, updated=updated)} if key in stored else {}
        return sorted(stored.values(), key=lambda run: (run.created, run.key), reverse=True)

    def retry(self) -> bool:
        """Try to write the runs that are kept in memory. Return whether the database was written."""
        with self._lock:
            pending, states = dict(self._pending), dict(self._states)
        rows = [asdict(run) | dict(spec=canonical(run.spec), parts=json.dumps(_shared(run.parts))) for run in pending.values()]

        def work(connection: Connection) -> None:
            upsert(connection, table, rows, keep=("created",))
            for key, (state, updated) in states.items():
                connection.execute(update(table).where(table.c.key == key).values(state=state, updated=updated))

        try:
            if pending or states:
                self._database.write(work)
        except Unavailable as error:
            self._notes(NOT_KEPT.format(why=error))
            return False
        with self._lock:
            self._pending = {key: run for key, run in self._pending.items() if run is not pending.get(key)}
            self._states = {key: change for key, change in self._states.items() if change is not states.get(key)}
        return True

    def forget(self) -> None:
        """Discard the runs that are kept in memory."""
        with self._lock:
            self._pending, self._states = {}, {}


def _run(row: Row) -> Run:
    if not all(isinstance(value, str) for value in row):
        raise Damaged
    try:
        return Run(row.key, json.loads(row.spec), _unshared(json.loads(row.parts)), row.state, row.created, row.updated)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Damaged from None


def _shared(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return parts such that equal lists of items are written once: in the others is the label of the first."""
    labels: dict[tuple[int, str], str] = {}
    shared = {}
    for label, part in parts.items():
        items = part["items"]
        first = labels.setdefault((len(items), digest(items)), label)
        shared[label] = {**part, "items": list(items) if first == label else first}
    return shared


def _unshared(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return parts with the items of each, where equal ones are the same list."""
    items = {label: part["items"] for label, part in parts.items()}
    return {
        label: {**part, "items": items[part["items"]] if isinstance(part["items"], str) else part["items"]} for label, part in parts.items()
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
