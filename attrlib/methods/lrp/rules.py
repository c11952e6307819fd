"""Propagation rules of LRP, one class each. A rule defines how a linear layer passes the relevance of its outputs to its inputs.

Relevance travels as a modified gradient, relevance over activation g = R / a, because for linear operations without a rule that is the
ordinary gradient. A rule is one of two kinds:

- `GradientRule` modifies the gradient of the layer, which takes no further pass.
- `RedistributionRule` replaces the gradient, by passes of the layer with other weights or inputs.

The names are those of zennit (Anders et al. 2021, arXiv 2106.13200). Which layer gets which rule is decided in `composite.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from attrlib.errors import MethodError
from attrlib.registry import Registry

Normalise = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of a linear layer.

    Attributes:
        inputs: Inputs of the layer (B, C, ...).
        weight: Weight of the layer.
        bias: Bias of the layer, or None.
        run: Calls the layer with other inputs, weight and bias, at the same stride, padding, dilation and groups.
    """

    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    run: Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class PropagationRule(ABC):
    """Base class of propagation rules. A subclass is a registered frozen dataclass that defines `name`.

    Attributes:
        epsilon: Added to the magnitude of denominators to keep them off zero.
        normalise: Maps colours (B, 3, H, W) in [0, 1] to the input of the network; for rules that depend on the range of pixels.
    """

    epsilon: float = 1e-6
    normalise: Normalise = lambda colours: colours
    name: ClassVar[str]
    reads_pixels: ClassVar[bool] = False
    """Whether the rule is for the convolution that reads the pixels. Such a rule returns relevance R rather than R / a."""
    forwards: ClassVar[int] = 0
    """Number of forward passes of the layer that the rule adds."""


class GradientRule(PropagationRule):
    """Base class of rules that scale the gradient of the layer, elementwise in its output z."""

    @abstractmethod
    def stabilised(self, z: Tensor) -> Tensor:
        """Return the denominator of the rule, of the shape of z, as a new tensor."""

    @abstractmethod
    def size(self, z: Tensor) -> Tensor:
        """Return the magnitude of the denominator, of the shape of z, as a new tensor, for `damped`."""

    @abstractmethod
    def damped(self, gradient: Tensor, size: Tensor) -> Tensor:
        """Return the gradient with respect to z times z over the denominator.

        Args:
            gradient: Gradient with respect to z, of its shape.
            size: Magnitude of the denominator. It is overwritten with the result.
        """


class RedistributionRule(PropagationRule):
    """Base class of rules that compute the relevance of a layer's inputs with further passes."""

    @abstractmethod
    def redistribute(self, layer: LayerCall, relevance: Tensor) -> Tensor:
        """Return R_in / a, of the shape of the layer's inputs a, or R_in if the rule `reads_pixels`.

        Called with gradients enabled; the inputs are a leaf that requires gradients.

        Args:
            layer: The call of the layer.
            relevance: Relevance of the layer's outputs, of their shape. It may be overwritten.
        """


PROPAGATION_RULES: Registry[PropagationRule] = Registry("propagation rule", MethodError)


@PROPAGATION_RULES.register
@dataclass(frozen=True)
class Epsilon(GradientRule):
    """LRP-epsilon: R_i = sum_j a_i w_ij / (z_j + e sign z_j) R_j, z_j with its bias (Bach et al. 2015)."""

    name = "epsilon"

    def stabilised(self, z: Tensor) -> Tensor:
        return torch.copysign(z.new_full((), self.epsilon), z).add_(z)

    def size(self, z: Tensor) -> Tensor:
        return z.abs().add_(self.epsilon)

    def damped(self, gradient: Tensor, size: Tensor) -> Tensor:
        # z / (z + e sign z) = 1 - e / (|z| + e)
        return torch.addcdiv(gradient, gradient, size, value=-self.epsilon, out=size)


