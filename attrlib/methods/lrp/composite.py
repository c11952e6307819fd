"""Composites: the assignment of propagation rules to the layers of a network."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attrlib.methods.autograd_graph import STRUCTURAL, kind
from attrlib.methods.lrp.rules import PROPAGATION_RULES, Epsilon, Gamma, Normalise, PropagationRule

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
LINEAR = ("linear", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
SAME = "same"
"""Option that gives the convolution that reads the pixels the same rule as the others."""


def rule_names(reads_pixels: bool) -> tuple[str, ...]:
    """Return the names of the registered rules for the convolution that reads the pixels, or else for all other layers."""
    return tuple(name for name, rule in PROPAGATION_RULES.items() if rule.reads_pixels == reads_pixels)


@dataclass(frozen=True)
class Composite:
    """Assignment of rules to layers, by their type. A layer without a rule keeps its gradient.

    Attributes:
        convolutions: Rule of convolutions.
        linear: Rule of linear layers and transposed convolutions.
        pixels: Rule of convolutions that read the pixels, where it differs from that of the others.
    """

    convolutions: PropagationRule | None = None
    linear: PropagationRule | None = None
    pixels: PropagationRule | None = None

    @classmethod
    def of(cls, convolutions: str, pixels: str, epsilon: float, normalise: Normalise, gamma: float, gamma_linear: float) -> "Composite":
        """Return the composite of rules given by name, with epsilon or gamma for linear layers, as in Kohlbrenner et al. (2020).

        Args:
            convolutions: Name of the rule of convolutions.
            pixels: Name of the rule of convolutions that read the pixels, or `same`.
            epsilon: Added to the magnitude of denominators to keep them off zero.
            normalise: Maps colours (B, 3, H, W) in [0, 1] to the input of the network.
            gamma: Gamma of convolutions, if they have the rule `gamma`.
            gamma_linear: Gamma of linear layers; if it is 0, they have the rule `epsilon`.
        """
        first = None if pixels == SAME else PROPAGATION_RULES[pixels](epsilon, normalise)
        rule = Gamma(epsilon, gamma=gamma) if convolutions == Gamma.name else PROPAGATION_RULES[convolutions](epsilon, normalise)
        return cls(rule, _gamma(epsilon, gamma_linear), first)

    @classmethod
    def of_gammas(cls, epsilon: float, convolutions: float, linear: float) -> "Composite":
        """Return the composite of the rules gamma, or epsilon where gamma is 0, for convolutions and for linear layers."""
        return cls(_gamma(epsilon, convolutions), _gamma(epsilon, linear))

    def rule(self, function: str, inputs: Tensor) -> PropagationRule | None:
        """Return the rule of a function of `torch.nn.functional`, or None if it has none.

        Args:
            function: Name of the function, such as `conv2d`.
            inputs: Input of the function.
        """
        if function in CONVOLUTIONS:
            return self.pixels if self.pixels is not None and _are_pixels(inputs) else self.convolutions
        return self.linear if function in LINEAR else None


def _gamma(epsilon: float, gamma: float) -> PropagationRule:
    return Gamma(epsilon, gamma=gamma) if gamma else Epsilon(epsilon)


def _are_pixels(values: Tensor) -> bool:
    """Return whether values are the explained pixels, at most padded or moved."""
    node: Any = values.grad_fn
    while kind(node) in STRUCTURAL and node.next_functions:
        node = node.next_functions[0][0]
    return kind(node) == "AccumulateGrad"
