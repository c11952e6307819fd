"""One forward pass of a probe image: its attention matrices with their operands, and the layers computed in between."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attrlib.errors import LayerError
from attrlib.models import Classifier, Layout
from attrlib.models.attention import Operands
from attrlib.models.layers import NAMED
from attrlib.models.modules.tracing import first_tensor, observed


@dataclass
class ModuleCall:
    """One call of a module: how many attention matrices there were before and after it, and its output if this is a layer.

    Attributes:
        path: Path of the module.
        parent: Whether it has submodules.
        begin: Number of attention matrices before the call.
        end: Number of attention matrices after it.
        output: Its output; None if it is no layer, or was written into later.
        layout: Layout of the output.
    """

    path: str
    parent: bool
    begin: int
    end: int = -1
    output: Tensor | None = None
    layout: Layout | None = None

    def holds(self, block: int) -> bool:
        """Return whether an attention matrix is computed inside of the call."""
        return self.begin <= block < self.end

    def inside(self, path: str) -> bool:
        """Return whether the module is part of another one."""
        return self.path.startswith(f"{path}.") if path else bool(self.path)


@dataclass
class Trace:
    """A forward pass of one image with its graph.

    Attributes:
        leaf: The image.
        logits: Raw output of the model.
        operands: The attention matrices and all matrix products.
        calls: Calls of modules, in order of their start.
    """

    leaf: Tensor
    logits: Tensor
    operands: Operands
    calls: list[ModuleCall]

    @property
    def matrices(self) -> list[Tensor]:
        """Return the attention matrices that depend on the image."""
        return self.operands.matrices

    def layers_before(self, block: int) -> list[ModuleCall]:
        """Return the layers between an attention matrix and the one before, those that most likely show the image's own grid first.

        Inside a module of attention, tokens may lie in the order of windows, with padding. Layers outside of all of these come first,
        and of those the last one.
        """
        attending = self.attending

        def rank(call: ModuleCall) -> int:
            return 2 if any(call.inside(path) for path in attending) else int(call.path in attending)

        return sorted((c for c in reversed(self.calls) if c.output is not None and c.end == block), key=rank)

    @property
    def attending(self) -> set[str]:
        """Return the innermost module with submodules around each attention matrix."""
        around = ([c.path for c in self.calls if c.parent and c.holds(block)] for block in range(len(self.matrices)))
        return {paths[-1] for paths in around if paths}

    def block_of(self, block: int, layout: Layout) -> str:
        """Return the outermost module that computes this attention matrix alone and returns tokens of a layout; empty if there is none."""
        for call in self.calls:
            if call.holds(block) and call.end - call.begin == 1 and call.layout is not None:
                found = call.layout
                if (found.kind, found.height, found.width, found.prefix) == ("tokens", layout.height, layout.width, layout.prefix):
                    return call.path
        return ""


def traced(model: Classifier, images: Tensor) -> Trace:
    """Return the trace of a forward pass over one image (1,C,H,W). Call it inside of `model.session()`."""
    size = (images.shape[2], images.shape[3])
    layouts: dict[str, Layout] = {}
    for path in model.layers.keys() - NAMED:
        with suppress(LayerError):
            layouts[path] = model.layer(path, size).layout
    operands = Operands()
    calls: list[ModuleCall] = []
    stack: list[ModuleCall] = []
    outputs: list[tuple[ModuleCall, Tensor, int]] = []

    def enter(path: str, parent: bool) -> Callable[..., None]:
        def hook(_module: Any, _args: Any) -> None:
            stack.append(ModuleCall(path, parent, len(operands.matrices)))
            calls.append(stack[-1])

        return hook

    def leave(path: str) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            call = stack.pop()
            while call.path != path:
                # A target at an inner layer ends the pass inside of modules that are never left.
                call = stack.pop()
            call.end = len(operands.matrices)
            tensor = first_tensor(output)
            if tensor is not None and tensor.requires_grad and path in layouts:
                outputs.append((call, tensor, tensor._version))

        return hook

    leaf = images.detach().requires_grad_()
    split = model.split(model.layer("Input", size), images.shape[1:]).fresh()
    with ExitStack() as hooks, torch.enable_grad():
        for path, module in observed(model.module):
            hooks.callback(module.register_forward_pre_hook(enter(path, any(True for _ in module.children()))).remove)
            hooks.callback(module.register_forward_hook(leave(path)).remove)
        with operands:
            logits = split.after(split.before(leaf), torch.zeros(1, dtype=torch.long, device=leaf.device))
    for call, tensor, version in outputs:
        if tensor._version == version:
            call.output, call.layout = tensor, layouts[call.path]
    return Trace(leaf, logits, operands, calls)
