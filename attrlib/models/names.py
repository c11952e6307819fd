"""Names of models: which there are, and whether a name is one of them."""

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import timm

from attrlib.errors import ModelError, unknown
from attrlib.models.added import architecture_of, named
from attrlib.models.cards import Card, shipped
from attrlib.models.checkpoints import SUFFIXES, split_key
from attrlib.models.folders.folder import Folder, is_folder_name, is_path_of_folder, local_path, name_of_folder
from attrlib.models.folders.prompts import CLIP, join_prompts, prompts_file, prompts_of, split_prompts
from attrlib.models.loading.outline import check_named_options
from attrlib.models.options import join_options, split_options
from attrlib.models.sources import EMBEDDED, architectures
from attrlib.specs import ModelSpec

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
        pattern: Pattern such as `timm:resnet*`; matched against the models without download and all architectures. Options after it, as
            in `timm:resnet*?in_chans=1`, are appended to the names of the architectures.
    """
    options = re.search(r"\?\w+=", pattern)
    pattern, end = (pattern[: options.start()], pattern[options.start() :]) if options else (pattern, "")
    embedded = ModelInfo(EMBEDDED, "embedded", "EfficientNet-Lite0 on ImageNet-1k, 4.7 M parameters, 224 px; no download")
    every = [embedded, *(ModelInfo(n, "shipped" if n in shipped() else "added", Card.read(p).summary()) for n, p in named().items())]
    result = [info for info in every if not end and (not pattern or fnmatch(info.name, pattern))]
    if pattern:
        for source, names in architectures().items():
            result += [ModelInfo(canonical(f"{source}:{n}{end}"), source) for n in names if fnmatch(f"{source}:{n}", pattern)]
    return result


def check_name(name: str) -> None:
    """Raise `ModelError` if no architecture has this name, or it does not accept the options that the name ends with."""
    base, options = split_options(name)
    if base in named() and options:
        raise ModelError(f"{base} is a trained model and has no options; name its architecture, {architecture_of(base)}")
    _check_architecture(base)
    check_named_options(name)


def canonical(name: str) -> str:
    """Return the name with its options in order. Raises `ModelError` if they are malformed."""
    if name.startswith(CLIP):
        return join_prompts(*split_prompts(name))
    return join_options(*split_options(name)) if "=" in name and not is_path_of_folder(name) else name


def located(name: str) -> str:
    """Return the name of a model so that it does not depend on the working directory: with absolute paths of its folder and its prompts.

    Raises:
        ModelError: The name is the path of a folder that holds no model; the message lists what it holds.
    """
    if name == EMBEDDED or name in named():
        return name
    if is_path_of_folder(name):
        return name_of_folder(name)
    path = local_path(name)
    if path is not None and is_path_of_folder(path):
        start = name.index(path)
        name = f"{name[:start]}{Path(path).expanduser().absolute()}{name[start + len(path) :]}"
    if file := prompts_file(name):
        base, options = split_prompts(name)
        name = join_prompts(base, options | {"prompts": str(Path(file).expanduser().absolute())})
    return name


def _check_architecture(name: str) -> None:
    source, _, architecture = name.partition(":")
    if name == EMBEDDED or name in named():
        return
    if is_folder_name(name):
        Folder.parse(name)
        # A file with prompts is read when the model is loaded, after the app has checked that it may.
        if name.startswith(CLIP) and not prompts_file(name):
            prompts_of(name)
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
        advice = (
            "Or name an architecture as timm:NAME or torchvision:NAME, attrlib:NAME, bcos:NAME, idsds:NAME, hf:ORG/NAME or clip:ORG/NAME."
        )
        raise ModelError(unknown("model", name, [EMBEDDED, *named()], advice))


def parse_model(text: str) -> ModelSpec:
    """Parse a model in text form.

    Raises:
        ModelError: The architecture is unknown.
        SpecError: The text is malformed or the input size is not possible.
    """
    spec = ModelSpec.parse(text)
    spec = replace(spec, architecture=canonical(spec.architecture))
    check_name(spec.architecture)
    return spec
