"""Linear surrogate models, fitted to the network's outputs for images with some segments removed: LIME and KernelSHAP."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.context import AttributionContext
from attrlib.methods.perturbation import FILL, FILLS, removed
from attrlib.methods.segments import SEGMENTS, segments
from attrlib.models import Layer
from attrlib.registry import Paper, param

LIME_PAPER = Paper(
    "Ribeiro et al. 2016", '"Why Should I Trust You?": Explaining the Predictions of Any Classifier', "https://arxiv.org/abs/1602.04938"
)
SHAP = Paper("Lundberg and Lee 2017", "A Unified Approach to Interpreting Model Predictions", "https://arxiv.org/abs/1705.07874")


@dataclass(frozen=True)
class Surrogate(Method):
    """Base class of linear surrogates: f(x with the segments z) = c + sum_s phi_s z_s, fitted by weighted least squares.

    phi_s is spread evenly over the positions of segment s, so that the sum of the map over segments is their effect in the linear model.
    A subclass defines which z are sampled, and their weights.
    """

    seeded = True
    samples: int = param(1000, "Number of images with some of the segments removed", low=1, high=20000)
    segments: str = param("slic", "Superpixels of each image (SLIC), or cells of a grid", choices=SEGMENTS)
    cells: int = param(7, "Cells per side of the grid; with slic, about as many superpixels as such a grid has cells", low=1, high=32)
    output: str = param("logit", "Output of the target that is fitted", choices=("logit", "probability"))
    fill: str = param("zeros", FILL, choices=FILLS)

    @abstractmethod
    def design(self, context: AttributionContext, count: int) -> tuple[Tensor, Tensor]:
        """Return which segments are kept in each sample, and the weights of the samples.

        Args:
            context: The context.
            count: Number of segments.

        Returns:
            A matrix (n,count) of 0 and 1 in float64, whose first row keeps all segments, and the weights (n,).
        """

    @abstractmethod
    def fit(self, kept: Tensor, weights: Tensor, outputs: Tensor) -> Tensor:
        """Return the coefficients phi of the linear model, (count,T) in float64.

        Args:
            kept: Segments that are kept in each sample (n,count).
            weights: Weights of the samples (n,).
            outputs: Outputs of the samples minus those of the whole image (n,T).
        """

    def attribute(self, context: AttributionContext) -> Tensor:
        labels = segments(context, self.segments, self.cells)
        counts = [int(segmented.max()) + 1 for segmented in labels]
        designs = {count: self.design(context, count) for count in set(counts)}
        pairs = [(designs[count][0], where) for where, count in zip(labels, counts, strict=True)]
        # All images share the cells of a grid, and thus its masks.
        alike = self.segments == "grid"

        def make(which: range) -> Tensor:
            masks = [kept[[i if i < len(kept) else 0 for i in which]][:, where] for kept, where in pairs[: 1 if alike else None]]
            factors = torch.stack(masks, 1)[:, :, None].float()
            return factors[:, 0] if alike else factors

        longest = max(len(kept) for kept, _ in pairs)
        fill = removed(context, self.fill)
        chunks = [values for _, values in context.perturbed(longest, make, self.output == "probability", fill)]
        outputs = torch.cat(chunks).cpu().double()
        owners = context.per_item(torch.arange(len(context.images), device=context.images.device)).tolist()
        maps = torch.zeros(len(context), *labels.shape[1:])
        for k, (where, count) in enumerate(zip(labels, counts, strict=True)):
            items = [item for item, owner in enumerate(owners) if owner == k]
            kept, weights = designs[count]
            values = self.fit(kept, weights, outputs[: len(kept), items] - outputs[:1, items])
            per_position = values / where.flatten().bincount()[:, None]
            maps[items] = per_position.T[:, where].float()
        return maps[:, None].to(context.images.device)


def least_squares(values: Tensor, weights: Tensor, outputs: Tensor, ridge: float = 0.0) -> Tensor:
    """Solve a weighted ridge regression: minimise sum_n w_n (y_n - x_n b)^2 + ridge |b|^2, in float64.

    Args:
        values: x (n,M).
        weights: w (n,).
        outputs: y (n,T).
        ridge: Strength of the ridge penalty.

    Returns:
        The solution b (M,T) of least norm.
    """
    root = weights.sqrt()[:, None]
    more = math.sqrt(ridge) * torch.eye(values.shape[1], dtype=values.dtype)
    left = torch.cat([root * values, more])
    right = torch.cat([root * outputs, torch.zeros(len(more), outputs.shape[1], dtype=values.dtype)])
    return torch.linalg.lstsq(left, right, driver="gelsd").solution


@METHODS.register
@dataclass(frozen=True)
class LIME(Surrogate):
    """LIME: ridge regression of the output on which segments are kept, each with probability 1/2, weighted by closeness to the image.

    The weight is sqrt(exp(-d^2 / width^2)), d the cosine distance between z and all ones, as in the authors' code for images.
    """

    name, family, paper = "LIME", "perturbation", LIME_PAPER
    width: float = param(0.25, "Width of the kernel in cosine distance", low=0.01, high=100.0)
    ridge: float = param(1.0, "Strength of the ridge penalty", low=0.0, high=1e6)

    def design(self, context: AttributionContext, count: int) -> tuple[Tensor, Tensor]:
        kept = (torch.rand(self.samples, count, generator=context.generator("lime", count)) < 0.5).double()
        kept[0] = 1
        distance = 1 - (kept.mean(1)).sqrt()
        return kept, (-0.5 * (distance / self.width) ** 2).exp()

    def fit(self, kept: Tensor, weights: Tensor, outputs: Tensor) -> Tensor:
        share = weights[:, None] / weights.sum()
        centred = [values - (share * values).sum(0) for values in (kept, outputs)]
        return least_squares(centred[0], weights, centred[1], self.ridge)

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=self.samples)


@METHODS.register
@dataclass(frozen=True)
class KernelSHAP(Surrogate):
    """KernelSHAP: Shapley values of the segments, by least squares under the Shapley kernel (M-1) / (C(M,|z|) |z| (M-|z|)).

    The map sums to f(x) - f(all segments removed). Coalitions of few segments and their complements are enumerated, for as many sizes
    as `samples` allows; of the other sizes, pairs of complements are drawn. With 2^M - 2 samples or more the values are exact.
    """

    name, family, paper = "KernelSHAP", "perturbation", SHAP

    def design(self, context: AttributionContext, count: int) -> tuple[Tensor, Tensor]:
        kept, weights = coalitions(count, self.samples, context.generator("shap", count))
        ends = torch.stack([torch.ones(count), torch.zeros(count)]).double()
        return torch.cat([ends, kept]), torch.cat([torch.zeros(2).double(), weights])

    def fit(self, kept: Tensor, weights: Tensor, outputs: Tensor) -> Tensor:
        # The values sum to f(x) - f(nothing), so their mean is given. Their deviations from it sum to zero and are fitted.
        mean = -outputs[1] / kept.shape[1]
        rest = outputs - outputs[1] - kept.sum(1, keepdim=True) * mean
        return mean + least_squares(kept - kept.mean(1, keepdim=True), weights, rest)

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=2 + self.samples)


def coalitions(count: int, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return coalitions of segments, and their weights under the Shapley kernel.

    Args:
        count: Number of segments.
        samples: Largest number of coalitions.
        generator: Draws the coalitions that are not enumerated.

    Returns:
        Coalitions (n,count) of 0 and 1, neither empty nor complete, and their weights (n,).
    """
    sizes = list(range(1, count // 2 + 1))
    both = {s: 1 if 2 * s == count else 2 for s in sizes}
    number = {s: both[s] * math.comb(count, s) for s in sizes}
    mass = {s: both[s] / (s * (count - s)) for s in sizes}
    kept, weights = [torch.zeros(0, count, dtype=torch.float64)], [torch.zeros(0, dtype=torch.float64)]
    left = samples
    while sizes:
        size, share = sizes[0], mass[sizes[0]] / sum(mass[s] for s in sizes)
        if number[size] > left * share and sum(number[s] for s in sizes) > left:
            break
        chosen = torch.tensor(list(combinations(range(count), sizes.pop(0))))
        rows = torch.zeros(len(chosen), count, dtype=torch.float64).scatter_(1, chosen, 1.0)
        kept += [rows, 1 - rows][: both[size]]
        weights.append(torch.full((number[size],), mass[size] / number[size], dtype=torch.float64))
        left -= number[size]
    if sizes and left:
        shares = torch.tensor([mass[s] for s in sizes], dtype=torch.float64)
        drawn = torch.tensor(sizes)[torch.multinomial(shares, (left + 1) // 2, replacement=True, generator=generator)]
        place = torch.rand(len(drawn), count, generator=generator).argsort(1).argsort(1)
        rows = (place < drawn[:, None]).double()
        kept.append(torch.stack([rows, 1 - rows], 1).flatten(0, 1)[:left])
        weights.append(torch.full((left,), float(shares.sum()) / left, dtype=torch.float64))
    return torch.cat(kept), torch.cat(weights)
