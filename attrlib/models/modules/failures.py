"""Say why a module cannot process an image, or why its output is not logits."""

import inspect
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from attrlib.errors import ModelError

SIZES = (224, 256, 299, 384, 512, 32, 64, 96, 128, *(s for s in range(4, 129) if s % 32))
"""Sides in pixels that are tried to find out whether a failure is due to the input size, likely ones first."""
_DETECTIONS = "those are detections; wrap the module so that it returns one number per image and class, such as the score to explain"


def check_values(module: nn.Module, name: str) -> None:
    """Raise `ModelError` if weights have no values yet, or are on several devices."""
    tensors = dict((*module.named_parameters(), *module.named_buffers()))
    lazy = [key for key, tensor in tensors.items() if is_lazy(tensor)]
    if lazy:
        raise ModelError(f"{name} has lazy parameters without a shape ({lazy[0]}); run it once on a batch before it is wrapped")
    if any(tensor.device.type == "meta" for tensor in tensors.values()):
        raise ModelError(f"{name} has weights without values (device meta); load values first, with to_empty and load_state_dict")


def failure(module: nn.Module, name: str, images: Tensor, error: Exception, works: Callable[[Tensor], bool]) -> ModelError:
    """Return the error that names the cause of a failed forward pass, as far as it can be found out.

    Args:
        module: The module.
        name: Its name in the message.
        images: The images (1,C,H,W) that it failed on.
        error: What it raised.
        works: Returns whether the module processes given images.
    """
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    _, channels, height, width = images.shape
    devices = sorted({str(t.device) for t in (*module.parameters(), *module.buffers())})
    if len(devices) > 1:
        return ModelError(f"{name} has weights on {' and '.join(devices)} ({reason}); move it to one device with module.to(...)")
    if missing := _missing_arguments(module):
        if keyword := _only_keyword(module):
            return ModelError(
                f"forward of {name} takes the image by keyword only; wrap the module in one whose forward(image) passes it on: "
                f"return self.net({keyword}=image)"
            )
        return ModelError(
            f"forward of {name} needs {_counted(missing)}; wrap the module in one whose forward(image) fills "
            f"{'it' if len(missing) == 1 else 'them'} in: return self.net(image, {', '.join(f'{m}=...' for m in missing)})"
        )
    if type(error) is NotImplementedError and type(module).forward is nn.Module.forward:
        return ModelError(f"{name} has no forward; wrap a module that defines forward(image)")
    wanted = _channels(module)
    if wanted and wanted != channels and works(images[:, :1].expand(-1, wanted, -1, -1).clone()):
        return ModelError(
            f"{name} reads images of {wanted} channel{'s' if wanted > 1 else ''}, not {channels}; give mean and std of {wanted} "
            f"number{'s' if wanted > 1 else ''}"
        )
    if "more than 1 value per channel" in str(error):
        return ModelError(
            f"{name} has a BatchNorm without running statistics, which cannot process a single image ({reason}); train it with "
            "track_running_stats=True"
        )
    accepted = (s for s in SIZES if (s, s) != (height, width) and works(images.new_zeros(1, channels, s, s)))
    if sizes := list(islice(accepted, 3)):
        listed = ", ".join(map(str, sorted(sizes)))
        return ModelError(
            f"{name} cannot process an image of {height} x {width} px ({reason}); it accepts {listed} px: give the size that it was trained "
            "with as input_size"
        )
    return ModelError(
        f"{name} fails on an image of {channels} x {height} x {width}, and on other sizes ({type(error).__name__}: {reason}); correct its forward"
    )


def has_more_rows(output: Any) -> bool:
    """Return whether a module returned several rows for one image, as it does if it flattens with a fixed length."""
    return isinstance(output, Tensor) and output.ndim > 0 and len(output) > 1


def not_logits(name: str, output: Any) -> ModelError:
    """Return the error for an output of one image that is not logits (1,C)."""
    advice = "wrap the module so that it returns logits"
    if isinstance(output, Tensor):
        what, shape = f"a tensor of shape {tuple(output.shape)}", output.shape
        if output.ndim in (1, 2) and len(output) == 1 and not output.is_floating_point():
            advice = "those are class indices, not logits; return what argmax was applied to"
        elif output.ndim == 4:
            advice = (
                "that is a map of positions, as of a segmentation network or a backbone; wrap the module so that it returns one number per "
                "class, such as the mean over the positions to explain"
            )
        elif output.ndim == 3:
            advice = "that is a sequence of features, as of a backbone without a head; wrap the module so that it returns logits"
        elif output.ndim == 1 and len(shape):
            advice = "the dimension of the batch is missing, as after squeeze(); return one row per image"
        elif output.ndim == 0:
            advice = "that is one number for the whole batch, as of a loss or after squeeze(); return one row per image"
        elif output.ndim == 2:
            advice = "its first dimension is not that of the batch; wrap the module so that it returns one row per image"
    elif isinstance(output, Mapping):
        what = f"a {type(output).__name__} of {_entries(output.items())}"
        advice = _DETECTIONS if "boxes" in output else f"it has no entry logits; {advice}"
    elif isinstance(output, tuple | list):
        what = f"a {type(output).__name__} of {_entries((str(i), v) for i, v in enumerate(output))}"
        if any(isinstance(v, Mapping) and "boxes" in v for v in output):
            advice = _DETECTIONS
        else:
            advice = "it is not clear which of them are the logits; wrap the module: def forward(self, image): return self.net(image)[0]"
    else:
        what = f"a {type(output).__name__}"
    return ModelError(f"{name} returns {what} for one image, not logits (batch, classes); {advice}")


def _entries(items: Any) -> str:
    parts = [f"{key} {tuple(v.shape)}" if isinstance(v, Tensor) else f"{key} ({type(v).__name__})" for key, v in items]
    return ", ".join(parts[:6]) + (", ..." if len(parts) > 6 else "") or "nothing"


def _counted(names: list[str]) -> str:
    quoted = " and ".join(repr(name) for name in names)
    return f"a second argument {quoted}" if len(names) == 1 else f"the further arguments {quoted}"


def _only_keyword(module: nn.Module) -> str:
    """Return the argument of forward without a default if it is the only one and given by keyword only; else an empty text."""
    parameters = [] if isinstance(module, torch.jit.ScriptModule) else list(inspect.signature(module.forward).parameters.values())
    positional = any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    return keywords[0] if len(keywords) == 1 and not positional else ""


def _missing_arguments(module: nn.Module) -> list[str]:
    """Return the arguments of forward without a default, besides the image."""
    if isinstance(module, torch.jit.ScriptModule):
        schema = getattr(getattr(module, "forward", None), "schema", None)
        return [a.name for a in schema.arguments[2:] if not a.has_default_value()] if schema else []
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return []
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keyword = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    return [p.name for p in (*positional[1:], *keyword) if p.default is p.empty]


def _channels(module: nn.Module) -> int | None:
    """Return the channels that the first convolution reads."""
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    return None if first is None else first.in_channels
