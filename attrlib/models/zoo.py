"""Models by name: the embedded one, timm's, torchvision's, and checkpoints of these architectures."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import timm
import torch
from timm.data import ImageNetInfo
from timm.layers import to_2tuple
from torch import nn

from attrlib.errors import ModelError, unknown
from attrlib.models.cards import Card, card_of, names_file_of, read_names, shipped
from attrlib.models.checkpoints import SUFFIXES, count_classes, load_state, read_checkpoint
from attrlib.models.classifier import Classifier, pick_device
from attrlib.models.download import PREFIX, downloaded
from attrlib.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from attrlib.models.sources import EMBEDDED, Build, architectures, builder
from attrlib.specs import ModelSpec, Size, check_size, size_text, whole

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
        for source, names in architectures().items():
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
    elif source in architectures() and architecture:
        if architecture not in architectures()[source]:
            raise ModelError(unknown(f"{source} model", architecture, architectures()[source]))
    else:
        advice = "Or name an architecture as timm:NAME or torchvision:NAME, attrlib:NAME or idsds:NAME."
        raise ModelError(unknown("model", name, [EMBEDDED, *shipped()], advice))


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
    input_size: int | Size | None = None,
) -> Classifier:
    """A classifier by name: `efficientnet_lite0`, `timm:NAME`, `torchvision:NAME`, `attrlib:NAME`, or a file with its architecture.

    `idsds:NAME` is one of the 16 published deletion-tuned models, from the file that was published for it: `checkpoint`, or what
    `attrlib.models.download` got. A checkpoint with a model card beside it needs no architecture.

    `load_model("timm:resnet18", checkpoint="my.pth")` and `load_model("my.pth", architecture="timm:resnet18")` are the same;
    the number of classes is read from the file, their names, where there is no card, from `my.txt` beside it, one a line. `checkpoint="random:SEED"` gives random weights, as does `pretrained=False`
    with `seed`. `deletion_tuned` says that the checkpoint was fine-tuned on images with deleted patches, as IDSDS needs.
    `input_size`, a number or (height, width) in pixels, is another than the model's own; the position embeddings of timm's
    transformers are interpolated to it.
    Raises `ModelError` that says what to do: unknown name, hub out of reach, keys that do not fit, a size that the model does not take.
    """
    name, asked = str(name), None if input_size is None else check_size(input_size)
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
    build = builder(architecture_of(name))
    with _seeded(seed):
        if weights is None:
            module, preprocessing = build(len(card.class_names) if card else None, pretrained)
        else:
            state = read_checkpoint(weights)
            module, preprocessing = build(len(card.class_names) if card else count_classes(state, _outline(build, None)), False)
            if card:
                _resize(module, preprocessing.size, card.preprocessing.size, name)
            load_state(module, state, weights.name)
    preprocessing = card.preprocessing if card else preprocessing
    if asked is not None:
        _resize(module, preprocessing.size, asked, name)
        preprocessing = replace(preprocessing, size=asked)
    module = module.to(where, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    tuned = deletion_tuned or (weights is not None and (name.startswith("idsds:") or bool(card and card.deletion)))
    names = class_names or (card.class_names if card else _imagenet_names(module))
    model = Classifier(module, preprocessing, ModelSpec(name, file, asked), names, deletion_tuned=tuned)
    listed = names_file_of(weights) if weights and not class_names and not card else None
    if listed is not None:
        model.class_names = read_names(listed, len(model.class_names))
    return model


def parse_model(text: str) -> ModelSpec:
    """A model in text form. Raises `ModelError` for an architecture that is not known, `SpecError` for a size that no input can have."""
    spec = ModelSpec.parse(text)
    check_name(spec.architecture)
    return spec


def _resize(module: nn.Module, own: Size, wanted: Size, name: str) -> None:
    """Has a transformer of timm take images of another size than its own; what is no such transformer is left as it is."""
    resize = getattr(module, "set_input_size", None)
    if resize is None or own == wanted:
        return
    patch = to_2tuple(getattr(getattr(module, "patch_embed", None), "patch_size", 1))
    if any(side % step for side, step in zip(wanted, patch, strict=True)):
        raise ModelError(f"{name} cuts images into patches of {size_text(patch)} px; choose an input size of multiples of that")
    try:
        resize(img_size=wanted)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{name} has no input of {size_text(wanted)} px ({str(error).splitlines()[0][:160]}); choose another size"
        ) from None


def with_classes(model: Classifier, class_names: Sequence[str], rows: Sequence[int] | None = None, seed: int = 0) -> Classifier:
    """The same architecture and weights with another number of classes, for training.

    The head begins at random, drawn by the seed, or, where `rows` gives each class its index among the model's, at what is known
    of it; all else stays. Raises `ModelError` for a wrapped model, whose architecture has no name.
    """
    name = model.spec.architecture
    if name.startswith("wrapped:"):
        raise ModelError(f"{model.name} has no architecture by name from which a new head could be made; give it one, and wrap it again")
    build = builder(architecture_of(name))
    with _seeded(seed):
        module, preprocessing = build(len(class_names), False)
        _resize(module, preprocessing.size, model.input_size, name)
        # The head is what the number of classes changes.
        other = _outline(build, len(class_names) + 1).state_dict()
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


def _outline(build: Build, classes: int | None) -> nn.Module:
    """The architecture, for keys and shapes alone."""
    try:
        with torch.device("meta"):
            return build(classes, False)[0]
    except RuntimeError:
        # Some initialisations need real tensors.
        return build(classes, False)[0]


def _imagenet_names(module: nn.Module) -> list[str] | None:
    heads = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if not heads or getattr(heads[-1], "out_features", getattr(heads[-1], "out_channels", 0)) != 1000:
        return None
    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_description(i) for i in range(1000)]
