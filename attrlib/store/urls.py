"""Where the results' database is: reads URLs, and never lets a password out."""

import re
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from attrlib.errors import StoreError

_HINT = "set ATTRLIB_STORE_URL to sqlite:////FOLDER/FILE or postgresql://USER:PASSWORD@HOST/DATABASE"


def file_url(file: Path) -> URL:
    """The URL of an SQLite file."""
    return URL.create("sqlite", database=str(file))


def read_url(text: str) -> URL:
    """The URL of an SQLite file or a PostgreSQL database. Raises `StoreError` for any other."""
    try:
        url = make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", text))
    except (ArgumentError, ValueError):
        raise StoreError(f"the address of the store makes no sense; {_HINT}") from None
    backend = url.get_backend_name()
    if backend == "postgresql":
        return url
    if backend != "sqlite":
        raise StoreError(f"the store cannot use {backend[:40]!r} databases; {_HINT}")
    name = url.database or ""
    if name in ("", ":memory:") or name.startswith("file:") or url.host or Path(name).is_dir():
        raise StoreError(f"the address of the store names no SQLite file; {_HINT}")
    return url


def place_of(url: URL) -> str:
    """What the URL names, for a message: the file, or database and server."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    # A password with an unescaped @ ends in what looks like the host.
    host = (url.host or "localhost").rpartition("@")[2]
    return f"PostgreSQL database {url.database} at {host}{f':{url.port}' if url.port else ''}"


def redacted(message: str, url: URL) -> str:
    """The message without anything of the URL that may be a password."""
    secrets = [str(url.password or ""), *(url.host or "").split("@")[:-1]]
    secrets += [str(value) for name, value in url.query.items() if "pass" in name]
    for secret in filter(None, secrets):
        message = message.replace(secret, "***")
    return message
