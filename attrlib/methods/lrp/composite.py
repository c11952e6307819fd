"""Which layer of a network gets which propagation rule."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attrlib.methods.autograd_graph import STRUCTURAL, kind
from attrlib.methods.lrp.rules import PROPAGATION_RULES, Epsilon, Normalise, PropagationRule

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
LINEAR = ("linear", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
SAME = "same"
"""Name of the choice to treat the convolution that reads the pixels as the others."""


def rule_names(reads_pixels: bool) -> tuple[str, ...]:
    """Return the names of the registered rules that are for pixels, or for all other layers."""
    return tuple(name for name, rule in PROPAGATION_RULES.items() if rule.reads_pixels == reads_pixels)


@dataclass(frozen=True)
class Composite:
    """The rule of each layer: epsilon for linear layers, as in the composites of Kohlbrenner et al. (2020), one rule for convolutions.

    Attributes:
        convolutions: Rule of convolutions.
        linear: Rule of linear layers and transposed convolutions.
        pixels: Rule of convolutions that read the pixels, where it differs from that of the others.
    """

    convolutions: PropagationRule
    linear: PropagationRule
    pixels: PropagationRule | None = None

    @classmethod
    def of(cls, convolutions: str, pixels: str, epsilon: float, normalise: Normalise) -> "Composite":
        """Return the composite of rules given by name; `pixels` may be `same`."""
        first = None if pixels == SAME else PROPAGATION_RULES[pixels](epsilon, normalise)
        return cls(PROPAGATION_RULES[convolutions](epsilon, normalise), Epsilon(epsilon), first)

    def rule(self, function: str, inputs: Tensor) -> PropagationRule | None:
        """Return the rule of a function of `torch.nn.functional`, None where it has none.

        Args:
            function: Name of the function, such as `conv2d`.
            inputs: What it is called with.
        """
        if function in CONVOLUTIONS:
            return self.pixels if self.pixels is not None and _are_pixels(inputs) else self.convolutions
        return self.linear if function in LINEAR else None


def _are_pixels(values: Tensor) -> bool:
    """Return whether values are the explained pixels, padded or moved at most."""
    node: Any = values.grad_fn
    while kind(node) in STRUCTURAL and node.next_functions:
        node = node.next_functions[0][0]
    return kind(node) == "AccumulateGrad"
