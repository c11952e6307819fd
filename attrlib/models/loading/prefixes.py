"""Find the part of a state dict that holds the weights of a network: wrappers put prefixes before its keys, and others beside it."""

from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

# Wrappers that stand anywhere in a key: torch.compile, FSDP and activation checkpointing wrap single layers, too.
_TRANSPARENT = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict without the parts of keys by which PyTorch wraps single layers."""
    if not any(part in key for key in state for part in _TRANSPARENT):
        return dict(state)
    result: dict[str, Tensor] = OrderedDict()
    for key, value in state.items():
        for part in _TRANSPARENT:
            key = key.replace(part, "")
        result[key] = value
    return result


def prefixes_of(state: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, int]:
    """Return the prefixes that stand before expected keys, with the number of keys that each covers, most first.

    Args:
        state: The state dict.
        expected: Keys of the network.
    """
    wanted, counts = set(expected), Counter[str]()
    for key in state:
        start = 0
        while True:
            if key[start:] in wanted:
                counts[key[:start]] += 1
            dot = key.find(".", start)
            if dot < 0:
                break
            start = dot + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], len(item[0]))))


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the entries below a prefix, without it, together with the versions of modules that torch keeps beside a state dict."""
    result: dict[str, Tensor] = OrderedDict((key[len(prefix) :], value) for key, value in state.items() if key.startswith(prefix))
    metadata = getattr(state, "_metadata", None)
    if metadata is not None:
        versions = {key[len(prefix) :].removesuffix("."): value for key, value in metadata.items() if f"{key}.".startswith(prefix)}
        result._metadata = versions  # type: ignore[attr-defined]
    return result


def same_values(state: Mapping[str, Tensor], first: str, second: str) -> bool:
    """Return whether two prefixes stand before the same weights, as where a module is known by two names."""
    one, other = below(state, first), below(state, second)
    return all(value.shape == other[key].shape and torch.equal(value, other[key]) for key, value in one.items() if key in other)


def listed(keys: Collection[str], most: int = 4) -> str:
    """Return the first keys as text, and whether there are more."""
    shown = list(keys)[:most]
    return ", ".join(key[:80] for key in shown) + (", ..." if len(keys) > most else "")
