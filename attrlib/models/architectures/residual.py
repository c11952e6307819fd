"""Base class of the residual networks: a stem, stages of blocks called `layer1`, `layer2`, ..., and a head."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

HALVING = (1, 2, 2, 2)
"""Strides of a ResNet's stages."""
DOUBLING = (1, 2, 4, 8)
"""Stage widths of a ResNet, in units of the first; the small versions stop at 4."""


class Block(Protocol):
    """A class of residual blocks, created from its channels, its width and options; it outputs `width * expansion` channels."""

    expansion: int

    def __call__(self, *args: Any, **options: Any) -> nn.Module: ...


class Stages(nn.Module, ABC):
    """A residual network from images (B,3,H,W) to logits (B,C): `head(layerN(... layer1(stem(x))))`."""

    def add_stages(self, block: Block, channels: int, widths: Sequence[int], depths: Sequence[int], **first: Sequence[int]) -> int:
        """Add the stages `layer1`, `layer2`, ... and return the number of channels of the last one.

        Args:
            block: Class of the blocks.
            channels: Channels of the first stage's input.
            widths: Width of the blocks of each stage.
            depths: Number of blocks of each stage.
            **first: Options of each stage's first block, such as `stride=(1, 2, 2, 2)`; only this block changes the resolution.
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
        """Return the stages `layer1`, `layer2`, ..., in order."""
        return [module for name, module in self.named_children() if name.startswith("layer")]

    @property
    def blocks(self) -> list[nn.Module]:
        """Return the blocks of all stages, in order."""
        return [block for stage in self.stages for block in stage.children()]

    @abstractmethod
    def stem(self, x: Tensor) -> Tensor:
        """Map images to the input of the first stage."""

    @abstractmethod
    def head(self, x: Tensor) -> Tensor:
        """Map the output of the last stage to logits."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B,C) of images (B,3,H,W)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x)
