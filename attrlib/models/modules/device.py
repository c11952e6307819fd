"""Choose the device that a model runs on."""

import torch

from attrlib.errors import ModelError


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device of this name; `auto` picks CUDA if available, else MPS, else the CPU.

    Raises:
        ModelError: The device is not available here, or is `meta`, which holds no values.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        picked = torch.device(device)
        if picked.type == "meta":
            raise ValueError("it holds no values")
        torch.empty(0, device=picked)
    except (RuntimeError, AssertionError, ImportError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ModelError(f"device {str(device)!r} cannot be used here ({reason}); use auto or cpu") from None
    return picked
