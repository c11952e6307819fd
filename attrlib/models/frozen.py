"""The context in which every computation on a model runs, and which leaves no trace on it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for parameters inside; every mode and flag as it was afterwards, also after an error.

    Gradients with respect to activations still flow: parameters that ask for none only save memory and time.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    training = [m for m in module.modules() if m.training]
    trainable = [p for p in module.parameters() if p.requires_grad]
    try:
        # The fused encoder skips the modules inside it, and with them every layer that could be attributed to.
        torch.backends.mha.set_fastpath_enabled(False)
        for m in training:
            m.training = False
        for p in trainable:
            p.requires_grad_(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for m in training:
            m.training = True
        for p in trainable:
            p.requires_grad_(True)
