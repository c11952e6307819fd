"""The 16 checkpoints published with IDSDS, fine-tuned on ImageNet images with deleted patches."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import timm
import torchvision
from torch import nn

from attrlib.models.architectures.catalogue import ARCHITECTURES, IMAGENET
from attrlib.models.preprocessing import Preprocessing

ADDRESS = "https://download.visinf.tu-darmstadt.de/data/2024-neurips-hesse-idsds/models_finetuned/"
_RENAMED = {"x_resnet50": "xresnet50", "x_vgg16": "xvgg16"}
_NAMES = (
    *("resnet18", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "fixup_resnet50", "x_resnet50"),
    *("vgg11", "vgg13", "vgg16", "vgg19", "vgg16_bn", "x_vgg16", "vit_base_patch16_224", "bcos_resnet50", "bagnet33"),
)


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint.

    Attributes:
        name: Name in the paper's table.
        build: Builds the architecture that it fits, for a number of classes.
        preprocessing: Preprocessing of its images.
        url: Address of the file.
    """

    name: str
    build: Callable[[int], nn.Module]
    preprocessing: Preprocessing
    url: str


def _checkpoint(name: str) -> Checkpoint:
    url = f"{ADDRESS}{_RENAMED.get(name, name)}_imagenet1000_lr0.001_epochs30_step10_checkpoint_best.pth.tar"
    if name in ARCHITECTURES:
        architecture = ARCHITECTURES[name]
        return Checkpoint(name, architecture.build, architecture.preprocessing, url)
    if name.startswith("vit"):
        half = replace(IMAGENET, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        return Checkpoint(name, lambda n: timm.create_model(name, num_classes=n), half, url)
    return Checkpoint(name, lambda n: torchvision.models.get_model(name, num_classes=n), IMAGENET, url)


PUBLISHED = {name: _checkpoint(name) for name in _NAMES}
"""The published checkpoints, by their names in the paper's table."""
