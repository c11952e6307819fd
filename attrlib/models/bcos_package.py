"""B-cos networks of the package `bcos` (Böhle et al. 2024): ResNet, ResNeXt, DenseNet, VGG, ConvNeXt and vision transformers."""

import math
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attrlib.errors import ModelError, reason_of
from attrlib.models.architectures import BcosNetwork
from attrlib.models.built import Build, Built
from attrlib.models.checkpoints import read_checkpoint
from attrlib.models.folders.folder import offline_if_unreachable
from attrlib.models.loading.state_dicts import load_state
from attrlib.models.options import Options, class_count
from attrlib.models.preprocessing import Preprocessing

_VITS = [f"{kind}_{size}_{patches}" for kind, patches in (("simple_vit", "patch16_224"), ("vitc", "patch1_14")) for size in "tsbl"]
_VITS = [name.replace("_t_", "_ti_") for name in _VITS]
NETWORKS: dict[str, tuple[str, str]] = {
    **{f"resnet{depth}": ("bcos_final", f"resnet_{depth}") for depth in (18, 34, 50, 101, 152)},
    "resnext50_32x4d": ("bcos_final", "resnext_50_32x4d"),
    **{f"densenet{depth}": ("bcos_final", f"densenet_{depth}") for depth in (121, 161, 169, 201)},
    "vgg11_bnu": ("bcos_final", "vgg_11_bnu"),
    **{f"convnext_{size}": ("bcos_final_long", f"convnext_{size}_pn") for size in ("tiny", "base")},
    **{f"convnext_{size}_bnu": ("bcos_final_long", f"convnext_{size}_bnu") for size in ("tiny", "base")},
    "densenet121_long": ("bcos_final_long", "densenet_121"),
    **{f"resnet{depth}_long": ("bcos_final_long", f"resnet_{depth}") for depth in (50, 152)},
    **{name: ("vit_final", f"bcos_{name}") for name in _VITS},
}
"""The recipe and the experiment of each network, under which the package lists its weights."""


def bcos_builder(short: str, name: str) -> Build:
    """Return the builder of `bcos:NAME`.

    Images enter in [0,1], not normalised, and as the six channels [x, 1 - x]. The keys of the weights are those of the package, so that
    its checkpoints load.

    Args:
        short: NAME.
        name: The whole name, for messages.
    """

    def build(options: Options, pretrained: bool) -> Built:
        package, classes = _package(name), class_count(options) or 1000
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = getattr(package, short)(pretrained=False, num_classes=classes)
        except MemoryError:
            raise
        except Exception as error:  # the package raises several types, for example without einops
            raise ModelError(f'{name} cannot be built ({reason_of(error)}); pip install "attrlib[bcos]"') from error
        preprocessing = _preprocessing(module.transform)
        # They hold transforms and optimizers, which are copied with the module.
        del module.transform, module.config
        for part in module.modules():
            if hasattr(part, "logit_bias"):
                part.logit_bias = -math.log(max(classes - 1, 1))
        cls = type(module)
        module.__class__ = type(cls.__name__, (BcosNetwork, cls), {"__module__": __name__})
        if pretrained:
            recipe, experiment = NETWORKS[short]
            _load(module, package.URLS[recipe][experiment], name)
        return Built(module, preprocessing)

    return build


def _package(name: str) -> Any:
    try:
        import bcos.models.pretrained as package
    except ImportError:
        raise ModelError(f'{name} needs the package bcos, which is not installed; pip install "attrlib[bcos]"') from None
    return package


def _preprocessing(transform: Any) -> Preprocessing:
    """Return the preprocessing of the package's own transform."""
    values = transform.args
    size = int(values["crop_size"])
    return Preprocessing((size, size), (0.0,) * 3, (1.0,) * 3, values["interpolation"].value, size / values["resize_size"])


def _load(module: nn.Module, url: str, name: str) -> None:
    """Load the weights at an address, after downloading them into the cache folder of torch.hub if need be."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with offline_if_unreachable():
                torch.hub.download_url_to_file(url, str(file), hash_prefix=file.stem.rpartition("-")[2], progress=False)
        except Exception as error:  # no connection and a full disk raise unrelated types
            raise ModelError(
                f"the pretrained weights of {name} could not be downloaded ({reason_of(error)}); download {url} elsewhere, and pass the file "
                "as checkpoint"
            ) from error
    load_state(module, read_checkpoint(file).state, name)
