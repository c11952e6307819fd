"""What a checkpoint file tells of its model before the architecture is chosen, and what the user adds to it afterwards."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from attrlib.models.cards import Card, card_of
from attrlib.models.checkpoints import read_checkpoint
from attrlib.models.classifier import Classifier


@dataclass(frozen=True)
class Draft:
    """What a checkpoint file tells of its model.

    Attributes:
        architectures: Architectures that fit its keys and shapes, best first; that of the card if one lies beside the file.
        class_names: The class names in the file or in its card; None if there are none.
        parameters: Number of values in the file.
        notes: What was chosen or left out on reading.
    """

    architectures: tuple[str, ...]
    class_names: tuple[str, ...] | None
    parameters: int
    notes: tuple[str, ...] = ()


def read_draft(location: str | Path) -> Draft:
    """Read a checkpoint file, without running code, for what it tells of its model.

    Args:
        location: Path of the file, or FILE#KEY for the weights under a key.

    Raises:
        ModelError: The file is missing, damaged, or holds something other than weights; or its card is not valid.
    """
    card_file = card_of(location)
    card = Card.read(card_file) if card_file else None
    content = read_checkpoint(location)
    parameters = sum(tensor.numel() for tensor in content.state.values())
    if card:
        return Draft((card.architecture,), card.class_names, parameters, content.notes)
    return Draft(suggested(content.state), content.class_names, parameters, content.notes)


def suggested(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the architectures that fit a state dict, best first."""
    return tuple(name for name in state if not name)


def described(model: Classifier, class_names: Sequence[str] | None = None, deletion_tuned: bool = False) -> Classifier:
    """Return a view of a model with other class names, or marked as fine-tuned on deleted patches; the network is shared.

    Args:
        model: The model.
        class_names: One name for each class; None keeps those of the model.
        deletion_tuned: Whether it was fine-tuned on images with deleted patches; False keeps what the model says.

    Raises:
        ModelError: The number of names is not that of the classes.
    """
    other = copy.copy(model)
    other.derived = {}
    other.deletion_tuned = model.deletion_tuned or deletion_tuned
    if class_names is not None:
        other.class_names = model.outputs.names(len(model.class_names), class_names, model.name)
    return other
