"""What goes wrong on disks and servers, sorted by what is done about it: set aside and begun anew, or kept in memory."""

import errno
import sqlite3
import threading

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

NOT_KEPT = "results are kept in memory only, and lost when the program ends: {why}"
NOT_READ = "results that are stored cannot be read, and are computed again: {why}"

_FULL = "the disk is full; free some space"
_ERRNO = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "{place} cannot be written; set ATTRLIB_CACHE to a folder that can"),
}
_SQLITE = {
    sqlite3.SQLITE_FULL: _FULL,
    **dict.fromkeys((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED), "another program keeps {place} locked; close that program"),
    **dict.fromkeys((sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM), _ERRNO[errno.EACCES]),
}
_NONSENSE = ("Could not decode", "unsupported file format", "no such table", "no such column", "has no column")
"""What SQLite says of damage to the format, the tables' names and texts, with a code that stands for many other errors too."""


class Damaged(Exception):
    """What a database holds makes no sense."""


class Unavailable(Exception):
    """What is on disk or on a server cannot be used for now. The text says why and what to do. It does not leave the store."""


class Refused(Unavailable):
    """A database that is there and is not to be touched."""


TROUBLE = (SQLAlchemyError, Damaged, UnicodeDecodeError)
"""What work on a database raises. The last: SQLite's message about a damaged file may quote it."""


class Notes:
    """Sentences for the user, each once, in order. Any thread may add one by calling it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[str, None] = {}

    def __call__(self, text: str) -> None:
        with self._lock:
            self._texts[text] = None

    @property
    def texts(self) -> tuple[str, ...]:
        """What was noted so far."""
        with self._lock:
            return tuple(self._texts)


def is_damage(error: Exception) -> bool:
    """Whether the error means that an SQLite file is damaged, as opposed to busy, full or out of reach."""
    if isinstance(error, Damaged | UnicodeDecodeError) or _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return True
    return isinstance(_cause(error), sqlite3.OperationalError) and any(words in str(_cause(error)) for words in _NONSENSE)


def is_lock(error: Exception) -> bool:
    """Whether the error means that somebody else has the SQLite file locked."""
    return _code(error) == sqlite3.SQLITE_BUSY


def reason(error: Exception, place: str) -> str:
    """Why the `place` cannot be used, and what to do, in half a sentence."""
    known = _SQLITE.get(_code(error)) or _ERRNO.get(getattr(error, "errno", None) or 0)
    if known:
        return known.format(place=place)
    lines = str(_cause(error)).strip().splitlines() or [type(error).__name__]
    return f"{place} cannot be used ({lines[0][:200]}); check that it is there and works"


def _cause(error: Exception) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig else error


def _code(error: Exception) -> int:
    """The primary SQLite code, 0 for other errors; the extended ones keep it in the low byte."""
    return getattr(_cause(error), "sqlite_errorcode", 0) & 0xFF
