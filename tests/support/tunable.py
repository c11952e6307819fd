"""Methods with a parameter whose effect on a score is known."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods import METHODS, AttributionContext, Method, Passes
from attrlib.models import Layer
from attrlib.registry import Paper, param
from attrlib.specs import digest

BEST = 0.3
TESTS = Paper("attrlib", "Tests", "https://example.org")


def noise(context: AttributionContext, *key: object) -> Tensor:
    """Return Gaussian noise (B,1,h,w) that depends on the key and on each image."""
    shape = context.layer.shape[1:]
    contents = [digest(image.contiguous().numpy().tobytes()) for image in context.images]
    return torch.stack([torch.randn(1, *shape, generator=context.generator("noise", *map(str, key), content)) for content in contents])


@dataclass(frozen=True)
class Blend(Method):
    """Blend: x * dy/dx + 100 |mix - 0.3| * noise: the contribution of every pixel of a linear model at mix = 0.3, where SDS is 1."""

    name, family, paper = "Blend", "test", TESTS
    mix: float = param(0.0, "Share of noise", low=0.0, high=1.0)

    def attribute(self, context: AttributionContext) -> Tensor:
        truth = context.reduce(context.inputs * context.clean_gradient())
        return truth + 100 * abs(self.mix - BEST) * noise(context)

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=1)


@dataclass(frozen=True)
class Dice(Method):
    """Dice: noise, other noise for each number, so that every setting has an expected SDS of 0."""

    name, family, paper = "Dice", "test", TESTS
    number: int = param(0, "Number", low=0, high=1000)
    even: bool = param(False, "Refuse odd numbers")

    def check(self, model: object, layer: Layer) -> None:
        if self.even and self.number % 2:
            raise MethodError("Dice: the number is odd; choose an even one")

    def attribute(self, context: AttributionContext) -> Tensor:
        return noise(context, self.number)

    def passes(self, layer: Layer) -> Passes:
        return Passes()


@contextmanager
def registered() -> Iterator[None]:
    """Register both methods in the block."""
    for cls in (Blend, Dice):
        METHODS.register(cls)
    try:
        yield
    finally:
        for cls in (Blend, Dice):
            METHODS.forget(cls.name)
