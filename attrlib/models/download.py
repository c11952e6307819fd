"""Download the published checkpoints on request, and verify them on later use."""

import hashlib
import os
import shutil
import threading
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from platformdirs import user_cache_dir

from attrlib.errors import ModelError, shortened, unknown
from attrlib.models.architectures import PUBLISHED
from attrlib.progress import Progress, no_progress

PREFIX = "idsds:"
CHUNK = 1 << 20
MOST = 4 << 30
"""Largest download in bytes. The largest published file has 1.7 GB (VGG-19 with the state of its optimiser)."""
TIMEOUT = 20.0
"""Seconds to wait for the server to connect or to send data."""
_one = threading.Lock()


def downloaded(name: str) -> Path | None:
    """Return the downloaded file of `idsds:NAME`, or None. Raises `ModelError` if the file has changed since the download."""
    file = _file(name)
    if not file.is_file():
        return None
    recorded = file.with_suffix(".sha256")
    if recorded.is_file() and recorded.read_text().strip() != _digest(str(file), file.stat().st_size, file.stat().st_mtime_ns):
        raise ModelError(f"{file} has changed since it was downloaded; delete it and download it again")
    return file


def download(name: str, on_progress: Progress = no_progress) -> Path:
    """Download the published checkpoint `idsds:NAME` into the cache folder, unless it is already there, and return its path.

    The file must have the length that the server announces. Its digest is stored beside it. An interrupted download leaves no
    files.

    Args:
        name: `idsds:NAME`.
        on_progress: Progress callback, called with the bytes received and the bytes of the whole file; may raise `Cancelled` to stop.

    Raises:
        ModelError: The name is unknown, the download failed, or an earlier download has changed; the message says what to do.
    """
    if name.removeprefix(PREFIX) not in PUBLISHED:
        raise ModelError(unknown("published model", name, [PREFIX + model for model in PUBLISHED]))
    with _one:
        existing = downloaded(name)
        if existing is not None:
            return existing
        url, file = PUBLISHED[name.removeprefix(PREFIX)].url, _file(name)
        part = file.with_suffix(".part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            digest = _fetch(url, part, on_progress)
            file.with_suffix(".sha256").write_text(digest + "\n")
            part.replace(file)
        except (URLError, HTTPException, OSError, ValueError) as error:
            reason = shortened(str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error))
            raise ModelError(
                f"{name} could not be downloaded ({reason}); connect to the internet and try again, or download {url} elsewhere "
                "and pass the file as checkpoint"
            ) from None
        finally:
            part.unlink(missing_ok=True)
        return file


def _fetch(url: str, part: Path, on_progress: Progress) -> str:
    """Write the file and return its digest. Raises `ValueError` if its length is unacceptable or not the announced one."""
    hasher, done = hashlib.sha256(), 0
    with urlopen(url, timeout=TIMEOUT) as answer, part.open("wb") as out:
        total = int(answer.headers.get("Content-Length") or 0)
        if not 0 < total <= MOST:
            raise ValueError(f"the server announces {total} bytes")
        if total > shutil.disk_usage(part.parent).free:
            raise ValueError(f"{total / 2**20:.0f} MB do not fit on the disk")
        while chunk := answer.read(CHUNK):
            done += len(chunk)
            if done > total:
                break
            on_progress(done, total)
            hasher.update(chunk)
            out.write(chunk)
    if done != total:
        raise ValueError(f"{done} of {total} bytes were received")
    return hasher.hexdigest()


def _file(name: str) -> Path:
    folder = Path(os.environ.get("ATTRLIB_CACHE") or user_cache_dir("attrlib")).expanduser() / "checkpoints"
    return folder / f"{name.removeprefix(PREFIX)}.pth.tar"


_digests: dict[tuple[str, int, int], str] = {}


def _digest(path: str, size: int, mtime_ns: int) -> str:
    """Return the SHA-256 of a file, recomputed only when its size or modification time has changed."""
    key = (path, size, mtime_ns)
    if key not in _digests:
        with open(path, "rb") as file:
            _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[key]
