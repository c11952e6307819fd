"""What a checkpoint file tells of its model before the architecture is chosen, and what the user adds to it afterwards."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attrlib.errors import AttrlibError
from attrlib.models.cards import Card, card_of
from attrlib.models.classifier import Classifier
from attrlib.models.loading.assumptions import fields_of
from attrlib.models.loading.load import read_part
from attrlib.models.loading.prefixes import below
from attrlib.models.loading.suggestions import suggest
from attrlib.models.names import check_name


@dataclass(frozen=True)
class Draft:
    """What a checkpoint file tells of its model.

    Attributes:
        architectures: Architectures that fit its keys and shapes, best first; that of the card if one lies beside the file.
        class_names: The class names in the file or in its card; None if there are none.
        parameters: Number of values in the file.
        options: Fields of a model spec that the file tells of the preprocessing; none with a card, which is applied by itself.
        notes: What was chosen or left out on reading.
    """

    architectures: tuple[str, ...]
    class_names: tuple[str, ...] | None
    parameters: int
    options: Mapping[str, Any] = field(default_factory=dict)
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
    content, part = read_part(location)
    state = below(content.state, f"{part}.") if part else content.state
    parameters = sum(tensor.numel() for tensor in state.values())
    if card:
        return Draft((card.architecture,), card.class_names, parameters, {}, content.notes)
    fitting = suggest(state)
    named = [name for name in _named(content.hints) if not fitting or name in fitting]
    return Draft(tuple(dict.fromkeys([*named, *fitting])), content.class_names, parameters, fields_of(content.hints), content.notes)


def _named(hints: Mapping[str, object]) -> Iterator[str]:
    """Yield the architectures that a file names."""
    name = hints.get("arch")
    for full in [f"{source}{name}" for source in ("", "timm:", "torchvision:")] if isinstance(name, str) and name else []:
        with suppress(AttrlibError):
            check_name(full)
            if ":" in full:
                yield full


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
