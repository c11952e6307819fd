"""How a module is called: which part of its output are the logits, and which memory format it accepts."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

FORMATS = (torch.channels_last, torch.contiguous_format)
"""Memory formats of images, the one in which convolutions are fastest first."""


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


def memory_format(call: Callable[[Tensor], Tensor], images: Tensor) -> tuple[torch.memory_format, Tensor]:
    """Return the fastest memory format in which a module computes what it computes for contiguous images, and its output.

    Args:
        call: The module.
        images: Images (1,C,H,W).

    Raises:
        Exception: What the module raises, if it accepts neither format.
    """
    outputs, errors = [], list[Exception]()
    for form in FORMATS:
        try:
            outputs.append((form, call(images.contiguous(memory_format=form))))
        except Exception as error:  # noqa: BLE001  a user's module may fail in any way
            errors.append(error)
    if not outputs:
        raise errors[-1]
    if len(outputs) == 2 and not same(outputs[0][1], outputs[1][1]):
        again = call(images.contiguous(memory_format=FORMATS[0]))
        # A module that returns something else at every call tells nothing about formats.
        return outputs[1 if same(again, outputs[0][1]) else 0]
    return outputs[0]


def same(one: Any, other: Any, tolerance: float = 1e-3) -> bool:
    """Return whether two outputs differ by rounding at most, relative to their largest value; anything but tensors counts as the same."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return True
    if one.shape != other.shape:
        return False
    scale = float(torch.nan_to_num(other.detach().float(), posinf=0, neginf=0).abs().max()) if other.numel() else 0.0
    return torch.allclose(one.float(), other.float(), rtol=0, atol=tolerance * scale, equal_nan=True)
