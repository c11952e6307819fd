"""Integrated Gradients on other paths than the straight line: Guided IG and Blur IG."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.base import METHODS, Passes
from attrlib.methods.baselines import BASELINE, BASELINES, REDUCTION, REDUCTIONS, baseline, baseline_scores
from attrlib.methods.context import AttributionContext
from attrlib.methods.gradients import ByChannel
from attrlib.methods.trial import check_by_trial
from attrlib.models import Classifier, Layer
from attrlib.postprocess import gaussian
from attrlib.registry import Paper, param

GUIDED_IG = Paper(
    "Kapishnikov et al. 2021",
    "Guided Integrated Gradients: An Adaptive Path Method for Removing Noise",
    "https://arxiv.org/abs/2106.09788",
)
BLUR_IG = Paper("Xu et al. 2020", "Attribution in Scale and Space", "https://arxiv.org/abs/2004.03383")


class OnPath(ByChannel):
    """Base class of integrals of the gradient along a path, which add up to the change of the target.

    The convergence error |sum - (f(end) - f(start))| / |f(end) - f(start)| of each image is returned in the diagnostics as
    `convergence`.
    """

    def attribute(self, context: AttributionContext) -> Tensor:
        _, context.diagnostics["convergence"] = self._integral(context)
        return super().attribute(context)

    def values(self, context: AttributionContext) -> Tensor:
        return self._integral(context)[0]

    @abstractmethod
    def integrate(self, context: AttributionContext) -> tuple[Tensor, Tensor]:
        """Return the attributions (B,...) and the target logits (B,) at the start of the path."""

    def _integral(self, context: AttributionContext) -> tuple[Tensor, Tensor]:
        """Return the attributions (B,...) and the convergence errors (B,)."""

        def make() -> tuple[Tensor, Tensor]:
            attributed, start = self.integrate(context)
            change = context.clean_scores() - start
            return attributed, (attributed.flatten(1).sum(1) - change).abs() / change.abs().clamp_min(1e-12)

        same: Any = self
        return context.shared(("on path", replace(same, channels="sum")), make)


@METHODS.register
@dataclass(frozen=True)
class GuidedIG(OnPath):
    """Guided IG: the integral of the gradient along a path that first changes the values with the smallest |dy/dx|.

    In each of `steps` steps, the values with the smallest gradient move, a share `fraction` of all at a time, until the L1 distance to
    the input has fallen by 1 / `steps`. No value gets further than `distance`, a share of its own way, from where the straight path
    would have it: 0 is IG, 1 is a free path. The map is the sum over the steps of the gradient at their start times the change, as in
    the authors' code, which takes 200 steps. At a layer followed by a LayerNorm, which is singular at zero, the baseline `zeros` does
    not converge: use `black` or `blur` there. Rounding decides which of almost equal gradients come first, so that maps computed in
    batches of other sizes may differ by a hundredth.
    """

    name, family, paper = "Guided IG", "gradient", GUIDED_IG
    steps: int = param(50, "Number of steps", low=1, high=1000)
    fraction: float = param(0.25, "Share of the values that change at a time, those with the smallest gradient", low=0.01, high=1.0)
    distance: float = param(0.02, "Largest distance of a value from the straight path, as a share of its change", low=0.0, high=1.0)
    baseline: str = param("zeros", f"Start of the path: {BASELINE}", choices=BASELINES)
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)

    @property
    def seeded(self) -> bool:  # type: ignore[override]
        """Return whether the baseline is drawn at random."""
        return self.baseline == "uniform"

    def check(self, model: Classifier, layer: Layer) -> None:
        # One step shows whether there is a gradient at the baseline.
        check_by_trial(replace(self, steps=1, channels="sum"), model, layer)

    def integrate(self, context: AttributionContext) -> tuple[Tensor, Tensor]:
        # Not every device has float64.
        kind = torch.float32 if context.images.device.type == "mps" else torch.float64
        start, end = (values.flatten(1).to(kind) for values in (baseline(context, self.baseline), context.inputs))
        way = end - start
        length, done, total = way.abs(), torch.zeros_like(way), torch.zeros_like(way)
        for which, _ in context.variants(self.steps):
            for step in which:
                at = torch.addcmul(start, done, way).view(context.inputs.shape).float()
                gradient = context.gradient(at, context.rows).flatten(1)
                if not bool(gradient.isfinite().all()):
                    raise MethodError(
                        f"Guided IG: from baseline={self.baseline}, the gradients of {context.classifier.name} overflow, as norms are singular "
                        "where all values are the same; choose another baseline, such as blur, or IG"
                    )
                moved = self._moved(done, length, gradient.abs(), (step + 1) / self.steps)
                total += (moved - done) * gradient
                done = moved
        return (total * way).view(context.inputs.shape).float(), baseline_scores(context, self.baseline)

    def _moved(self, done: Tensor, length: Tensor, gradient: Tensor, share: float) -> Tensor:
        """Return the share of its way that each value has gone after a step.

        Args:
            done: The shares (B,n) before the step.
            length: Length of the whole way of each value (B,n).
            gradient: Magnitude of the gradient in each value (B,n).
            share: Share of all ways that is done after the step.
        """
        low, high = max(share - self.distance, 0.0), min(share + self.distance, 1.0)
        done, last = done.clamp_min(low), done.new_tensor(high)
        gap = (length * (share - done)).sum(1)
        open_items = gap > 1e-9 * (length.sum(1) * (1 - share)).clamp_min(1)
        count = int(self.fraction * (done.shape[1] - 1)) + 1
        ranked = gradient.masked_fill(length == 0, torch.inf)
        while bool(open_items.any()):
            left = last - done
            ranked = ranked.masked_fill_(left <= 0, torch.inf)
            chosen = (ranked <= kth_smallest(ranked, count)).to(done.dtype)
            reach = (left * chosen * length).sum(1)
            part = torch.where(open_items, torch.where(reach > gap, gap / reach, 1.0), 0.0)
            # Unlike a sum, this reaches `last` exactly.
            done = torch.lerp(done, last, chosen * part[:, None])
            gap = gap - reach
            # Rounding may leave a gap that no value can close.
            open_items = open_items & (gap > 0) & (reach > 0)
        return done

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=2, gradient=self.steps)


def kth_smallest(values: Tensor, k: int) -> Tensor:
    """Return the k-th smallest of each row of values (B,n), as (B,1)."""
    if values.device.type == "cpu":
        # Many times faster than kthvalue.
        return torch.from_numpy(np.partition(values.numpy(), k - 1, axis=1)[:, k - 1 : k])
    return values.kthvalue(k, dim=1, keepdim=True).values


@METHODS.register
@dataclass(frozen=True)
class BlurIG(OnPath):
    """Blur IG: the integral of the gradient along the path on which a blurred image gets sharp, sum_i (g_i + g_{i+1}) / 2 (z_i - z_{i+1}).

    z_i is the image blurred with a Gaussian of standard deviation (i/N)^2 `sigma`, at an inner layer its activations there, and g_i the
    gradient at z_i. Beyond its border, an image is filled with zeros, the mean colour. The integral is that of the authors' code, which
    takes equal steps and the gradient at one end of each; trapezoids, and short steps where the image is sharp, need fewer of them.
    """

    name, family, paper = "Blur IG", "gradient", BLUR_IG
    steps: int = param(50, "Number N of steps", low=1, high=1000)
    sigma: float = param(50.0, "Standard deviation of the strongest blur, in pixels", low=0.1, high=1000.0)
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)

    def integrate(self, context: AttributionContext) -> tuple[Tensor, Tensor]:
        total = torch.zeros_like(context.inputs)
        previous: tuple[Tensor, Tensor] | None = None
        for which, rows in context.variants(self.steps + 1):
            images = torch.cat([gaussian(context.images, self.sigma * (i / self.steps) ** 2) for i in which])
            points = context.with_images(images).inputs
            gradients = context.gradient(points, rows)
            for point, gradient in zip(points.chunk(len(which)), gradients.chunk(len(which)), strict=True):
                if previous is not None:
                    total += (previous[1] + gradient) / 2 * (previous[0] - point)
                previous = point, gradient
        assert previous is not None, "there are at least two points"
        return total, context.scores(previous[0], context.rows)

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=2, gradient=self.steps + 1, before=2 + self.steps)
