"""Composites: the assignment of propagation rules to the layers of a network."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attrlib.methods.autograd_graph import STRUCTURAL, kind
from attrlib.methods.lrp.rules import PROPAGATION_RULES, Epsilon, Normalise, PropagationRule

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
LINEAR = ("linear", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
SAME = "same"
"""Option that gives the convolution that reads the pixels the same rule as the others."""


def rule_names(reads_pixels: bool) -> tuple[str, ...]:
    """Return the names of the registered rules for the convolution that reads the pixels, or else for all other layers."""
    return tuple(name for name, rule in PROPAGATION_RULES.items() if rule.reads_pixels == reads_pixels)


@dataclass(frozen=True)
class Composite:
    """Assignment of rules to layers: epsilon for linear layers, as in Kohlbrenner et al. (2020), and one rule for convolutions.

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
        """Return the composite of rules given by name.

        Args:
            convolutions: Name of the rule of convolutions.
            pixels: Name of the rule of convolutions that read the pixels, or `same`.
            epsilon: Added to the magnitude of denominators to keep them off zero.
            normalise: Maps colours (B, 3, H, W) in [0, 1] to the input of the network.
        """
        first = None if pixels == SAME else PROPAGATION_RULES[pixels](epsilon, normalise)
        return cls(PROPAGATION_RULES[convolutions](epsilon, normalise), Epsilon(epsilon), first)

    def rule(self, function: str, inputs: Tensor) -> PropagationRule | None:
        """Return the rule of a function of `torch.nn.functional`, or None if it has none.

        Args:
            function: Name of the function, such as `conv2d`.
            inputs: Input of the function.
        """
        if function in CONVOLUTIONS:
            return self.pixels if self.pixels is not None and _are_pixels(inputs) else self.convolutions
        return self.linear if function in LINEAR else None


def _are_pixels(values: Tensor) -> bool:
    """Return whether values are the explained pixels, at most padded or moved."""
    node: Any = values.grad_fn
    while kind(node) in STRUCTURAL and node.next_functions:
        node = node.next_functions[0][0]
    return kind(node) == "AccumulateGrad"
