"""Mean, mean square and variance of gradients over noisy copies of the input."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.baselines import REDUCTION, REDUCTIONS, reduce_channels
from attrlib.methods.cancelled import check_sum, is_zero
from attrlib.methods.context import AttributionContext
from attrlib.methods.gradients import quadrature
from attrlib.methods.trial import check_by_trial
from attrlib.models import Classifier, Layer
from attrlib.registry import Paper, param

SMOOTHGRAD = Paper("Smilkov et al. 2017", "SmoothGrad: removing noise by adding noise", "https://arxiv.org/abs/1706.03825")
SQUARED = Paper(
    "Hooker et al. 2019", "A Benchmark for Interpretability Methods in Deep Neural Networks", "https://arxiv.org/abs/1806.10758"
)
VARGRAD = Paper(
    "Adebayo et al. 2018", "Local Explanation Methods for Deep Neural Networks Lack Sensitivity", "https://arxiv.org/abs/1810.03307"
)

OVER = ("Gradient", "IxG", "IG")
UNITS = ("range", "absolute")


@dataclass(frozen=True)
class OverNoise(Method):
    """Base class of statistics of a(x_1), ..., a(x_n), a method's attributions to noisy copies x_i = x + N(0, s^2) of the input.

    a is Gradient dy/dx, IxG x_i * dy/dx or IG x_i * (mean gradient from zeros to x_i), all at the noisy copy. s is `noise` times
    the range max x - min x of each input, or `noise` itself, in units of the layer's output (at Input, normalised values).
    All images get the same noise. Methods that differ only in the statistic share the copies when they are computed together.
    """

    seeded = True
    of: str = param("Gradient", "Attribution of each copy: Gradient, IxG, or IG from zeros", choices=OVER)
    samples: int = param(15, "Number of noisy copies", low=1, high=1000)
    noise: float = param(0.15, "Standard deviation of the noise", low=0.0, high=10.0)
    unit: str = param("range", "Unit of the noise: a share of each input's range, or absolute, in normalised units", choices=UNITS)
    steps: int = param(50, "Number of quadrature nodes of IG", low=1, high=1000)

    def moments(self, context: AttributionContext) -> tuple[Tensor, Tensor]:
        """Return the mean and the variance (divided by n) over the copies, each (B,...); shared."""
        nodes, weights = quadrature(self.steps) if self.of == "IG" else ([1.0], [1.0])
        key = ("moments", self.of, self.samples, self.noise, self.unit, len(nodes))
        return context.shared(key, lambda: self._moments(context, nodes, weights))

    def _moments(self, context: AttributionContext, nodes: list[float], weights: list[float]) -> tuple[Tensor, Tensor]:
        std = deviation(context, self.noise, self.unit)
        mean, squares, total = (torch.zeros_like(context.inputs) for _ in range(3))
        copies: dict[int, Tensor] = {}
        for which, rows in context.variants(self.samples * len(nodes)):
            pairs = [divmod(k, len(nodes)) for k in which]
            copies = {i: copies[i] if i in copies else context.inputs + std * draw(context, i) for i, _ in pairs}
            points = torch.cat([copies[i] if nodes[j] == 1 else nodes[j] * copies[i] for i, j in pairs])
            for (i, j), gradient in zip(pairs, context.gradient(points, rows).chunk(len(which)), strict=True):
                total = weights[j] * gradient if j == 0 else total.add_(gradient, alpha=weights[j])
                if j == len(nodes) - 1:
                    # Welford's recurrence: the difference of two sums would be mostly rounding error if the variance is small.
                    value = total if self.of == "Gradient" else copies[i] * total
                    off = value - mean
                    mean += off / (i + 1)
                    squares += off * (value - mean)
        return mean, squares / self.samples

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=self.samples * (self.steps if self.of == "IG" else 1))


def deviation(context: AttributionContext, noise: float, unit: str) -> Tensor:
    """Return the standard deviation of the noise for each item, in a shape that broadcasts against the inputs (B,...).

    Args:
        context: The context whose inputs get the noise.
        noise: Standard deviation, in units of `unit`.
        unit: `range` for shares of the range of each input, or `absolute` for units of the layer's output.
    """
    low, high = context.inputs.flatten(1).aminmax(dim=1)
    std = noise * (high - low) if unit == "range" else torch.full_like(low, noise)
    return std.view(-1, *[1] * (context.inputs.ndim - 1))


def draw(context: AttributionContext, sample: int) -> Tensor:
    """Return the noise (1,...) of one sample. It is the same for every image, so that maps do not depend on the batch or its order."""
    noise = torch.randn(1, *context.inputs.shape[1:], generator=context.generator("noise", sample))
    return noise.to(context.inputs.device)


@METHODS.register
@dataclass(frozen=True)
class SmoothGrad(OverNoise):
    """SmoothGrad: the mean over noisy copies of the gradient, of IxG or of IG, each at the noisy copy."""

    name, family, paper = "SmoothGrad", "gradient", SMOOTHGRAD
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)

    def check(self, model: Classifier, layer: Layer) -> None:
        if self.of != "IG":
            check_sum(self.name, model, layer, self.channels, product=self.of == "IxG")
        elif is_zero(model, layer, product=True):
            check_by_trial(self, model, layer)

    def attribute(self, context: AttributionContext) -> Tensor:
        return reduce_channels(self.name, context, self.moments(context)[0], self.channels)


@METHODS.register
@dataclass(frozen=True)
class SmoothGradSquared(OverNoise):
    """SmoothGrad Squared: the mean square over noisy copies of the gradient, of IxG or of IG, summed over channels."""

    name, family, paper, signed = "SmoothGrad Squared", "gradient", SQUARED, False

    def attribute(self, context: AttributionContext) -> Tensor:
        mean, variance = self.moments(context)
        return context.reduce(variance + mean.square())


@METHODS.register
@dataclass(frozen=True)
class VarGrad(OverNoise):
    """VarGrad: the variance over noisy copies of the gradient, of IxG or of IG, summed over channels."""

    name, family, paper, signed = "VarGrad", "gradient", VARGRAD, False

    def attribute(self, context: AttributionContext) -> Tensor:
        return context.reduce(self.moments(context)[1])
