"""Digest what a module computes besides its weights: the code of its classes, and their plain attributes."""

import inspect
from functools import cache

from torch import nn

from attrlib.specs import digest

_KNOWN = ("attrlib", "torch", "torchvision", "timm")
_PLAIN = (bool, int, float, str, type(None))


def code_of(module: nn.Module) -> str:
    """Return a digest of the source of all custom classes in a module, and of the numbers and texts in their instances.

    The digest is empty if all classes come from libraries. A class without source, such as one from an old console, counts by its
    name only. Functions outside of classes do not count.
    """
    parts = [(name, part) for name, part in module.named_modules() if not _is_known(type(part))]
    if not parts:
        return ""
    return digest([(name, _source(type(part)), _attributes(part)) for name, part in parts])  # type: ignore[arg-type]


def _is_known(cls: type) -> bool:
    return cls.__module__.split(".")[0] in _KNOWN


def _attributes(part: nn.Module) -> list[tuple[str, str]]:
    plain = {name: value for name, value in vars(part).items() if not name.startswith("_") and name != "training"}
    return sorted((name, repr(value)) for name, value in plain.items() if _is_plain(value))


def _is_plain(value: object) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple | list) else isinstance(value, _PLAIN)


@cache
def _source(cls: type) -> list[str]:
    """Return the source of a class and its base classes; cached, because an edited class is a new object."""
    found = []
    for own in inspect.getmro(cls):
        if own is not object and not _is_known(own):
            try:
                found.append(inspect.getsource(own))
            except (OSError, TypeError):
                found.append(f"{own.__module__}.{own.__qualname__}")
    return found
