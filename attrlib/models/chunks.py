"""A few rows at a time, and fewer where memory runs out."""

from collections.abc import Callable

import torch
from torch import Tensor

from attrlib.errors import OutOfMemory

_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")
"""In messages of CUDA, MPS, the CPU's allocator, and cuBLAS."""


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what the error says: torch tells it by a plain RuntimeError on a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | OutOfMemory):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def in_chunks(size: int, work: Callable[..., Tensor], *rows: Tensor) -> tuple[Tensor, int]:
    """`work` of `size` rows (n,...) of each tensor at a time, put together again, and the size that memory sufficed for.

    Where it runs out the chunk is halved, down to one row; raises `OutOfMemory` where that is too much.
    """
    found: list[Tensor] = []
    first, count = 0, len(rows[0])
    while first < count or not found:
        try:
            found.append(work(*(values[first : first + size] for values in rows)))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            failed = True
        else:
            first += size
            failed = False
        # Only here, where the error no longer holds what the pass had kept.
        if failed:
            size = half(min(size, count - first))
    return found[0] if len(found) == 1 else torch.cat(found), size


def half(size: int) -> int:
    """Half of that many rows, at least one, after what is cached was given back. Raises `OutOfMemory` for a single one."""
    if size <= 1:
        raise OutOfMemory("there is not enough memory for a single image; take a smaller model or layer, or close other programs")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return size // 2
