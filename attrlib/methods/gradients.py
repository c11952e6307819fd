"""Gradient family: the gradient of the logit at the input, or along a path to it."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.baselines import BASELINE, BASELINES, REDUCTION, REDUCTIONS, baseline, baseline_scores, reduce_channels
from attrlib.methods.cancelled import check_sum, is_zero
from attrlib.methods.context import AttributionContext
from attrlib.methods.trial import check_by_trial
from attrlib.models import Classifier, Layer
from attrlib.registry import Paper, param

SALIENCY = Paper("Simonyan et al. 2014", "Deep Inside Convolutional Networks", "https://arxiv.org/abs/1312.6034")
INPUT_X_GRADIENT = Paper("Shrikumar et al. 2016", "Not Just a Black Box", "https://arxiv.org/abs/1605.01713")
AXIOMATIC = Paper("Sundararajan et al. 2017", "Axiomatic Attribution for Deep Networks", "https://arxiv.org/abs/1703.01365")


class ByChannel(Method):
    """Base class of methods that attribute to every channel; the parameter `channels` selects how channels are reduced to one.

    Variants that differ only in `channels` share their values when they are computed together.
    """

    channels: str

    @abstractmethod
    def values(self, context: AttributionContext) -> Tensor:
        """Return the attribution of every entry of the layer's output, (B,...) in its layout."""

    def attribute(self, context: AttributionContext) -> Tensor:
        return reduce_channels(self.name, context, context.shared(self._unreduced(), lambda: self.values(context)), self.channels)

    def _unreduced(self) -> Any:
        """Return the variant with the default of `channels`, as a key of what all variants share."""
        same: Any = self
        return replace(same, channels="sum")


@METHODS.register
@dataclass(frozen=True)
class Gradient(ByChannel):
    """Gradient of the target logit: sum over channels of dy/dx."""

    name, family, paper, fast = "Gradient", "gradient", SALIENCY, True
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)

    def check(self, model: Classifier, layer: Layer) -> None:
        check_sum(self.name, model, layer, self.channels)

    def values(self, context: AttributionContext) -> Tensor:
        return context.clean_gradient()

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=1)


@METHODS.register
@dataclass(frozen=True)
class InputXGradient(ByChannel):
    """Input times gradient: sum over channels of x * dy/dx."""

    name, family, paper, fast = "IxG", "gradient", INPUT_X_GRADIENT, True
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)

    def check(self, model: Classifier, layer: Layer) -> None:
        check_sum(self.name, model, layer, self.channels, product=True)

    def values(self, context: AttributionContext) -> Tensor:
        return context.inputs * context.clean_gradient()

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=1)


@METHODS.register
@dataclass(frozen=True)
class IntegratedGradients(ByChannel):
    """Integrated Gradients: (x - b) times the mean gradient on the straight path from a baseline b to x.

    The integral is computed by Gauss-Legendre quadrature with `steps` nodes. The convergence error
    |sum - (f(x) - f(b))| / |f(x) - f(b)| of each image is returned in the diagnostics as `convergence`. The sum runs over all channels
    and, at a token layer, also over the prefix tokens, which the map leaves out. At a layer followed by a LayerNorm, which is singular
    at zero, the baseline `zeros` converges slowly: use `black` or `blur` there.
    """

    name, family, paper = "IG", "gradient", AXIOMATIC
    steps: int = param(50, "Number of quadrature nodes", low=1, high=1000)
    baseline: str = param("zeros", f"Start of the path: {BASELINE}", choices=BASELINES)
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)

    @property
    def seeded(self) -> bool:  # type: ignore[override]
        """Return whether the baseline is drawn at random."""
        return self.baseline == "uniform"

    def check(self, model: Classifier, layer: Layer) -> None:
        if self.baseline == "zeros" and is_zero(model, layer, product=True):
            # The sum is not zero near the baseline alone, which few steps miss.
            check_by_trial(self, model, layer)

    def attribute(self, context: AttributionContext) -> Tensor:
        _, context.diagnostics["convergence"] = self._integral(context)
        return super().attribute(context)

    def values(self, context: AttributionContext) -> Tensor:
        return self._integral(context)[0]

    def _integral(self, context: AttributionContext) -> tuple[Tensor, Tensor]:
        """Return the attributions (B,...) and the convergence errors (B,)."""
        return context.shared(("ig", self.steps, self.baseline), lambda: self._integrate(context))

    def _integrate(self, context: AttributionContext) -> tuple[Tensor, Tensor]:
        start = baseline(context, self.baseline)
        difference = context.inputs - start
        nodes, weights = quadrature(self.steps)
        shares = context.inputs.new_tensor(nodes).view(-1, *[1] * context.inputs.ndim)
        total = torch.zeros_like(context.inputs)
        for which, rows in context.variants(self.steps):
            points = (shares[which.start : which.stop] * difference).add_(start).flatten(0, 1)
            for i, part in zip(which, context.gradient(points, rows).chunk(len(which)), strict=True):
                total.add_(part, alpha=weights[i])
        attributed = difference * total
        change = context.clean_scores() - baseline_scores(context, self.baseline)
        return attributed, (attributed.flatten(1).sum(1) - change).abs() / change.abs().clamp_min(1e-12)

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=2, gradient=self.steps)


def quadrature(steps: int) -> tuple[list[float], list[float]]:
    """Return the nodes and weights of Gauss-Legendre quadrature on (0, 1)."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()
