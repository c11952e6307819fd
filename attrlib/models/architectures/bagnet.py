"""BagNet, which averages the evidence of small patches, and its built-in explanation: the logits of every patch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from attrlib.models.architectures.residual import DOUBLING, Stages
from attrlib.models.modules.preserve import preserved

STRIDES = (2, 2, 2, 1)
KERNELS = {9: (3, 3, 1, 1), 17: (3, 3, 3, 1), 33: (3, 3, 3, 3)}
"""Kernel size of each stage's first block, by receptive field; all other blocks see single positions."""


class Bottleneck(nn.Module):
    """ResNet's bottleneck with valid convolutions; the shortcut is cropped at the bottom and right to the size of the branch."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int = 1, kernel: int = 1):
        super().__init__()
        self.stride = stride
        out = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel, stride, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,channels,h,w) to (B,4*width,h',w'), with h' = (h - kernel) // stride + 1."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(out + shortcut[:, :, : out.shape[2], : out.shape[3]])


class BagNet(Stages):
    """BagNet (Brendel and Bethge 2019): a ResNet-50 whose last positions see patches of `receptive_field` pixels.

    The logits are the mean, over positions eight pixels apart, of the logits of their patches. The defaults are those of BagNet-33.

    Args:
        receptive_field: Side of the patches in pixels: 9, 17 or 33.
        depths: Number of blocks of each stage.
        width: Width of the first stage's blocks.
        num_classes: Number of classes.
        factors: Width of each stage in units of `width`.
    """

    def __init__(
        self,
        receptive_field: int = 33,
        depths: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        num_classes: int = 1000,
        factors: Sequence[int] = DOUBLING,
    ):
        super().__init__()
        self.receptive_field = receptive_field
        self.conv1 = nn.Conv2d(3, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        widths = [width * k for k in factors]
        channels = self.add_stages(Bottleneck, width, widths, depths, stride=STRIDES, kernel=KERNELS[receptive_field])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, x: Tensor) -> Tensor:
        return self.relu(self.bn1(self.conv2(self.conv1(x))))

    def head(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(x).flatten(1))


@torch.no_grad()
def patch_logits(
    model: BagNet, images: Tensor, targets: Tensor | None = None, batch_size: int = 8, weights: Tensor | None = None
) -> Tensor:
    """Return the logits of the patch around every pixel.

    The side of a patch is the model's receptive field, and the pixel is its centre. Pixels outside the image are zero. The logits
    are computed in evaluation mode, and the model stays as it was.

    The result is exact. Patches eight pixels apart are one dense pass, so 64 passes over shifted images give all patches. The passes
    share their common part: shifts branch off one after the other at each stride, and only the last stages run 64 times.

    Args:
        model: The BagNet.
        images: Normalised images (B,3,H,W).
        targets: Classes of each image, (B,) or (B,K); None takes every class (200 MB per image of 224 px with 1000 classes).
        batch_size: Images processed at once.
        weights: Weights (B,C) of a sum of the logits, which is returned in place of those of `targets` (K = 1).

    Returns:
        Logits (B,K,H,W).
    """
    height, width = images.shape[2:]
    reach = model.receptive_field // 2
    padded = F.pad(images, (reach, reach + -width % 8, reach, reach + -height % 8))
    maps = []
    with preserved(model):
        for start in range(0, len(images), batch_size):
            part = padded[start : start + batch_size]
            if weights is not None:
                rows = weights[start : start + batch_size].to(images.device)
                weight, bias = (rows @ model.fc.weight)[:, None], (rows @ model.fc.bias)[:, None]
            elif targets is None:
                weight, bias = model.fc.weight.expand(len(part), -1, -1), model.fc.bias.expand(len(part), -1)
            else:
                classes = targets[start : start + batch_size].to(images.device).view(len(part), -1)
                weight, bias = model.fc.weight[classes], model.fc.bias[classes]
            dense = _every_shift(model.blocks, model.stem(part), weight, bias)
            maps.append(dense[:, :, :height, :width])
    return torch.cat(maps)


def _every_shift(blocks: Sequence[nn.Module], x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the maps (B,K,h,w), at stride 1, of the blocks and a head with weights (B,K,C) and biases (B,K).

    The sides of `x` must be such that all shifts give maps of the same size.
    """
    for i, block in enumerate(blocks):
        assert isinstance(block, Bottleneck)
        stride = block.stride
        if stride == 1:
            x = block(x)
            continue
        rest = blocks[i + 1 :]
        rows = []
        for dy in range(stride):
            row = [_every_shift(rest, block(x[:, :, dy:, dx:]), weight, bias) for dx in range(stride)]
            rows.append(torch.stack(row, dim=4).flatten(3))
        return torch.stack(rows, dim=3).flatten(2, 3)
    return torch.einsum("bkc,bchw->bkhw", weight, x) + bias[:, :, None, None]
