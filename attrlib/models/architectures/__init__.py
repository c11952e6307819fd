"""Architectures that neither timm nor torchvision provides, small versions of them, and the checkpoints published for IDSDS."""

from attrlib.models.architectures.bagnet import BagNet, patch_logits
from attrlib.models.architectures.bcos import BcosNetwork, BcosResNet, dynamic_weights, linearised
from attrlib.models.architectures.catalogue import ARCHITECTURES, Architecture
from attrlib.models.architectures.fixup import FixupResNet
from attrlib.models.architectures.published import PUBLISHED, Checkpoint
from attrlib.models.architectures.resnet import ResNet
from attrlib.models.architectures.vgg import VGG
from attrlib.models.architectures.x_resnet import XResNet

__all__ = [
    "ARCHITECTURES",
    "PUBLISHED",
    "VGG",
    "Architecture",
    "BagNet",
    "BcosNetwork",
    "BcosResNet",
    "Checkpoint",
    "FixupResNet",
    "ResNet",
    "XResNet",
    "dynamic_weights",
    "linearised",
    "patch_logits",
]
