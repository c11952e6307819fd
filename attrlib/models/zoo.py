"""Load models by name: the embedded one, shipped ones, architectures of timm, torchvision and this package, and checkpoints."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageNetInfo
from torch import nn

from attrlib.errors import ModelError, existing_file
from attrlib.models.added import architecture_of, named, weights_of
from attrlib.models.cards import Card, card_of, names_file_of, read_names
from attrlib.models.checkpoints import SUFFIXES, Checkpoint, split_key
from attrlib.models.classifier import Classifier
from attrlib.models.download import PREFIX, downloaded
from attrlib.models.folders.prompts import named_by_prompts
from attrlib.models.loading.assumptions import assumed, of_channels
from attrlib.models.loading.load import load_weights, read_part
from attrlib.models.loading.outline import outline_of
from attrlib.models.loading.resizing import resize
from attrlib.models.modules.device import pick_device
from attrlib.models.names import RANDOM, canonical, check_name, located
from attrlib.models.options import structure
from attrlib.models.sources import EMBEDDED, builder
from attrlib.specs import ModelSpec, Size, check_size, size_text, whole


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
    white: float | None = None,
    bands_shown: Sequence[int] | None = None,
    prompts: Sequence[str] | None = None,
    template: str | Sequence[str] | None = None,
) -> Classifier:
    """Load a classifier by name, or from a checkpoint file.

    `load_model("timm:resnet18", checkpoint="my.pth")` and `load_model("my.pth", architecture="timm:resnet18")` are equivalent.
    The number of classes is read from the checkpoint. Without a model card, their names are read from `my.txt` beside it, one per line.

    Args:
        name: `efficientnet_lite0`, the name of a shipped model, `timm:NAME`, `torchvision:NAME`, `attrlib:NAME`, `idsds:NAME`, `bcos:NAME`,
            `hf:ORG/NAME` or `timm:hf-hub:ORG/NAME` for a repository of the Hugging Face hub, optionally followed by
            `?revision=BRANCH`, `clip:ORG/NAME` for a CLIP or SigLIP model, or the path of a checkpoint file, or of a folder that transformers or timm saved. `idsds:NAME` is one of
            the 16 published deletion-tuned models; its weights come from `checkpoint`, or from the file that `attrlib.models.download`
            fetched.
        device: `auto`, or the name of a torch device.
        checkpoint: File with the weights, or FILE#KEY for those under a key, as in `my.pth#model_ema`. `random:SEED` gives random weights.
        architecture: Architecture of the checkpoint file `name`; not needed if there is a model card beside the file.
        pretrained: Whether to load pretrained weights; False gives random weights drawn with `seed`.
        seed: Seed of random weights.
        class_names: One name per output; by default those of the model card, the text file, the checkpoint, or ImageNet.
        deletion_tuned: Whether the checkpoint was fine-tuned on images with deleted patches, as IDSDS requires.
        input_size: Input size in pixels, a number or (height, width), instead of the model's default. The position embeddings of
            timm's transformers are interpolated to it.
        outputs: What the network's numbers mean: `softmax`, `sigmoid`, `binary`, `scalar`, `features`, `probabilities` or `auto`, see
            `attrlib.models.outputs`.
        mean: Mean of each channel that the network expects, for colours in [0,1]; by default that of the card or the architecture.
        std: Standard deviation of each channel that the network expects; as `mean`.
        interpolation: `nearest`, `bilinear`, `bicubic` or `lanczos`; as `mean`.
        crop: Share of the picture's short side that the crop covers; as `mean`.
        fit: `centre`, `squash` or `border`, see `Preprocessing`; as `mean`.
        white: The value that becomes 1 in pictures of 16 bits or floats; as `mean`.
        bands_shown: One channel to show grey, or three to show as R, G and B; as `mean`.
        prompts: Texts that make the classes of `clip:NAME`, one for each class. The same can be written into the name, see
            `attrlib.models.folders.prompts`.
        template: What makes a sentence of each prompt, such as `a photo of a {}`; several are averaged. By default the prompt itself.

    Raises:
        ModelError: The name is unknown, the hub is unreachable, keys do not fit, or the model does not accept the input size.
            The message says what to do.
        SpecError: `input_size`, or the seed of random weights, is not valid.
    """
    file: str | Path | None
    if prompts is not None:
        name = named_by_prompts(str(name), prompts, template)
    elif template is not None:
        raise ModelError("template makes sentences of prompts; give prompts too")
    name, file = _architecture_and_file(str(name), checkpoint, architecture)
    where, new_size = pick_device(device), None if input_size is None else check_size(input_size)
    file = str(file) if file is not None else None if pretrained else f"{RANDOM}{seed}"
    if file and file.startswith(RANDOM):
        seed, pretrained = whole(file.removeprefix(RANDOM), "the seed of random weights"), False
    shown = None if bands_shown is None else tuple(bands_shown)
    given = ModelSpec(name, file, new_size, outputs, _floats(mean), _floats(std), interpolation, crop, fit, white, shown)
    own = file if file and not file.startswith(RANDOM) else None
    weights = own or (_local_weights(name) if pretrained and not file else None)
    card_file = card_of(weights) if own and weights else named().get(name)
    card = Card.read(card_file) if card_file else None
    content, part = read_part(weights) if weights else (Checkpoint({}), "")
    full = architecture_of(name)
    with _seeded(seed):
        if not weights:
            built = builder(full)({"num_classes": card.count} if card else {}, pretrained)
        else:
            loaded = load_weights(full, content.state, Path(split_key(weights)[0]).name, size=new_size, part=part, **_known(card, name))
            built, full = loaded.built, loaded.architecture
    preprocessing = replace(card.preprocessing if card else built.preprocessing, **given.preprocessing())
    notes = [*content.notes, *built.notes]
    if not card:
        notes += assumed(full, preprocessing, given, content.hints) if own else of_channels(full, preprocessing, given)
    if new_size is not None and new_size != preprocessing.size:
        if resize(built.module, preprocessing.size, new_size, name):
            notes.append(
                f"changed the input size from {size_text(preprocessing.size)} to {size_text(new_size)}: positions were interpolated"
            )
        preprocessing = replace(preprocessing, size=new_size)
    model = _classifier(
        built.module.to(where).eval(),
        preprocessing,
        given,
        class_names or (card.class_names if card else built.class_names or _imagenet_names(built.module)),
        deletion_tuned=deletion_tuned or (weights is not None and (name.startswith("idsds:") or bool(card and card.deletion))),
        outputs=outputs if outputs != "auto" else card.outputs if card else built.outputs,
        # A model with a card was written by this package: what is read from its file is what the card says.
        notes=() if card else notes,
    )
    model.architecture = structure(full, {})
    if weights and not class_names and not card:
        _name_classes(model, weights, content)
    return model


def _architecture_and_file(name: str, checkpoint: str | Path | None, architecture: str | None) -> tuple[str, str | Path | None]:
    """Return the name of the architecture and the file with the weights, None if the name stands for its own."""
    if architecture is not None:
        name, checkpoint = architecture, checkpoint or name
    elif checkpoint is None and (split_key(name)[0].endswith(SUFFIXES) or existing_file(split_key(name)[0])):
        card_file = card_of(name)
        if card_file is None and existing_file(split_key(name)[0]) is None:
            raise ModelError(f"there is no file {name[:200]!r}; give the path of a checkpoint, or the name of a model")
        if card_file is None:
            raise ModelError(
                f"{name!r} is a checkpoint file; give its architecture too, for example architecture='timm:resnet18' in Python, "
                "or --model timm:resnet18 --checkpoint FILE"
            )
        name, checkpoint = Card.read(card_file).architecture, name
    name = located(canonical(name))
    check_name(name)
    return name, checkpoint


def _name_classes(model: Classifier, weights: str | Path, content: Checkpoint) -> None:
    """Name the classes by the text file beside the checkpoint, or by the checkpoint itself."""
    listed, fitted = names_file_of(weights), content.fitted(len(model.class_names))
    if listed is not None:
        model.class_names = read_names(listed, len(model.class_names))
    else:
        model.class_names = fitted.class_names or model.class_names
        model.notes = (*model.notes, *(note for note in fitted.notes if note not in model.notes))


def _known(card: Card | None, name: str) -> dict[str, Any]:
    """Return what a card tells `load_weights`."""
    if card is None:
        return {}
    size = card.preprocessing.size
    return {"classes": card.count, "resize": lambda built: resize(built.module, built.preprocessing.size, size, name)}


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
    name = architecture_of(model.architecture)
    if name.startswith("wrapped:"):
        raise ModelError(
            f"{model.name} is a wrapped module, so no new head can be built; replace the head of the module, and wrap it again"
        )
    # One logit of two classes stays one; it has no rows to copy.
    kind = model.outputs.kind
    count = 1 if kind == "binary" and len(class_names) == 2 else len(class_names)
    outputs, rows = (kind if kind == "sigmoid" or (kind == "binary" and count == 1) else "auto"), None if kind == "binary" else rows
    with _seeded(seed):
        built = builder(name)({"num_classes": count}, False)
        module = built.module
        resize(module, built.preprocessing.size, model.input_size, name)
        # The head consists of the tensors whose shape depends on the number of classes.
        other = outline_of(name, {"num_classes": count + 1}).shapes
    old, state = model.module.state_dict(), module.state_dict()
    body = [key for key, tensor in state.items() if other[key] == tuple(tensor.shape)]
    if not all(key in old for key in body):
        raise ModelError(f"the body of {model.name} has another structure than {name}, so no new head can be built for it")
    for key in body:
        state[key] = old[key]
    if rows is not None:
        for key in [key for key in state if key not in body and key in old]:
            state[key] = old[key][list(rows)]
    module.load_state_dict(state)
    new = _classifier(module.to(model.device).eval(), model.preprocessing, model.spec, class_names, outputs=outputs)
    new.architecture = structure(name, {})
    return new


def _classifier(module: nn.Module, *arguments: Any, **options: Any) -> Classifier:
    """Return the classifier of a module that was built here, with its weights in the fastest memory format that it accepts."""
    try:
        return Classifier(module.to(memory_format=torch.channels_last), *arguments, **options)  # type: ignore[call-overload]
    except ModelError:
        # Convolutions with channels_last weights return channels_last values, which `view` cannot flatten.
        return Classifier(module.to(memory_format=torch.contiguous_format), *arguments, **options)  # type: ignore[call-overload]


def _floats(values: Sequence[float] | None) -> tuple[float, ...] | None:
    if isinstance(values, int | float):
        raise ModelError(f"{values!r} is not valid as mean or std: give one number for each channel, as in ({values!r},) for grey pictures")
    return None if values is None else tuple(map(float, values))


def _local_weights(name: str) -> str | Path | None:
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


def _imagenet_names(module: nn.Module) -> list[str] | None:
    heads = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if not heads or getattr(heads[-1], "out_features", getattr(heads[-1], "out_channels", 0)) != 1000:
        return None
    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_description(i) for i in range(1000)]
