"""Weights from local files: read without running code, stripped of wrappers, loaded strictly."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from attrlib.errors import ModelError

SUFFIXES = (".safetensors", ".pth", ".pt", ".tar", ".bin", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema", "net", "weights")
_ADVICE = "save it again with safetensors, or with torch.save(model.state_dict(), FILE)"


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors`, `.pth`, `.pt` or `.tar` file, on the CPU.

    Nothing but tensors and plain containers is unpickled, and `argparse.Namespace`, which published checkpoints hold beside
    the weights; anything else could run code and is refused. Raises `ModelError`.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ModelError(f"there is no file {str(path)!r}; give the path of a checkpoint ({', '.join(SUFFIXES[:4])})")
    if file.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{file.name} is not a safetensors file, or is cut off ({error}); copy or download it again") from None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(f"{file.name} holds more than weights: loading it could run code, so it was not loaded; {_ADVICE}") from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ModelError(
            f"{file.name} is not a checkpoint that PyTorch can read, or is cut off ({reason}); copy it again, or {_ADVICE}"
        ) from None
    return _state_dict(content, file.name)


def _state_dict(content: object, name: str) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            if tensors:
                return tensors
            break
        content = inner
    raise ModelError(f"{name} holds no weights; expected a state dict, alone or under one of {', '.join(_WRAPPERS[:3])}")


def strip_prefix(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The state with wrappers' prefixes (`module.`, `model.`, ...) taken off its keys, as far as all keys share them."""
    own = set(module.state_dict())
    stripped = dict(state)
    while stripped and not own & stripped.keys():
        heads = {key.partition(".")[0] for key in stripped}
        if len(heads) != 1 or any("." not in key for key in stripped):
            break
        stripped = {key.partition(".")[2]: value for key, value in stripped.items()}
    return stripped if own & stripped.keys() else dict(state)


def load_state(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Loads a state dict strictly, after `strip_prefix`. Raises `ModelError` naming the keys that do not fit."""
    state = strip_prefix(state, module)
    own = module.state_dict()
    problems = {
        "missing": [k for k in own if k not in state],
        "not in the model": [k for k in state if k not in own],
        "of another shape": [
            f"{k} {tuple(state[k].shape)} for {tuple(v.shape)}" for k, v in own.items() if k in state and state[k].shape != v.shape
        ],
    }
    if any(problems.values()):
        found = "; ".join(
            f"{len(keys)} {kind}: {', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''}" for kind, keys in problems.items() if keys
        )
        raise ModelError(f"{source} does not fit this architecture ({found}); choose the architecture that it was saved from")
    module.load_state_dict(state)


def count_classes(state: Mapping[str, Tensor], module: nn.Module) -> int | None:
    """The number of classes of a checkpoint whose head differs from the module's only in that; None where nothing differs."""
    state = strip_prefix(state, module)
    changed = {
        state[k].shape[0]
        for k, v in module.state_dict().items()
        if k in state and v.ndim and state[k].ndim == v.ndim and state[k].shape[0] != v.shape[0] and state[k].shape[1:] == v.shape[1:]
    }
    return changed.pop() if len(changed) == 1 else None
