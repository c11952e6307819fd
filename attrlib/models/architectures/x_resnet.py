"""X-ResNet: a residual network without normalisation and biases, hence nonnegatively homogeneous."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attrlib.models.architectures.residual import DOUBLING, HALVING, Block, Stages


def _convolution(channels: int, width: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)


def _shortcut(channels: int, out: int, stride: int) -> nn.Conv2d | None:
    return None if stride == 1 and channels == out else _convolution(channels, out, 1, stride)


class XBasicBlock(nn.Module):
    """ReLU of the shortcut plus two 3 x 3 convolutions with a ReLU between them; no bias."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1 = _convolution(channels, width, 3, stride)
        self.conv2 = _convolution(width, width, 3)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, width, stride)

    @property
    def branch(self) -> list[nn.Conv2d]:
        """Return the convolutions of the residual branch, in order."""
        return [self.conv1, self.conv2]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,channels,h,w) to (B,width,h/stride,w/stride)."""
        out = self.conv2(self.relu(self.conv1(x)))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class XBottleneck(nn.Module):
    """ReLU of the shortcut plus convolutions of 1 x 1, 3 x 3 (with the stride) and 1 x 1 (four times the width); no bias."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1 = _convolution(channels, width, 1)
        self.conv2 = _convolution(width, width, 3, stride)
        self.conv3 = _convolution(width, 4 * width, 1)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, 4 * width, stride)

    @property
    def branch(self) -> list[nn.Conv2d]:
        """Return the convolutions of the residual branch, in order."""
        return [self.conv1, self.conv2, self.conv3]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,channels,h,w) to (B,4*width,h/stride,w/stride)."""
        out = self.conv3(self.relu(self.conv2(self.relu(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class XResNet(Stages):
    """X-ResNet (Hesse et al. 2021): Fixup-ResNet without biases and scales, so that f(a x) = a f(x) for a >= 0.

    Input x Gradient then equals Integrated Gradients with a zero baseline. The defaults are those of X-ResNet-50. Weights are initialised
    as in Fixup.

    Args:
        depths: Number of blocks of each stage.
        width: Width of the first stage's blocks.
        bottleneck: Whether to use bottlenecks rather than basic blocks.
        num_classes: Number of classes.
        factors: Width of each stage in units of `width`.
    """

    basic: Block = XBasicBlock
    bottleneck: Block = XBottleneck

    def __init__(
        self,
        depths: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        bottleneck: bool = True,
        num_classes: int = 1000,
        factors: Sequence[int] = DOUBLING,
    ):
        super().__init__()
        self.conv1 = _convolution(3, width, 7, 2)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        block = self.bottleneck if bottleneck else self.basic
        channels = self.add_stages(block, width, [width * k for k in factors], depths, stride=HALVING)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes, bias=False)
        self.initialise()

    def initialise(self) -> None:
        """Apply Fixup's initialisation (Zhang et al. 2019), which replaces normalisation at the start of training.

        With L branches of m convolutions each, all convolutions but the last have He's initialisation scaled by L^(-1/(2m-2)). The last
        one and the head are zero, so that every block starts as its shortcut.
        """
        blocks = [block for block in self.blocks if isinstance(block, XBasicBlock | XBottleneck)]
        for block in blocks:
            *inner, last = block.branch
            for conv in inner:
                _he(conv, len(blocks) ** (-0.5 / len(inner)))
            nn.init.zeros_(last.weight)
            if block.downsample is not None:
                _he(block.downsample)
        nn.init.zeros_(self.fc.weight)

    def stem(self, x: Tensor) -> Tensor:
        return self.maxpool(self.relu(self.conv1(x)))

    def head(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(x).flatten(1))


def _he(conv: nn.Conv2d, factor: float = 1.0) -> None:
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    with torch.no_grad():
        conv.weight.mul_(factor)
