"""Record the calls of a network's modules in a forward pass, and read the tensor in what they return."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def first_tensor(output: Any) -> Tensor | None:
    """Return a module's output, or the first entry of a tuple whose others are None or attention, as blocks of transformers return it."""
    if isinstance(output, tuple) and output and all(entry is None or _is_attention(entry) for entry in output[1:]):
        output = output[0]
    return output if isinstance(output, Tensor) else None


def _is_attention(entry: Any) -> bool:
    """Return whether a value is a matrix of attention for each image: weights that sum to 1 for each token."""
    if not isinstance(entry, Tensor) or entry.ndim < 3 or not entry.is_floating_point():
        return False
    values = entry.detach()
    return bool((values >= 0).all()) and torch.allclose(values.sum(-1), values.new_ones(()), atol=1e-3)


def batch_dim(one: torch.Size, two: torch.Size) -> int:
    """Return the dimension of the batch, 0 or 1, of an output with this shape for one and for two images."""
    return int(len(one) == 3 and one[1] == 1 and two[1] == 2 and one[0] == two[0])


def with_first(output: Any, values: Tensor) -> Any:
    """Return an output in which `values` replace its `first_tensor`."""
    return (values, *output[1:]) if isinstance(output, tuple) else values


def observed(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the paths and modules whose calls hooks can observe: all but those of TorchScript, which run outside of Python."""
    seen: set[nn.Module] = set()
    waiting = [(path, module)]
    while waiting:
        path, part = waiting.pop()
        if part not in seen and not isinstance(part, torch.jit.ScriptModule):
            seen.add(part)
            yield path, part
            children = [(f"{path}.{name}" if path else name, child) for name, child in part._modules.items() if child is not None]
            waiting += reversed(children)


def scripted_part(module: nn.Module, path: str) -> str:
    """Return which part of a network on the way to a path is a TorchScript module, as `the model` or by its path; empty if none is."""
    names = path.split(".")
    modules = dict(module.named_modules())
    for parent in (".".join(names[:k]) for k in range(len(names) + 1)):
        if isinstance(modules.get(parent), torch.jit.ScriptModule):
            return parent or "the model"
    return ""


@dataclass
class Call:
    """One call of a module in a forward pass."""

    path: str
    start: int
    end: int = -1
    output: Any = None
    version: int = 0
    inputs: tuple[tuple[Tensor, int], ...] = ()
    writes: bool = False

    @property
    def changed_later(self) -> bool:
        """Return whether a later in-place operation wrote into the output."""
        return bool(self.tensor is not None and _version(self.tensor) != self.version)

    @property
    def tensor(self) -> Tensor | None:
        """Return the `first_tensor` of the output."""
        return first_tensor(self.output)

    @property
    def with_attention(self) -> bool:
        """Return whether the output is a tuple that holds other tensors after its first entry."""
        return isinstance(self.output, tuple) and any(entry is not None for entry in self.output[1:])


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written into; 0 if it was made in inference mode, which does not count."""
    return 0 if tensor.is_inference() else tensor._version


def trace(module: nn.Module, images: Tensor) -> tuple[list[Call], Any]:
    """Return all module calls of one forward pass in order of their start, and the model's output."""
    calls: list[Call] = []
    open_calls: list[Call] = []
    clock = iter(range(1 << 40))

    def enter(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: Any) -> None:
            call = Call(path, next(clock), inputs=tuple((a, _version(a)) for a in args if isinstance(a, Tensor)))
            calls.append(call)
            open_calls.append(call)

        return hook

    def leave(_module: nn.Module, _args: Any, output: Any) -> None:
        call = open_calls.pop()
        call.end, call.output = next(clock), output
        call.writes = any(_version(a) != version for a, version in call.inputs)
        call.inputs = ()
        call.version = 0 if call.tensor is None else _version(call.tensor)

    with ExitStack() as stack, torch.no_grad():
        for path, m in observed(module):
            stack.callback(m.register_forward_pre_hook(enter(path)).remove)
            stack.callback(m.register_forward_hook(leave).remove)
        result = module(images.clone())
    return calls, result


@contextmanager
def outputs(module: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of some modules, with their graph, in the forward pass of the body."""
    found: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            tensor = first_tensor(output)
            assert tensor is not None, "layers return a tensor"
            # A copy, because what follows may write into it.
            found[path] = tensor.clone()

        return hook

    with ExitStack() as stack:
        for path in paths:
            stack.callback(module.get_submodule(path).register_forward_hook(keep(path)).remove)
        yield found
