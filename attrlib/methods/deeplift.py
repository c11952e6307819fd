"""DeepLIFT by the rescale rule, on networks of any activations."""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.autograd_graph import undefined
from attrlib.methods.backward import TINY, BackwardRules, Map
from attrlib.methods.base import METHODS, Passes
from attrlib.methods.baselines import BASELINE, BASELINES, REDUCTION, REDUCTIONS, baseline, common_baseline, is_common
from attrlib.methods.context import AttributionContext
from attrlib.methods.gradients import ByChannel
from attrlib.methods.trial import check_by_trial
from attrlib.models import Classifier, Layer
from attrlib.registry import Paper, param

DEEPLIFT = Paper(
    "Shrikumar et al. 2017", "Learning Important Features Through Propagating Activation Differences", "https://arxiv.org/abs/1704.02685"
)

CLAMPS = ("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "clip")
"""Activations that only choose between the value and a constant, and round nothing."""


@METHODS.register
@dataclass(frozen=True)
class DeepLIFT(ByChannel):
    """DeepLIFT (rescale rule): the difference to a baseline, x - b, times multipliers in place of gradients.

    An activation f with input z, at the baseline z_b, has the multiplier (f(z) - f(z_b)) / (z - z_b), a layer that is linear its
    gradient. Of a maximum, what the output differs by goes to the largest inputs of both. The attributions sum to f(x) - f(b); the
    relative error is kept in the diagnostics as `convergence`. Not defined where activations are multiplied, nor behind
    LayerNorm or softmax.
    """

    name, family, paper, fast = "DeepLIFT", "gradient", DEEPLIFT, True
    needs = ("activations of one value each, maxima and linear layers alone",)
    baseline: str = param("zeros", f"What is compared with: {BASELINE}", choices=BASELINES)
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)

    @property
    def seeded(self) -> bool:  # type: ignore[override]
        """Whether the baseline is drawn."""
        return self.baseline == "uniform"

    def check(self, model: Classifier, layer: Layer) -> None:
        check_by_trial(self, model, layer)

    def attribute(self, context: AttributionContext) -> Tensor:
        _, context.diagnostics["convergence"] = self._found(context)
        return super().attribute(context)

    def values(self, context: AttributionContext) -> Tensor:
        return self._found(context)[0]

    def _found(self, context: AttributionContext) -> tuple[Tensor, Tensor]:
        return context.shared(("deeplift", self.baseline), lambda: self._rescale(context))

    def _rescale(self, context: AttributionContext) -> tuple[Tensor, Tensor]:
        one = is_common(context, self.baseline)
        starts = common_baseline(context, self.baseline) if one else baseline(context, self.baseline)
        rows_at_once = context.chunk if one else max(1, context.chunk // 2)
        found, errors = [], []
        for rows in context.rows.split(rows_at_once):
            start = starts if one else starts[rows]
            rules = _Rescale()
            with rules:
                before = rules.record(context, start, rows)
                scores, multipliers = context.scored_gradient(context.inputs[rows], rows, lambda scores: self._check_graph(scores, context))
            values = (context.inputs[rows] - start) * multipliers
            change = scores - before.expand(len(rows), -1).gather(1, context.targets[rows][:, None])[:, 0]
            found.append(values)
            errors.append((values.flatten(1).sum(1) - change).abs() / change.abs().clamp_min(1e-12))
        return torch.cat(found), torch.cat(errors)

    def _check_graph(self, scores: Tensor, context: AttributionContext) -> None:
        others = undefined(scores)
        if others:
            raise MethodError(
                f"DeepLIFT is not defined for {', '.join(others)}, which {context.classifier.name} has behind {context.layer.name}; "
                "use IG or IxG instead"
            )

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=1, gradient=1)


class _Rescale(BackwardRules):
    """First records what goes into activations and maxima at the baseline; then gives them multipliers, in the same order."""

    def __init__(self) -> None:
        super().__init__()
        self._recording = False
        self._inputs: deque[Tensor] = deque()

    def record(self, context: AttributionContext, start: Tensor, rows: Tensor) -> Tensor:
        """Logits of the baseline (n,C), which is that of all `rows` where it has one row."""
        self._recording = True
        with torch.enable_grad():
            logits = context.logits(start.detach().requires_grad_(), rows[: len(start)])
        self._recording = False
        return logits.detach()

    def activation(self, values: Tensor, function: Map, name: str) -> Tensor:
        if self._recording:
            return self._keep(values, function)
        given, other = values.detach(), self._other(values)
        start, slope = _with_derivative(function, other)
        with torch.no_grad():
            difference = given - other
            # Smaller differences are rounding.
            limit = None if name in CLAMPS else torch.add(1e-6 * other.abs() + 1e-10, given.abs(), alpha=1e-6)
            output = function(values)
            multiplier = output - start
            if limit is not None:
                small = difference.abs() <= limit
                multiplier.masked_fill_(small, 0)
                difference.masked_fill_(small, 0)
            # Where there is no difference, 0 / 0 becomes the derivative; no other value changes.
            multiplier.add_(slope, alpha=TINY).div_(difference.add_(TINY))
        return self.with_backward(values, output, multiplier.mul_)

    def maximum(self, values: Tensor, function: Map, name: str) -> Tensor:
        if self._recording:
            return self._keep(values, function)
        given, other = (part.detach().clone().requires_grad_() for part in (values, self._other(values).expand_as(values)))
        outputs, others = function(given), function(other)
        larger = torch.maximum(outputs, others).detach()
        up, down = larger - others.detach(), outputs.detach() - larger

        def back(gradient: Tensor) -> Tensor:
            (plain,) = torch.autograd.grad(outputs, given, gradient, retain_graph=True)
            (gained,) = torch.autograd.grad(outputs, given, gradient * up, retain_graph=True)
            (lost,) = torch.autograd.grad(others, other, gradient * down, retain_graph=True)
            difference = (given - other).detach()
            return torch.where(difference == 0, plain, (gained + lost) / torch.where(difference == 0, 1, difference))

        return self.with_backward(values, outputs, back)

    def _keep(self, values: Tensor, function: Map) -> Tensor:
        self._inputs.append(values.detach().clone())
        with torch.no_grad():
            output = function(values)
        # Nothing flows back here: the flag only says that what comes depends on the input.
        return output.detach().requires_grad_()

    def _other(self, values: Tensor) -> Tensor:
        """What stands in the place of the values at the baseline: of their shape, or (1,...) for all alike."""
        if not self._inputs or self._inputs[0].shape[1:] != values.shape[1:]:
            raise MethodError("DeepLIFT needs a network that does the same at the input and at the baseline; use IG or IxG instead")
        other = self._inputs.popleft()
        return other if len(other) == 1 else other.repeat(len(values) // len(other), *[1] * (values.ndim - 1))


def _with_derivative(function: Map, values: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = values.detach().requires_grad_()
        output = function(leaf.clone())
        (slope,) = torch.autograd.grad(output.sum(), leaf)
    return output.detach(), slope
