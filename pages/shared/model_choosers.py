"""The choosers of one or several models on every page, by name or as text, each with the button that adds a model."""

from typing import Any

from attrlib.models import EMBEDDED, named
from pages.shared import add_model, pickers

HINT = (
    "Or type timm:NAME or torchvision:NAME, followed by @FILE for a checkpoint, @random:0 for random weights, @192x256 for another input "
    "size, @outputs=sigmoid for what its outputs mean, or @mean=0.5/0.5/0.5@std=0.5/0.5/0.5 for its normalisation."
)


def names() -> list[str]:
    """Return the names of the models that need no download: the embedded, the shipped and the added ones."""
    return [EMBEDDED, *named()]


def one(key: str, hint: str = HINT) -> None:
    """Show the chooser of one model, whose text form the session keeps under `key`."""
    pickers.one("Model", names(), key, hint)
    add_model.show_button(key, None)


def several(label: str, key: str, most: int, hint: str = HINT, **layout: Any) -> None:
    """Show the chooser of at most `most` models, whose text forms the session keeps under `key`."""
    pickers.several(label, names(), key, hint, most, **layout)
    add_model.show_button(key, most)
