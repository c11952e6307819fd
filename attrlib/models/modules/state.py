"""Record the state of a module, so that a computation's changes to it can be listed and undone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class State:
    """A snapshot of a module: values, gradients, modes, hooks and submodules. It holds a copy of all values.

    Other attributes are not recorded: networks keep counters and caches in them when they run.
    """

    def __init__(self, module: nn.Module):
        # TorchScript modules keep their state outside of Python, except for values and modes.
        self._modules = [
            (path, m, getattr(m, "training", None), None if _scripted(m) else vars(m).get("forward"), _tables(m))
            for path, m in module.named_modules()
        ]
        self._tensors = [
            (name, t, t.detach().clone(), t.requires_grad, t.grad, None if t.grad is None else t.grad.clone())
            for name, t in (*module.named_parameters(), *module.named_buffers())
        ]

    def changes(self) -> list[str]:
        """Return descriptions of everything that changed since the snapshot; empty if nothing did."""
        changes = []
        for path, m, training, forward, tables in self._modules:
            where = path or "the whole model"
            changes += [] if getattr(m, "training", None) == training else [f"the mode of {where}"]
            changes += [] if _scripted(m) or vars(m).get("forward") is forward else [f"forward of {where}"]
            for key, (table, content) in tables.items():
                now = vars(m).get(key)
                if now is not table or now.keys() != content.keys() or any(now[k] is not content[k] for k in content):
                    changes.append(f"{'hooks' if 'hooks' in key else key.strip('_')} of {where}")
        for name, tensor, values, required, grad, slope in self._tensors:
            changes += [] if _equal(tensor.detach(), values) else [f"the values of {name}"]
            changes += [] if tensor.requires_grad == required else [f"requires_grad of {name}"]
            same = tensor.grad is grad and (grad is None or slope is None or _equal(grad, slope))
            changes += [] if same else [f"the gradient of {name}"]
        return list(dict.fromkeys(changes))

    def restore(self) -> None:
        """Restore the module to the snapshot."""
        for _, m, training, forward, tables in self._modules:
            if training is not None:
                m.training = training
            if not _scripted(m):
                vars(m).pop("forward", None)
            if forward is not None:
                m.forward = forward
            for key, (table, content) in tables.items():
                # Update the same table in place, because the handles that remove hooks refer to it.
                table.clear()
                table.update(content)
                vars(m)[key] = table
        with torch.no_grad():
            for _, tensor, values, required, grad, slope in self._tensors:
                if tensor.shape != values.shape:
                    tensor.data = values
                elif not _equal(tensor, values):
                    tensor.copy_(values)
                tensor.requires_grad_(required)
                tensor.grad = grad
                if grad is not None and slope is not None:
                    grad.copy_(slope)


@contextmanager
def restored(module: nn.Module) -> Iterator[list[str]]:
    """Restore the module on exit, also after an error; the list then names what had changed."""
    state, changed = State(module), list[str]()
    try:
        yield changed
    finally:
        changed += state.changes()
        if changed:
            state.restore()


def _scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _tables(module: nn.Module) -> dict[str, tuple[Any, dict[Any, Any]]]:
    return {key: (value, dict(value)) for key, value in vars(module).items() if isinstance(value, dict) and key.startswith("_")}


def _equal(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal; NaN equals NaN."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
