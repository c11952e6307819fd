"""Rename the keys of official and older weight files to those of timm, torchvision and transformers, by the rules that these apply."""

import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

import timm
from torch import Tensor, nn

from attrlib.errors import ModelError
from attrlib.models.folders.folder import is_folder_name
from attrlib.models.folders.transformers_models import as_transformers_reads
from attrlib.models.options import split_options

# Rules that torchvision applies to its downloads, or to state dicts of older versions of its modules.
_TORCHVISION: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(encoder_layer_\d+\.mlp)\.linear_2\."), r"\1.3."),
)
# timm resizes these to the model that it loads into.
_RESIZED = re.compile(r"pos_embed|rel_pos|relative_position|patch_embed")


def renamed(name: str, module: nn.Module, state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the state dict under other keys, once for each rule of the architecture's source that changes it.

    Args:
        name: Name of the architecture, which may end with options.
        module: The architecture; it may lie on the device `meta`.
        state: The state dict.
    """
    if is_folder_name(name):
        if (read := as_transformers_reads(module, state, name)) is not None and read.keys() != state.keys():
            yield read
        return
    source, _, short = split_options(name)[0].partition(":")
    if source in ("torchvision", "idsds"):
        result: dict[str, Tensor] = OrderedDict()
        for key, value in state.items():
            for pattern, replacement in _TORCHVISION:
                key = pattern.sub(replacement, key)
            result[key] = value
        if result.keys() != state.keys():
            yield result
    if source == "timm":
        for function in _filters(short.partition(".")[0]):
            try:
                yield OrderedDict(function(dict(state), module))
            except Exception:  # noqa: BLE001  a rule for other keys fails in any way
                continue


def restore_resized(new: dict[str, Tensor], old: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Put back what a rule resized, and return its keys.

    Raises:
        ModelError: A tensor was resized under another key.
    """
    resized, counts = [], {value.numel() for value in old.values()}
    for key in new:
        if _RESIZED.search(key) and (new[key].numel() != old[key].numel() if key in old else new[key].numel() not in counts):
            if key not in old:
                raise ModelError(f"{key} belongs to images of another size; give the size at which the network was trained as input_size")
            new[key] = old[key]
            resized.append(key)
    return tuple(resized)


def _filters(architecture: str) -> list[Callable[[dict[str, Tensor], nn.Module], Mapping[str, Tensor]]]:
    """Return the functions by which timm's module of an architecture reads the weights of others."""
    module = sys.modules[timm.models.model_entrypoint(architecture).__module__]
    functions = [value for key, value in vars(module).items() if key.endswith(("filter_fn", "filter_fn_classifier")) and callable(value)]
    return [_with_model(function) for function in functions]


def _with_model(function: Callable) -> Callable[[dict[str, Tensor], nn.Module], Mapping[str, Tensor]]:
    return function if function.__code__.co_argcount > 1 else lambda state, _: function(state)
