"""Digest of a module's weights, computed again only when they have changed."""

import hashlib

import torch
from torch import Tensor, nn

BLOCKS = 64
"""Parts of a tensor whose sums are compared: a weight that moves to another part is noticed, too."""


class WeightDigest:
    """The digest of a module's parameters and buffers.

    Hashing takes about a second for 10^9 bytes, and the digest of a model is requested often. It is computed again only when a tensor was
    replaced or written to, or when the sums of its bytes, 20 times as cheap as their hash, show a change made through `.data`.
    """

    def __init__(self) -> None:
        # Replaced as a whole: another thread must not see the digest of other weights.
        self._latest: tuple[object, str] | None = None

    def of(self, module: nn.Module) -> str:
        """Return the digest of the module's weights as they are now.

        Args:
            module: The module; the same one at every call.
        """
        tensors = sorted((*module.named_parameters(), *module.named_buffers()), key=lambda item: item[0])
        sums = [_sums(_bytes(tensor)) for _, tensor in tensors]
        # One transfer from the device for all tensors.
        stamp = [(key, *_identity(tensor)) for key, tensor in tensors], torch.cat(sums).tolist() if sums else []
        latest = self._latest
        if latest is None or latest[0] != stamp:
            self._latest = latest = stamp, _hash(tensors)
        return latest[1]


def _identity(tensor: Tensor) -> tuple[object, ...]:
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tuple(tensor.shape)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def _sums(values: Tensor) -> Tensor:
    """Return the sums of blocks of bytes, eight taken as one number, and of the bytes that are left; int64."""
    size = len(values) // (8 * BLOCKS) * 8
    if not size:
        return values.long()
    # A tensor that is a part of another one may begin at an address that no 64-bit number can have.
    whole = values[: size * BLOCKS]
    whole = whole.clone() if whole.storage_offset() % 8 else whole
    return torch.cat([whole.view(torch.int64).view(BLOCKS, -1).sum(1), values[size * BLOCKS :].sum()[None]])


def _hash(tensors: list[tuple[str, Tensor]]) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    for key, tensor in tensors:
        hasher.update(f"{key}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        hasher.update(_bytes(tensor.cpu()).numpy().data)
    return hasher.hexdigest()