class AlphaBeta(RedistributionRule):
    """LRP-alpha-beta: R_i = sum_j (alpha (a_i w_ij)+ / z_j+ - beta (a_i w_ij)- / z_j-) R_j, beta = alpha - 1 (Bach et al. 2015).

    Positive and negative parts of the bias count in z+ and z-.
    """

    alpha: ClassVar[float]

    def redistribute(self, layer: LayerCall, relevance: Tensor) -> Tensor:
        a, weight, bias = layer.inputs, layer.weight, layer.bias
        up, down = a.clamp_min(0), a.clamp_max(0)
        negative = bool((a < 0).any())
        rising, falling = weight.clamp_min(0), weight.clamp_max(0)
        plus = layer.run(up, rising, None if bias is None else bias.clamp_min(0))
        plus = plus + layer.run(down, falling, None) if negative else plus
        parts, shares = [plus], [self.alpha * relevance / (plus.detach() + self.epsilon)]
        if self.alpha > 1:
            minus = layer.run(up, falling, None if bias is None else bias.clamp_max(0))
            minus = minus + layer.run(down, rising, None) if negative else minus
            parts.append(minus)
            shares.append((1 - self.alpha) * relevance / (minus.detach() - self.epsilon))
        return torch.autograd.grad(parts, a, shares)[0]


@PROPAGATION_RULES.register
@dataclass(frozen=True)
class Alpha1Beta0(AlphaBeta):
    """LRP-alpha1-beta0, or z+: relevance in proportion to the positive contributions alone."""

    name, alpha, forwards = "alpha1beta0", 1.0, 1


@PROPAGATION_RULES.register
@dataclass(frozen=True)
class Alpha2Beta1(AlphaBeta):
    """LRP-alpha2-beta1: twice the relevance to the positive contributions, minus once to the negative ones."""

    name, alpha, forwards = "alpha2beta1", 2.0, 3


@PROPAGATION_RULES.register
@dataclass(frozen=True)
class Gamma(RedistributionRule):
    """LRP-gamma: R_i = sum_j (a_i w_ij + gamma (a_i w_ij)^s) / (z_j + gamma z_j^s) R_j, s the sign of z_j.

    (.)^s is the part of that sign, so that contributions which agree with the output count 1 + gamma times, z^s with the bias
    (Montavon et al. 2019; for inputs of both signs Andéol et al. 2021).
    """

    name, forwards = "gamma", 3
    gamma: float = 0.25

    def redistribute(self, layer: LayerCall, relevance: Tensor) -> Tensor:
        # The part of a contribution c that has the sign s is (c + s |c|) / 2, so two passes suffice, of a and w and of |a| and |w|.
        a, half = layer.inputs, self.gamma / 2
        size = a.detach().abs().requires_grad_()
        z = layer.run(a, layer.weight, layer.bias)
        sizes = layer.run(size, layer.weight.abs(), None if layer.bias is None else layer.bias.abs())
        # Sign and magnitude of the denominator are those of z and of this.
        total = z.detach().abs().mul_(1 + half).add_(sizes.detach(), alpha=half).add_(self.epsilon)
        share = relevance.div_(total)
        of_values, of_sizes = torch.autograd.grad((z, sizes), (a, size), (z.detach().sign() * share, share))
        return of_sizes.mul_(a.detach().sign()).mul_(half).add_(of_values, alpha=1 + half)


@PROPAGATION_RULES.register
@dataclass(frozen=True)
class ZBox(RedistributionRule):
    """LRP-z^B: R_i = sum_j (a_i w_ij - l_i w_ij+ - h_i w_ij-) / z_j R_j, z_j the sum of the numerators (Montavon et al. 2017).

    l and h are the values of black and of white pixels.
    """

    name, reads_pixels = "box", True

    def redistribute(self, layer: LayerCall, relevance: Tensor) -> Tensor:
        a, weight = layer.inputs, layer.weight
        ends = (self.normalise(a.new_full((1, a.shape[1], 1, 1), colour)) for colour in (0.0, 1.0))
        low, high = (end.expand_as(a).clone().requires_grad_() for end in ends)
        z = layer.run(a, weight, None) - layer.run(low, weight.clamp_min(0), None) - layer.run(high, weight.clamp_max(0), None)
        share = relevance / (z.detach() + self.epsilon * torch.where(z.detach() < 0, -1, 1))
        gradients = torch.autograd.grad(z, (a, low, high), share)
        return sum((x.detach() * g for x, g in zip((a, low, high), gradients, strict=True)), a.new_zeros(()))


@PROPAGATION_RULES.register
@dataclass(frozen=True)
class Flat(RedistributionRule):
    """LRP-flat: R_i = sum_j R_j / n_j, over the n_j inputs of j (Lapuschkin et al. 2019)."""

    name, reads_pixels = "flat", True

    def redistribute(self, layer: LayerCall, relevance: Tensor) -> Tensor:
        ones = torch.ones_like(layer.inputs).requires_grad_()
        z = layer.run(ones, torch.ones_like(layer.weight), None)
        return torch.autograd.grad(z, ones, relevance / z.detach())[0]
