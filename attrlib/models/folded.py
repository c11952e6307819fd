"""Twins of models that compute the same with fewer operations: each BatchNorm is folded into the convolution before it."""

from collections import Counter
from contextlib import ExitStack
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from attrlib.models.cells import CellView
from attrlib.models.classifier import Classifier
from attrlib.models.modules.ending import duplicate

CONVOLUTIONS, NORMS = (nn.Conv2d, Conv2dSame), (nn.BatchNorm2d, BatchNormAct2d)
"""Exactly these types: a subclass may compute something else."""
TOLERANCE = 1e-4
"""Largest deviation of the logits, relative to the largest logit, that a different order of rounding may cause."""


class Folded:
    """The folded twins of classifiers, each created once; valid as long as the weights of the originals do not change.

    In evaluation mode BatchNorm is the map `s a + b` of each channel, with `s = weight / sqrt(var + eps)` and `b = bias - s mean`.
    After a convolution `W * x + c`, the two are one convolution with weights `s W` and bias `s c + b`. A twin has the original's logits
    and gradients up to rounding, shares all other weights with it, and has its modules at the same paths. If the logits differ, or
    nothing can be folded, the original is its own twin.
    """

    def __init__(self) -> None:
        self._twins: dict[Classifier, Classifier] = {}

    def __call__(self, model: Classifier, path: str = "") -> Classifier:
        """Return the twin of a model for attribution to a layer, or the model itself if the layer's output differs in the twin.

        Args:
            model: The classifier.
            path: Module path of the layer; empty for the input.
        """
        if model not in self._twins:
            self._twins[model] = model.over(self(model.model)) if isinstance(model, CellView) else _folded(model)
        twin = self._twins[model]
        layer, folded = (each.module.get_submodule(path) for each in (model, twin))
        return model if type(layer) in CONVOLUTIONS and layer.weight is not folded.weight else twin


def _folded(model: Classifier) -> Classifier:
    with model.session(), torch.no_grad():
        probe = model._probe(2)
        expected = model.module(probe)
        pairs = _pairs(model.module, probe)
        if not pairs:
            return model
        # Find the layers first: the twin takes them over.
        _ = model.layers
        twin = model.with_module(_fold(model.module, pairs))
    with twin.session(), torch.no_grad():
        off = (twin.module(probe) - expected).abs().max()
    return twin if bool(off <= TOLERANCE * expected.abs().max()) else model


def _pairs(module: nn.Module, images: Tensor) -> dict[str, str]:
    """Return the path of each convolution whose output is read by a BatchNorm and by no other module, with that BatchNorm's path."""
    written: dict[int, tuple[str, Tensor]] = {}
    readers: dict[str, list[str]] = {}
    calls: Counter[str] = Counter()

    def read(path: str, args: tuple[Any, ...]) -> None:
        calls[path] += 1
        for value in args:
            if id(value) in written:
                readers.setdefault(written[id(value)][0], []).append(path)

    def write(path: str, output: Any) -> None:
        # Keep a reference, so that no later tensor gets the same id.
        written[id(output)] = path, output

    modules = dict(module.named_modules())
    with ExitStack() as stack:
        for path, part in modules.items():
            stack.callback(part.register_forward_pre_hook(lambda _m, args, path=path: read(path, args)).remove)
            if type(part) in CONVOLUTIONS:
                stack.callback(part.register_forward_hook(lambda _m, _args, output, path=path: write(path, output)).remove)
        module(images)
    weights = Counter(id(p) for part in modules.values() for p in part._parameters.values())
    return {
        path: norm
        for path, (norm, *more) in readers.items()
        if not more and _fixed(modules[norm]) and calls[path] == calls[norm] == 1 and weights[id(modules[path].weight)] == 1
    }


def _fixed(norm: nn.Module) -> bool:
    """Return whether a module is a BatchNorm with running statistics, so that it does not use those of the batch."""
    return type(norm) in NORMS and norm.running_mean is not None


def _fold(module: nn.Module, pairs: dict[str, str]) -> nn.Module:
    twin = duplicate(module, {id(t): t for t in (*module.parameters(), *module.buffers())})
    for path, norm_path in pairs.items():
        convolution, norm = twin.get_submodule(path), twin.get_submodule(norm_path)
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        scale, shift = _affine(norm)
        weight, bias = _exact(convolution.weight) * scale[:, None, None, None], convolution.bias
        shift = shift if bias is None else shift + scale * _exact(bias)
        convolution.weight = nn.Parameter(weight.to(convolution.weight), requires_grad=False)
        convolution.bias = nn.Parameter(shift.to(convolution.weight), requires_grad=False)
        parent, _, name = norm_path.rpartition(".")
        twin.get_submodule(parent)._modules[name] = _Behind(norm)
    return twin


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the factor and the offset that a BatchNorm applies to each channel."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (_exact(norm.running_var) + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * _exact(norm.weight)
    return scale, (0 if norm.bias is None else _exact(norm.bias)) - scale * _exact(norm.running_mean)


def _exact(values: Tensor) -> Tensor:
    """Return values as float64 on the CPU, because Apple's GPUs have no float64."""
    return values.cpu().double()


class _Behind(nn.Module):
    """What remains of a BatchNorm after its normalisation: nothing, except for timm's, which has further modules."""

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__()
        for name, part in norm.named_children():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the remaining modules; the shape stays the same."""
        for part in self.children():
            x = part(x)
        return x
