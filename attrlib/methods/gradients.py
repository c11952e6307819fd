"""Gradient family: what a small change of the input, or a path to it, does to the logit."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.task import Task
from attrlib.models import Layer
from attrlib.postprocess import smooth
from attrlib.registry import Paper, param

SALIENCY = Paper("Simonyan et al. 2014", "Deep Inside Convolutional Networks", "https://arxiv.org/abs/1312.6034")
INPUT_X_GRADIENT = Paper("Shrikumar et al. 2016", "Not Just a Black Box", "https://arxiv.org/abs/1605.01713")
AXIOMATIC = Paper("Sundararajan et al. 2017", "Axiomatic Attribution for Deep Networks", "https://arxiv.org/abs/1703.01365")
SMOOTHGRAD = Paper("Smilkov et al. 2017", "SmoothGrad: removing noise by adding noise", "https://arxiv.org/abs/1706.03825")

REDUCTIONS = ("sum", "abs-sum")


def reduce_channels(task: Task, values: Tensor, reduction: str) -> Tensor:
    """Channels to one: their sum, or the sum of their magnitudes."""
    return task.reduce(values.abs() if reduction == "abs-sum" else values)


@METHODS.register
@dataclass(frozen=True)
class Gradient(Method):
    """Gradient of the target logit: sum over channels of dy/dx."""

    name, family, paper, fast = "Gradient", "gradient", SALIENCY, True
    channels: str = param("sum", "Sum over channels of the gradient, or of its magnitude", choices=REDUCTIONS)

    def attribute(self, task: Task) -> Tensor:
        return reduce_channels(task, task.clean_gradient(), self.channels)

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=1)


@METHODS.register
@dataclass(frozen=True)
class InputXGradient(Method):
    """Input times gradient: sum over channels of x * dy/dx."""

    name, family, paper, fast = "IxG", "gradient", INPUT_X_GRADIENT, True

    def attribute(self, task: Task) -> Tensor:
        return task.reduce(task.inputs * task.clean_gradient())

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=1)


BASELINES = ("zeros", "black", "white", "blur")


@METHODS.register
@dataclass(frozen=True)
class IntegratedGradients(Method):
    """Integrated Gradients: (x - b) times the mean gradient on the straight path from a baseline b to x.

    The integral is taken by Gauss-Legendre quadrature with `steps` nodes. The convergence error
    |sum - (f(x) - f(b))| / |f(x) - f(b)| of each image is kept in the diagnostics as `convergence`; the sum is that of the map and,
    at a token layer, of the prefix tokens that the map leaves out. Behind a LayerNorm, which is singular at zero, baseline zeros
    converges slowly: take black or blur there.
    """

    name, family, paper = "IG", "gradient", AXIOMATIC
    steps: int = param(50, "Nodes of the quadrature", low=1, high=1000)
    baseline: str = param(
        "zeros",
        "Where the path starts: zeros is the mean colour at Input and zero activations inside; black, white and blur (a Gaussian "
        "of a quarter of the width) are pictures, whose activations are used inside",
        choices=BASELINES,
    )

    def attribute(self, task: Task) -> Tensor:
        start = baseline(task, self.baseline)
        difference = task.inputs - start
        nodes, weights = np.polynomial.legendre.leggauss(self.steps)
        total = torch.zeros_like(task.inputs)
        for which, rows in task.variants(self.steps):
            alphas = [(nodes[i] + 1) / 2 for i in which]
            points = torch.cat([start + alpha * difference for alpha in alphas])
            for i, part in zip(which, task.gradient(points, rows).chunk(len(which)), strict=True):
                total += weights[i] / 2 * part
        change = task.clean_scores() - task.scores(start, task.rows)
        attributed = (difference * total).flatten(1).sum(1)
        task.diagnostics["convergence"] = (attributed - change).abs() / change.abs().clamp_min(1e-12)
        return task.reduce(difference * total)

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=2, gradient=self.steps)


def baseline(task: Task, name: str) -> Tensor:
    """A reference input of the layer, of the shape of `task.inputs`: zeros there, or f_pre of a black, white or blurred picture."""
    if name == "zeros":
        return torch.zeros_like(task.inputs)
    preprocessing = task.classifier.preprocessing
    if name == "blur":
        size = task.images.shape[-1] // 4 * 4 + 1
        flat = task.images.flatten(0, 1)[:, None]
        return task.before((smooth(flat, size) / smooth(torch.ones_like(flat[:1]), size)).view_as(task.images))
    colour = torch.full_like(task.images, 0.0 if name == "black" else 1.0)
    return task.before(preprocessing.normalise(colour))


@METHODS.register
@dataclass(frozen=True)
class SmoothGrad(Method):
    """SmoothGrad: the mean gradient over noisy copies, x + N(0, s^2) with s = noise * (max x - min x)."""

    name, family, paper, seeded = "SmoothGrad", "gradient", SMOOTHGRAD, True
    samples: int = param(15, "Noisy copies", low=1, high=1000)
    noise: float = param(0.15, "Standard deviation of the noise as a share of the image's range", low=0.0, high=10.0)
    channels: str = param("sum", "Sum over channels of the mean gradient, or of its magnitude", choices=REDUCTIONS)

    def attribute(self, task: Task) -> Tensor:
        mean, _ = noisy_moments(task, self.samples, self.noise)
        return reduce_channels(task, mean, self.channels)

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=self.samples)


def noisy_moments(
    task: Task, samples: int, noise: float, base: str = "Gradient", values: Callable[[Tensor, Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and variance (1/n) over noisy copies of the inputs, x + N(0, s^2) with s = noise * (max x - min x), each (B,...).

    They are of `values(points, rows)`, by default the gradient, and shared by all that ask for the same `base`, samples and noise.
    """

    def make() -> tuple[Tensor, Tensor]:
        low, high = task.inputs.flatten(1).aminmax(dim=1)
        std = (noise * (high - low)).view(-1, *[1] * (task.inputs.ndim - 1))
        mean, squares = torch.zeros_like(task.inputs), torch.zeros_like(task.inputs)
        for which, rows in task.variants(samples):
            noisy = torch.cat([task.inputs + std * _noise(task, i) for i in which])
            # Welford's recurrence: the difference of two sums would leave nothing but rounding where the variance is small.
            for i, value in zip(which, (values or task.gradient)(noisy, rows).chunk(len(which)), strict=True):
                off = value - mean
                mean += off / (i + 1)
                squares += off * (value - mean)
        return mean, squares / samples

    return task.shared(("noisy", base, samples, noise), make)


def _noise(task: Task, sample: int) -> Tensor:
    """Noise (1,...) of one sample: the same for every image, so that neither batch nor order matters."""
    noise = torch.randn(1, *task.inputs.shape[1:], generator=task.generator("noise", sample))
    return noise.to(task.inputs.device)
