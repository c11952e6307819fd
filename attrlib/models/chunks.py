"""Process rows in chunks, and in smaller chunks if memory runs out."""

from collections.abc import Callable

import torch
from torch import Tensor

from attrlib.errors import OutOfMemory

_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed")
"""Parts of the error messages of CUDA, MPS, the CPU allocator and cuBLAS."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out; on a CPU torch raises a plain RuntimeError for that."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | OutOfMemory):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def in_chunks(size: int, work: Callable[..., Tensor], *rows: Tensor) -> tuple[Tensor, int]:
    """Apply a function to chunks of rows and concatenate the results.

    If memory runs out, the chunk size is halved, down to one row.

    Args:
        size: Rows in a chunk.
        work: Function of one chunk of every tensor in `rows`.
        *rows: Tensors (n,...) with the same number of rows.

    Returns:
        The concatenated results, and the chunk size that memory sufficed for.

    Raises:
        OutOfMemory: Memory does not suffice for a single row.
    """
    results: list[Tensor] = []
    first, count = 0, len(rows[0])
    while first < count or not results:
        try:
            results.append(work(*(values[first : first + size] for values in rows)))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            failed = True
        else:
            first += size
            failed = False
        # Outside the except block, where the error no longer keeps the tensors of the failed pass alive.
        if failed:
            size = half(min(size, count - first))
    return results[0] if len(results) == 1 else torch.cat(results), size


def half(size: int) -> int:
    """Return half of a number of rows, at least one, after emptying the CUDA cache. Raises `OutOfMemory` for a single row."""
    if size <= 1:
        raise OutOfMemory("there is not enough memory for a single image; use a smaller model or layer, or close other programs")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return size // 2
