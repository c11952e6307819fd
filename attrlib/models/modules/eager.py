"""Turn off what changes how PyTorch runs a module but not what it computes: compilation and gradient checkpointing.

Compiled code skips the hooks by which layers are read, and a checkpointed block runs again in the backward pass, when its layers no longer
return what they returned in the forward pass.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.utils import checkpoint as checkpointing

_inside = threading.local()


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Run checkpointed functions once and keep their activations, in this thread only; requires `patched`."""
    _inside.depth = getattr(_inside, "depth", 0) + 1
    try:
        yield
    finally:
        _inside.depth -= 1


@contextmanager
def patched() -> Iterator[None]:
    """Run compiled modules and functions as they were before compilation, and make `without_checkpoints` effective; process-wide."""
    with ExitStack() as stack:
        # Nothing is compiled in a process that has not imported dynamo, which takes seconds.
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        # Not `checkpoint` itself: networks import that name into their own modules.
        for name, plain in (("CheckpointFunction", _Plain), ("_checkpoint_without_reentrant_generator", None)):
            original = getattr(checkpointing, name)
            stack.callback(setattr, checkpointing, name, original)
            setattr(checkpointing, name, plain(original) if plain else _generator(original))
        yield


class _Plain:
    """Stands in for the autograd function of reentrant checkpoints."""

    def __init__(self, original: Any):
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def apply(self, function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return function(*args) if getattr(_inside, "depth", 0) else self._original.apply(function, preserve, *args)


def _generator(original: Callable[..., Any]) -> Callable[..., Iterator[None]]:
    """Return the context of non-reentrant checkpoints, which stores nothing inside `without_checkpoints`."""

    def generator(*args: Any, **kwargs: Any) -> Iterator[None]:
        if getattr(_inside, "depth", 0):
            yield
        else:
            yield from original(*args, **kwargs)

    return generator
