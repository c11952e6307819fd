"""The architectures by name: published ones at full size, and a family of small versions that differ in one respect each."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from attrlib.models.architectures.bagnet import BagNet
from attrlib.models.architectures.bcos import BcosResNet
from attrlib.models.architectures.fixup import FixupResNet
from attrlib.models.architectures.resnet import ResNet
from attrlib.models.architectures.vgg import VGG
from attrlib.models.architectures.x_resnet import XResNet
from attrlib.models.preprocessing import Preprocessing
from attrlib.registry import Paper

HE = Paper("He et al. 2016", "Deep Residual Learning for Image Recognition", "https://arxiv.org/abs/1512.03385")
SIMONYAN = Paper("Simonyan and Zisserman 2015", "Very Deep Convolutional Networks", "https://arxiv.org/abs/1409.1556")
DOSOVITSKIY = Paper("Dosovitskiy et al. 2021", "An Image is Worth 16x16 Words", "https://arxiv.org/abs/2010.11929")
BRENDEL = Paper("Brendel and Bethge 2019", "Approximating CNNs with Bag-of-local-Features models", "https://arxiv.org/abs/1904.00760")
ZHANG = Paper("Zhang et al. 2019", "Fixup Initialization: Residual Learning Without Normalization", "https://arxiv.org/abs/1901.09321")
HESSE = Paper("Hesse et al. 2021", "Fast Axiomatic Attribution for Neural Networks", "https://arxiv.org/abs/2111.07668")
BOEHLE = Paper("Böhle et al. 2024", "B-cos Alignment for Inherently Interpretable CNNs and ViTs", "https://arxiv.org/abs/2306.10898")


@dataclass(frozen=True)
class Architecture:
    """An architecture of this package.

    Attributes:
        build: Builds the network for a number of classes.
        summary: Description in one line.
        paper: The paper that introduced it.
        preprocessing: Preprocessing of its images, unless its weights specify another.
    """

    build: Callable[[int], nn.Module]
    summary: str
    paper: Paper
    preprocessing: Preprocessing


IMAGENET = Preprocessing((224, 224))
RAW = Preprocessing((224, 224), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Images in [0,1], without normalisation, as B-cos networks expect them."""
IMAGENET_128 = replace(IMAGENET, size=(128, 128), crop=1.0)
RAW_128 = replace(RAW, size=(128, 128), crop=1.0)


CAPPED = (1, 2, 4, 4)
"""Stage widths of the small versions, in units of the first. Without the last doubling, the whole family is small enough to ship."""


def _vgg11(classes: int, batch_norm: bool = False, bias: bool = True) -> VGG:
    return VGG((1, 1, 2, 2, 2), 16, 40, 4, batch_norm, bias, classes, (*CAPPED, 4), dropout=0.0)


_18 = (2, 2, 2, 2)

FULL_SIZE = {
    "bagnet33": Architecture(lambda n: BagNet(33, num_classes=n), "BagNet: patches of 33 px, their logits averaged", BRENDEL, IMAGENET),
    "bagnet17": Architecture(lambda n: BagNet(17, num_classes=n), "BagNet: patches of 17 px, their logits averaged", BRENDEL, IMAGENET),
    "bagnet9": Architecture(lambda n: BagNet(9, num_classes=n), "BagNet: patches of 9 px, their logits averaged", BRENDEL, IMAGENET),
    "fixup_resnet50": Architecture(lambda n: FixupResNet(num_classes=n), "ResNet-50 without BatchNorm", ZHANG, IMAGENET),
    "x_resnet50": Architecture(lambda n: XResNet(num_classes=n), "ResNet-50 without BatchNorm and bias", HESSE, IMAGENET),
    "x_vgg16": Architecture(lambda n: VGG(bias=False, num_classes=n), "VGG-16 without bias", HESSE, IMAGENET),
    "bcos_resnet50": Architecture(lambda n: BcosResNet(num_classes=n), "ResNet-50 of B-cos layers, linear for each image", BOEHLE, RAW),
}
_BUILDERS: dict[str, tuple[Callable[[int], nn.Module], str, Paper]] = {
    "small_resnet10_w16": (lambda n: ResNet((1, 1, 1, 1), 16, n, CAPPED), "ResNet-10, a quarter of the width", HE),
    "small_resnet18_w16": (lambda n: ResNet(_18, 16, n, CAPPED), "ResNet-18, a quarter of the width", HE),
    "small_resnet26_w16": (lambda n: ResNet((3, 3, 3, 3), 16, n, CAPPED), "ResNet-26, a quarter of the width", HE),
    "small_resnet18_w10": (lambda n: ResNet(_18, 10, n, CAPPED), "ResNet-18, a sixth of the width", HE),
    "small_fixup_resnet18_w16": (lambda n: FixupResNet(_18, 16, False, n, CAPPED), "small_resnet18_w16 without BatchNorm", ZHANG),
    "small_x_resnet18_w16": (lambda n: XResNet(_18, 16, False, n, CAPPED), "small_resnet18_w16 without BatchNorm and bias", HESSE),
    "small_bcos_resnet18_w16": (lambda n: BcosResNet(_18, 16, False, n, CAPPED), "small_resnet18_w16 of B-cos layers", BOEHLE),
    "small_vgg11_w16": (lambda n: _vgg11(n), "VGG-11, a quarter of the width", SIMONYAN),
    "small_vgg11_bn_w16": (lambda n: _vgg11(n, batch_norm=True), "small_vgg11_w16 with BatchNorm", SIMONYAN),
    "small_x_vgg11_w16": (lambda n: _vgg11(n, bias=False), "small_vgg11_w16 without bias", HESSE),
    "small_bagnet33_w16": (
        lambda n: BagNet(33, _18, 16, n, CAPPED),
        "BagNet of 8 blocks, a quarter of the width, patches of 33 px",
        BRENDEL,
    ),
    "small_bagnet17_w16": (
        lambda n: BagNet(17, _18, 16, n, CAPPED),
        "BagNet of 8 blocks, a quarter of the width, patches of 17 px",
        BRENDEL,
    ),
    "small_vit6_w64": (
        lambda n: VisionTransformer(128, 16, num_classes=n, embed_dim=64, depth=6, num_heads=4),
        "Vision transformer of 6 blocks, 64 wide, on patches of 16 px",
        DOSOVITSKIY,
    ),
}
SMALL = {name: Architecture(*facts, RAW_128 if "bcos" in name else IMAGENET_128) for name, facts in _BUILDERS.items()}
"""Small architectures for images of 128 px, with 0.1 to 0.5 million parameters. The name gives the depth and the first width."""
ARCHITECTURES: dict[str, Architecture] = FULL_SIZE | SMALL
"""Every architecture of this package by name."""
