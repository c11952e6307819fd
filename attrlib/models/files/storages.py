"""Tensors as torch.save describes them, and their values from bytes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_DTYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Untyped": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    **dict.fromkeys(("QInt8", "QUInt8", "QUInt4x2", "QUInt2x4"), torch.uint8),
    "QInt32": torch.int32,
}
# Types without a storage class of their own lie in untyped storages.
_DTYPE_NAMES = {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


@dataclass(frozen=True)
class Storage:
    """A run of values in a file: its key there, the type and number of its values, and the first of them that a view begins with."""

    key: str
    dtype: torch.dtype
    numel: int
    start: int = 0

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose values lie in a storage: offset and strides in values of `dtype`."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def values(self, raw: Tensor) -> Tensor:
        """Return the tensor, a view of the bytes of its storage.

        Raises:
            RuntimeError: It reaches beyond the storage.
        """
        return raw.view(self.dtype).as_strided(self.size, self.stride, self.offset)


@dataclass(frozen=True)
class Unstored:
    """A tensor that a file describes without storing its values one by one.

    `kind` is `expanded`, `quantised`, `sparse`, `nested`, `without data`, `negated or conjugated`, or `pickled` (by Python alone).
    """

    kind: str


def storage_of(type_name: str, key: object, numel: object, view: object) -> Storage:
    """Return a storage as a persistent id of torch.save describes it.

    Args:
        type_name: Name of the storage's class, such as `torch.FloatStorage`.
        key: Its key in the file.
        numel: Number of its values.
        view: (key, offset, number) of a view, which torch wrote before version 0.4, or None.

    Raises:
        ValueError: The description is not valid.
    """
    short = type_name.rpartition(".")[2].removesuffix("Storage")
    if short not in _DTYPES or not _is_count(numel) or not isinstance(key, str | int):
        raise ValueError(f"{type_name[:60]} is not a storage of tensors")
    start = view[1] if isinstance(view, tuple) and len(view) == 3 else 0
    if not _is_count(start):
        raise ValueError("the view of a storage is not valid")
    return Storage(str(key), _DTYPES[short], numel, start)  # type: ignore[arg-type]


def stored_tensor(
    storage: object,
    offset: int,
    size: object,
    stride: object,
    _requires_grad: object = False,
    _hooks: object = None,
    metadata: object = None,
    *,
    dtype: str | None = None,
) -> StoredTensor | Unstored:
    """Return the description of a tensor from the arguments that torch's own rebuild functions take.

    Raises:
        ValueError: The description is not valid.
    """
    if not isinstance(storage, Storage):
        return Unstored("pickled")
    kind = storage.dtype if dtype is None else _DTYPE_NAMES[dtype]
    sides, steps = _counts(size), _counts(stride)
    if not _is_count(offset) or len(sides) != len(steps):
        raise ValueError("the description of a tensor is not valid")
    if isinstance(metadata, dict) and any(metadata.values()):
        return Unstored("negated or conjugated")
    if math.prod(sides) * kind.itemsize > storage.nbytes:
        return Unstored("expanded")
    return StoredTensor(storage, offset + storage.start, sides, steps, kind)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _counts(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > 64 or not all(map(_is_count, values)):
        raise ValueError("the shape of a tensor is not valid")
    return tuple(values)
