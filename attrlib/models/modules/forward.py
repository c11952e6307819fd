"""Calls of a module: which part of its output are the logits, with which random numbers, and whether two outputs are the same."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def logits_of(output: Any) -> Any:
    """Return the logits in an output: the entry or attribute `logits`, or the only entry of a tuple; otherwise the output itself."""
    if isinstance(output, Mapping):
        return output.get("logits", output)
    if isinstance(output, tuple | list):
        named = getattr(output, "logits", None)
        return named if isinstance(named, Tensor) else output[0] if len(output) == 1 else output
    named = None if isinstance(output, Tensor) else getattr(output, "logits", None)
    return named if isinstance(named, Tensor) else output


@contextmanager
def returning_logits(module: nn.Module) -> Iterator[None]:
    """Make the module return `logits_of` its output inside the context."""
    handle = module.register_forward_hook(lambda _module, _args, output: logits_of(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def seeded(device: torch.device) -> Iterator[None]:
    """Draw the same random numbers in each such context, and restore torch's generators afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        # Not torch.manual_seed, which would seed every accelerator.
        torch.default_generator.manual_seed(0)
        if devices:
            torch.cuda.default_generators[device.index or 0].manual_seed(0)
        yield


def same(one: Any, other: Any, tolerance: float = 1e-3) -> bool:
    """Return whether two outputs differ by rounding at most, relative to their largest value; anything but tensors counts as the same."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return True
    if one.shape != other.shape:
        return False
    scale = float(torch.nan_to_num(other.detach().float(), posinf=0, neginf=0).abs().max()) if other.numel() else 0.0
    return torch.allclose(one.float(), other.float(), rtol=0, atol=tolerance * scale, equal_nan=True)
