"""Failures of disks and servers, classified by how they are handled: replace a damaged file, or keep results in memory."""

import errno
import sqlite3
import threading

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from attrlib.errors import reason_of

NOT_KEPT = "results are kept in memory only, and are lost when the program ends: {why}"
NOT_READ = "stored results cannot be read, and are computed again: {why}"

_FULL = "the disk is full; free some space"
_ERRNO = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "{place} cannot be written; set ATTRLIB_CACHE to a writable folder"),
}
_SQLITE = {
    sqlite3.SQLITE_FULL: _FULL,
    **dict.fromkeys((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED), "another program has locked {place}; close that program"),
    **dict.fromkeys((sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM), _ERRNO[errno.EACCES]),
}
_DAMAGE_MESSAGES = ("Could not decode", "unsupported file format", "no such table", "no such column", "has no column")
"""SQLite's messages for a damaged format, schema or text. Their error code does not help, as many other errors share it."""


class Damaged(Exception):
    """The content of a database is damaged."""


class Unavailable(Exception):
    """A disk or server is currently unusable. The message says why and what to do. It never leaves the store."""


class Refused(Unavailable):
    """A database exists but must not be used."""


TROUBLE = (SQLAlchemyError, Damaged, UnicodeDecodeError)
"""Errors of work on a database. `UnicodeDecodeError` occurs when SQLite's message quotes bytes of a damaged file."""


class Notes:
    """Sentences for the user, in order and without duplicates. Calling the object adds one; it is thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[str, None] = {}

    def __call__(self, text: str) -> None:
        with self._lock:
            self._texts[text] = None

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the notes so far."""
        with self._lock:
            return tuple(self._texts)


def is_damage(error: Exception) -> bool:
    """Return whether the error means that an SQLite file is damaged, as opposed to locked, full or unreachable."""
    if isinstance(error, Damaged | UnicodeDecodeError) or _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return True
    return isinstance(_cause(error), sqlite3.OperationalError) and any(words in str(_cause(error)) for words in _DAMAGE_MESSAGES)


def is_lock(error: Exception) -> bool:
    """Return whether the error means that another connection has the SQLite file locked."""
    return _code(error) == sqlite3.SQLITE_BUSY


def reason(error: Exception, place: str) -> str:
    """Return why `place` cannot be used and what to do, as part of a message."""
    message = _SQLITE.get(_code(error)) or _ERRNO.get(getattr(error, "errno", None) or 0)
    if message:
        return message.format(place=place)
    return f"{place} cannot be used ({reason_of(_cause(error), 200)}); check that it exists and is accessible"


def _cause(error: Exception) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig else error


def _code(error: Exception) -> int:
    """Return the primary SQLite error code, the low byte of an extended one; 0 for other errors."""
    return getattr(_cause(error), "sqlite_errorcode", 0) & 0xFF
