"""Recognise classification heads that replace those of an architecture by their keys and shapes, and rebuild them."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attrlib.models.loading.prefixes import below

_SIMPLE = (nn.Linear, nn.Dropout, nn.Identity, nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh)


class ConcatPool(nn.Module):
    """Concatenate the global maximum and the global mean of each channel, as the heads of fastai do."""

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B,C,H,W) to (B,2C,1,1)."""
        return torch.cat([maps.amax((2, 3), keepdim=True), maps.mean((2, 3), keepdim=True)], 1)


@dataclass(frozen=True)
class Head:
    """A head that was recognised.

    Attributes:
        module: The head, on the device `meta`.
        features: Number of inputs of its first layer with weights.
        assumed: What keys and shapes do not tell, as a sentence; empty if they tell everything.
    """

    module: nn.Module
    features: int
    assumed: str = ""


def recognise(state: Mapping[str, Tensor]) -> Head | None:
    """Return the head to which a part of a state dict belongs, or None if it is none.

    Linear layers, BatchNorm, LayerNorm and PReLU are told by their shapes. Other modules leave gaps in the numbering of an
    `nn.Sequential`: the first gap after a hidden linear layer is taken for a ReLU, and the others for Dropout, which does nothing.

    Args:
        state: The keys below the head, such as `weight` or `1.weight`.
    """
    if "weight" in state and state["weight"].ndim == 2 and set(state) <= {"weight", "bias"}:
        return Head(_linear(state), state["weight"].shape[1])
    names = list(dict.fromkeys(key.partition(".")[0] for key in state))
    if not names or any("." not in key for key in state):
        return None
    parts = {name: below(state, f"{name}.") for name in names}
    if len(parts) == 1:
        name, part = next(iter(parts.items()))
        if "weight" not in part and (inner := recognise(part)) is not None:
            return Head(nn.Sequential(OrderedDict({name: inner.module})), inner.features, inner.assumed)
    layers = {name: _layer(part) for name, part in parts.items()}
    return _chain({name: layer for name, layer in layers.items() if layer is not None}) if all(layers.values()) else None


def fastai_head(state: Mapping[str, Tensor], features: int) -> Head | None:
    """Return a head as fastai's `create_head` builds it, or None: pooling, flattening, then layers as in `recognise`.

    Args:
        state: The keys below the head.
        features: Channels of the maps that it gets.
    """
    head = recognise(state)
    if head is None or head.features not in (features, 2 * features) or not isinstance(head.module, nn.Sequential):
        return None
    if not all(isinstance(head.module[i], nn.Identity) for i in range(min(2, len(head.module)))):
        return None
    head.module[0] = nn.AdaptiveAvgPool2d(1) if head.features == features else ConcatPool()
    head.module[1] = nn.Flatten()
    return head


def is_replaceable(module: nn.Module) -> bool:
    """Return whether a module is a head of linear layers only, so that another head of that kind may take its place."""
    return isinstance(module, nn.Linear) or (type(module) is nn.Sequential and all(isinstance(part, _SIMPLE) for part in module))


def _linear(state: Mapping[str, Tensor]) -> nn.Linear:
    rows, columns = state["weight"].shape
    return nn.Linear(columns, rows, bias="bias" in state, device="meta")


def _layer(state: Mapping[str, Tensor]) -> nn.Module | None:
    weight, mean = state.get("weight"), state.get("running_mean")
    if mean is not None:
        return nn.BatchNorm1d(len(mean), affine=weight is not None, device="meta") if mean.ndim == 1 else None
    if weight is None or not set(state) <= {"weight", "bias"}:
        return None
    if weight.ndim == 2:
        return _linear(state)
    if weight.ndim != 1:
        return None
    return nn.LayerNorm(len(weight), device="meta") if "bias" in state else nn.PReLU(len(weight), device="meta")


def _chain(layers: Mapping[str, nn.Module]) -> Head | None:
    """Return the layers in a row, with what stood between them, or None if their widths do not follow one another."""
    width = features = _width(next(iter(layers.values())))
    for layer in layers.values():
        if isinstance(layer, nn.PReLU):
            continue
        if _width(layer) != width:
            return None
        width = layer.out_features if isinstance(layer, nn.Linear) else width
    last = list(layers.values())[-1]
    if not isinstance(last, nn.Linear):
        return None
    numbered = all(name.isdecimal() for name in layers)
    if numbered and [int(name) for name in layers] != sorted({int(name) for name in layers}):
        return None
    rows: OrderedDict[str, nn.Module] = OrderedDict()
    waiting, relus = False, 0
    for name, layer in layers.items():
        # Names tell nothing of what stood between: a hidden linear layer without an activation would be pointless.
        gap = int(name) - len(rows) if numbered else int(waiting and isinstance(layer, nn.Linear))
        if numbered and int(name) > 2 * len(layers) + 16:
            return None
        for _ in range(gap):
            rows[str(len(rows)) if numbered else f"relu{len(rows)}"] = nn.ReLU() if waiting else nn.Identity()
            relus, waiting = relus + waiting, False
        rows[name] = layer
        waiting = isinstance(layer, nn.Linear) or (waiting and not isinstance(layer, nn.PReLU))
    module = nn.Sequential(rows)
    hidden = sum(isinstance(layer, nn.Linear) for layer in layers.values()) - 1
    assumed = "ReLU between its layers, and nothing after the last" if relus else "no activation between its layers" if hidden else ""
    return Head(module, features, assumed)


def _width(layer: nn.Module) -> int:
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if isinstance(layer, nn.BatchNorm1d):
        return layer.num_features
    return int(layer.weight.numel()) if isinstance(layer.weight, Tensor) else 0
