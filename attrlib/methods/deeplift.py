"""DeepLIFT with the rescale rule, for networks with any activations."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.autograd_graph import undefined
from attrlib.methods.backward import ACTIVATIONS, TINY, Map, OperationRule
from attrlib.methods.base import METHODS, Passes
from attrlib.methods.baselines import BASELINE, BASELINES, REDUCTION, REDUCTIONS, baseline, common_baseline, is_common
from attrlib.methods.context import AttributionContext
from attrlib.methods.deeplift_rules import DIFFERENCES, ApartNorm, ApartSoftmax, ShapleyProduct, ShapleyQuotient, WithBaseline
from attrlib.methods.gradients import ByChannel
from attrlib.methods.operation_rules import GRADIENT, OfRules, by_function
from attrlib.methods.trial import check_by_trial
from attrlib.models import Classifier, Layer
from attrlib.registry import Paper, param

DEEPLIFT = Paper(
    "Shrikumar et al. 2017", "Learning Important Features Through Propagating Activation Differences", "https://arxiv.org/abs/1704.02685"
)

CLAMPS = ("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "clip")
"""Activations that return the value or a constant, so that their outputs have no rounding error."""


@METHODS.register
@dataclass(frozen=True)
class DeepLIFT(OfRules, ByChannel):
    """DeepLIFT (rescale rule): the difference to a baseline, x - b, times multipliers in place of gradients.

    An activation f with input z, and input z_b at the baseline, has the multiplier (f(z) - f(z_b)) / (z - z_b). A linear layer has its
    gradient. At a maximum, the difference of the output goes to the inputs that are largest for the image and for the baseline.

    In transformers and gated networks, a product of two activations gives each its Shapley value, with multipliers (b + b_b) / 2 and
    (a + a_b) / 2; norms and softmax are taken apart into squares, exponentials, sums, roots and products (Lundberg and Lee 2017).

    The attributions sum to f(x) - f(b); the relative error is returned in the diagnostics as `convergence`. At a layer followed by a
    LayerNorm, which is singular at zero, multipliers from the baseline `zeros` are large and cancel: use `black` or `blur` there.
    """

    name, family, paper, fast = "DeepLIFT", "gradient", DEEPLIFT, True
    needs = ("only operations that have a rule: see the table of rules",)
    operations = linear = True
    rules = MappingProxyType(
        {
            "norm": ApartNorm(),
            "softmax": ApartSoftmax(),
            "product": ShapleyProduct(),
            "quotient": ShapleyQuotient(),
            "matrix_product": ShapleyProduct(),
        }
    )
    summaries = dict.fromkeys(("linear", "convolution", "batch_norm", "sum"), GRADIENT) | {
        **dict.fromkeys(("rectifier", "activation", "sigmoid"), "rescale: (f(z) - f(z_b)) / (z - z_b)"),
        "maximum": "to the inputs that are largest for the image and for the baseline",
    }
    baseline: str = param("zeros", f"Baseline: {BASELINE}", choices=BASELINES)
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)

    @property
    def seeded(self) -> bool:  # type: ignore[override]
        """Return whether the baseline is drawn at random."""
        return self.baseline == "uniform"

    def check(self, model: Classifier, layer: Layer) -> None:
        check_by_trial(self, model, layer)

    def attribute(self, context: AttributionContext) -> Tensor:
        _, context.diagnostics["convergence"] = self._attributions(context)
        return super().attribute(context)

    def values(self, context: AttributionContext) -> Tensor:
        return self._attributions(context)[0]

    def _attributions(self, context: AttributionContext) -> tuple[Tensor, Tensor]:
        return context.shared(("deeplift", self.baseline), lambda: self._rescale(context))

    def _rescale(self, context: AttributionContext) -> tuple[Tensor, Tensor]:
        one = is_common(context, self.baseline)
        starts = common_baseline(context, self.baseline) if one else baseline(context, self.baseline)
        rows_at_once = context.chunk if one else max(1, context.chunk // 2)
        parts, errors = [], []
        for rows in context.rows.split(rows_at_once):
            start = starts if one else starts[rows]
            rules = _Rescale(by_function(self.rules))
            with rules:
                before = rules.record(context, start, rows)
                scores, multipliers = context.scored_gradient(context.inputs[rows], rows, lambda scores: self._check_graph(scores, context))
            if not bool(multipliers.isfinite().all()):
                raise MethodError(
                    f"DeepLIFT: from baseline={self.baseline}, the multipliers of {context.classifier.name} overflow, as norms are singular where "
                    "all values are the same; choose another baseline, such as blur, or IG"
                )
            values = (context.inputs[rows] - start) * multipliers
            change = scores - context.explained(before.expand(len(rows), -1), rows)
            parts.append(values)
            errors.append((values.flatten(1).sum(1) - change).abs() / change.abs().clamp_min(1e-12))
        return torch.cat(parts), torch.cat(errors)

    def _check_graph(self, scores: Tensor, context: AttributionContext) -> None:
        others = undefined(scores, [DIFFERENCES])
        if others:
            raise MethodError(
                f"DeepLIFT is not defined for {', '.join(others)}, which {context.classifier.name} has downstream of {context.layer.name}; "
                "use IG or IxG instead"
            )

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=1, gradient=1)


class _Rescale(WithBaseline):
    """Rules of DeepLIFT: record the inputs of activations and maxima at the baseline, then set multipliers in the same order."""

    elementwise = ACTIVATIONS | {"erf", "exp", "rdiv", "reciprocal", "rsqrt", "sqrt"}

    def __init__(self, rules: Mapping[str, OperationRule]) -> None:
        super().__init__(rules)
        self.recording = False
        self._inputs: deque[Tensor] = deque()

    def record(self, context: AttributionContext, start: Tensor, rows: Tensor) -> Tensor:
        """Return the logits of the baseline (n,C). A baseline of one row stands for all `rows`."""
        self.recording = True
        with torch.enable_grad():
            logits = context.logits(start.detach().requires_grad_(), rows[: len(start)])
        self.recording = False
        return logits.detach()

    def activation(self, values: Tensor, function: Map, name: str) -> Tensor:
        if self.recording:
            return self._keep(values, function)
        current, other = values.detach(), self.other(values)
        start, slope = _with_derivative(function, other)
        with torch.no_grad():
            difference = current - other
            # Smaller differences are rounding errors.
            limit = None if name in CLAMPS else torch.add(1e-6 * other.abs() + 1e-10, current.abs(), alpha=1e-6)
            output = function(values)
            multiplier = output - start
            if limit is not None:
                small = difference.abs() <= limit
                multiplier.masked_fill_(small, 0)
                difference.masked_fill_(small, 0)
            # If there is no difference, 0 / 0 becomes the derivative. No other value changes.
            multiplier.add_(slope, alpha=TINY).div_(difference.add_(TINY))
        return self.with_backward(values, output, multiplier.mul_)

    def maximum(self, values: Tensor, function: Map, name: str) -> Tensor:
        if self.recording:
            return self._keep(values, function)
        current, other = (part.detach().clone().requires_grad_() for part in (values, self.other(values).expand_as(values)))
        outputs, others = function(current), function(other)
        larger = torch.maximum(outputs, others).detach()
        up, down = larger - others.detach(), outputs.detach() - larger

        def back(gradient: Tensor) -> Tensor:
            (plain,) = torch.autograd.grad(outputs, current, gradient, retain_graph=True)
            (gained,) = torch.autograd.grad(outputs, current, gradient * up, retain_graph=True)
            (lost,) = torch.autograd.grad(others, other, gradient * down, retain_graph=True)
            difference = (current - other).detach()
            return torch.where(difference == 0, plain, (gained + lost) / torch.where(difference == 0, 1, difference))

        return self.with_backward(values, outputs, back)

    def _keep(self, values: Tensor, function: Map) -> Tensor:
        self.keep(values)
        with torch.no_grad():
            return self.marked(function(values))

    def keep(self, values: Tensor) -> None:
        self._inputs.append(values.detach().clone())

    def other(self, values: Tensor) -> Tensor:
        if not self._inputs or self._inputs[0].shape[1:] != values.shape[1:]:
            raise MethodError(
                "DeepLIFT needs a network that runs the same operations on the input and on the baseline; use IG or IxG instead"
            )
        other = self._inputs.popleft()
        return other if len(other) == 1 else other.repeat(len(values) // len(other), *[1] * (values.ndim - 1))


def _with_derivative(function: Map, values: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = values.detach().requires_grad_()
        output = function(leaf.clone())
        (slope,) = torch.autograd.grad(output.sum(), leaf)
    return output.detach(), slope
