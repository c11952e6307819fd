"""Sums over channels that cancel: a map of rounding errors that looks like any other.

A norm that subtracts the mean over channels, such as LayerNorm, has a gradient whose sum over channels is zero at every position; and
since it also divides by the standard deviation, so has input times gradient. Whoever sums over channels at the layer before it maps
rounding errors.
"""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from attrlib.errors import MethodError
from attrlib.models import Classifier, Layer
from attrlib.models.cells import CellView
from attrlib.models.modules.forward import seeded

LIMIT = 1e-3
"""Largest sum over channels of a noise image, as a share of the sum of magnitudes, that counts as zero by construction.

Rounding leaves about 1e-7; the epsilon of the norm leaves, in input times gradient, its share of the variance. Sums that do not cancel
have 5e-2 and more on the backbones of the tests.
"""
ROUNDING = 1e-6
"""Largest sum over channels of any attribution, as a share of the sum of magnitudes, of which rounding leaves nothing.

The large multipliers of DeepLIFT from zeros, where a LayerNorm is singular, leave shares of 1e-5 to 1e-3 that are correct.
"""
MAGNITUDES = "abs-sum"
_known: WeakKeyDictionary[Classifier, dict[str, tuple[bool, bool]]] = WeakKeyDictionary()


def cancels(values: Tensor, limit: float = ROUNDING) -> Tensor:
    """Return for each item whether the sum over channels is zero at every position although the values are not, (B,).

    Args:
        values: Values (B,C,h,w).
        limit: Largest sum, as a share of the sum of magnitudes, that counts as zero.
    """
    sums, sizes = values.sum(1).abs().flatten(1).amax(1), values.abs().sum(1).flatten(1).amax(1)
    return (sums <= limit * sizes) & (sizes > 0)


def check_sum(name: str, model: Classifier, layer: Layer, channels: str = "", product: bool = False) -> None:
    """Check, by the gradient of a noise image, that the sum over channels is not zero by construction.

    Args:
        name: Name of the method.
        model: The classifier.
        layer: The layer whose channels are summed.
        channels: The method's parameter of this name, if it has one: sums of magnitudes never cancel.
        product: Whether input times gradient is summed, rather than the gradient.

    Raises:
        MethodError: It is zero.
    """
    if channels != MAGNITUDES and is_zero(model, layer, product):
        raise refusal(name, layer, channels)


def is_zero(model: Classifier, layer: Layer, product: bool = False) -> bool:
    """Return whether the sum over channels of the gradient, or of input times gradient, is zero by construction at a layer."""
    return bool(layer.path) and _probe(model, layer)[product]


def refusal(name: str, layer: Layer, channels: str) -> MethodError:
    """Return the error of a method whose sum over channels is zero at a layer; `channels` is empty if it has no such parameter."""
    instead = f"channels={MAGNITUDES}" if channels else "Grad-CAM"
    return MethodError(
        f"{name} sums over channels to zero at every position of {layer.name}, because a norm over channels follows, and would map rounding "
        f"errors; choose {instead} or another layer"
    )


def _probe(model: Classifier, layer: Layer) -> tuple[bool, bool]:
    """Return whether the gradient, and input times gradient, sum to zero at a layer. Found out once."""
    if isinstance(model, CellView):
        return _probe(model.model, model.model.layer(layer.name))
    known = _known.setdefault(model, {})
    if layer.path not in known:
        try:
            known[layer.path] = _sums(model, model.layer(layer.name))
        except Exception:  # noqa: BLE001  a user's module may fail in any way
            # The method itself may manage, with less memory for example, or reports the failure.
            return False, False
    return known[layer.path]


def _sums(model: Classifier, layer: Layer) -> tuple[bool, bool]:
    with model.session(), seeded(model.device):
        split = model.split(layer).fresh()
        leaf = split.before(model._probe(1)).float().requires_grad_()
        with torch.enable_grad():
            logits = split.after(leaf, torch.zeros(1, dtype=torch.long, device=leaf.device)).float()
            mixture = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
            gradient = torch.autograd.grad(logits, leaf, mixture, allow_unused=True)[0] if logits.requires_grad else None
    if gradient is None:
        return False, False
    product = gradient * leaf.detach()
    return bool(cancels(layer.layout.spatial(gradient), LIMIT)), bool(cancels(layer.layout.spatial(product), LIMIT))
