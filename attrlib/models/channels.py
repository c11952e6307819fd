"""How many channels a module reads, where nobody says it."""

from dataclasses import replace

from torch import nn

from attrlib.models.preprocessing import Preprocessing


def read_channels(module: nn.Module, size: tuple[int, int] | None) -> int | None:
    """Return the number of input channels that the first convolution, or the first linear layer of a flattened image, declares.

    Modules are taken in the order in which they were assigned, so the answer is a guess until the module has run on such an image.

    Args:
        module: The network.
        size: Height and width of the input in pixels, if known.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
        if isinstance(layer, nn.Linear):
            # Its inputs may be any channels times any size; only one channel of the given size is clear.
            return 1 if size is not None and layer.in_features == size[0] * size[1] else None
    return None


def assumed(preprocessing: Preprocessing, channels: int) -> tuple[Preprocessing, str]:
    """Return a preprocessing for another number of channels, with mean and std 0.5, and a note that says so."""
    many = f"{channels} channels" if channels > 1 else "one channel"
    half = (0.5,) * channels
    return replace(
        preprocessing, mean=half, std=half
    ), f"the model reads {many}: mean and std are assumed to be 0.5; give mean and std if not"
