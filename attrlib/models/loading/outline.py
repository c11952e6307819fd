"""Outlines of architectures: the keys and shapes of a network, found without giving values to its weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from attrlib.errors import ModelError
from attrlib.models.architectures import ARCHITECTURES, Architecture
from attrlib.models.folders.folder import is_folder_name
from attrlib.models.loading.state_dicts import COUNTER
from attrlib.models.options import Options, Value, check_options, split_options
from attrlib.models.preprocessing import Preprocessing
from attrlib.models.sources import accepted_options, builder

Shape = tuple[int, ...]
MOST_WEIGHTS = 2_000_000_000
"""Weights of the largest network that options may ask for. A name can come from a link or the card of a file."""


@dataclass(frozen=True)
class Outline:
    """An architecture without values.

    Attributes:
        module: The network on the device `meta`.
        preprocessing: Preprocessing of its source.
        shapes: Shape of each entry of its state dict.
        constants: Shape of each buffer that the architecture computes itself, which its state dict does not hold.
        needs_values: Whether the network cannot be built without values.
    """

    module: nn.Module
    preprocessing: Preprocessing
    shapes: Mapping[str, Shape]
    constants: Mapping[str, Shape]
    needs_values: bool = False

    def misfits(self, state: Mapping[str, Tensor]) -> "Misfits":
        """Compare the outline with a state dict."""
        return Misfits(
            tuple(key for key in self.shapes if key not in state and not key.endswith(COUNTER)),
            tuple(key for key in state if key not in self.shapes and not self._holds_constant(key, state[key])),
            tuple(key for key, shape in self.shapes.items() if key in state and tuple(state[key].shape) != shape),
        )

    def without_constants(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict without the buffers that the architecture computes itself; older versions of timm stored them."""
        return {key: value for key, value in state.items() if key in self.shapes or not self._holds_constant(key, value)}

    def _holds_constant(self, key: str, value: Tensor) -> bool:
        return self.constants.get(key) == tuple(value.shape)


@dataclass(frozen=True)
class Misfits:
    """What differs between an outline and a state dict: keys that are missing, that the network has not, and of another shape."""

    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.missing) + len(self.extra) + len(self.reshaped)


def outline_of(name: str, options: Options) -> Outline:
    """Return the outline of an architecture, built without values where possible.

    Args:
        name: Name of the architecture, which may end with options.
        options: Options besides those in the name.

    Raises:
        ModelError: The constructor does not accept the options.
    """
    base, named = split_options(name)
    if is_folder_name(base):
        # What a folder holds may change.
        return _outline.__wrapped__(base, tuple(sorted(options.items())), None)
    return _outline(base, tuple(sorted({**named, **options}.items())), ARCHITECTURES.get(base.partition(":")[2]))


def check_named_options(name: str) -> None:
    """Check the options in the name of an architecture; nothing of its size is allocated.

    Raises:
        ModelError: The architecture has no such option, its value is not valid, or the network would be too large.
    """
    base, options = split_options(name)
    if not options:
        return
    check_options(base, options, accepted(base))
    sizes = [sum(map(math.prod, outline_of(each, {}).shapes.values())) for each in (name, base)]
    if sizes[0] > max(MOST_WEIGHTS, sizes[1]):
        raise ModelError(
            f"{name} would have {sizes[0] / 1e9:.0f} billion weights, more than the {MOST_WEIGHTS / 1e9:.0f} that can be loaded"
        )


@lru_cache(maxsize=256)
def accepted(base: str) -> dict[str, Value]:
    """Return the options that an architecture accepts, with their default values."""
    return accepted_options(base, outline_of(base, {}).module)


@lru_cache(maxsize=64)
def _outline(base: str, options: tuple[tuple[str, Value], ...], _own: Architecture | None) -> Outline:
    build, real = builder(base), bool(options) and outline_of(base, {}).needs_values
    try:
        with torch.device("cpu" if real else "meta"):
            built = build(dict(options), False)
    except (RuntimeError, ModelError):
        if options:
            raise
        # Some initialisations need real tensors.
        built, real = build({}, False), True
    module = built.module.to("meta")
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items() if isinstance(value, Tensor)}
    buffers = {key: tuple(value.shape) for key, value in module.named_buffers()}
    return Outline(module, built.preprocessing, shapes, {key: shape for key, shape in buffers.items() if key not in shapes}, real)
