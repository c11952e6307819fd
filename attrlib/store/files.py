"""Maps as files, named by their content: whatever is damaged or cut off is told by its name."""

import hashlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from attrlib.store.failures import Damaged

DTYPES = ("float32", "float16")
_LARGEST = torch.finfo(torch.float32).max
_SUFFIX = ".safetensors"
_counter = itertools.count()


def content_of(blob: bytes) -> str:
    """The name of a file with these bytes: 32 hex digits of BLAKE2b."""
    return hashlib.blake2b(blob, digest_size=16).hexdigest()


def checked(content: object) -> str:
    """The name, if it is one. Raises `Damaged`: what a damaged index says is no path to be read, let alone removed."""
    if not isinstance(content, str) or not re.fullmatch("[0-9a-f]{32}", content):
        raise Damaged
    return content


def encode(attribution: Tensor, dtype: str) -> bytes:
    """A map (1,h,w) as the bytes of a file."""
    values = attribution.detach().to("cpu", torch.float32).contiguous()
    if dtype == "float32":
        return save({"map": values})
    halves, scale = _halves(values)
    return save({"map": halves, "scale": scale})


def decode(blob: bytes) -> Tensor:
    """The inverse of `encode`, float32."""
    parts = load(blob)
    return _whole(parts["map"], parts["scale"]) if "scale" in parts else parts["map"]


def rounded(maps: Tensor, dtype: str) -> Tensor:
    """Maps (1,h,w) or (B,1,h,w) as `decode(encode(...))` gives each of them back, float32, on their device."""
    values = maps.detach().to("cpu", torch.float32)
    return (values if dtype == "float32" else _whole(*_halves(values))).to(maps.device)


def _halves(values: Tensor) -> tuple[Tensor, Tensor]:
    """Float16 and the scale of each map, a power of two that puts its largest magnitude between 2**14 and 2**15.

    Below 65504, and values down to 2**-28 of the largest keep all 11 bits. Doubles, as no float32 scales a map of denormals.
    """
    magnitudes = torch.where(values.isfinite(), values, 0).abs().double().amax(dim=(-2, -1), keepdim=True)
    scale = torch.ldexp(torch.ones_like(magnitudes), torch.frexp(magnitudes).exponent - 15)
    return (values.double() / scale).half(), scale


def _whole(halves: Tensor, scale: Tensor) -> Tensor:
    values = halves.double() * scale
    # What was rounded up to 2**128 is the largest float32, not infinity.
    return torch.where(values.isinf(), values, values.clamp(-_LARGEST, _LARGEST)).float()


class Files:
    """The files in a folder. Whoever writes or removes any holds the write lock of the index."""

    def __init__(self, folder: Path):
        self._folder = folder

    def read(self, content: str) -> bytes | None:
        """The bytes of that content; None where the file is missing, damaged or unreadable."""
        try:
            blob = self._path(content).read_bytes()
        except OSError:
            return None
        return blob if content_of(blob) == content else None

    def exists(self, content: str) -> bool:
        """Whether there is a file of that name, damaged or not."""
        return self._path(content).exists()

    def write(self, content: str, blob: bytes) -> None:
        """Writes the file, whole or not at all. Raises `OSError`."""
        path = self._path(content)
        part = path.with_name(f"{content}.{os.getpid()}-{next(_counter)}.part")
        try:
            try:
                file = part.open("xb")
            except FileNotFoundError:
                part.parent.mkdir(parents=True, exist_ok=True)
                file = part.open("xb")
            with file:
                file.write(blob)
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def remove(self, content: str) -> None:
        """Removes the file if it is there and can be removed."""
        _unlink(self._path(content))

    def sweep(self, known: set[str]) -> int:
        """Removes every file whose content is not known, also those that were never finished; says how many."""
        return sum(_unlink(path) for path in self._all() if path.name.removesuffix(_SUFFIX) not in known)

    def _all(self) -> Iterator[Path]:
        return self._folder.glob("[0-9a-f][0-9a-f]/*")

    def _path(self, content: str) -> Path:
        return self._folder / content[:2] / (content + _SUFFIX)


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
