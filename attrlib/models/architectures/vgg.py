"""VGG at any width, with or without BatchNorm and biases; without biases it is X-VGG."""

from collections.abc import Sequence

from torch import Tensor, nn

WIDTHS = (1, 2, 4, 8, 8)
"""Widths of the five stages, in units of the first."""


class VGG(nn.Module):
    """VGG (Simonyan and Zisserman 2015): stages of 3 x 3 convolutions, each followed by max pooling, and three linear layers.

    The defaults are those of the published VGG-16, and the keys are torchvision's. X-VGG (Hesse et al. 2021) is `bias=False` without
    BatchNorm, so that f(a x) = a f(x) for a >= 0. Weights are initialised as in He et al. 2015, also those of the linear layers: the
    published standard deviation of 0.01 suits the published width only.

    Args:
        convs: Number of convolutions of each stage; (2, 2, 3, 3, 3) is VGG-16, (1, 1, 2, 2, 2) is VGG-11.
        width: Width of the first stage.
        hidden: Width of the linear layers.
        pool: Side of the grid of positions that the linear layers read.
        batch_norm: Whether a BatchNorm follows each convolution.
        bias: Whether convolutions and linear layers have biases.
        num_classes: Number of classes.
        factors: Width of each stage in units of `width`.
        dropout: Share of the linear layers' outputs that is dropped in training.
    """

    def __init__(
        self,
        convs: Sequence[int] = (2, 2, 3, 3, 3),
        width: int = 64,
        hidden: int = 4096,
        pool: int = 7,
        batch_norm: bool = False,
        bias: bool = True,
        num_classes: int = 1000,
        factors: Sequence[int] = WIDTHS,
        dropout: float = 0.5,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for count, factor in zip(convs, factors, strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(channels, width * factor, 3, padding=1, bias=bias))
                channels = width * factor
                layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)] if batch_norm else [nn.ReLU(inplace=True)]
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(pool)
        self.classifier = nn.Sequential(
            nn.Linear(channels * pool * pool, hidden, bias=bias),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden, bias=bias),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes, bias=bias),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B,C) of images (B,3,H,W)."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))
