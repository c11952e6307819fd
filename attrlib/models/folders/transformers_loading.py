"""Build models of Hugging Face's transformers from config.json and weights, without running code of a folder."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attrlib.errors import ModelError, reason_of
from attrlib.models.files.limits import MOST_CLASSES
from attrlib.models.folders.folder import Folder

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
_POOLER = "pooler."
TRAIN = "fine-tune it with AutoModelForImageClassification, and give the folder that this saves"


def transformers_package(prefix: str = "hf:") -> Any:
    """Return the package. Raises `ModelError` if it is not installed.

    Args:
        prefix: Prefix of the names that need it, for the message.
    """
    try:
        import transformers
    except ImportError:
        raise ModelError(f'{prefix} models need transformers, which is not installed; pip install "attrlib[hub]"') from None
    return transformers


def config_of(transformers: Any, values: Mapping[str, Any], classes: int | None, name: str) -> Any:
    """Return the config with another number of classes. Raises `ModelError` if its values are not valid."""
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


def with_random_weights(cls: Any, config: Any, name: str) -> Any:
    """Return a model of transformers with random weights. Raises `ModelError` if it cannot be built, or is too large."""
    check_room(_outline(cls, config, name), None, name)
    return quietly(lambda: cls._from_config(config, attn_implementation="eager", dtype=torch.float32), name)


def with_weights(cls: Any, config: Any, folder: Folder, name: str, optional: str = "") -> tuple[Any, bool]:
    """Return a model of transformers with the weights of a folder, and whether an optional part was left out.

    Args:
        cls: Class of the model.
        config: Its config.
        folder: The folder that holds the weights.
        name: Name of the model, for messages.
        optional: The option of the constructor that is set to False if the folder lacks the weights of a pooling layer; empty for none.

    Raises:
        ModelError: The weights do not fit; the message says which.
    """
    state = folder.weights(name)
    check_room(_outline(cls, config, name), state, name)
    module, report = filled(cls, config, state, name)
    left_out = bool(optional and report["missing_keys"]) and all(key.startswith(_POOLER) for key in report["missing_keys"])
    if left_out:
        module, report = filled(cls, config, state, name, **{optional: False})
    missing, mismatched = sorted(report["missing_keys"]), sorted(key for key, *_ in report["mismatched_keys"])
    if problems := [
        f"{len(keys)} {kind}: {', '.join(keys[:4])}{', ...' if keys[4:] else ''}"
        for kind, keys in (("missing", missing), ("of another shape", mismatched))
        if keys
    ]:
        body = cls.base_model_prefix
        only_head = hasattr(module, body) and not mismatched and not any(key.startswith(f"{body}.") for key in missing)
        advice = TRAIN if only_head else "give config.json and weights that were saved together"
        raise ModelError(f"the weights of {name} do not fit {cls.__name__} ({'; '.join(problems)}); {advice}")
    return module, left_out


def filled(cls: Any, config: Any, state: Mapping[str, Tensor], name: str, **options: Any) -> Any:
    """Return a model with the weights of a state dict, under whatever keys transformers knows, and its report of what did not fit."""
    return quietly(
        lambda: cls.from_pretrained(
            None,
            config=config,
            state_dict=dict(state),
            ignore_mismatched_sizes=True,
            attn_implementation="eager",
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        ),
        name,
    )


def _outline(cls: Any, config: Any, name: str) -> nn.Module:
    values = config.to_dict()
    layers = [value for part in (values, values.get("vision_config") or {}) for key in _LAYERS for value in np.ravel(part.get(key) or 0)]
    if max(layers) > _MOST_LAYERS:
        raise ModelError(f"the config.json of {name} asks for {max(layers):.0f} layers, but at most {_MOST_LAYERS} are built; check it")
    with torch.device("meta"):
        return quietly(lambda: cls(config), name)


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


def quietly(create: Callable[[], Any], name: str) -> Any:
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
