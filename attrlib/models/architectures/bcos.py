"""B-cos networks: each is one linear map for each image, with that map as its built-in explanation; among them B-cos ResNet."""

import copy
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from attrlib.models.architectures.residual import DOUBLING, HALVING, Block, Stages
from attrlib.models.modules.preserve import preserved


class BcosConv2d(nn.Conv2d):
    """B-cos convolution with b = 2: |cos(x, w)| * (w . x) for each patch x and unit weight w; no bias.

    If `detached`, gradients treat the factor |cos(x, w)| as a constant. They are then the weights of the linear map that the layer
    computes for this input.
    """

    def __init__(self, channels: int, width: int, kernel: int, stride: int = 1):
        super().__init__(channels, width, kernel, stride, kernel // 2, bias=False)
        self.reach = kernel // 2
        self.detached = False

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,channels,h,w) to (B,width,h/stride,w/stride)."""
        unit = self.weight / torch.linalg.vector_norm(self.weight, dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
        out = self._conv_forward(x, unit, None)
        squares = x.square().sum(1, keepdim=True)
        if self.kernel_size != (1, 1) or self.stride != (1, 1):
            squares = F.avg_pool2d(squares, self.kernel_size, self.stride, self.reach, divisor_override=1)
        norms = (squares + 1e-6).sqrt()
        cosine = (out / norms).abs().to(out.dtype)
        return out * (cosine.detach() if self.detached else cosine)

    def set_explanation_mode(self, activate: bool = True) -> None:
        """Set whether gradients treat the cosines as constants; called as in the layers of the package `bcos`."""
        self.detached = activate


class UncentredBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that divides by the standard deviation but subtracts no mean, and has no bias: linear in evaluation mode."""

    def __init__(self, channels: int):
        super().__init__(channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x * weight / sqrt(var + eps), with the batch's variance in training mode, else the running variance."""
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
        """Map (B,channels,h,w) to (B,width,h/stride,w/stride)."""
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
        """Map (B,channels,h,w) to (B,4*width,h/stride,w/stride)."""
        out = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        out = self.bn3(self.conv3(out))
        return out + (x if self.downsample is None else self.downsample(x))


class BcosNetwork(nn.Module):
    """Mixed into a network of six channels: maps images x (B,3,H,W) in [0,1] to logits by way of the channels [x, 1 - x].

    For each image the logits are a linear map W(x) of the channels plus constants. The layers whose weights depend on the image have a
    method `set_explanation_mode`, by which gradients treat these weights as constants; the gradient is then W(x).
    """

    @staticmethod
    def encode(images: Tensor) -> Tensor:
        """Return the six channels [x, 1 - x] of images x (B,3,H,W) in [0,1]."""
        return torch.cat([images, 1 - images], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B,C) of images (B,3,H,W) in [0,1]."""
        return self.logits(self.encode(x))

    def logits(self, encoded: Tensor) -> Tensor:
        """Return the logits (B,C) of encoded images (B,6,H,W)."""
        logits: Tensor = super().forward(encoded)
        return logits


class BcosResNet(BcosNetwork, Stages):
    """B-cos ResNet (Boehle et al. 2022, 2024): images (B,3,H,W) in [0,1], not normalised, to logits (B,C).

    The image r, g, b enters as the six channels r, g, b, 1-r, 1-g, 1-b, so that a colour is a direction and black is not zero.
    The classifier works at each position before the pooling; the constant `logit_bias` = log(1 / (C - 1)) is the only bias.
    The defaults are those of B-cos ResNet-50.

    Args:
        depths: Number of blocks of each stage.
        width: Width of the first stage's blocks.
        bottleneck: Whether to use bottlenecks rather than basic blocks.
        num_classes: Number of classes.
        factors: Width of each stage in units of `width`.
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

    def stem(self, x: Tensor) -> Tensor:
        return self.pool(self.bn1(self.conv1(x)))

    def head(self, x: Tensor) -> Tensor:
        return self.avgpool(self.fc(x)).flatten(1) + self.logit_bias


def linearised(model: BcosNetwork) -> BcosNetwork:
    """Return a copy of the model that shares its weights and whose gradients treat its dynamic weights as constants.

    In evaluation mode, the gradient of a logit at an image is then the row of the model's linear map for that image.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    for module in twin.modules():
        if (switch := getattr(module, "set_explanation_mode", None)) is not None:
            switch(True)
    return twin


def dynamic_weights(model: BcosNetwork, images: Tensor, explained: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the row of the linear map W(x) of each image for what is explained, such as the logit of a class.

    (W(x) * model.encode(x)).sum((1, 2, 3)) is the explained value minus constants, of which a ResNet has only `logit_bias`. Summed over channels
    only, it is the model's built-in attribution map. The map is computed in evaluation mode, and the model stays as it was.

    Args:
        model: The B-cos network.
        images: Images (B,3,H,W) in [0,1].
        explained: Returns the explained values (B,) of logits (B,C), in which they are linear.

    Returns:
        Weights (B,6,H,W).
    """
    with preserved(model), torch.enable_grad():
        encoded = model.encode(images).detach().requires_grad_()
        logits = linearised(model).logits(encoded)
        return torch.autograd.grad(explained(logits).sum(), encoded)[0]
