"""Maps in a Zarr folder, read by zarr where it is installed."""

import json
import os
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

from attrlib.data.maps.arrays import MAX_ARRAYS, MAX_BYTES, StoredArray
from attrlib.errors import DataError

_METADATA = ("zarr.json", ".zarray", ".zgroup")
_MAX_METADATA = 1 << 20
_CODECS = frozenset(
    (
        "blosc",
        "bytes",
        "bz2",
        "crc32c",
        "delta",
        "gzip",
        "lz4",
        "lzma",
        "sharding_indexed",
        "shuffle",
        "transpose",
        "vlen-utf8",
        "zlib",
        "zstd",
    )
)
"""Codecs that only compress numbers and texts. Others are refused: `pickle` runs code."""


def is_zarr(path: str) -> bool:
    """Return whether a folder is a Zarr array or group."""
    return any(os.path.isfile(os.path.join(path, name)) for name in _METADATA)


def read(path: str, name: str) -> dict[str, StoredArray]:
    """Return the arrays of a Zarr folder by their path in it.

    Args:
        path: Path of the folder.
        name: What messages call it.

    Raises:
        DataError: If zarr is missing, or an array has a codec that is not known to be safe, or chunks that are too large.
    """
    try:
        import zarr
    except ImportError:
        raise DataError(f"{name} is a Zarr folder, which needs zarr; run pip install attrlib[maps], or save the maps as .npz") from None
    # Before zarr opens anything, since it would build the codecs that the metadata name.
    for file in _metadata(path):
        _check_codecs(file, name)
    # Consolidated metadata could name other codecs than those just checked.
    opened = zarr.open(path, mode="r", use_consolidated=False)
    found = {"maps": opened} if isinstance(opened, zarr.Array) else dict(_arrays(opened, name, zarr))
    for key, array in found.items():
        if prod(array.chunks) * array.dtype.itemsize > MAX_BYTES:
            raise DataError(f"{key[:80]!r} in {name} has chunks of more than {MAX_BYTES >> 20} MiB; save it with chunks of one map")
    return {key: StoredArray(tuple(array.shape), np.dtype(array.dtype), _reader(array)) for key, array in found.items()}


def _reader(array: Any) -> Any:
    return lambda place: np.asarray(array[:] if place is None else array[place])


def _metadata(path: str) -> Iterator[str]:
    for folder, _, files in os.walk(path, followlinks=False):
        yield from (os.path.join(folder, file) for file in files if file in _METADATA)


def _check_codecs(file: str, name: str) -> None:
    if os.path.getsize(file) > _MAX_METADATA:
        raise DataError(f"{os.path.basename(file)} of {name} is larger than 1 MiB; save the maps again")
    with open(file, encoding="utf-8") as text:
        fields = json.load(text)
    named = {str(codec).removeprefix("numcodecs.").lower() for codec in _codecs(fields)}
    if unknown := sorted(named - _CODECS):
        raise DataError(f"{name} is compressed with {unknown[0][:40]}, which is not read because it may run code; use zstd, blosc or gzip")
    if fields.get("storage_transformers"):
        raise DataError(f"{name} has storage transformers, which are not read; save the maps without")


def _codecs(fields: Any) -> Iterator[object]:
    """Yield the names of all codecs, at any depth: `id` in version 2, `name` in version 3 of the format."""
    if isinstance(fields, list):
        for each in fields:
            yield from _codecs(each)
    elif isinstance(fields, dict):
        for key, value in fields.items():
            inner = value if isinstance(value, list) else [value]
            if key in ("codecs", "index_codecs", "filters", "compressor"):
                yield from (each.get("id", each.get("name", "")) if isinstance(each, dict) else each for each in inner if each is not None)
            yield from _codecs(value)


def _arrays(group: Any, name: str, zarr: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for count, (key, entry) in enumerate(group.members()):
        if count > MAX_ARRAYS:
            raise DataError(f"{name} holds more than {MAX_ARRAYS:,} arrays; save the maps as one array (images, height, width)")
        if isinstance(entry, zarr.Array):
            yield prefix + key, entry
        else:
            yield from _arrays(entry, name, zarr, f"{prefix}{key}/")
