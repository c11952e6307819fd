"""Contexts in which every computation on a model runs, and which leave the model and the process as they were."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from attrlib.errors import ModelError
from attrlib.models.modules.eager import patched, without_checkpoints

_guard = threading.Lock()
_users = 0
_undo = ExitStack()


@contextmanager
def exact() -> Iterator[None]:
    """Compute in full float32, deterministically, eagerly and without fused encoders, which skip the modules inside them and their hooks.

    These settings apply to the whole process: the first of several threads sets them, and the last one restores them.
    """
    global _users
    with _guard:
        _users += 1
        if _users == 1:
            _undo.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
            _undo.enter_context(torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False))
            _undo.enter_context(patched())
            torch.backends.mha.set_fastpath_enabled(False)
            if hasattr(torch.backends.mkldnn, "matmul"):
                for backend in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv):  # type: ignore[attr-defined]
                    _undo.callback(setattr, backend, "fp32_precision", backend.fp32_precision)
                    backend.fp32_precision = "ieee"
            else:  # torch before 2.9
                _undo.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
                torch.set_float32_matmul_precision("highest")
    try:
        with without_checkpoints():
            yield
    finally:
        with _guard:
            _users -= 1
            if not _users:
                _undo.close()


@contextmanager
def preserved(module: nn.Module) -> Iterator[None]:
    """Run the body in evaluation mode without parameter gradients, and restore every mode and flag afterwards, also after an error.

    Gradients with respect to activations still flow; leaving out those of parameters saves memory and time.
    """
    # The same as modules() and parameters(), but without building names, which takes as long as a small layer.
    modules = [module]
    seen = {module}
    for m in modules:
        new = [child for child in m._modules.values() if child is not None and child not in seen]
        seen.update(new)
        modules += new
    # A frozen TorchScript module has no mode.
    training = [m for m in modules if getattr(m, "training", False)]
    trainable = [p for m in modules for p in m._parameters.values() if p is not None and p.requires_grad]
    # Older weight and spectral norms compute the weight before each call, and store it as an attribute.
    derived = [(m, name, value) for m in modules if m._forward_pre_hooks for name, value in vars(m).items() if isinstance(value, Tensor)]
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
        for m, name, value in derived:
            vars(m)[name] = value


@contextmanager
def reduced(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Run the body under bfloat16 autocast, except for the head (the last linear layer or convolution), which stays float32.

    bfloat16 has 8 significant bits, so logits rounded to it would tie. Raises `ModelError` if the device does not support bfloat16.
    """
    if not has_bfloat16(device):
        raise ModelError(f"the device {device} does not support bfloat16, which fast needs; leave fast out")
    heads = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1:]

    before: list[bool] = []

    def enter(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # Autocast may be off here: computations in full float32 may run between two chunks.
        before.append(torch.is_autocast_enabled(device.type))
        torch.set_autocast_enabled(device.type, False)
        return tuple(a.float() if isinstance(a, Tensor) else a for a in args)

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        torch.set_autocast_enabled(device.type, before.pop())

    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
        for head in heads:
            stack.callback(head.register_forward_pre_hook(enter).remove)
            # First, so that of two contexts, one inside the other, the inner one is left first.
            stack.callback(head.register_forward_hook(leave, prepend=True).remove)
        yield


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device computes in bfloat16 natively rather than emulating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
