"""Fixup-ResNet: a residual network without normalisation, but with scalar biases and scales."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attrlib.models.architectures.residual import DOUBLING, Block
from attrlib.models.architectures.x_resnet import XBasicBlock, XBottleneck, XResNet


def _bias() -> nn.Parameter:
    return nn.Parameter(torch.zeros(1))


def _scale() -> nn.Parameter:
    return nn.Parameter(torch.ones(1))


class FixupBasicBlock(XBasicBlock):
    """X-ResNet's block with a scalar bias before and after each convolution, and a scalar scale."""

    def __init__(self, channels: int, width: int, stride: int = 1):
        super().__init__(channels, width, stride)
        self.bias1a, self.bias1b, self.bias2a = _bias(), _bias(), _bias()
        self.scale = _scale()
        self.bias2b = _bias()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.conv1(x + self.bias1a) + self.bias1b)
        out = self.conv2(out + self.bias2a) * self.scale + self.bias2b
        return self.relu(out + (x if self.downsample is None else self.downsample(x + self.bias1a)))


class FixupBottleneck(XBottleneck):
    """X-ResNet's bottleneck with a scalar bias before and after each convolution, and a scalar scale."""

    def __init__(self, channels: int, width: int, stride: int = 1):
        super().__init__(channels, width, stride)
        self.bias1a, self.bias1b, self.bias2a, self.bias2b, self.bias3a = _bias(), _bias(), _bias(), _bias(), _bias()
        self.scale = _scale()
        self.bias3b = _bias()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.conv1(x + self.bias1a) + self.bias1b)
        out = self.relu(self.conv2(out + self.bias2a) + self.bias2b)
        out = self.conv3(out + self.bias3a) * self.scale + self.bias3b
        return self.relu(out + (x if self.downsample is None else self.downsample(x + self.bias1a)))


class FixupResNet(XResNet):
    """Fixup-ResNet (Zhang et al. 2019): scalar biases, a scale in each block and an initialisation replace BatchNorm.

    The defaults are those of Fixup-ResNet-50; (2, 2, 2, 2) basic blocks are Fixup-ResNet-18.

    Args:
        depths: Number of blocks of each stage.
        width: Width of the first stage's blocks.
        bottleneck: Whether to use bottlenecks rather than basic blocks.
        num_classes: Number of classes.
        factors: Width of each stage in units of `width`.
    """

    basic: Block = FixupBasicBlock
    bottleneck: Block = FixupBottleneck

    def __init__(
        self,
        depths: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        bottleneck: bool = True,
        num_classes: int = 1000,
        factors: Sequence[int] = DOUBLING,
    ):
        super().__init__(depths, width, bottleneck, num_classes, factors)
        self.bias1, self.bias2 = _bias(), _bias()
        self.fc.bias = nn.Parameter(torch.zeros(num_classes))

    def stem(self, x: Tensor) -> Tensor:
        return self.maxpool(self.relu(self.conv1(x) + self.bias1))

    def head(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(x).flatten(1) + self.bias2)
