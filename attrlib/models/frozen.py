"""The contexts in which every computation on a model runs, and which leave no trace."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

_guard = threading.Lock()
_users = 0
_undo = ExitStack()


@contextmanager
def exact() -> Iterator[None]:
    """Full float32, deterministic, and no fused encoder, which skips the modules inside it and all that hangs on them.

    These switches are the process's: the first of several threads sets them, the last one puts them back.
    """
    global _users
    with _guard:
        _users += 1
        if _users == 1:
            _undo.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
            _undo.enter_context(torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False))
            torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        with _guard:
            _users -= 1
            if not _users:
                _undo.close()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for parameters inside; every mode and flag as it was afterwards, also after an error.

    Gradients with respect to activations still flow: parameters that ask for none only save memory and time.
    """
    training = [m for m in module.modules() if m.training]
    trainable = [p for p in module.parameters() if p.requires_grad]
    try:
        for m in training:
            m.training = False
        for p in trainable:
            p.requires_grad_(False)
        with exact():
            yield
    finally:
        for m in training:
            m.training = True
        for p in trainable:
            p.requires_grad_(True)
