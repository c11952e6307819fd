"""What a source of models returns: a module with its preprocessing, and what the source says of its outputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from attrlib.models.options import Options
from attrlib.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class Built:
    """A module as its source builds it.

    Attributes:
        module: The network.
        preprocessing: Preprocessing that its source declares.
        class_names: One name per class, None if the source names none.
        outputs: What the network's numbers mean, see `attrlib.models.outputs`.
        notes: What was assumed or left out.
    """

    module: nn.Module
    preprocessing: Preprocessing
    class_names: Sequence[str] | None = None
    outputs: str = "auto"
    notes: tuple[str, ...] = ()


Build = Callable[[Options, bool], Built]
"""Builds an architecture, given options besides those in its name, and whether to load its pretrained weights."""
