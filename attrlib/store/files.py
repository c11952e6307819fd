"""Files of maps, named by the digest of their content, so that a damaged or truncated file is detected."""

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
SUFFIX = ".safetensors"
_counter = itertools.count()


def content_of(blob: bytes) -> str:
    """Return the name of a file with this content: its BLAKE2b digest, 32 hex digits."""
    return hashlib.blake2b(blob, digest_size=16).hexdigest()


def checked(content: object) -> str:
    """Return a content name if it is valid.

    Raises:
        Damaged: If it is not. A path from a damaged index must not be read, let alone removed.
    """
    if not isinstance(content, str) or not re.fullmatch("[0-9a-f]{32}", content):
        raise Damaged
    return content


def encode(attribution: Tensor, dtype: str) -> bytes:
    """Encode a map (1,h,w) as the bytes of a file, in `float32` or `float16`."""
    values = attribution.detach().to("cpu", torch.float32).contiguous()
    if dtype == "float32":
        return save({"map": values})
    halves, scale = _halves(values)
    return save({"map": halves, "scale": scale})


def decode(blob: bytes) -> Tensor:
    """Decode the bytes that `encode` returned into a float32 map (1,h,w)."""
    parts = load(blob)
    return _whole(parts["map"], parts["scale"]) if "scale" in parts else parts["map"]


def rounded(maps: Tensor, dtype: str) -> Tensor:
    """Return maps rounded as `decode(encode(...))` would round each of them.

    Args:
        maps: Maps (1,h,w) or (B,1,h,w).
        dtype: `float32` or `float16`.

    Returns:
        The rounded maps, float32, on the device of `maps`.
    """
    values = maps.detach().to("cpu", torch.float32)
    return (values if dtype == "float32" else _whole(*_halves(values))).to(maps.device)


def _halves(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return float16 maps and the scale of each, a power of two that brings its largest magnitude between 2**14 and 2**15.

    That is below 65504, the largest float16, and values down to 2**-28 of the largest keep all 11 bits. The computation is in float64,
    because no float32 number can scale a map of denormals.
    """
    magnitudes = torch.where(values.isfinite(), values, 0).abs().double().amax(dim=(-2, -1), keepdim=True)
    scale = torch.ldexp(torch.ones_like(magnitudes), torch.frexp(magnitudes).exponent - 15)
    return (values.double() / scale).half(), scale


def _whole(halves: Tensor, scale: Tensor) -> Tensor:
    values = halves.double() * scale
    # Values that were rounded up to 2**128 become the largest float32, not infinity.
    return torch.where(values.isinf(), values, values.clamp(-_LARGEST, _LARGEST)).float()


class Files:
    """The files in a folder. Callers that write or remove files must hold the write lock of the index.

    Attributes:
        place: The name of the folder in messages.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.place = str(folder)

    def read(self, content: str) -> bytes | None:
        """Return the bytes of a file, or None if it is missing, damaged or unreadable."""
        try:
            blob = self._path(content).read_bytes()
        except OSError:
            return None
        return blob if content_of(blob) == content else None

    def exists(self, content: str) -> bool:
        """Return whether a file of that name exists, damaged or not."""
        return self._path(content).exists()

    def write(self, content: str, blob: bytes) -> None:
        """Write a file atomically. Raise `OSError` if that fails."""
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
        """Remove a file if it exists and can be removed."""
        _unlink(self._path(content))

    def sweep(self, contents: set[str]) -> int:
        """Remove every file that is not in `contents`, and unfinished ones. Return how many were removed."""
        return sum(_unlink(path) for path in self._all() if path.name.removesuffix(SUFFIX) not in contents)

    def _all(self) -> Iterator[Path]:
        return self._folder.glob("[0-9a-f][0-9a-f]/*")

    def _path(self, content: str) -> Path:
        return self._folder / content[:2] / (content + SUFFIX)


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True
