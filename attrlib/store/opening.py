"""The store of this process, configured by environment variables."""

import atexit
import os
import re
import threading
from pathlib import Path

from attrlib.errors import SpecError
from attrlib.store.store import Store

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_stores: dict[tuple[str | None, ...], Store] = {}
_lock = threading.Lock()


def open_store() -> Store:
    """Return the store of this process, opened at the first call.

    Environment variables configure it: `ATTRLIB_CACHE` is its folder, by default the user's cache folder. `ATTRLIB_STORE_URL` is the
    database of results, by default an SQLite file in that folder. `ATTRLIB_CACHE_BYTES` is the maximum size of all maps, for example
    10GB, the default. `ATTRLIB_MAPS` is the type they are stored in, float32 (the default) or float16, and `ATTRLIB_MAPS_URL` where they
    lie, by default in that folder.

    Raises:
        SpecError: If the size or the type is invalid.
        StoreError: If the store cannot be opened, see `Store`.
    """
    names = ("ATTRLIB_STORE_URL", "ATTRLIB_CACHE", "ATTRLIB_CACHE_BYTES", "ATTRLIB_MAPS", "ATTRLIB_MAPS_URL")
    url, folder, most, dtype, maps_url = settings = tuple(os.environ.get(name) or None for name in names)
    with _lock:
        if settings not in _stores:
            max_bytes = parse_bytes(most or "10GB", "ATTRLIB_CACHE_BYTES")
            _stores[settings] = Store(url, None if folder is None else Path(folder), max_bytes, dtype or "float32", maps_url)
            atexit.register(_stores[settings].close)
        return _stores[settings]


def parse_bytes(text: str, name: str = "size") -> int:
    """Parse a number of bytes.

    Args:
        text: For example `4GB`, `512 MiB`, `1.5G` or `1000`; K, M, G and T are powers of 1024.
        name: Name of the value in the error message.

    Raises:
        SpecError: If the text is not a size.
    """
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([KMGT]?)(I?B)?", text.strip().upper(), re.ASCII)
    if match is None:
        raise SpecError(f"{name}={text[:40]!r} is not valid; give a number of bytes, such as 4GB or 512MB")
    return int(float(match[1]) * _UNITS[match[2]])
