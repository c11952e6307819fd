"""VGG at any width, with or without BatchNorm and biases; without any bias it is X-VGG."""

from collections.abc import Sequence

from torch import Tensor, nn

WIDTHS = (1, 2, 4, 8, 8)
"""The widths of the five stages, in units of the first."""


class VGG(nn.Module):
    """VGG (Simonyan and Zisserman 2015): stages of 3 x 3 convolutions, each closed by a max pooling, and three linear layers.

    `convs` counts the convolutions of each stage, whose widths are `width` times `factors`: (2, 2, 3, 3, 3) is VGG-16, (1, 1, 2, 2, 2)
    VGG-11. `hidden` is the width of the linear layers, which read `pool` x `pool` positions and drop a share of `dropout` in training.
    The defaults are the published ones, and the keys torchvision's. X-VGG (Hesse et al. 2021) is `bias=False`, without BatchNorm:
    f(a x) = a f(x) for a >= 0. Weights start as He et al. 2015 have it, in the linear layers too, where the published 0.01 suits the
    published width alone.
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
        """Logits (B,C) of images (B,3,H,W)."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))
