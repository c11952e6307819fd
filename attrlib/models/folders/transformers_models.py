"""Build image classifiers of Hugging Face's transformers from a folder with config.json and weights."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attrlib.errors import ModelError, reason_of
from attrlib.models.built import Built
from attrlib.models.files.limits import MOST_CLASSES
from attrlib.models.folders.folder import Folder
from attrlib.models.folders.image_processors import FILE as PROCESSOR
from attrlib.models.folders.image_processors import processing_of, trained_size
from attrlib.specs import digest

# Keys by which a config could load code, other files or another precision, or have the model return or record more than logits.
_LEFT_OUT = (
    "_attn_implementation",
    "_attn_implementation_internal",
    "attn_implementation",
    "auto_map",
    "dtype",
    "fusion_config",
    "gradient_checkpointing",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "torch_dtype",
    "torchscript",
    "transformers_weights",
    "use_return_dict",
)
_LAYERS = ("num_hidden_layers", "depths", "num_block_repeats", "depth_coefficient")
"""Keys whose values are numbers of layers, or factors of them."""
_MOST_LAYERS, _MOST_VALUES = 1000, 2_000_000_000
_OUTPUTS = {"multi_label_classification": "sigmoid", "regression": "scalar", "single_label_classification": "softmax"}
_WORKS = "fine-tune it with AutoModelForImageClassification, and give the folder that this saves"


def build_transformers(folder: Folder, name: str, classes: int | None, pretrained: bool) -> Built:
    """Build the image classifier of a folder of transformers' format.

    No code of the folder runs: the architecture is one of transformers' own, the weights are read as tensors, and settings by which a
    config could load anything else are left out. Attention is computed by transformers' `eager` implementation.

    Args:
        folder: The folder, or the repository that is downloaded as one.
        name: Name of the model, for messages.
        classes: Number of classes, None for that of the config.
        pretrained: Whether to load the weights; otherwise they are random.

    Raises:
        ModelError: transformers is missing, or the folder holds no image classifier that it can build; the message says why.
    """
    transformers = _transformers()
    values = folder.config(name)
    cls = _class_of(transformers, values, name)
    config = _config_of(transformers, values, classes, name)
    if pretrained:
        module = _with_weights(cls, config, folder, name)
    else:
        check_room(_outline(cls, config, name), None, name)
        module = _quietly(lambda: cls._from_config(config, attn_implementation="eager", dtype=torch.float32), name)
    processing = processing_of(transformers, folder.settings(PROCESSOR, name), config, name)
    module.__class__ = _returning_logits(type(module))
    module.reverses_channels = processing.reverses_channels
    listed = config.id2label or {}
    names = named([str(listed.get(i, f"LABEL_{i}")) for i in range(config.num_labels)])
    return Built(module, processing.preprocessing, names, outputs_of(config.problem_type, config.num_labels), processing.notes)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ModelError('hf: models need transformers, which is not installed; pip install "attrlib[hub]"') from None
    return transformers


def _class_of(transformers: Any, values: Mapping[str, Any], name: str) -> Any:
    """Return the class of transformers that the config names. Raises `ModelError` if it is no image classifier of transformers."""
    kind = values.get("model_type")
    known = transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
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
    names = known.get(kind, ())
    names = (names,) if isinstance(names, str) else tuple(names)
    chosen = [each for each in architectures if each in names] if architectures else list(names[:1])
    if not chosen:
        holds = f"holds {' and '.join(architectures)}" if architectures else f"holds a model of the type {kind}"
        raise ModelError(f"{name} {holds}, which is not an image classifier; {_WORKS}")
    return getattr(transformers, chosen[0])


def _config_of(transformers: Any, values: Mapping[str, Any], classes: int | None, name: str) -> Any:
    if values.get("quantization_config"):
        raise ModelError(
            f"{name} is quantised (quantization_config in config.json), which has no gradients; use the model in full precision"
        )
    try:
        config = transformers.CONFIG_MAPPING[values["model_type"]].from_dict(_plain(values))
        if classes is not None and classes != config.num_labels:
            config.num_labels = classes
        count = int(config.num_labels)
    except Exception as error:  # noqa: BLE001  transformers validates configs in many ways
        raise ModelError(f"the config.json of {name} is not valid ({reason_of(error)}); save the model again") from None
    if not 1 <= count <= MOST_CLASSES:
        raise ModelError(f"{name} has {count} classes, but 1 to {MOST_CLASSES} can be loaded; choose another model")
    return config


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain(value) if isinstance(value, dict) else value for key, value in values.items() if key not in _LEFT_OUT}


def _with_weights(cls: Any, config: Any, folder: Folder, name: str) -> Any:
    state = folder.weights(name)
    check_room(_outline(cls, config, name), state, name)
    module, report = _filled(cls, config, state, name)
    missing, mismatched = sorted(report["missing_keys"]), sorted(key for key, *_ in report["mismatched_keys"])
    if problems := [
        f"{len(keys)} {kind}: {', '.join(keys[:4])}{', ...' if keys[4:] else ''}"
        for kind, keys in (("missing", missing), ("of another shape", mismatched))
        if keys
    ]:
        only_head = not mismatched and not any(key.startswith(f"{cls.base_model_prefix}.") for key in missing)
        advice = _WORKS if only_head else "give config.json and weights that were saved together"
        raise ModelError(f"the weights of {name} do not fit {cls.__name__} ({'; '.join(problems)}); {advice}")
    return module


def _filled(cls: Any, config: Any, state: Mapping[str, Tensor], name: str) -> Any:
    """Return a model with the weights of a state dict, under whatever keys transformers knows, and its report of what did not fit."""
    return _quietly(
        lambda: cls.from_pretrained(
            None,
            config=config,
            state_dict=dict(state),
            ignore_mismatched_sizes=True,
            attn_implementation="eager",
            dtype=torch.float32,
            output_loading_info=True,
        ),
        name,
    )


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
    if not isinstance(module, _Logits):
        return None
    check_room(module, state, name)
    # The class without the mixin: transformers renames nothing for classes that it does not define.
    filled, report = _filled(type(module).__bases__[1], module.config, state, name)
    unread = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    found = {key: value for key, value in filled.state_dict().items() if key not in unread}
    return found | {key: state[key] for key in (*unread, *report["unexpected_keys"]) if key in state}


def _outline(cls: Any, config: Any, name: str) -> nn.Module:
    values = config.to_dict()
    layers = [value for part in (values, values.get("vision_config") or {}) for key in _LAYERS for value in np.ravel(part.get(key) or 0)]
    if max(layers) > _MOST_LAYERS:
        raise ModelError(f"the config.json of {name} asks for {max(layers):.0f} layers, but at most {_MOST_LAYERS} are built; check it")
    with torch.device("meta"):
        return _quietly(lambda: cls(config), name)


def check_room(outline: nn.Module, state: Mapping[str, Tensor] | None, name: str) -> None:
    """Raise `ModelError` if a config names sizes that the weights do not fill: all of them would be allocated.

    Args:
        outline: The model without values.
        state: The weights, or None for random ones, of which there may be two billion.
        name: Name of the model, for messages.
    """
    needed = sum(map(Tensor.numel, outline.parameters()))
    stored = _MOST_VALUES // 2 if state is None else sum(map(Tensor.numel, state.values()))
    if needed > 2 * stored:
        have = f"at most {_MOST_VALUES} can be drawn at random" if state is None else f"its weights have {stored}"
        raise ModelError(f"the config.json of {name} asks for {needed} values, but {have}; check it, or copy or download both again")


def _quietly(create: Callable[[], Any], name: str) -> Any:
    """Build a model without transformers' own reports on standard error."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        return create()
    except MemoryError:
        raise
    except Exception as error:  # a config may fail in any way
        raise ModelError(f"{name} cannot be built by transformers ({reason_of(error)}); check its config.json and its weights") from error
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def named(names: list[str]) -> list[str] | None:
    """Return the names of classes, None if they are those that transformers gives to classes without names."""
    return None if names == [f"LABEL_{i}" for i in range(len(names))] else names


