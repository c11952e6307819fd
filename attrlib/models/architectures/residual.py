"""What the residual networks here share: a stem, stages of blocks called `layer1`, `layer2`, ..., and a head."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

HALVING = (1, 2, 2, 2)
"""The strides of a ResNet's stages."""
DOUBLING = (1, 2, 4, 8)
"""The widths of a ResNet's stages, in units of the first; the small versions here stop at 4."""


class Block(Protocol):
    """A class of residual blocks, made from its channels, its width and options; `width * expansion` channels come out."""

    expansion: int

    def __call__(self, *args: Any, **options: Any) -> nn.Module: ...


class Stages(nn.Module, ABC):
    """Images (B,3,H,W) to logits (B,C): `head(layerN(... layer1(stem(x))))`."""

    def add_stages(self, block: Block, channels: int, widths: Sequence[int], depths: Sequence[int], **first: Sequence[int]) -> int:
        """Adds one stage for each depth, as many blocks; returns the channels that come out of the last.

        `first` gives options of each stage's first block, which alone changes the resolution, such as `stride=(1, 2, 2, 2)`.
        """
        for i, depth in enumerate(depths):
            options = {name: values[i] for name, values in first.items()}
            blocks = [block(channels, widths[i], **options)]
            channels = widths[i] * block.expansion
            blocks += [block(channels, widths[i]) for _ in range(1, depth)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        return channels

    @property
    def stages(self) -> list[nn.Module]:
        """`layer1`, `layer2`, ..., in order."""
        return [module for name, module in self.named_children() if name.startswith("layer")]

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks of all stages, in order."""
        return [block for stage in self.stages for block in stage.children()]

    @abstractmethod
    def stem(self, x: Tensor) -> Tensor:
        """From images to the first stage's input."""

    @abstractmethod
    def head(self, x: Tensor) -> Tensor:
        """From the last stage's output to logits."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B,C) of images (B,3,H,W)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x)
