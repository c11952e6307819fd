"""B-cos ResNet: a network that is, for each image, one linear map of it, and that map as its own explanation."""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from attrlib.models.architectures.residual import DOUBLING, HALVING, Block, Stages
from attrlib.models.preserve import preserved


class BcosConv2d(nn.Conv2d):
    """B-cos convolution with b = 2: |cos(x, w)| * (w . x) for each patch x and unit weight w; no bias.

    Where `detached`, the factor |cos(x, w)| is a constant for gradients, which makes them the weights of the linear map that
    the layer is at this input.
    """

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1):
        super().__init__(channels, width, kernel, stride, kernel // 2, bias=False)
        self.reach = kernel // 2
        self.detached = False

    def forward(self, x: Tensor) -> Tensor:
        """From (B,channels,h,w) to (B,width,h/stride,w/stride)."""
        unit = self.weight / torch.linalg.vector_norm(self.weight, dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
        out = self._conv_forward(x, unit, None)
        squares = x.square().sum(1, keepdim=True)
        if self.kernel_size != (1, 1) or self.stride != (1, 1):
            squares = F.avg_pool2d(squares, self.kernel_size, self.stride, self.reach, divisor_override=1)
        norms = (squares + 1e-6).sqrt()
        cosine = (out / norms).abs().to(out.dtype)
        return out * (cosine.detach() if self.detached else cosine)


class UncentredBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that divides by the standard deviation but subtracts no mean, and has no bias: linear in evaluation mode."""

    def __init__(self, channels: int):
        super().__init__(channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x * weight / sqrt(var + eps), with the batch's variance in training mode, else the running one."""
        assert self.running_var is not None
        variance = self.running_var
        if self.training:
            variance = x.float().var((0, 2, 3), correction=0)
            with torch.no_grad():
                self.running_var.lerp_(variance, 0.1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return x * scale.to(x.dtype)[:, None, None]


def _shortcut(channels: int, out: int, stride: int) -> nn.Module | None:
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(BcosConv2d(channels, out, 1, stride), UncentredBatchNorm2d(out))


class BcosBasicBlock(nn.Module):
    """The shortcut plus two 3 x 3 B-cos convolutions, each normalised; no activation."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1 = BcosConv2d(channels, width, 3, stride)
        self.bn1 = UncentredBatchNorm2d(width)
        self.conv2 = BcosConv2d(width, width, 3)
        self.bn2 = UncentredBatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """From (B,channels,h,w) to (B,width,h/stride,w/stride)."""
        out = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        return out + (x if self.downsample is None else self.downsample(x))


class BcosBottleneck(nn.Module):
    """The shortcut plus B-cos convolutions of 1 x 1, 3 x 3 (with the stride) and 1 x 1 (four times the width), each normalised."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1 = BcosConv2d(channels, width, 1)
        self.bn1 = UncentredBatchNorm2d(width)
        self.conv2 = BcosConv2d(width, width, 3, stride)
        self.bn2 = UncentredBatchNorm2d(width)
        self.conv3 = BcosConv2d(width, 4 * width, 1)
        self.bn3 = UncentredBatchNorm2d(4 * width)
        self.downsample = _shortcut(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """From (B,channels,h,w) to (B,4*width,h/stride,w/stride)."""
        out = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        out = self.bn3(self.conv3(out))
        return out + (x if self.downsample is None else self.downsample(x))


class BcosResNet(Stages):
    """B-cos ResNet (Boehle et al. 2022, 2024): images (B,3,H,W) in [0,1], not normalised, to logits (B,C).

    The image r, g, b enters as the six channels r, g, b, 1-r, 1-g, 1-b, so that a colour is a direction and black is not zero.
    The classifier works at each position before the pooling; the constant `logit_bias` = log(1 / (C - 1)) is the only bias.
    `depths` counts the blocks of each stage, whose widths are `width` times `factors`: (3, 4, 6, 3) bottlenecks at
    `width` 64 is B-cos ResNet-50.
    """

    def __init__(
        self,
        depths: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        bottleneck: bool = True,
        num_classes: int = 1000,
        factors: Sequence[int] = DOUBLING,
    ):
        super().__init__()
        self.conv1 = BcosConv2d(6, width, 7, 2)
        self.bn1 = UncentredBatchNorm2d(width)
        self.pool = nn.AvgPool2d(3, 2, 1)
        block: Block = BcosBottleneck if bottleneck else BcosBasicBlock
        channels = self.add_stages(block, width, [width * k for k in factors], depths, stride=HALVING)
        self.fc = BcosConv2d(channels, num_classes, 1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.logit_bias = -math.log(max(num_classes - 1, 1))
        for module in self.modules():
            if isinstance(module, BcosConv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def encode(images: Tensor) -> Tensor:
        """The six channels [x, 1 - x] of images x (B,3,H,W) in [0,1]."""
        return torch.cat([images, 1 - images], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B,C) of images (B,3,H,W) in [0,1]."""
        return self.logits(self.encode(x))

    def logits(self, encoded: Tensor) -> Tensor:
        """Logits (B,C) of encoded images (B,6,H,W)."""
        return super().forward(encoded)

    def stem(self, x: Tensor) -> Tensor:
        return self.pool(self.bn1(self.conv1(x)))

    def head(self, x: Tensor) -> Tensor:
        return self.avgpool(self.fc(x)).flatten(1) + self.logit_bias


def linearised(model: BcosResNet) -> BcosResNet:
    """A copy of the model that shares its weights, and whose gradients take the cosines as constants.

    In evaluation mode the gradient of a logit at an image is then the row of the linear map that the model is there.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    for module in twin.modules():
        if isinstance(module, BcosConv2d):
            module.detached = True
    return twin


def dynamic_weights(model: BcosResNet, images: Tensor, targets: Tensor) -> Tensor:
    """The linear map W(x) of each image for its class in `targets` (B,): (B,6,H,W) from images (B,3,H,W) in [0,1].

    (W(x) * model.encode(x)).sum((1, 2, 3)) is the logit less `model.logit_bias`; summed over channels alone, it is the model's
    own attribution map. Computed in evaluation mode; the model stays as it was.
    """
    with preserved(model), torch.enable_grad():
        encoded = model.encode(images).detach().requires_grad_()
        logits = linearised(model).logits(encoded)
        return torch.autograd.grad(logits.gather(1, targets.to(logits.device)[:, None]).sum(), encoded)[0]