def outputs_of(problem: object, classes: int) -> str:
    """Return the kind of outputs for a problem type. Without one, transformers trains one output as a regression."""
    return _OUTPUTS.get(str(problem)) or ("scalar" if classes == 1 else "auto")


class _Logits:
    """Mixed into a class of transformers: returns the logits (B,C) of images (B,3,H,W) alone.

    The paths of the modules inside stay those of transformers, as no module is wrapped around them.
    """

    reverses_channels = interpolates = False
    config: Any

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits (B,C); position embeddings are interpolated for images of another size than the config's."""
        images = pixel_values.flip(1) if self.reverses_channels else pixel_values
        resized = self.interpolates and tuple(images.shape[-2:]) != trained_size(self.config)
        options = {"interpolate_pos_encoding": True} if resized else {}
        return super().forward(images, **options).logits  # type: ignore[misc]

    def extra_repr(self) -> str:
        # The digest of a classifier covers this text: configs may differ in what no module shows.
        order = ", channels reversed" if self.reverses_channels else ""
        return f"config={digest(_settings(self.config.to_dict()))}{order}"


def _settings(values: Mapping[str, Any]) -> dict[str, str]:
    """Return what the computation may depend on: not where the config comes from, nor the names of the classes."""
    others = ("_name_or_path", "architectures", "dtype", "id2label", "label2id", "problem_type", "transformers_version")
    return {key: str(_settings(value) if isinstance(value, dict) else value) for key, value in values.items() if key not in others}


def _returning_logits(cls: Any) -> Any:
    interpolates = "interpolate_pos_encoding" in inspect.signature(cls.forward).parameters
    return type(cls.__name__, (_Logits, cls), {"__module__": __name__, "interpolates": interpolates})
