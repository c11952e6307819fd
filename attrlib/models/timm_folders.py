"""Build models from folders: those of timm's format here, those of transformers' format in `transformers_models`."""

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from attrlib.errors import ModelError, reason_of, unknown
from attrlib.models.built import Build, Built
from attrlib.models.checkpoints import load_state
from attrlib.models.model_folders import CONFIG, Folder, is_timm
from attrlib.models.preprocessing import Preprocessing
from attrlib.models.transformers_models import build_transformers, check_room


def folder_builder(name: str) -> Build:
    """Return the builder of `hf:...`, `timm:hf-hub:...` or `timm:local-dir:...`; config.json decides whether timm or transformers builds it.

    Raises:
        ModelError: There is no such folder, or the name is none of a repository.
    """
    folder = Folder.parse(name)

    def build(classes: int | None, pretrained: bool) -> Built:
        config = folder.config(name)
        if is_timm(config):
            return _build_timm(folder, config, name, classes, pretrained)
        return build_transformers(folder, name, classes, pretrained)

    return build


def timm_preprocessing(module: nn.Module) -> Preprocessing:
    """Return the preprocessing that a module of timm declares."""
    config = timm.data.resolve_model_data_config(module)
    _, height, width = config["input_size"]
    fit = {"squash": "squash", "border": "border"}.get(config.get("crop_mode", "center"), "centre")
    return Preprocessing((height, width), config["mean"], config["std"], config["interpolation"], config["crop_pct"], fit)


def _build_timm(folder: Folder, config: Mapping[str, Any], name: str, classes: int | None, pretrained: bool) -> Built:
    architecture = config["architecture"]
    if not timm.is_model(architecture):
        raise ModelError(f"{name} cannot be built: {unknown('timm model', architecture, timm.list_models())}")
    where = folder.local(name)
    options = {} if classes is None else {"num_classes": classes}

    def create() -> nn.Module:
        try:
            # Without pretrained, timm reads the config and no weights.
            return timm.create_model(f"local-dir:{where}", pretrained=False, **options)
        except MemoryError:
            raise
        except Exception as error:  # a config may fail in any way
            raise ModelError(f"{name} cannot be built by timm ({reason_of(error)}); check its {CONFIG}") from error

    if not pretrained:
        module = create()
    else:
        state = folder.weights(name)
        with torch.device("meta"):
            check_room(create(), state, name)
        module = create()
        load_state(module, state, name)
    return Built(module, timm_preprocessing(module), _names_of(module))


def _names_of(module: nn.Module) -> Sequence[str] | None:
    config: Mapping[str, Any] = module.pretrained_cfg  # type: ignore[assignment]
    names, descriptions = config.get("label_names"), config.get("label_descriptions")
    if not isinstance(names, list | tuple):
        subset = infer_imagenet_subset(module)
        info = ImageNetInfo(subset) if subset else None
        return [info.index_to_description(i) for i in range(module.num_classes)] if info else None  # type: ignore[arg-type]
    if len(names) != module.num_classes:
        return None
    described = descriptions if isinstance(descriptions, Mapping) else {}
    return [str(described.get(each, each)) for each in names]
