"""Files of maps at any location that fsspec knows, such as a bucket."""

import os
import posixpath
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from attrlib.errors import StoreError, reason_of
from attrlib.store.failures import Damaged, Unavailable
from attrlib.store.files import SUFFIX, Files, checked, content_of


class Objects(Files):
    """The files in a folder of any file system, with the methods of those on this machine.

    Args:
        system: The file system.
        root: The folder.
        place: The name of the location in messages.
    """

    def __init__(self, system: fsspec.AbstractFileSystem, root: str, place: str):
        self._fs, self._root, self.place = system, root, place

    def read(self, content: str) -> bytes | None:
        try:
            with self._reached():
                blob = self._fs.cat_file(self._path(content))
        except FileNotFoundError:
            return None
        return blob if content_of(blob) == content else None

    def exists(self, content: str) -> bool:
        with self._reached():
            return bool(self._fs.exists(self._path(content)))

    def write(self, content: str, blob: bytes) -> None:
        path = self._path(content)
        try:
            self._fs.makedirs(posixpath.dirname(path), exist_ok=True)
            # An object is written as a whole or not at all; a file that is cut is found by its digest.
            self._fs.pipe_file(path, blob)
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{self.place} cannot be written: {reason_of(error)}") from error

    def remove(self, content: str) -> None:
        self._unlink(self._path(content))

    def sweep(self, contents: set[str]) -> int:
        names = ((path, posixpath.basename(path).removesuffix(SUFFIX)) for path in self._all())
        return sum(self._unlink(path) for path, content in names if content not in contents)

    def _all(self) -> Iterator[Any]:
        with self._reached():
            found = self._fs.find(self._root) if self._fs.exists(self._root) else []
        yield from found

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Raise `Unavailable` for whatever error the kind of location has, except that there is no such file.

        A location that cannot be reached does not mean that its files are gone.
        """
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            raise Unavailable(f"{self.place} cannot be read: {reason_of(error)}") from error

    def _path(self, content: str) -> Any:
        return posixpath.join(self._root, content[:2], content + SUFFIX)

    def _unlink(self, path: str) -> bool:
        try:
            self._fs.rm_file(path)
        except Exception:  # noqa: BLE001  # each kind of location has errors of its own
            return False
        return True


def open_files(url: str | None, folder: Path) -> Files:
    """Return the files of maps in a folder, or else at a URL.

    The store of each machine has a part of the location to itself, because its index alone knows which of the files are in use.

    Args:
        url: A path, or the URL of any file system that fsspec knows; None for the folder.
        folder: Folder of the index.

    Raises:
        StoreError: If the location cannot be used.
    """
    if url is None:
        return Files(folder)
    system, root = _opened(url)
    root = posixpath.join(root, _owner(folder))
    return Files(Path(root)) if isinstance(system, LocalFileSystem) else Objects(system, root, url)


def _owner(folder: Path) -> str:
    """Return the name of the part of a location that belongs to the index in a folder, drawn when it is first used."""
    file = folder / "owner"
    try:
        if file.exists():
            return checked(file.read_text())
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"owner.{uuid.uuid4().hex}"
        part.write_text(uuid.uuid4().hex)
        with suppress(FileExistsError):
            # A link is made at once with its content, or fails if another process was faster.
            os.link(part, file)
        part.unlink()
        return checked(file.read_text())
    except (OSError, Damaged) as error:
        raise StoreError(
            f"{file}, which names the part of the maps that belongs to this store, cannot be used ({reason_of(error)})"
        ) from None


def _opened(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        return url_to_fs(url)
    except ImportError as error:
        raise StoreError(f"maps at {url} need a Python package: {reason_of(error)}") from None
    except Exception as error:  # noqa: BLE001  # each kind of location has errors of its own
        raise StoreError(f"maps cannot be kept at {url} ({reason_of(error)}); set ATTRLIB_MAPS_URL to another location") from None
