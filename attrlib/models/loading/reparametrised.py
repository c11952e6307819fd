"""Fold what training adds to weights, so that a checkpoint fits the plain network: weight norm, spectral norm, pruning masks, dtypes."""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from attrlib.errors import ModelError

_PARAMETRISED = ".parametrizations."


def folded(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the state dict with plain weights, and notes of what was folded.

    Weight norm is w = g v / |v|, with the norm over all dimensions in which g has size 1. Spectral norm is w = w' / (u^T w' v), with
    the stored u and v, as in evaluation mode. Pruning is w = w' * mask.

    Raises:
        ModelError: A weight has another parametrisation, whose values the file does not hold.
    """
    result: dict[str, Tensor] = OrderedDict(state)
    if hasattr(state, "_metadata"):
        result._metadata = state._metadata  # type: ignore[attr-defined]
    counts: dict[str, int] = {}

    def replace(key: str, parts: tuple[str, ...], value: Tensor, kind: str) -> None:
        for part in parts:
            result.pop(part, None)
        result[key] = value
        counts[kind] = counts.get(kind, 0) + 1

    for key in [k for k in state if k.endswith("_g") and k[:-1] + "v" in state]:
        name = key[:-2]
        replace(name, (key, name + "_v"), _weight_norm(state[key], state[name + "_v"]), "weight norm")
    for key in [k for k in state if k.endswith("_orig")]:
        name = key[: -len("_orig")]
        mask, u, v = (state.get(name + end) for end in ("_mask", "_u", "_v"))
        if mask is not None:
            replace(name, (key, name + "_mask"), state[key] * mask, "pruning")
        elif u is not None and v is not None:
            replace(name, (key, name + "_u", name + "_v"), _spectral_norm(state[key], u, v), "spectral norm")
    for name, parts in _parametrised(state).items():
        g, v = (state.get(f"{parts}original{i}") for i in (0, 1))
        whole, left, right = (state.get(parts + end) for end in ("original", "0._u", "0._v"))
        names = tuple(key for key in state if key.startswith(parts))
        if g is not None and v is not None and len(names) == 2:
            replace(name, names, _weight_norm(g, v), "weight norm")
        elif whole is not None and left is not None and right is not None and len(names) == 3:
            replace(name, names, _spectral_norm(whole, left, right), "spectral norm")
        else:
            raise ModelError(
                f"{name} is parametrised in a way that cannot be undone from the file; call "
                "torch.nn.utils.parametrize.remove_parametrizations on the model, and save it again"
            )
    return result, tuple(f"folded {kind} of {count} weights" for kind, count in counts.items())


def in_float32(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the state dict with all floating-point values in float32, and a note of what was cast."""
    result: dict[str, Tensor] = OrderedDict()
    if hasattr(state, "_metadata"):
        result._metadata = state._metadata  # type: ignore[attr-defined]
    counts: dict[str, int] = {}
    for key, value in state.items():
        cast = value.is_floating_point() and value.dtype != torch.float32
        result[key] = value.float() if cast else value
        if cast:
            kind = str(value.dtype).removeprefix("torch.")
            counts[kind] = counts.get(kind, 0) + 1
    return result, tuple(f"cast {count} {kind} weights to float32" for kind, count in counts.items())


def _parametrised(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names of parametrised tensors, with the prefix of their parts."""
    found = {}
    for key in state:
        if _PARAMETRISED in f".{key}":
            module, _, rest = f".{key}".rpartition(_PARAMETRISED)
            tensor = rest.partition(".")[0]
            name = f"{module}.{tensor}".removeprefix(".")
            found[name] = f"{module}{_PARAMETRISED}{tensor}.".removeprefix(".")
    return found


def _weight_norm(g: Tensor, v: Tensor) -> Tensor:
    over = [dim for dim in range(v.ndim) if g.ndim != v.ndim or g.shape[dim] == 1]
    v = v.float()
    return v * (g.float() / torch.linalg.vector_norm(v, dim=over, keepdim=True)) if over else v / v.abs() * g.float()


def _spectral_norm(weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    weight = weight.float()
    # The dimension along which the matrix is read has the length of u.
    dim = next((d for d in range(weight.ndim) if weight.shape[d] == len(u)), 0)
    matrix = weight.movedim(dim, 0).flatten(1)
    return weight / torch.dot(u.float(), matrix @ v.float())
