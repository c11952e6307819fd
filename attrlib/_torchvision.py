"""Make torchvision importable where its compiled operators cannot load. Import this module before torchvision.

PyPI's torchvision wheel is built against the CUDA build of torch. With a CPU build its extension does not load, and registering the meta
kernel of the missing operator fails the whole import ("operator torchvision::nms does not exist", pytorch/vision 9085). Only detection
models call these operators. Declaring them is enough for everything else, timm included. It is done when torchvision is first imported,
since it needs torch.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[Any] = []
"""Keeps the declared operators alive: they disappear with their library."""


class _BeforeTorchvision(MetaPathFinder):
    """Declare the operators as soon as somebody imports torchvision, and let the import go on."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            declare_operators()
        return None


def declare_operators() -> None:
    """Declare the operators of torchvision unless its compiled ones load."""
    import torch

    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None or _compiled_operators_load(Path(package.origin).parent):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in _OPERATORS:
        library.define(name + _SCHEMA)
    _libraries.append(library)


def _compiled_operators_load(folder: Path) -> bool:
    import torch

    file = next(folder.glob("_C*.*"), None)
    if file is None:
        return False
    try:
        torch.ops.load_library(str(file))
    except (ImportError, OSError):
        return False
    return True


if "torchvision" not in sys.modules:
    sys.meta_path.insert(0, _BeforeTorchvision())
