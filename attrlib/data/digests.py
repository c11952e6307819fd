"""Content digests of picture files."""

import hashlib
import os
import stat
from functools import lru_cache

from attrlib.errors import ImageError

_PNG, _PNG_DEPTH_AT = b"\x89PNG", 24


def file_digest(path: str, name: str) -> str:
    """Return the digest of a file's bytes. The file is read again only if its size or modification time has changed.

    Args:
        path: Path of the file.
        name: What the error message calls the file.

    Raises:
        ImageError: If the file cannot be read or is not a regular file.
    """
    try:
        status = os.stat(path)
        # Opening a named pipe would block forever.
        if stat.S_ISREG(status.st_mode):
            return _digest_of(path, status.st_size, status.st_mtime_ns)
    except OSError:
        pass
    raise ImageError(f"{name} cannot be read; put the file back, or load the data set again")


@lru_cache(maxsize=1 << 18)
def _digest_of(path: str, _size: int, _mtime_ns: int) -> str:
    with open(path, "rb") as file:
        hasher = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
        file.seek(0)
        start = file.read(_PNG_DEPTH_AT + 1)
    # Versions that rounded these to 8 bits cached other results under the digest of the bytes alone.
    if start.startswith(_PNG) and start[_PNG_DEPTH_AT:] == b"\x10":
        hasher.update(b"read at full depth")
    return hasher.hexdigest()
