"""Build models from folders: those of timm's format here, those of transformers' format in `transformers_models`."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from attrlib.errors import ModelError, reason_of, unknown
from attrlib.models.built import Build, Built
from attrlib.models.folders.folder import CONFIG, Folder, is_timm
from attrlib.models.folders.prompts import CLIP
from attrlib.models.folders.transformers_clip import build_clip
from attrlib.models.folders.transformers_loading import check_room
from attrlib.models.folders.transformers_models import build_transformers, named, outputs_of
from attrlib.models.loading.prefixes import below, prefixes_of
from attrlib.models.loading.renames import renamed
from attrlib.models.loading.state_dicts import COUNTER, load_state
from attrlib.models.options import Options, class_count
from attrlib.models.preprocessing import Preprocessing
from attrlib.specs import check_size


def folder_builder(name: str) -> Build:
    """Return the builder of `clip:...`, or of `hf:...`, `timm:hf-hub:...`, `timm:local-dir:...`, for which config.json names the package.

    Raises:
        ModelError: There is no such folder, or the name is none of a repository.
    """
    folder = Folder.parse(name)

    def build(options: Options, pretrained: bool) -> Built:
        if name.startswith(CLIP):
            return build_clip(folder, name, class_count(options), pretrained)
        config, classes = folder.config(name), class_count(options)
        if is_timm(config):
            return _build_timm(folder, config, name, classes, pretrained)
        return build_transformers(folder, name, classes, pretrained)

    return build


def timm_preprocessing(module: nn.Module) -> Preprocessing:
    """Return the preprocessing that a module of timm declares."""
    config = timm.data.resolve_model_data_config(module)
    _, height, width = config["input_size"]
    fit = {"squash": "squash", "border": "border"}.get(config.get("crop_mode", "center"), "centre")
    return Preprocessing((height, width), tuple(config["mean"]), tuple(config["std"]), config["interpolation"], config["crop_pct"], fit)


def _build_timm(folder: Folder, config: Mapping[str, Any], name: str, classes: int | None, pretrained: bool) -> Built:
    architecture = config["architecture"]
    if not timm.is_model(architecture):
        raise ModelError(f"{name} cannot be built: {unknown('timm model', architecture, timm.list_models())}")
    where = folder.local(name)
    options: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    by_transformers = "model_type" in config
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, Mapping) or arguments.keys() & inspect.signature(timm.create_model).parameters.keys():
        raise ModelError(f"the model_args in the {CONFIG} of {name} are not valid; only the options of the architecture may be there")

    def create() -> Any:
        try:
            # Without pretrained, timm reads the config and no weights.
            if by_transformers:
                options.setdefault("num_classes", config["num_classes"])
                return timm.create_model(
                    architecture, pretrained=False, pretrained_cfg=config.get("pretrained_cfg"), **{**arguments, **options}
                )
            return timm.create_model(f"local-dir:{where}", pretrained=False, **options)
        except MemoryError:
            raise
        except Exception as error:  # a config may fail in any way
            raise ModelError(f"{name} cannot be built by timm ({reason_of(error)}); check its {CONFIG}") from error

    state = folder.weights(name) if pretrained else None
    _check_room(create, state, name)
    module = create()
    if state is not None:
        load_state(module, _under_own_names(state, module, architecture), name)
    preprocessing = timm_preprocessing(module)
    if size := arguments.get("img_size"):
        preprocessing = replace(preprocessing, size=check_size(tuple(size) if isinstance(size, list) else size))
    if not module.num_classes:
        return Built(module, preprocessing, outputs="features", notes=(f"{name} has no classes: its features are explained",))
    outputs = outputs_of(config.get("problem_type"), module.num_classes) if by_transformers else "auto"
    return Built(module, preprocessing, _names_of(module, config), outputs)


def _under_own_names(state: Mapping[str, Tensor], module: nn.Module, architecture: str) -> Mapping[str, Tensor]:
    """Return the weights under the keys of the module: without a prefix, or renamed by the rules of timm for official files."""
    expected = {key for key in module.state_dict() if not key.endswith(COUNTER)}
    own = below(state, next(iter(prefixes_of(state, expected)), ""))
    if not expected <= own.keys():
        for new in renamed(f"timm:{architecture}", module, state):
            if expected <= new.keys():
                return new
    return own


def _check_room(create: Callable[[], nn.Module], state: Mapping[str, Tensor] | None, name: str) -> None:
    try:
        with torch.device("meta"):
            outline = create()
    except ModelError:
        return  # Some initialisations need real tensors, and what is wrong besides shows with these.
    check_room(outline, state, name)


def _names_of(module: Any, config: Mapping[str, Any]) -> Sequence[str] | None:
    values: Mapping[str, Any] = module.pretrained_cfg | config
    names, described, count = values.get("label_names"), values.get("label_descriptions"), module.num_classes
    if isinstance(names, list | tuple):
        texts = described if isinstance(described, Mapping) else {}
        return named([str(texts.get(each, each)) for each in names]) if len(names) == count else None
    subset = infer_imagenet_subset(module)
    return [ImageNetInfo(subset).index_to_description(i) for i in range(count)] if subset else None
