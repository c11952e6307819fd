"""Digest what a module computes besides its parameters: the code of its classes, their plain attributes, and values kept elsewhere."""

import hashlib
import inspect
from functools import cache

import torch
from torch import Tensor, nn

from attrlib.specs import digest

_LIBRARIES = ("attrlib", "torch", "torchvision", "timm")
_PLAIN = (bool, int, float, str, type(None))


def code_of(module: nn.Module) -> str:
    """Return a digest of the source of all custom classes in a module, and of the numbers and texts in their instances.

    The digest is empty if all classes come from libraries. A class without source, such as one from an old console, contributes only
    its name. Functions outside of classes are ignored.
    """
    parts = [(name, part) for name, part in module.named_modules() if not _from_library(type(part))]
    if not parts:
        return ""
    return digest([(name, _source(type(part)), _attributes(part)) for name, part in parts])  # type: ignore[arg-type]


def values_of(module: nn.Module) -> str:
    """Return a digest of what a module holds outside of its parameters, buffers and classes; empty if there is nothing.

    These are the packed weights of quantised layers, and the code and constants of TorchScript and FX modules.
    """
    known = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    parts: list[object] = []
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            code, constants = part.code_with_constants
            parts.append((name, code, _plain(constants.const_mapping)))
        elif isinstance(part, torch.fx.GraphModule):
            parts.append((name, part.code))
    if not isinstance(module, torch.jit.ScriptModule):
        others = {key: value for key, value in module.state_dict(keep_vars=True).items() if id(value) not in known}
        parts += [_plain(others)] if others else []
    return digest(parts) if parts else ""


def _plain(value: object) -> object:
    """Return a value, in which tensors are replaced by digests of their content, as text."""
    if isinstance(value, Tensor):
        dense = (value.dequantize() if value.is_quantized else value).detach().cpu().contiguous()
        return [str(value.dtype), list(value.shape), hashlib.blake2b(dense.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()]
    if isinstance(value, dict):
        return [[str(key), _plain(entry)] for key, entry in value.items()]
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return repr(value) if isinstance(value, (*_PLAIN, torch.dtype)) else type(value).__name__


def _from_library(cls: type) -> bool:
    return cls.__module__.split(".")[0] in _LIBRARIES


def _attributes(part: nn.Module) -> list[tuple[str, str]]:
    plain = {name: value for name, value in vars(part).items() if not name.startswith("_") and name != "training"}
    return sorted((name, repr(value)) for name, value in plain.items() if _is_plain(value))


def _is_plain(value: object) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple | list) else isinstance(value, _PLAIN)


@cache
def _source(cls: type) -> list[str]:
    """Return the source of a class and its base classes; cached, because an edited class is a new object."""
    sources = []
    for base in inspect.getmro(cls):
        if base is not object and not _from_library(base):
            try:
                sources.append(inspect.getsource(base))
            except (OSError, TypeError):
                sources.append(f"{base.__module__}.{base.__qualname__}")
    return sources
