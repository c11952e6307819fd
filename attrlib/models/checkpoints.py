"""Read weights from local files without running code, strip wrappers, and load them strictly."""

import argparse
import os
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from attrlib.errors import ModelError, existing_file

# PyTorch warns about other pickle protocols than its own; the files then load, or are refused below.
warnings.filterwarnings("ignore", message="Detected pickle protocol")
SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".bin", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "net", "weights")
_ADVICE = "save it again with safetensors, or with torch.save(model.state_dict(), FILE)"
MOST_CLASSES = 100_000
"""Maximum number of classes, more than any classifier in use has: ImageNet-21k has 21,843."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file: the state dict on the CPU, and what the file says beside it."""

    state: dict[str, Tensor]
    class_names: tuple[str, ...] | None = None
    """Class names that the file lists, one per index; None if it lists none. Their number may differ from the outputs of the head."""
    hints: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that tell the architecture and its preprocessing, such as `arch`, `num_classes`, `img_size`, `mean` and `std`."""
    notes: tuple[str, ...] = ()
    """What was chosen or left out on reading."""


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the tensors of a `.safetensors`, `.pth`, `.pt` or `.tar` file onto the CPU.

    Only tensors, plain containers and `argparse.Namespace` are unpickled; published checkpoints hold the latter beside the
    weights. Anything else could run code and is refused.

    Raises:
        ModelError: The file is missing, damaged, or holds something other than weights.
    """
    file = existing_file(path)
    if file is None:
        raise ModelError(f"there is no file {str(path)[:200]!r}; give the path of a checkpoint ({', '.join(SUFFIXES[:4])})")
    if file.suffix == ".safetensors":
        try:
            tensors = safetensors.torch.load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{file.name} is not a safetensors file, or is cut off ({error}); copy or download it again") from None
        return Checkpoint(_state_dict(tensors, file.name))
    if _is_text(file):
        raise ModelError(
            f"{file.name} is not a checkpoint that PyTorch can read: it is a text file, such as a web page or a Git LFS pointer; download the file itself"
        )
    namespace_is_new = argparse.Namespace not in torch.serialization.get_safe_globals()
    try:
        _check_archive(file)
        with torch.serialization.safe_globals([argparse.Namespace]) if namespace_is_new else nullcontext():
            content = torch.load(file, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except pickle.UnpicklingError:
        raise ModelError(f"{file.name} holds more than weights: loading it could run code, so it was not loaded; {_ADVICE}") from None
    except Exception as error:  # noqa: BLE001  a damaged file makes the reader fail in a dozen unrelated ways
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ModelError(
            f"{file.name} is not a checkpoint that PyTorch can read, or is cut off ({reason}); copy it again, or {_ADVICE}"
        ) from None
    return Checkpoint(_state_dict(content, file.name))


def _check_archive(file: Path) -> None:
    """Raise `ModelError` for a zip whose entries, compressed or overlapping, would take more memory than the file is long."""
    with file.open("rb") as opened:
        if opened.read(4) != b"PK\x03\x04":
            return
        with zipfile.ZipFile(opened) as archive:
            entries, start = archive.infolist(), archive.start_dir
            opened.seek(-98, os.SEEK_END)
            one = _directory(opened.read(), file.stat().st_size) == start
    if not one:
        raise ModelError(f"{file.name} is an ambiguous zip file, so it was not loaded; {_ADVICE}")
    # PyTorch writes entries uncompressed, one after the other.
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or sum(entry.file_size for entry in entries) > file.stat().st_size:
        raise ModelError(
            f"{file.name} is compressed or has overlapping entries, which PyTorch never writes, so it was not loaded; {_ADVICE}"
        )


def _directory(tail: bytes, length: int) -> int | None:
    """Return where the directory of a zip starts according to its last 98 bytes; None if another record could contradict it.

    `zipfile` infers the start from the directory's end, and PyTorch follows the records: a file could show each a different directory.
    """
    record, locator, end = tail[:56], tail[56:76], tail[76:]
    if not (end.startswith(b"PK\x05\x06") and end.endswith(b"\0\0")):
        return None
    (short,) = struct.unpack("<I", end[16:20])
    if not locator.startswith(b"PK\x06\x07"):
        return short
    (long,), (where,) = struct.unpack("<Q", record[48:]), struct.unpack("<Q", locator[8:16])
    return long if record.startswith(b"PK\x06\x06") and where == length - 98 and short in (long, 0xFFFFFFFF) else None


def _is_text(file: Path) -> bool:
    with file.open("rb") as opened:
        start = opened.read(256).lstrip()
    return bool(start) and all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start)


def _state_dict(content: object, name: str) -> dict[str, Tensor]:
    for _ in range(8):
        if not isinstance(content, Mapping):
            break
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            tensors = OrderedDict((str(k), v) for k, v in content.items() if isinstance(v, Tensor))
            if not tensors:
                break
            if strange := [key for key, value in tensors.items() if not _is_stored(value)]:
                raise ModelError(
                    f"{name} does not hold all values of {strange[0][:80]!r} (it is expanded, sparse, quantised or without data); "
                    "save it again with v.contiguous(), v.to_dense() or v.dequantize() in place of such a tensor v"
                )
            _set_metadata(tensors, getattr(content, "_metadata", None))
            return tensors
        content = inner
    raise ModelError(f"{name} holds no weights; expected a state dict, alone or under one of {', '.join(_WRAPPERS[:3])}")


def _is_stored(tensor: Tensor) -> bool:
    """Return whether every value is stored in the file, so that a small file cannot stand for large weights."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_nested:
        return False
    return tensor.numel() * tensor.itemsize <= tensor.untyped_storage().nbytes()


def _set_metadata(state: Mapping[str, Tensor], metadata: Mapping | None) -> None:
    """Set the module versions that torch keeps beside a state dict, by which modules read older ones."""
    if metadata is not None:
        state._metadata = metadata  # type: ignore[attr-defined]
