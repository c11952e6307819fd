"""Load models by name: the embedded one, shipped ones, architectures of timm, torchvision and this package, and checkpoints."""

from collections.abc import Iterator, Sequence
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
from attrlib.models.added import architecture_of, named, weights_of
from attrlib.models.cards import Card, card_of, names_file_of, read_names, shipped
from attrlib.models.checkpoints import SUFFIXES, count_classes, load_state, read_checkpoint, split_key
from attrlib.models.classifier import Classifier, pick_device
from attrlib.models.download import PREFIX, downloaded
from attrlib.models.model_folders import Folder, is_folder_name, is_path_of_folder, name_of_folder
from attrlib.models.sources import EMBEDDED, Build, architectures, builder
from attrlib.specs import ModelSpec, Size, check_size, size_text, whole

RANDOM = "random:"


@dataclass(frozen=True)
class ModelInfo:
    """A listed model: its name, its source and a short note."""

    name: str
    source: str
    note: str = ""


def list_models(pattern: str = "") -> list[ModelInfo]:
    """List the models that need no download, or all that match a pattern.

    Args:
        pattern: Pattern such as `timm:resnet*`; matched against the models without download and all architectures.
    """
    embedded = ModelInfo(EMBEDDED, "embedded", "EfficientNet-Lite0 on ImageNet-1k, 4.7 M parameters, 224 px; no download")
    every = [embedded, *(ModelInfo(n, "shipped" if n in shipped() else "added", Card.read(p).summary()) for n, p in named().items())]
    result = [info for info in every if not pattern or fnmatch(info.name, pattern)]
    if pattern:
        for source, names in architectures().items():
            result += [ModelInfo(f"{source}:{n}", source) for n in names if fnmatch(f"{source}:{n}", pattern)]
    return result


