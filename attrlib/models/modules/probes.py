"""Find out by a few passes how a module must be called, and whether its outputs depend on other images of the batch or on chance."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attrlib.models.chunks import out_of_memory
from attrlib.models.modules.ending import Recorded
from attrlib.models.modules.forward import same

FORMATS = (torch.channels_last, torch.contiguous_format)
"""Memory formats of images, the one in which convolutions are fastest first."""
EXACT, ROUNDED = 1e-5, 1e-2
"""Largest deviation relative to the largest logit: of two equal calls, and of batches of other sizes, which are summed in another order."""


@dataclass(frozen=True)
class Behaviour:
    """What the probes of a module found.

    Attributes:
        single: Whether the module accepts a single image only.
        one_by_one: Whether images must go through the module one at a time, for results that do not depend on the batch.
        findings: One sentence for each finding.
    """

    single: bool = False
    one_by_one: bool = False
    findings: tuple[str, ...] = ()


def memory_format(call: Callable[[Tensor], Recorded], images: Tensor, custom: bool) -> tuple[torch.memory_format, Recorded]:
    """Return the fastest memory format in which a module computes what it computes for contiguous images, and that pass.

    Args:
        call: The module.
        images: Images (1,C,H,W).
        custom: Whether code of the user runs, which may read memory in its order and return something else without an error.

    Raises:
        Exception: What the module raises, if it accepts neither format.
    """
    outputs, errors = [], list[Exception]()
    for form in FORMATS:
        try:
            outputs.append((form, call(images.contiguous(memory_format=form))))
            if not custom:
                break
        except Exception as error:  # noqa: BLE001  a user's module may fail in any way
            errors.append(error)
    if not outputs:
        raise errors[-1]
    if len(outputs) == 2 and not same(outputs[0][1].raw, outputs[1][1].raw):
        again = call(images.contiguous(memory_format=FORMATS[0]))
        # A module that returns something else at every call tells nothing about formats.
        return outputs[1 if same(again.raw, outputs[0][1].raw) else 0]
    return outputs[0]


def behaviour(module: nn.Module, images: Tensor) -> Behaviour:
    """Probe a module; call it inside `preserved(module)`, without gradients.

    Args:
        module: The module, which returns logits.
        images: Two different images (2,C,H,W).
    """
    try:
        pair = _logits(module, images)
    except Exception as error:
        if not out_of_memory(error):
            raise
        # Nothing is known about batches that do not fit.
        return Behaviour()
    chance = depends_on_chance(module, images, pair)
    batch = "" if chance else depends_on_batch(module, images[:1], pair)
    return Behaviour(pair is None, bool(batch), tuple(text for text in (batch, chance) if text))


def depends_on_chance(module: nn.Module, images: Tensor, logits: Tensor | None) -> str:
    """Return a finding if two equal calls return different logits, or an empty text."""
    again = _logits(module, images)
    if logits is None or again is None or same(again, logits, EXACT):
        return ""
    return f"two calls on the same image return different outputs{_dropout(module)}: scores and maps differ between runs"


def depends_on_batch(module: nn.Module, first: Tensor, pair: Tensor | None) -> str:
    """Return a finding if the logits of an image depend on the other images of its batch, or an empty text.

    A batch of two equal images runs the same operations as one of two different images, so that even a small deviation is no rounding.

    Args:
        module: The module, which returns logits.
        first: An image (1,C,H,W).
        pair: Logits of it and of another image in one batch; None if the module failed on them.
    """
    twice = _logits(module, torch.cat([first, first]))
    if pair is None or twice is None or len(pair) != 2:
        return "the model accepts only one image at a time, so every pass takes a single image"
    alone = _logits(module, first)
    if same(twice[0], pair[0], EXACT) and same(twice[1], twice[0], ROUNDED) and alone is not None and same(alone[0], twice[0], ROUNDED):
        return ""
    norms = [path for path, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is None]
    cause = f" ({norms[0]} is a BatchNorm without running statistics)" if norms else ""
    return (
        f"the outputs for an image depend on the other images of its batch{cause}; every image and every variant of it therefore "
        "goes through the model alone"
    )


def _logits(module: nn.Module, images: Tensor) -> Tensor | None:
    """Return the logits, or None if the module fails for several images, but not for the first one alone."""
    try:
        output = module(images.clone())
    except Exception as error:
        if out_of_memory(error):
            raise
        module(images[:1].clone())
        return None
    return output if isinstance(output, Tensor) and output.ndim in (1, 2) else None


def _dropout(module: nn.Module) -> str:
    """Return a hint at the cause of chance: all modules are in evaluation mode, so that none of PyTorch's own draws numbers."""
    active = [
        path for path, m in module.named_modules() if "drop" in type(m).__name__.lower() and not type(m).__module__.startswith("torch.")
    ]
    return (
        f" ({active[0]}, or another dropout that is active in evaluation mode)"
        if active
        else " (such as a dropout that is active in evaluation mode)"
    )


def particulars(module: nn.Module, form: torch.memory_format) -> tuple[str, ...]:
    """Return what sessions of a module do differently than the module itself, and which parts of it have no layers."""
    parts = dict(module.named_modules())
    checkpointed = [p for p, m in parts.items() if any(getattr(m, f"{name}_checkpointing", False) is True for name in ("grad", "gradient"))]
    scripted = [p for p, m in parts.items() if isinstance(m, torch.jit.ScriptModule)]
    found = [
        "images are passed in contiguous memory, because the model does not accept channels_last" if form != FORMATS[0] else "",
        f"gradient checkpointing of {checkpointed[0] or 'the model'} is off while maps are computed" if checkpointed else "",
        f"{scripted[0] or 'the model'} is a TorchScript module, whose layers cannot be read" if scripted else "",
    ]
    return tuple(text for text in found if text)
