"""Build image classifiers and backbones of Hugging Face's transformers from a folder with config.json and weights."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from attrlib.errors import ModelError
from attrlib.models.built import Built
from attrlib.models.folders.folder import Folder
from attrlib.models.folders.image_processors import FILE as PROCESSOR
from attrlib.models.folders.image_processors import processing_of
from attrlib.models.folders.transformers_loading import (
    TRAIN,
    check_room,
    config_of,
    filled,
    transformers_package,
    with_random_weights,
    with_weights,
)
from attrlib.models.folders.transformers_outputs import Features, Logits, returning

_OUTPUTS = {"multi_label_classification": "sigmoid", "regression": "scalar", "single_label_classification": "softmax"}
_BACKBONES = (
    "beit", "clip_vision_model", "convnext", "convnextv2", "data2vec-vision", "deit", "dinov2", "dinov2_with_registers", "dinov3_convnext",
    "dinov3_vit", "ijepa", "resnet", "siglip_vision_model", "swin", "swinv2", "vit", "vit_mae", "vit_msn",
)  # fmt: skip
"""Types whose features are known; the tests compare each with transformers' own loading."""


def build_transformers(folder: Folder, name: str, classes: int | None, pretrained: bool) -> Built:
    """Build the image classifier of a folder of transformers' format, or a backbone without a head, whose outputs are features.

    No code of the folder runs: the architecture is one of transformers' own, the weights are read as tensors, and settings by which a
    config could load anything else are left out. Attention is computed by transformers' `eager` implementation.

    Args:
        folder: The folder, or the repository that is downloaded as one.
        name: Name of the model, for messages.
        classes: Number of classes, None for that of the config; a backbone has none.
        pretrained: Whether to load the weights; otherwise they are random.

    Raises:
        ModelError: transformers is missing, or the folder holds no image classifier that it can build; the message says why.
    """
    transformers = transformers_package()
    values = folder.config(name)
    cls, headless = _class_of(transformers, values, classes, name)
    config = config_of(transformers, values, classes, name)
    if headless and hasattr(config, "mask_ratio"):
        config.mask_ratio = 0.0
    unpooled = False
    if pretrained:
        optional = headless and "add_pooling_layer" in inspect.signature(cls.__init__).parameters
        module, unpooled = with_weights(cls, config, folder, name, "add_pooling_layer" if optional else "")
    else:
        module = with_random_weights(cls, config, name)
    processing = processing_of(transformers, folder.settings(PROCESSOR, name), config, name)
    module.__class__ = returning(Features if headless else Logits, type(module))
    module.reverses_channels = processing.reverses_channels
    if headless:
        notes = [f"{name} has no classes: its features are explained"]
        if unpooled:
            notes.append(f"the weights of {name} have no pooling layer: its features are the class token")
        return Built(module, processing.preprocessing, None, "features", (*notes, *processing.notes))
    listed = config.id2label or {}
    names = named([str(listed.get(i, f"LABEL_{i}")) for i in range(config.num_labels)])
    return Built(module, processing.preprocessing, names, outputs_of(config.problem_type, config.num_labels), processing.notes)


def _class_of(transformers: Any, values: Mapping[str, Any], classes: int | None, name: str) -> tuple[Any, bool]:
    """Return the class of transformers that the config names, and whether it is a backbone without a head.

    Raises:
        ModelError: It is no class of transformers, or neither an image classifier nor, unless a number of classes is given, a backbone.
    """
    kind = values.get("model_type")
    listed = values.get("architectures") or []
    architectures = [str(each)[:80] for each in listed] if isinstance(listed, list) else []
    if kind not in transformers.CONFIG_MAPPING:
        if values.get("auto_map"):
            raise ModelError(
                f"{name} comes with its own code (auto_map in config.json), which is never run; use a model that transformers itself "
                "defines, or build the module in Python and pass it to wrap_model"
            )
        raise ModelError(
            f"transformers {transformers.__version__} does not know the model_type {str(kind)[:80]!r} of {name}; check its config.json, or "
            "update transformers"
        )
    auto = transformers.models.auto.modeling_auto
    names = _names(auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, kind)
    chosen = [each for each in architectures if each in names] if architectures else names[:1]
    if chosen:
        return getattr(transformers, chosen[0]), False
    # What pretrains a backbone holds it; its other parts are left out.
    mappings = (auto.MODEL_MAPPING_NAMES, auto.MODEL_FOR_MASKED_IMAGE_MODELING_MAPPING_NAMES, auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES)
    holding = [each for mapping in mappings for each in _names(mapping, kind)]
    if kind in _BACKBONES and classes is None and (not architectures or set(architectures) & set(holding)):
        return getattr(transformers, holding[0]), True
    holds = f"holds {' and '.join(architectures)}" if architectures else f"holds a model of the type {kind}"
    towers = f"load it as clip:{name.removeprefix('hf:')}?classes=A|B, where prompts make the classes"
    raise ModelError(f"{name} {holds}, which is not an image classifier; {towers if kind in ('clip', 'siglip') else TRAIN}")


def _names(mapping: Mapping[str, Any], kind: Any) -> list[str]:
    names = mapping.get(kind, ())
    return [names] if isinstance(names, str) else list(names)


def as_transformers_reads(module: nn.Module, state: Mapping[str, Tensor], name: str) -> dict[str, Tensor] | None:
    """Return a state dict under the keys of a module of transformers, which saves its weights under other, older ones.

    Args:
        module: The module, as `build_transformers` made it; it may lie on the device `meta`.
        state: The state dict.
        name: Name of the model, for messages.

    Returns:
        The weights that transformers finds a place for, and under their own keys those that do not fit; None if the module is not of
        transformers.
    """
    if not isinstance(module, Logits):
        return None
    check_room(module, state, name)
    # The class without the mixin: transformers renames nothing for classes that it does not define.
    read, report = filled(type(module).__bases__[1], module.config, state, name)
    unread = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    found = {key: value for key, value in read.state_dict().items() if key not in unread}
    return found | {key: state[key] for key in (*unread, *report["unexpected_keys"]) if key in state}


def named(names: list[str]) -> list[str] | None:
    """Return the names of classes, None if they are those that transformers gives to classes without names."""
    return None if names == [f"LABEL_{i}" for i in range(len(names))] else names


def outputs_of(problem: object, classes: int) -> str:
    """Return the kind of outputs for a problem type. Without one, transformers trains one output as a regression."""
    return _OUTPUTS.get(str(problem)) or ("scalar" if classes == 1 else "auto")