def check_name(name: str) -> None:
    """Raise `ModelError` if no architecture has this name."""
    source, _, architecture = name.partition(":")
    if name == EMBEDDED or name in named():
        return
    if is_folder_name(name):
        Folder.parse(name)
        return
    if is_path_of_folder(name):
        name_of_folder(name)
        return
    if source == "timm" and architecture:
        if not timm.is_model(architecture.partition(".")[0]):
            raise ModelError(unknown("timm model", architecture, timm.list_models()))
    elif source in architectures() and architecture:
        if architecture not in architectures()[source]:
            raise ModelError(unknown(f"{source} model", architecture, architectures()[source]))
    else:
        if same := [f"{hub}:{name}" for hub in ("timm", "torchvision") if name in architectures()[hub]]:
            raise ModelError(f"unknown model {name!r}. Did you mean {' or '.join(same)}?")
        if split_key(name)[0].endswith(SUFFIXES):
            raise ModelError(f"unknown model {name!r}. Write a checkpoint file as ARCHITECTURE@FILE, for example timm:resnet18@{name}")
        advice = "Or name an architecture as timm:NAME or torchvision:NAME, attrlib:NAME, idsds:NAME or hf:ORG/NAME."
        raise ModelError(unknown("model", name, [EMBEDDED, *named()], advice))


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
    outputs: str = "auto",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    crop: float | None = None,
    fit: str | None = None,
) -> Classifier:
    """Load a classifier by name, or from a checkpoint file.

    `load_model("timm:resnet18", checkpoint="my.pth")` and `load_model("my.pth", architecture="timm:resnet18")` are equivalent.
    The number of classes is read from the checkpoint. Without a model card, their names are read from `my.txt` beside it, one per line.

    Args:
        name: `efficientnet_lite0`, the name of a shipped model, `timm:NAME`, `torchvision:NAME`, `attrlib:NAME`, `idsds:NAME`,
            `hf:ORG/NAME` or `timm:hf-hub:ORG/NAME` for a repository of the Hugging Face hub, optionally followed by
            `?revision=BRANCH`, or the path of a checkpoint file, or of a folder that transformers or timm saved. `idsds:NAME` is one of the 16 published deletion-tuned models; its weights come from
            `checkpoint`, or from the file that `attrlib.models.download` fetched.
        device: `auto`, or the name of a torch device.
        checkpoint: File with the weights, or FILE#KEY for those under a key, as in `my.pth#model_ema`. `random:SEED` gives random weights.
        architecture: Architecture of the checkpoint file `name`; not needed if there is a model card beside the file.
        pretrained: Whether to load pretrained weights; False gives random weights drawn with `seed`.
        seed: Seed of random weights.
        class_names: One name per output; by default those of the model card, the text file, the checkpoint, or ImageNet.
        deletion_tuned: Whether the checkpoint was fine-tuned on images with deleted patches, as IDSDS requires.
        input_size: Input size in pixels, a number or (height, width), instead of the model's default. The position embeddings of
            timm's transformers are interpolated to it.
        outputs: What the network's numbers mean: `softmax`, `sigmoid`, `binary`, `scalar`, `probabilities` or `auto`, see
            `attrlib.models.outputs`.
        mean: Mean of each channel that the network expects, for colours in [0,1]; by default that of the card or the architecture.
        std: Standard deviation of each channel that the network expects; as `mean`.
        interpolation: `nearest`, `bilinear`, `bicubic` or `lanczos`; as `mean`.
        crop: Share of the picture's short side that the crop covers; as `mean`.
        fit: `centre`, `squash` or `border`, see `Preprocessing`; as `mean`.

    Raises:
        ModelError: The name is unknown, the hub is unreachable, keys do not fit, or the model does not accept the input size.
            The message says what to do.
        SpecError: `input_size`, or the seed of random weights, is not valid.
    """
    name, new_size = str(name), None if input_size is None else check_size(input_size)
    if architecture is not None:
        name, checkpoint = architecture, checkpoint or name
    elif checkpoint is None and (split_key(name)[0].endswith(SUFFIXES) or Path(split_key(name)[0]).is_file()):
        card_file = card_of(name)
        if card_file is None:
            raise ModelError(
                f"{name!r} is a checkpoint file; give its architecture too, for example architecture='timm:resnet18' in Python, "
                "or --model timm:resnet18 --checkpoint FILE"
            )
        name, checkpoint = Card.read(card_file).architecture, name
    if name != EMBEDDED and name not in named() and is_path_of_folder(name):
        name = name_of_folder(name)
    check_name(name)
    where = pick_device(device)
    file = str(checkpoint) if checkpoint is not None else None if pretrained else f"{RANDOM}{seed}"
    if file and file.startswith(RANDOM):
        seed, pretrained = whole(file.removeprefix(RANDOM), "the seed of random weights"), False
    weights = None if file and file.startswith(RANDOM) else Path(file) if file else _local_weights(name) if pretrained else None
    card_file = card_of(weights) if file and weights else named().get(name)
    card = Card.read(card_file) if card_file else None
    build = builder(architecture_of(name))
    checkpointed = None
    with _seeded(seed):
        if weights is None:
            built = build(card.count if card else None, pretrained)
        else:
            checkpointed = read_checkpoint(weights)
            state = checkpointed.state
            built = build(card.count if card else count_classes(state, _outline(build, None)), False)
            if card:
                _resize(built.module, built.preprocessing.size, card.preprocessing.size, name)
            load_state(built.module, state, Path(split_key(weights)[0]).name)
    module, given = built.module, ModelSpec(name, file, new_size, outputs, _floats(mean), _floats(std), interpolation, crop, fit)
    preprocessing = replace(card.preprocessing if card else built.preprocessing, **given.preprocessing())
    if new_size is not None:
        _resize(module, preprocessing.size, new_size, name)
        preprocessing = replace(preprocessing, size=new_size)
    module = module.to(where, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    tuned = deletion_tuned or (weights is not None and (name.startswith("idsds:") or bool(card and card.deletion)))
    names = class_names or (card.class_names if card else built.class_names or _imagenet_names(module))
    meaning = outputs if outputs != "auto" else card.outputs if card else built.outputs
    model = Classifier(module, preprocessing, given, names, deletion_tuned=tuned, outputs=meaning, notes=built.notes)
    listed = names_file_of(weights) if weights and not class_names and not card else None
    if listed is not None:
        model.class_names = read_names(listed, len(model.class_names))
    elif checkpointed and not class_names and not card:
        checkpointed = checkpointed.fitted(len(model.class_names))
        model.class_names = checkpointed.class_names or model.class_names
    if checkpointed:
        model.notes = (*checkpointed.notes, *model.notes)
    return model


def parse_model(text: str) -> ModelSpec:
    """Parse a model in text form.

    Raises:
        ModelError: The architecture is unknown.
        SpecError: The text is malformed or the input size is not possible.
    """
    spec = ModelSpec.parse(text)
    check_name(spec.architecture)
    return spec


def _resize(module: nn.Module, current: Size, wanted: Size, name: str) -> None:
    """Resize the input of a timm transformer; leave any other module as it is."""
    resize = getattr(module, "set_input_size", None)
    if resize is None or current == wanted:
        return
    patch = to_2tuple(getattr(getattr(module, "patch_embed", None), "patch_size", 1))
    if any(side % step for side, step in zip(wanted, patch, strict=True)):
        raise ModelError(
            f"{name} cuts images into patches of {size_text(patch)} px; choose an input size whose sides are multiples of that"
        )
    try:
        resize(img_size=wanted)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{name} does not accept an input of {size_text(wanted)} px ({str(error).splitlines()[0][:160]}); choose another size"
        ) from None


