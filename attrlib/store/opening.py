"""The process's own store, as the environment describes it."""

import atexit
import os
import re
import threading
from pathlib import Path

from attrlib.errors import SpecError
from attrlib.store.store import Store

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_stores: dict[tuple[str | None, ...], Store] = {}
_making = threading.Lock()


def open_store() -> Store:
    """The store of this process, opened at the first call.

    `ATTRLIB_CACHE` is its folder, else the user's cache folder; `ATTRLIB_STORE_URL` the database of results, else SQLite in that
    folder; `ATTRLIB_CACHE_BYTES` the most that maps may take, as in 10GB; `ATTRLIB_MAPS` how they are kept, float32 or float16.
    """
    names = ("ATTRLIB_STORE_URL", "ATTRLIB_CACHE", "ATTRLIB_CACHE_BYTES", "ATTRLIB_MAPS")
    url, folder, most, dtype = settings = tuple(os.environ.get(name) or None for name in names)
    with _making:
        if settings not in _stores:
            max_bytes = parse_bytes(most or "10GB", "ATTRLIB_CACHE_BYTES")
            _stores[settings] = Store(url, None if folder is None else Path(folder), max_bytes, dtype or "float32")
            atexit.register(_stores[settings].close)
        return _stores[settings]


def parse_bytes(text: str, name: str = "size") -> int:
    """Bytes from a text such as `4GB`, `512 MiB`, `1.5G` or `1000`; K, M, G and T are powers of 1024. Raises `SpecError`."""
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([KMGT]?)(I?B)?", text.strip().upper(), re.ASCII)
    if match is None:
        raise SpecError(f"{name}={text[:40]!r} is not valid: expected bytes, as in 4GB or 512MB")
    return int(float(match[1]) * _UNITS[match[2]])
