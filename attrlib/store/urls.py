"""Parse URLs of the results database, and keep their passwords out of messages."""

import re
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from attrlib.errors import StoreError

_HINT = "set ATTRLIB_STORE_URL to sqlite:////FOLDER/FILE or postgresql://USER:PASSWORD@HOST/DATABASE"


def file_url(file: Path) -> URL:
    """Return the URL of an SQLite file."""
    return URL.create("sqlite", database=str(file))


def read_url(text: str) -> URL:
    """Parse the URL of an SQLite file or a PostgreSQL database.

    Raises:
        StoreError: If it is not one.
    """
    try:
        url = make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", text))
    except (ArgumentError, ValueError):
        raise StoreError(f"the URL of the store is not valid; {_HINT}") from None
    backend = url.get_backend_name()
    if backend == "postgresql":
        return url
    if backend != "sqlite":
        raise StoreError(f"the store cannot use {backend[:40]!r} databases; {_HINT}")
    name = url.database or ""
    if name in ("", ":memory:") or name.startswith("file:") or url.host or Path(name).is_dir():
        raise StoreError(f"the URL of the store does not name an SQLite file; {_HINT}")
    return url


def place_of(url: URL) -> str:
    """Return the name of the database in messages: the file, or the database and its server."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    # The end of a password with an unescaped @ is parsed as part of the host.
    host = (url.host or "localhost").rpartition("@")[2]
    return f"PostgreSQL database {url.database} at {host}{f':{url.port}' if url.port else ''}"


def redacted(message: str, url: URL) -> str:
    """Return the message with every possible password of the URL masked."""
    secrets = [str(url.password or ""), *(url.host or "").split("@")[:-1]]
    secrets += [str(value) for name, value in url.query.items() if "pass" in name]
    for secret in filter(None, secrets):
        message = message.replace(secret, "***")
    return message
