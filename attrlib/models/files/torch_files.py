"""Read the files of torch.save, both formats, without torch.load: only the tensors that are asked for are read."""

import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
import torch
from torch import Tensor

from attrlib.errors import ModelError
from attrlib.models.files.formats import ADVICE, check_zip
from attrlib.models.files.pickles import MOST_BYTES, DamagedError, read_pickle
from attrlib.models.files.stand_ins import Global
from attrlib.models.files.storages import Storage, StoredTensor, storage_of

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LONGEST_DIRECTORY = 1 << 24
_CHUNK = 1 << 24


class TorchFile(ABC):
    """An open file of torch.save: its content as plain data, and the values of its tensors on request."""

    content: object

    def __init__(self) -> None:
        self._storages: dict[str, Tensor] = {}
        self.known: dict[str, Storage] = {}

    def values(self, tensor: StoredTensor) -> Tensor:
        """Return a tensor of the content. Tensors that share a storage share it here, too.

        Raises:
            DamagedError: The file does not hold its values.
        """
        storage = tensor.storage
        if storage.key not in self._storages:
            self._storages[storage.key] = self._bytes(storage)
        try:
            return tensor.values(self._storages[storage.key])
        except RuntimeError:
            raise DamagedError("a tensor reaches beyond the end of its values") from None

    @abstractmethod
    def _bytes(self, storage: Storage) -> Tensor:
        """Return the bytes of a storage (n), uint8."""

    def _persistent(self, entry: object) -> object:
        """Return what a persistent id stands for: a storage, or the class of a module."""
        if isinstance(entry, tuple) and len(entry) > 1 and entry[0] == "module" and isinstance(entry[1], Global):
            return entry[1]
        if not isinstance(entry, tuple) or len(entry) not in (5, 6) or entry[0] != "storage" or not isinstance(entry[1], Global):
            raise DamagedError("it refers to something other than tensors")
        storage = storage_of(entry[1].name, entry[2], entry[4], entry[5] if len(entry) == 6 else None)
        self.known.setdefault(storage.key, storage)
        return storage


class _Reader(BufferedReader):
    """A file that refuses to read more than `most` bytes at once, so that the directory of a zip file cannot fill the memory."""

    most: int | None = None

    def read(self, count: int | None = -1, /) -> bytes:
        if self.most is not None and count is not None and count > self.most:
            raise DamagedError(f"its directory is longer than {self.most >> 20} MiB")
        return super().read(count)


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """Open a file of torch.save, or a pickle of plain data and NumPy arrays.

    Raises:
        DamagedError: The file is neither, or is cut off.
    """
    with _Reader(FileIO(path)) as file:
        try:
            if file.read(4) == b"PK\x03\x04":
                file.most = _LONGEST_DIRECTORY
                with zipfile.ZipFile(file) as archive:
                    file.most = None
                    yield _Archive(archive, path.stat().st_size, path.name)
            else:
                file.seek(0)
                yield _Sequence(file, path.stat().st_size)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, struct.error) as error:
            raise DamagedError(str(error)[:120] or "it ends early") from None


class _Archive(TorchFile):
    """A zip archive, the format since PyTorch 1.6: one entry for the pickle, and one for each storage."""

    def __init__(self, archive: zipfile.ZipFile, length: int, name: str) -> None:
        super().__init__()
        self.archive, entries = archive, archive.infolist()
        check_zip(name, {entry.filename for entry in entries})
        # PyTorch writes entries uncompressed, one after the other.
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or sum(entry.file_size for entry in entries) > length:
            raise ModelError(f"{name} is compressed or has overlapping entries, which PyTorch never writes, so it was not loaded; {ADVICE}")
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl") and entry.filename.count("/") == 1]
        if len(pickles) != 1:
            raise DamagedError("it is a zip file that PyTorch did not write")
        if pickles[0].file_size > MOST_BYTES:
            raise DamagedError(f"its pickle is longer than {MOST_BYTES >> 20} MiB")
        self.folder = pickles[0].filename.removesuffix("data.pkl")
        self.entries = {entry.filename: entry for entry in entries}
        order = self.entries.get(f"{self.folder}byteorder")
        if order is not None and order.file_size < 16 and archive.read(order) != b"little":
            raise DamagedError("it was written on a machine whose bytes are in big-endian order")
        self.content = read_pickle(BytesIO(archive.read(pickles[0])), self._persistent)

    def _bytes(self, storage: Storage) -> Tensor:
        entry = self.entries.get(f"{self.folder}data/{storage.key}")
        if entry is None or entry.file_size < storage.nbytes:
            raise DamagedError(f"it does not hold tensor data {storage.key[:20]!r}")
        with self.archive.open(entry) as file:
            return _filled(file, entry.file_size)


class _Sequence(TorchFile):
    """A sequence of pickles followed by storages, the format before PyTorch 1.6; or a single pickle."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        super().__init__()
        self.file = file
        self.places: dict[str, int] = {}
        self.content = read_pickle(file)
        if self.content != _MAGIC:
            return
        if read_pickle(file) != _PROTOCOL:
            raise DamagedError("it was written by a version of PyTorch before 0.2")
        system = read_pickle(file)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise DamagedError("it was written on a machine whose bytes are in big-endian order")
        self.content = read_pickle(file, self._persistent)
        keys = read_pickle(file)
        if not isinstance(keys, list) or not all(isinstance(key, str) and key in self.known for key in keys):
            raise DamagedError("its list of tensors is damaged")
        for key in keys:
            (numel,) = struct.unpack("<q", file.read(8))
            if numel != self.known[key].numel:
                raise DamagedError("the length of a tensor is damaged")
            self.places[key] = file.tell()
            if self.places[key] + self.known[key].nbytes > length:
                raise DamagedError("it ends early")
            file.seek(self.known[key].nbytes, 1)

    def _bytes(self, storage: Storage) -> Tensor:
        if storage.key not in self.places or storage.nbytes > self.known[storage.key].nbytes:
            raise DamagedError(f"it does not hold tensor data {storage.key[:20]!r}")
        self.file.seek(self.places[storage.key])
        return _filled(self.file, self.known[storage.key].nbytes)


def _filled(file: IO[bytes], count: int) -> Tensor:
    """Return the next bytes of a file (count), uint8, aligned as torch aligns tensors."""
    raw = torch.empty(count, dtype=torch.uint8)
    target = raw.numpy()
    for start in range(0, count, _CHUNK):
        data = file.read(min(_CHUNK, count - start))
        target[start : start + len(data)] = np.frombuffer(data, np.uint8)
        if len(data) < min(_CHUNK, count - start):
            raise DamagedError("it ends early")
    return raw
