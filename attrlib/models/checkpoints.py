"""Read weights from local files without running code, strip wrappers, and load them strictly."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from attrlib.errors import ModelError, existing_file
from attrlib.models.files.formats import ADVICE, check_format
from attrlib.models.files.hints import class_names_of, hints_of
from attrlib.models.files.pickles import DamagedError
from attrlib.models.files.safe import INDEX, is_safetensors, read_parts, read_safetensors
from attrlib.models.files.stand_ins import NumPyArray, Opaque
from attrlib.models.files.storages import StoredTensor, Unstored
from attrlib.models.files.torch_files import TorchFile, open_torch_file
from attrlib.models.files.weights import Weights, find_weights, is_tensor, left_out, refused

SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".bin", ".ckpt", ".pkl", ".pyth", ".th", INDEX)
"""Endings of the files that are taken for checkpoints. What a file is, its content tells."""
_SHOWN = 4
_LONGEST_KEY = 500


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file: the state dict on the CPU, and what the file says beside it."""

    state: dict[str, Tensor]
    class_names: tuple[str, ...] | None = None
    """Class names that the file lists, by index; None if it lists none. Their number may differ from that of the head's outputs."""
    hints: Mapping[str, object] = field(default_factory=dict)
    """Plain values that tell the architecture and its preprocessing, by the names in `files.hints.hints_of`."""
    notes: tuple[str, ...] = ()
    """What was chosen or left out on reading."""

    def fitted(self, classes: int) -> Self:
        """Return the checkpoint without its class names, and with a note, if they are not those of this number of classes."""
        if self.class_names is None or len(self.class_names) == classes:
            return self
        note = f"the checkpoint names {len(self.class_names)} classes, but the model has {classes}, so the names are not used"
        return replace(self, class_names=None, notes=(*self.notes, note))


def split_key(location: str | Path) -> tuple[str, str | None]:
    """Split `FILE#KEY` into the path and the key of the weights in the file, or None. A `#` in the name of a file is part of it."""
    text = str(location)
    path, mark, key = text.rpartition("#")
    return (path, key) if mark and path and key and existing_file(text) is None else (text, None)


def read_checkpoint(location: str | Path) -> Checkpoint:
    """Read the weights of a checkpoint file onto the CPU, and the class names and hints beside them.

    Files of torch.save, with their state dict alone or under one of the keys that trainers use, safetensors files, and the index of a
    checkpoint in several files are read. The content tells the format. Nothing in a file is imported or called: numbers,
    texts and containers are read as such, other objects beside the weights are left out, and a note names them.

    Args:
        location: Path of the file, or FILE#KEY for the weights under a key, as in `my.pth#model_ema` or `my.pth#ema/state_dict`.

    Raises:
        ModelError: The file is missing, damaged, or holds something other than weights. The message says what, and what to do.
    """
    path, key = split_key(location)
    file = existing_file(path)
    if file is None:
        raise ModelError(f"there is no file {path[:200]!r}; give the path of a checkpoint ({', '.join(SUFFIXES[:4])})")
    try:
        if file.name.endswith(INDEX):
            if key is not None:
                raise ModelError(f"{file.name} has no key {key[:80]!r}: an index names a single set of weights; give its path alone")
            return Checkpoint(read_parts(file, lambda part: _read(part, None).state))
        return _read(file, key)
    except DamagedError as error:
        raise ModelError(
            f"{file.name} is not a checkpoint that PyTorch can read, or is cut off ({error}); copy it again, or {ADVICE}"
        ) from None


def _read(file: Path, key: str | None) -> Checkpoint:
    # First of all: the length at their beginning may look like the mark of another format.
    if is_safetensors(file):
        return _read_safetensors(file, key)
    check_format(file)
    if file.suffix == ".safetensors":
        return _read_safetensors(file, key)
    with open_torch_file(file) as opened:
        weights = find_weights(opened.content, file.name, key)
        state = _state_dict(weights, opened, file.name)
    outside = left_out(weights)
    notes = list(weights.notes)
    if outside:
        more = f" and {len(outside) - _SHOWN} more" if len(outside) > _SHOWN else ""
        notes.append(f"left out of {file.name}, since loading it could run code: {', '.join(outside[:_SHOWN])}{more}")
    names, doubts = class_names_of(weights.levels)
    return Checkpoint(state, names, hints_of(weights.levels), (*notes, *doubts))


def _read_safetensors(file: Path, key: str | None) -> Checkpoint:
    tensors, metadata = read_safetensors(file)
    if key is not None:
        raise ModelError(f"{file.name} has no key {key[:80]!r}: a safetensors file holds a single set of weights; give its path alone")
    if not tensors:
        raise ModelError(f"{file.name} holds no weights; expected a state dict")
    for name, tensor in tensors.items():
        _check_values(name, tensor, file.name)
    names, doubts = class_names_of([metadata])
    return Checkpoint(tensors, names, hints_of([metadata]), doubts)


def _state_dict(weights: Weights, opened: TorchFile, name: str) -> dict[str, Tensor]:
    """Return the tensors of the weights, with the module versions that torch keeps beside them."""
    state: dict[str, Tensor] = OrderedDict()
    for key, value in weights.entries.items():
        if "_packed_params" in str(key):
            raise _quantised(key, name)
        if isinstance(value, Opaque) and not value.harmless and "." in str(key):
            raise refused(value, name, str(key))
        if not is_tensor(value):
            continue
        if isinstance(value, Unstored):
            raise _unstored(key, value, name)
        tensor = opened.values(value) if isinstance(value, StoredTensor) else _array(value)
        _check_values(str(key), tensor, name)
        state[str(key)] = tensor
    versions = getattr(weights.entries, "_metadata", None)
    if isinstance(versions, Mapping):
        _set_metadata(state, {k: _version(v) for k, v in versions.items() if isinstance(k, str) and isinstance(v, Mapping)})
    return state


def _array(array: object) -> Tensor:
    assert isinstance(array, NumPyArray)
    return torch.tensor(array.values)


def _version(metadata: Mapping) -> dict[str, int]:
    version = metadata.get("version")
    return {"version": version} if isinstance(version, int) else {}


def _check_values(key: str, tensor: Tensor, name: str) -> None:
    """Raise `DamagedError` for a name that no module has, and `ModelError` for a matrix of integers, which a scale elsewhere turns into weights."""
    if len(key) > _LONGEST_KEY or not key.isprintable():
        raise DamagedError(f"{key[:40]!r} is not the name of a tensor")
    if key.endswith("weight") and tensor.ndim > 1 and not (tensor.is_floating_point() or tensor.is_complex()):
        raise _quantised(key, name)


def _quantised(key: object, name: str) -> ModelError:
    return ModelError(
        f"{name} holds the weights of a quantised model ({str(key)[:80]!r} is made of integers), which fit no network in floating point; "
        "give the checkpoint from before the quantisation"
    )


def _unstored(key: object, value: Unstored, name: str) -> ModelError:
    if value.kind == "quantised":
        return _quantised(key, name)
    if value.kind == "pickled":
        return ModelError(f"{name} holds tensors that were written by pickle, not by torch.save, so they are not read; {ADVICE}")
    return ModelError(
        f"{name} does not hold all values of {str(key)[:80]!r} (it is {value.kind}); save it again with v.contiguous(), v.to_dense() or "
        "v.resolve_neg() in place of such a tensor v"
    )


def _set_metadata(state: Mapping[str, Tensor], metadata: Mapping | None) -> None:
    """Set the module versions that torch keeps beside a state dict, by which modules read older ones."""
    if metadata is not None:
        state._metadata = metadata  # type: ignore[attr-defined]
