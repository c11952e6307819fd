"""Expectations over baselines: Integrated Gradients averaged over the start of the path."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.methods.base import METHODS, Passes
from attrlib.methods.baselines import BACKGROUNDS, BASELINES, REDUCTION, REDUCTIONS, background, baseline
from attrlib.methods.context import AttributionContext
from attrlib.methods.gradients import ByChannel
from attrlib.methods.noise import UNITS, deviation, draw
from attrlib.models import Layer
from attrlib.registry import Paper, param

SHAP = Paper("Lundberg and Lee 2017", "A Unified Approach to Interpreting Model Predictions", "https://arxiv.org/abs/1705.07874")
EXPECTED = Paper(
    "Erion et al. 2021",
    "Improving Performance of Deep Learning Models with Axiomatic Attribution Priors",
    "https://arxiv.org/abs/1906.10670",
)


class OverPaths(ByChannel):
    """Base class of the mean of (x_i - b_i) * dy/dx at b_i + t_i (x_i - b_i), t_i uniform in [0, 1). A subclass defines x_i and b_i.

    All images share the draws, so that maps do not depend on the batch or its order.
    """

    seeded = True
    samples: int

    @abstractmethod
    def ends(self, context: AttributionContext, number: int) -> tuple[Tensor, Tensor]:
        """Return the start b_i, (B,...) or (1,...), and the end x_i, (B,...), of a path."""

    def values(self, context: AttributionContext) -> Tensor:
        shares = torch.rand(self.samples, generator=context.generator("paths")).tolist()
        total = torch.zeros_like(context.inputs)
        for which, rows in context.variants(self.samples):
            starts, ends = zip(*(self.ends(context, i) for i in which), strict=True)
            lengths = [end - start for start, end in zip(starts, ends, strict=True)]
            points = torch.cat([start + shares[i] * length for i, start, length in zip(which, starts, lengths, strict=True)])
            for length, gradient in zip(lengths, context.gradient(points, rows).chunk(len(which)), strict=True):
                total += length * gradient
        return total / self.samples

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=self.samples)


@METHODS.register
@dataclass(frozen=True)
class GradientSHAP(OverPaths):
    """GradientSHAP: the mean of (x' - b) * dy/dx at random points between a baseline b and x' = x + N(0, s^2).

    s is `noise` times the range of each input, or `noise` itself, as in SmoothGrad. `greys` draws a new plain grey, from black to
    white, for every sample; the other baselines are those of IG.
    """

    name, family, paper = "GradientSHAP", "gradient", SHAP
    samples: int = param(20, "Number of random points", low=1, high=1000)
    baseline: str = param("greys", "Start of the paths: a new grey for every sample, or a baseline of IG", choices=("greys", *BASELINES))
    noise: float = param(0.1, "Standard deviation of the noise on the input", low=0.0, high=10.0)
    unit: str = param("range", "Unit of the noise: a share of each input's range, or absolute, in normalised units", choices=UNITS)
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)

    def ends(self, context: AttributionContext, number: int) -> tuple[Tensor, Tensor]:
        start = background(context, "greys", number) if self.baseline == "greys" else baseline(context, self.baseline)
        return start, context.inputs + deviation(context, self.noise, self.unit) * draw(context, number)


@METHODS.register
@dataclass(frozen=True)
class ExpectedGradients(OverPaths):
    """Expected Gradients: the mean of (x - b) * dy/dx at random points between the input and references b from a background.

    The paper uses the training images as background. They are not available here, because a map depends on its spec only. `photos`
    replaces them by random crops, mirrored or not, of the sample photos; `greys` are plain greys, `uniform` independent values from
    U[-1, 1].
    """

    name, family, paper = "Expected Gradients", "gradient", EXPECTED
    samples: int = param(50, "Number of references, each with one random point", low=1, high=1000)
    background: str = param("photos", "Distribution of the references; a new one is drawn for every sample", choices=BACKGROUNDS)
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)

    def ends(self, context: AttributionContext, number: int) -> tuple[Tensor, Tensor]:
        return background(context, self.background, number), context.inputs
