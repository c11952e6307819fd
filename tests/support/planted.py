"""Pictures whose class is decided by one patch, a method that knows where it is, and a network that is trained in milliseconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attrlib.retraining.plan
import attrlib.retraining.pool
from attrlib.data.datasets import Dataset, load_dataset
from attrlib.methods import METHODS, AttributionContext, Method, Passes
from attrlib.models import Layer
from attrlib.registry import param
from support.runs import HALF
from support.tunable import TESTS, noise

SIDE = 16
PATCH = (slice(4, 8), slice(8, 12))
SHARE = 16 / SIDE**2
"""Share of the pixels in the patch."""
NAMES = ("dark", "bright")


def planted(count: int = 160, seed: int = 0) -> Dataset:
    """Return pictures of noise whose patch is dark or bright; that is their class."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    labels = np.arange(count) % 2
    values[:, *PATCH] = np.where(labels, 215, 40)[:, None, None, None]
    return load_dataset(values, labels=labels.tolist(), class_names=list(NAMES))


@dataclass(frozen=True)
class Planted(Method):
    """Planted: high on the patch, or low on it; noise elsewhere. Broken maps are NaN."""

    name, family, paper = "Planted", "test", TESTS
    low: bool = param(False, "Low on the patch")
    broken: bool = param(False, "NaN")

    def attribute(self, context: AttributionContext) -> Tensor:
        maps = noise(context)
        maps[:, :, *PATCH] += -100.0 if self.low else 100.0
        return maps * float("nan") if self.broken else maps

    def passes(self, layer: Layer) -> Passes:
        return Passes()


class Patches(nn.Module):
    """Reads disjoint patches of 4 x 4 px."""

    def __init__(self, classes: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv2d(3, 4, 4, 4), nn.Dropout(dropout)
        self.fc = nn.Linear(4 * (SIDE // 4) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.conv(x).relu().flatten(1)))


def small(classes: int = 2, seed: int = 0, dropout: float = 0.0) -> attrlib.Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return attrlib.wrap_model(Patches(classes, dropout), SIDE, HALF, HALF, crop=1.0)


def use_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train `Patches` in this process, whatever the name of the network."""

    def untrained(_net: str, classes: int, _size: object, _channels: int, seed: int, _device: str) -> attrlib.Classifier:
        return small(classes, seed)

    for module in (attrlib.retraining.plan, attrlib.retraining.pool):
        monkeypatch.setattr(module, "untrained", untrained)


@contextmanager
def registered() -> Iterator[None]:
    """Register the method in the block."""
    METHODS.register(Planted)
    try:
        yield
    finally:
        METHODS.forget(Planted.name)
