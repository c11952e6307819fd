"""Read safetensors files, and the parts of a checkpoint that is split into several files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from attrlib.errors import ModelError, existing_file

_MOST_BYTES = 1 << 25
INDEX = ".index.json"
"""Ending of the files that list the parts of a checkpoint."""


def is_safetensors(file: Path) -> bool:
    """Return whether a file begins as safetensors do, with the length of a JSON header."""
    with file.open("rb") as opened:
        start = opened.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < file.stat().st_size


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Return the tensors of a safetensors file and its metadata, whose values are read as JSON where they are.

    Raises:
        ModelError: The file is damaged.
    """
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  it is no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file.name} is not a safetensors file, or is cut off ({error}); copy or download it again") from None
    return tensors, {key: _json(value) for key, value in metadata.items()}


def parts_of(index: Path) -> dict[str, list[str]]:
    """Return the files that the index of a split checkpoint names, each with the keys of its tensors.

    Raises:
        ModelError: The index is damaged, or names a file outside its folder.
    """
    advice = "copy or download it again, with all its parts beside it"
    listed = _json(index.read_text("utf-8", "replace")) if index.stat().st_size <= _MOST_BYTES else None
    places = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ModelError(f"{index.name} is not the index of a split checkpoint; {advice}")
    parts: dict[str, list[str]] = {}
    for key, name in places.items():
        if Path(name).name != name or name in ("", ".", "..") or "\\" in name or name.endswith(INDEX):
            raise ModelError(f"{index.name} names {name[:80]!r}, which is not a file beside it; {advice}")
        parts.setdefault(name, []).append(key)
    return parts


def read_parts(index: Path, read: Callable[[Path], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of all parts of a split checkpoint.

    Args:
        index: The index, `*.index.json`.
        read: Reads one part.

    Raises:
        ModelError: A part is missing or damaged, or lacks a tensor that the index names.
    """
    parts = parts_of(index)
    missing = [name for name in parts if existing_file(index.parent / name) is None]
    if missing:
        raise ModelError(
            f"{index.name} names {len(parts)} parts, of which {len(missing)} are not beside it ({', '.join(missing[:3])[:200]}); "
            "copy them into its folder"
        )
    state: dict[str, Tensor] = {}
    for name, keys in parts.items():
        tensors = read(index.parent / name)
        if absent := [key for key in keys if key not in tensors]:
            raise ModelError(f"{name} does not hold {absent[0][:80]!r}, which {index.name} expects in it; copy or download both again")
        state.update((key, tensors[key]) for key in keys)
    return state


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (RecursionError, ValueError):
        return text
