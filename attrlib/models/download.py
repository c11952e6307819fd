"""The published checkpoints, downloaded when somebody asks for one, and checked from then on."""

import hashlib
import os
import shutil
import threading
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from platformdirs import user_cache_dir

from attrlib.errors import ModelError, unknown
from attrlib.models.architectures import PUBLISHED
from attrlib.progress import Progress, no_progress

PREFIX = "idsds:"
CHUNK = 1 << 20
MOST = 4 << 30
"""Bytes: the largest of the files has 1.7 GB (VGG-19 with the state of its optimiser)."""
TIMEOUT = 20.0
"""Called with the bytes that are there and those of the whole file; raises `Cancelled` to stop."""
_one = threading.Lock()


def downloaded(name: str) -> Path | None:
    """The file of `idsds:NAME`, where it was downloaded before. Raises `ModelError` if it is no longer what was downloaded."""
    file = _file(name)
    if not file.is_file():
        return None
    kept = file.with_suffix(".sha256")
    if kept.is_file() and kept.read_text().strip() != _digest(str(file), file.stat().st_size, file.stat().st_mtime_ns):
        raise ModelError(f"{file} has changed since it was downloaded; delete it and download it again")
    return file


def download(name: str, progress: Progress = no_progress) -> Path:
    """Downloads the published checkpoint `idsds:NAME` into the cache folder, unless it is there; its path.

    The length must be what the server announces; the digest is kept beside the file. What is interrupted leaves nothing behind.
    Raises `ModelError` that says what to do, and what `progress` raises.
    """
    if name.removeprefix(PREFIX) not in PUBLISHED:
        raise ModelError(unknown("published model", name, [PREFIX + known for known in PUBLISHED]))
    with _one:
        there = downloaded(name)
        if there is not None:
            return there
        url, file = PUBLISHED[name.removeprefix(PREFIX)].url, _file(name)
        part = file.with_suffix(".part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            digest = _fetch(url, part, progress)
            file.with_suffix(".sha256").write_text(digest + "\n")
            part.replace(file)
        except (URLError, HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise ModelError(
                f"{name} could not be downloaded ({str(reason)[:160]}); connect to the internet and try again, or get {url} elsewhere "
                "and give the file as checkpoint"
            ) from None
        finally:
            part.unlink(missing_ok=True)
        return file


def _fetch(url: str, part: Path, progress: Progress) -> str:
    """Writes the file and returns its digest. Raises `ValueError` where its length is not what was announced, or not acceptable."""
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
            progress(done, total)
            hasher.update(chunk)
            out.write(chunk)
    if done != total:
        raise ValueError(f"{done} of {total} bytes came")
    return hasher.hexdigest()


def _file(name: str) -> Path:
    folder = Path(os.environ.get("ATTRLIB_CACHE") or user_cache_dir("attrlib")).expanduser() / "checkpoints"
    return folder / f"{name.removeprefix(PREFIX)}.pth.tar"


_digests: dict[tuple[str, int, int], str] = {}


def _digest(path: str, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file, read anew only when its size or time of change is another."""
    key = (path, size, mtime_ns)
    if key not in _digests:
        with open(path, "rb") as file:
            _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[key]
