"""The end of a network: its last activation, which can be stepped over, and the layer of its one logit, which can have two rows."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attrlib.models.modules.forward import logits_of

_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "softmax": (F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax),
    "log-softmax": (F.log_softmax, torch.log_softmax, Tensor.log_softmax, torch.special.log_softmax),
    "sigmoid": (F.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, torch.special.expit),
    "log-sigmoid": (F.logsigmoid,),
}
_NAMES = {function: name for name, functions in _FUNCTIONS.items() for function in functions}
APPLIED: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda z: z.softmax(-1),
    "log-softmax": lambda z: z.log_softmax(-1),
    "sigmoid": torch.sigmoid,
    "log-sigmoid": F.logsigmoid,
}


@contextmanager
def replaced_forward(module: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Replace the forward pass of a module inside the context."""
    own = vars(module).get("forward")
    function.replaces = own  # type: ignore[attr-defined]
    module.forward = function
    try:
        yield
    finally:
        del vars(module)["forward"]
        if own is not None:
            module.forward = own


def duplicate(module: nn.Module, shared: Mapping[int, Any] | None = None) -> nn.Module:
    """Return a deep copy of a module, also if it is made while a forward pass is replaced.

    Args:
        module: The module.
        shared: Objects that the copy shares with the module, by their `id`.
    """
    twin = copy.deepcopy(module, dict(shared or {}))
    for original, part in zip(module.modules(), twin.modules(), strict=True):
        replaced: Any = vars(original).get("forward")
        while hasattr(replaced, "replaces"):
            replaced = replaced.replaces
            vars(part).pop("forward", None)
        if replaced is not None:
            part.forward = replaced
    return twin


def without_activation(forward: Callable[..., Any], activation: str) -> Callable[..., Any]:
    """Return a forward pass without its last activation. Softmaxes outside of the network, such as those of methods, stay."""

    def shortened(*args: Any, **kwargs: Any) -> Any:
        with _Without(activation):
            return forward(*args, **kwargs)

    return shortened


def two_rows(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the forward pass of a linear layer or convolution with outputs -z and z in place of z, as rows of one layer.

    Propagation rules that treat positive and negative weights differently thus see the weights of the class that they explain.
    """

    def forward(x: Tensor) -> Tensor:
        weight: Any = torch.cat([-layer.weight, layer.weight])  # type: ignore[list-item, operator]
        bias: Any = None if layer.bias is None else torch.cat([-layer.bias, layer.bias])  # type: ignore[list-item, operator]
        return F.linear(x, weight, bias) if isinstance(layer, nn.Linear) else layer._conv_forward(x, weight, bias)  # type: ignore[operator]

    return forward


class _Calls(TorchFunctionMode):
    """Records the last activations of a forward pass: those whose result has one row of numbers for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[tuple[str, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _NAMES and result.ndim <= 2 and not _sums_over_images(func, result, args, kwargs or {}):
            self.results.append((_NAMES[func], result))
        return result

    def last(self, raw: Tensor) -> str:
        """Return the name of the activation whose result is the network's output, or a view of it; empty if there is none."""
        found = [name for name, each in self.results if each.data_ptr() == raw.data_ptr() and each.numel() == raw.numel()]
        return found[-1] if found else ""


def _sums_over_images(func: Any, result: Tensor, args: Any, kwargs: Mapping[str, Any]) -> bool:
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return "softmax" in _NAMES[func] and isinstance(dim, int) and dim % result.ndim == 0


class _Without(TorchFunctionMode):
    """Leaves out an activation of the forward pass where its input has one row of numbers for each image."""

    def __init__(self, name: str):
        super().__init__()
        self._name = name

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if _NAMES.get(func) == self._name:
            values = args[0] if args else (kwargs or {})["input"]
            if values.ndim <= 2:
                return values
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Recorded:
    """A forward pass: the logits or what else was returned, the last activation if its result is that, and the type that held the logits."""

    raw: Any
    activation: str = ""
    container: str = ""

    @property
    def left_out(self) -> str:
        """Return a note if the logits are one entry of an output with others; else an empty text."""
        if self.container in ("", "tuple", "list"):
            return ""
        return f"the logits are an entry of the model's output (a {self.container}), whose other entries are ignored"


def record(module: nn.Module, images: Tensor) -> Recorded:
    """Record a forward pass without gradient."""
    with torch.no_grad(), _Calls() as seen:
        output = module(images)
    raw = logits_of(output)
    return Recorded(raw, seen.last(raw) if isinstance(raw, Tensor) else "", "" if raw is output else type(output).__name__)


def yields_one(layer: nn.Module) -> bool:
    """Return whether a layer can be given a second row: a linear layer or convolution with one output."""
    return (type(layer) is nn.Linear and layer.out_features == 1) or (type(layer) is nn.Conv2d and layer.out_channels == 1)