def with_classes(model: Classifier, class_names: Sequence[str], rows: Sequence[int] | None = None, seed: int = 0) -> Classifier:
    """Return a copy of a model with a new classification head for other classes, for training.

    All weights except those of the head are copied.

    Args:
        model: The model to start from.
        class_names: Names of the new classes.
        rows: Index of each new class among the model's classes, to copy its row of the head; None draws the head at random.
        seed: Seed of a random head.

    Raises:
        ModelError: The model is wrapped, so there is no architecture name to build a new head from.
    """
    name = model.spec.architecture
    if name.startswith("wrapped:"):
        raise ModelError(
            f"{model.name} is a wrapped module, so no new head can be built; replace the head of the module, and wrap it again"
        )
    # One logit of two classes stays one; it has no rows to copy.
    kind = model.outputs.kind
    count = 1 if kind == "binary" and len(class_names) == 2 else len(class_names)
    outputs, rows = (kind if kind == "sigmoid" or (kind == "binary" and count == 1) else "auto"), None if kind == "binary" else rows
    build = builder(architecture_of(name))
    with _seeded(seed):
        built = build(count, False)
        module = built.module
        _resize(module, built.preprocessing.size, model.input_size, name)
        # The head consists of the tensors whose shape depends on the number of classes.
        other = _outline(build, count + 1).state_dict()
    old, state = model.module.state_dict(), module.state_dict()
    for key, tensor in state.items():
        if other[key].shape == tensor.shape:
            state[key] = old[key]
        elif rows is not None:
            state[key] = old[key][list(rows)]
    module.load_state_dict(state)
    module = module.to(model.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return Classifier(module, model.preprocessing, model.spec, class_names, outputs=outputs)


def _floats(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(map(float, values))


def _local_weights(name: str) -> Path | None:
    if name.startswith(PREFIX):
        return downloaded(name)
    return weights_of(named()[name]) if name in named() else None


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the CPU generator, from which weights are drawn, and restore it afterwards."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _outline(build: Build, classes: int | None) -> nn.Module:
    """Build the architecture without values where possible, for its keys and shapes only."""
    try:
        with torch.device("meta"):
            return build(classes, False).module
    except RuntimeError:
        # Some initialisations need real tensors.
        return build(classes, False).module


def _imagenet_names(module: nn.Module) -> list[str] | None:
    heads = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if not heads or getattr(heads[-1], "out_features", getattr(heads[-1], "out_channels", 0)) != 1000:
        return None
    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_description(i) for i in range(1000)]
