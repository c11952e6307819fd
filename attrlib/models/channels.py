"""How many channels a module reads, where nobody says it."""

from dataclasses import replace

from torch import nn

from attrlib.models.preprocessing import Preprocessing

MOST = 5
"""Maximum number of declared numbers of channels that are worth a trial."""


def declared_channels(module: nn.Module, size: tuple[int, int] | None) -> list[int]:
    """Return the numbers of input channels that the convolutions of a module declare, in order and each once, at most five.

    Modules are taken in the order in which they were assigned, so it is the first number as a rule, but only a trial tells. A module
    that begins with a linear layer reads one channel if the layer has as many inputs as the image has pixels.

    Args:
        module: The network.
        size: Height and width of the input in pixels, if known.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    if layers and size is not None and isinstance(layers[0], nn.Linear) and layers[0].in_features == size[0] * size[1]:
        return [1]
    return list(dict.fromkeys(layer.in_channels for layer in layers if isinstance(layer, nn.Conv2d)))[:MOST]


def assumed(preprocessing: Preprocessing, channels: int) -> tuple[Preprocessing, str]:
    """Return a preprocessing for another number of channels, with mean and std 0.5, and a note that says so."""
    many = f"{channels} channels" if channels > 1 else "one channel"
    half = (0.5,) * channels
    return replace(
        preprocessing, mean=half, std=half
    ), f"the model reads {many}: mean and std are assumed to be 0.5; give mean and std if not"
