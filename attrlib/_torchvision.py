"""Make torchvision importable where its compiled operators cannot load. Import this module before torchvision or timm.

PyPI's torchvision wheel is built against the CUDA build of torch. With a CPU build its extension does not load, and
registering the meta kernel of the missing operator fails the whole import ("operator torchvision::nms does not exist",
pytorch/vision 9085). Only detection models call these operators; declaring them is enough for everything else, timm included.
"""

import importlib.util
from pathlib import Path

import torch

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _compiled_operators_load() -> bool:
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        return False
    library = next(Path(package.origin).parent.glob("_C*.*"), None)
    if library is None:
        return False
    try:
        torch.ops.load_library(str(library))
    except (ImportError, OSError):
        return False
    return True


# Keeps the library object alive: its operators disappear with it.
_library: torch.library.Library | None = None

if not _compiled_operators_load():
    _library = torch.library.Library("torchvision", "DEF")
    for _name in _OPERATORS:
        _library.define(_name + _SCHEMA)
