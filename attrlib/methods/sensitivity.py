"""Global sensitivity analysis: how much the output depends on each cell of a random mask, whatever the other cells show."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.context import AttributionContext
from attrlib.methods.perturbation import FILL, FILLS, RandomMasks, removed
from attrlib.methods.segments import segments
from attrlib.models import Layer
from attrlib.registry import Paper, param

HSIC_PAPER = Paper(
    "Novello et al. 2022",
    "Making Sense of Dependence: Efficient Black-box Explanations Using Dependence Measure",
    "https://arxiv.org/abs/2206.06219",
)
SOBOL_PAPER = Paper(
    "Fel et al. 2021",
    "Look at the Variance! Efficient Black-box Explanations with Sobol-based Sensitivity Analysis",
    "https://arxiv.org/abs/2111.04138",
)
OUTPUT = "Output of the target whose dependence is measured"
OUTPUTS = ("probability", "logit")
ROUNDING = 1e-6
"""Outputs that differ by this share of the largest one count as equal: they are float32."""


@METHODS.register
@dataclass(frozen=True)
class HSIC(Method):
    """HSIC: dependence of the output y on whether a cell m is visible, tr(K H L H) / n^2, over n random masks.

    K_ij = 1/2 - (m_i - m_j)^2 is the kernel of the mask, L_ij = exp(-(y_i - y_j)^2 / 2 s^2) that of the outputs, and H = I - 1/n. s is the
    median of the distances |y_i - y_j| that are not zero; the authors' code takes the median output, which is no scale for outputs of both
    signs. The measure has no sign: it does not tell evidence for the class from evidence against it.

    `cells` draws the masks of the paper, a Latin hypercube in which each cell is visible in a share `p` of them; a map has one value for
    each cell. `rise` takes the masks of RISE with the same `samples`, `cells`, `p` and `fill`, and shares its passes if the output is the
    probability. There too the cells are independent and visible with probability `p`, which is all that the measure needs, but they are
    resized smoothly and shifted, so that the mask is measured at every position. Between 0 and 1, H K H stays that of K: 2 (m_i - m)(m_j - m).
    """

    name, family, paper = "HSIC", "perturbation", HSIC_PAPER
    signed, seeded = False, True
    samples: int = param(500, "Number of random masks n", low=2, high=2000)
    cells: int = param(8, "Cells per side of a mask's grid", low=1, high=64)
    p: float = param(0.5, "Share of cells that stay visible", low=0.01, high=0.99)
    masks: str = param("cells", "Masks of the paper, or those of RISE", choices=("cells", "rise"))
    output: str = param("probability", OUTPUT, choices=OUTPUTS)
    fill: str = param("zeros", FILL, choices=FILLS)

    def attribute(self, context: AttributionContext) -> Tensor:
        _, height, width = context.layer.shape
        if self.masks == "rise":
            masks = RandomMasks(self.samples, self.cells, self.p)
            outputs, _ = masks.outputs(context, self.fill, self.output == "probability")
            return self._dependence(context, masks.maker(context), outputs).view(-1, 1, height, width)
        labels = segments(context, "grid", self.cells)[0]
        design = self._design(int(labels.max()) + 1, context.generator("hsic"))

        def make(which: range) -> Tensor:
            return design[which.start : which.stop, labels][:, None]

        chunks = [values for _, values in context.perturbed(self.samples, make, self.output == "probability", removed(context, self.fill))]
        found = self._dependence(context, lambda which: design[which.start : which.stop], torch.cat(chunks))
        return found[:, labels][:, None]

    def _design(self, count: int, generator: torch.Generator) -> Tensor:
        """Return which of `count` cells are visible under each mask, (n,count) of 0 and 1."""
        ranks = torch.rand(self.samples, count, generator=generator).argsort(0).argsort(0)
        return (ranks < round(self.p * self.samples)).float()

    def _dependence(self, context: AttributionContext, masks: Callable[[range], Tensor], outputs: Tensor) -> Tensor:
        """Return the HSIC of every entry of the masks (k,...) and the outputs (n,B), (B,...) flattened to (B,P)."""
        factors = [factor(values).to(outputs) for values in outputs.T.cpu().double()]
        sums: list[Tensor | float] = [0.0] * len(factors)
        for start in range(0, self.samples, context.chunk):
            which = range(start, min(start + context.chunk, self.samples))
            part = masks(which).flatten(1).to(outputs)
            sums = [done + own[:, which.start : which.stop] @ part for done, own in zip(sums, factors, strict=True)]
        return torch.stack([torch.as_tensor(one).square().sum(0) for one in sums])

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=self.samples)


def factor(outputs: Tensor) -> Tensor:
    """Return F (r,n), with which the HSIC of a mask m (n,) and the outputs is |F m|^2.

    As H K H = 2 (m - mean)(m - mean)^T, it is 2/n^2 m^T H L H m, and H L H has few eigenvalues that are not tiny.

    Args:
        outputs: Outputs y (n,) in float64.
    """
    distances = (outputs[:, None] - outputs).abs()
    apart = distances[distances > ROUNDING * outputs.abs().max()]
    if not len(apart):
        return outputs.new_zeros(1, len(outputs))
    gram = (-0.5 * (distances / apart.median()) ** 2).exp()
    centred = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    values, vectors = torch.linalg.eigh(centred)
    kept = values > 1e-12 * values[-1]
    return (2 * values[kept]).sqrt()[:, None] / len(outputs) * vectors[:, kept].T


@METHODS.register
@dataclass(frozen=True)
class Sobol(Method):
    """Sobol: total-order Sobol index of each cell of a mask, mean_n (f(a_n) - f(c_n))^2 / 2 var f; c_n is a_n with the cell of b_n.

    It is the share of the output's variance that the cell takes part in, alone or together with others (Jansen's estimator). a_n and b_n are
    points of a scrambled Sobol sequence in [0, 1]: cells are dimmed rather than hidden. The variance is that of f over all a_n and b_n. The
    map has one value for each cell, without a sign; the indices add up to 1 if the cells do not interact, else to more.
    """

    name, family, paper = "Sobol", "perturbation", SOBOL_PAPER
    signed, seeded = False, True
    designs: int = param(
        32, "Number of points a_n and b_n, best a power of two; each takes 2 passes and one for every cell", low=2, high=1024
    )
    cells: int = param(8, "Cells per side of a mask's grid", low=1, high=64)
    output: str = param("probability", OUTPUT, choices=OUTPUTS)
    fill: str = param("zeros", FILL, choices=FILLS)

    def attribute(self, context: AttributionContext) -> Tensor:
        labels = segments(context, "grid", self.cells)[0]
        count, designs = int(labels.max()) + 1, self.designs
        points = sobol_sequence(designs, 2 * count, context.generator("sobol"))
        a, b = points.split(count, 1)

        def make(which: range) -> Tensor:
            index = torch.tensor(which)
            cell, point = index // designs - 2, index % designs
            rows = torch.where((cell == -1)[:, None], b[point], a[point])
            return torch.where(cell[:, None] == torch.arange(count), b[point], rows)[:, labels][:, None]

        total = designs * (2 + count)
        chunks = [values for _, values in context.perturbed(total, make, self.output == "probability", removed(context, self.fill))]
        indices = jansen(torch.cat(chunks).double().unflatten(0, (2 + count, designs)))
        return indices.T[:, labels][:, None].float()

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=self.designs * (2 + math.prod(min(self.cells, side) for side in layer.shape[1:])))


def sobol_sequence(count: int, dimensions: int, generator: torch.Generator) -> Tensor:
    """Return the first points (count,dimensions) in [0, 1] of a Sobol sequence, scrambled with a seed from the generator."""
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    return torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=seed).draw(count)


def jansen(outputs: Tensor) -> Tensor:
    """Return the total-order Sobol indices (d,B) by Jansen's estimator; zero where the output is constant.

    Args:
        outputs: Outputs (2+d,N,B) in float64: at the points a, at the points b, and at a with one of the d inputs from b.
    """
    a, changed = outputs[0], outputs[2:]
    variance = outputs[:2].flatten(0, 1).var(0, correction=0)
    constant = variance <= (ROUNDING * outputs.abs().amax((0, 1))) ** 2
    return torch.where(constant, 0.0, (a - changed).square().mean(1) / 2 / variance)
