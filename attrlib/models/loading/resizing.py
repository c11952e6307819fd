"""Change the input size of a network whose weights depend on it."""

from timm.layers import to_2tuple
from torch import nn

from attrlib.errors import ModelError
from attrlib.specs import Size, size_text


def resize(module: nn.Module, current: Size, wanted: Size, name: str) -> bool:
    """Resize the input of a timm transformer; leave any other module as it is. Return whether the module was changed.

    Raises:
        ModelError: The network does not accept the size.
    """
    change = getattr(module, "set_input_size", None)
    if change is None or current == wanted:
        return False
    patch = to_2tuple(getattr(getattr(module, "patch_embed", None), "patch_size", 1))
    if any(side % step for side, step in zip(wanted, patch, strict=True)):
        raise ModelError(
            f"{name} cuts images into patches of {size_text(patch)} px; choose an input size whose sides are multiples of that"
        )
    try:
        change(img_size=wanted)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{name} does not accept an input of {size_text(wanted)} px ({str(error).splitlines()[0][:160]}); choose another size"
        ) from None
    return True
