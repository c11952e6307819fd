"""Digest what a module computes besides its weights: the code of its classes, and their plain attributes."""

import inspect
from functools import cache

from torch import nn

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
