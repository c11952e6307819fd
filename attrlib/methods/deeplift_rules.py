"""Rules of DeepLIFT for products, norms and softmax: multipliers of differences to a baseline, as in DeepSHAP (Lundberg and Lee 2017).

Each is exact: the multipliers times the differences of the inputs sum to the difference of the output. A product gives each factor its
Shapley value, d(ab) = (b + b0)/2 da + (a + a0)/2 db. Norms and softmax are taken apart into sums, products, and functions of one value,
which have the rescale rule: squares (c + c0), roots, exponentials and reciprocals.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attrlib.methods.backward import BackwardRules, FunctionCall, OperationRule
from attrlib.methods.norm_form import NormForm
from attrlib.models.operations import operation, writes

_PURE: dict[str, Callable[..., Tensor]] = {"mul": torch.mul, "div": torch.div}
"""What functions that write into their first argument compute."""


class WithBaseline(BackwardRules):
    """Mode of two passes: one records what operations read at the baseline, the next gives it back in the same order."""

    recording: bool

    @abstractmethod
    def keep(self, values: Tensor) -> None:
        """Record values at the baseline."""

    @abstractmethod
    def other(self, values: Tensor) -> Tensor:
        """Return the values at the same place for the baseline: of the same shape, or (1,...) if it is common to all items."""

    @staticmethod
    def marked(output: Tensor) -> Tensor:
        """Return an output at the baseline, through which no gradient flows, marked as dependent on the input."""
        return output.detach().requires_grad_()


class DifferenceRule(OperationRule):
    """Base class of rules that need what an operation reads at the baseline."""

    def apply(self, rules: BackwardRules, call: FunctionCall) -> Any:
        assert isinstance(rules, WithBaseline), "only DeepLIFT records a baseline"
        read = self.reads(call)
        if not read:
            return call.run()
        if rules.recording:
            for values in read:
                rules.keep(values)
            with torch.no_grad():
                return rules.marked(call.run())
        pure = FunctionCall(_PURE[operation(call.func)], call.args, call.kwargs) if writes(call.func) else call
        back = self.back(pure, [values.detach().clone() for values in read], [rules.other(values) for values in read])
        with torch.no_grad():
            output = call.run()
        return _Differences.apply((output,), rules, back, *read)

    def reads(self, call: FunctionCall) -> list[Tensor]:
        """Return the tensors whose differences share that of the output; none if the operation is linear."""
        return [call.argument(0, "input")]

    @abstractmethod
    def back(self, call: FunctionCall, ends: list[Tensor], starts: list[Tensor]) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """Return the function from the multipliers of the output to those of what the operation reads.

        Args:
            call: The call.
            ends: What it reads, for the items.
            starts: What it reads at the baseline; the first dimension may be 1.
        """


class _Differences(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, output: tuple[Tensor], rules: BackwardRules, back: Callable[[Tensor], tuple[Tensor, ...]], *read: Tensor
    ) -> Tensor:
        ctx.rules, ctx.back = rules, back
        # In a tuple, because an output that is itself an argument would become a view, which cannot be written into.
        if output[0] is read[0]:
            ctx.mark_dirty(read[0])
        return output[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.rules.backward = True
        try:
            return None, None, None, *ctx.back(gradients[0])
        finally:
            ctx.rules.backward = False


DIFFERENCES = _Differences.__name__
"""Kind of the nodes of these rules, as `autograd_graph.kind` names them."""


class ShapleyProduct(DifferenceRule):
    """Give each of two factors its Shapley value."""

    summary = "Shapley value of each factor: (b + b0)/2 and (a + a0)/2"

    def reads(self, call: FunctionCall) -> list[Tensor]:
        return call.active if len(call.active) == 2 else []

    def back(self, call: FunctionCall, ends: list[Tensor], starts: list[Tensor]) -> Callable[[Tensor], tuple[Tensor, ...]]:
        means = [(end + start) / 2 for end, start in zip(ends, starts, strict=True)]

        def slope(varied: int, gradient: Tensor) -> Tensor:
            with torch.enable_grad():
                factors = list(means)
                factors[varied] = ends[varied].clone().requires_grad_()
                return torch.autograd.grad(call.of(*factors).run(), factors[varied], gradient)[0]

        return lambda gradient: (slope(0, gradient), slope(1, gradient))


class ShapleyQuotient(DifferenceRule):
    """Give the numerator and the reciprocal of the denominator their Shapley values."""

    summary = "Shapley values of the numerator and of the reciprocal of the denominator"

    def reads(self, call: FunctionCall) -> list[Tensor]:
        divisor = call.argument(1, "other")
        return call.active if isinstance(divisor, Tensor) and divisor.requires_grad else []

    def back(self, call: FunctionCall, ends: list[Tensor], starts: list[Tensor]) -> Callable[[Tensor], tuple[Tensor, ...]]:
        divisor, other = ends[-1], starts[-1]
        numerators = (ends[0] + starts[0]) / 2 if len(ends) == 2 else call.args[0]

        def share(gradient: Tensor) -> tuple[Tensor, ...]:
            of_divisor = (-numerators / (divisor * other) * gradient).sum_to_size(divisor.shape)
            if len(ends) == 1:
                return (of_divisor,)
            return ((1 / divisor + 1 / other) / 2 * gradient).sum_to_size(ends[0].shape), of_divisor

        return share


class ApartNorm(DifferenceRule):
    """Take a norm apart: y = c r w + b, c = x - mean x, r = (mean c^2 + eps)^(-1/2)."""

    summary = "taken apart into squares, means, a root and a product"

    def apply(self, rules: BackwardRules, call: FunctionCall) -> Any:
        if operation(call.func) == "instance_norm" and not call.argument(5, "use_input_stats", True):
            return call.run()
        return super().apply(rules, call)

    def back(self, call: FunctionCall, ends: list[Tensor], starts: list[Tensor]) -> Callable[[Tensor], tuple[Tensor, ...]]:
        (end,), (start,) = ends, starts
        form = NormForm.of(call)
        c, c0 = form.centred(form.grouped(end)), form.centred(form.grouped(start))
        r, r0 = form.inverse(c), form.inverse(c0)

        def share(gradient: Tensor) -> tuple[Tensor, ...]:
            g = form.grouped(gradient if form.weight is None else gradient * form.weight)
            # The multiplier of v -> v^(-1/2) is -r^2 r0^2 / (r + r0).
            of_scale = -((c + c0) / 2 * g).sum(form.dims, keepdim=True) * (r * r0).square() / (r + r0)
            of_centred = (r + r0) / 2 * g + (c + c0) * of_scale / form.count
            return (form.centred(of_centred).reshape(gradient.shape),)

        return share


class ApartSoftmax(DifferenceRule):
    """Take a softmax apart: y_i = e_i / S, e_i = exp z_i, S = sum_j e_j."""

    summary = "taken apart into exponentials, a sum and a quotient"

    def back(self, call: FunctionCall, ends: list[Tensor], starts: list[Tensor]) -> Callable[[Tensor], tuple[Tensor, ...]]:
        (z,), (z0,) = ends, starts
        dim = call.argument(1, "dim", -1)
        # The result is the same whatever is subtracted from both.
        top = torch.maximum(z.amax(dim, keepdim=True), z0.amax(dim, keepdim=True))
        e, e0 = (z - top).exp(), (z0 - top).exp()
        total, total0 = e.sum(dim, keepdim=True), e0.sum(dim, keepdim=True)
        # A mask is -inf in both, which changes nothing.
        difference = torch.where(e + e0 == 0, 0, z - z0)
        slope = torch.where(difference == 0, e, (e - e0) / torch.where(difference == 0, 1, difference))

        def share(gradient: Tensor) -> tuple[Tensor, ...]:
            of_total = -((e + e0) / 2 * gradient).sum(dim, keepdim=True) / (total * total0)
            return (slope * ((1 / total + 1 / total0) / 2 * gradient + of_total),)

        return share
