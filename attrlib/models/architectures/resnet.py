"""ResNet with basic blocks at any width and depth, for the small versions; torchvision provides the published ones."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models import resnet

from attrlib.models.architectures.residual import DOUBLING, HALVING, Stages


class BasicBlock(resnet.BasicBlock):
    """torchvision's block of two convolutions, which creates its shortcut where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int = 1):
        shortcut = None
        if stride != 1 or channels != width:
            shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        super().__init__(channels, width, stride, shortcut)


class ResNet(Stages):
    """Residual network with BatchNorm and basic blocks (He et al. 2016); keys, computation and initialisation are torchvision's.

    The defaults are those of ResNet-18.

    Args:
        depths: Number of blocks of each stage.
        width: Width of the first stage's blocks.
        num_classes: Number of classes.
        factors: Width of each stage in units of `width`.
    """

    def __init__(self, depths: Sequence[int] = (2, 2, 2, 2), width: int = 64, num_classes: int = 1000, factors: Sequence[int] = DOUBLING):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        block: Any = BasicBlock
        channels = self.add_stages(block, width, [width * k for k in factors], depths, stride=HALVING)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, x: Tensor) -> Tensor:
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    def head(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(x).flatten(1))
