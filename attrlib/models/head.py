"""The last linear layer of a network, whose rows are the weights of the classes."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from attrlib.models.cells import CellView
from attrlib.models.classifier import Classifier

_paths: WeakKeyDictionary[Classifier, str] = WeakKeyDictionary()


def class_weights(model: Classifier) -> Tensor | None:
    """Return the weights of the classes (C,D) in the last layer; None if the logits are not the output of a single linear layer.

    Args:
        model: The classifier, or a view of it. Call it inside `model.session()`.
    """
    if isinstance(model, CellView):
        return class_weights(model.model)
    if model not in _paths:
        _paths[model] = _find(model)
    if not _paths[model]:
        return None
    weight: Any = model.module.get_submodule(_paths[model]).weight
    rows = weight.detach().flatten(1)
    # The one logit of two classes is that of the second; the first has the negative weights.
    return torch.cat([-rows, rows]) if len(rows) == 1 else rows


def _find(model: Classifier) -> str:
    """Return the path of the linear layer or convolution whose output, averaged over positions, is the network's; empty if there is none."""
    outputs: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(_layer: nn.Module, _args: Any, output: Tensor) -> None:
            outputs[path] = output

        return hook

    with ExitStack() as stack, torch.no_grad():
        for path, layer in model.module.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                stack.callback(layer.register_forward_hook(keep(path)).remove)
        raw = model.module(model._probe(1))
    for path, output in reversed(outputs.items()):
        pooled = output.mean((2, 3)) if output.ndim == 4 else output
        if pooled.shape == raw.shape and torch.allclose(pooled, raw, rtol=1e-4, atol=1e-5):
            return path
    return ""
