"""Layer-wise relevance propagation: the logit handed back, layer by layer, to what it was made of."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.base import METHODS, Passes
from attrlib.methods.baselines import REDUCTION, REDUCTIONS
from attrlib.methods.gradients import ByChannel
from attrlib.methods.rules import FIRST_RULE, STRUCTURAL, TINY, Map, Rules, check_by_trial, graph, kind, undefined
from attrlib.methods.task import Task
from attrlib.models import Classifier, Layer
from attrlib.registry import Paper, param

LRP_PAPER = Paper(
    "Bach et al. 2015",
    "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation",
    "https://doi.org/10.1371/journal.pone.0130140",
)
ALPHAS = {"alpha1beta0": 1.0, "alpha2beta1": 2.0}
RULES = ("epsilon", *ALPHAS)
FIRST = ("same", "box", "flat")
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
LINEAR = ("linear", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
POOLED = frozenset(("AdaptiveMaxPool2D", "Amax", "Max", "MaxPool2DWithIndices", "MaxPool3DWithIndices", "MkldnnMaxPool2D"))


@METHODS.register
@dataclass(frozen=True)
class LRP(ByChannel):
    """LRP: relevance R_i = sum_j a_i w_ij / (z_j + e sign z_j) * R_j, handed back from the logit layer by layer.

    `rule` is that of convolutions: `epsilon` is the formula, z_j with its bias; `alpha1beta0` (z+) and `alpha2beta1` hand on alpha times
    R_j in proportion to the positive contributions less beta times R_j to the negative ones. Linear layers have epsilon, as in the
    composites of Kohlbrenner et al. (2020); a BatchNorm behind a convolution is folded into it. Activations pass relevance on, maxima
    give it to the largest input, sums and averages share it by contribution. `first`, at Input, is the rule of the convolution that
    reads the pixels: the same as of others, `box` (z^B, for pixels from black to white) or `flat` (evenly). Without biases epsilon
    keeps the sum, up to e. Not defined where activations are multiplied, nor behind LayerNorm or softmax.
    """

    name, family, paper, fast = "LRP", "gradient", LRP_PAPER, True
    needs = ("activations that are zero at zero, maxima and linear layers alone",)
    rule: str = param("epsilon", "Of convolutions", choices=RULES)
    epsilon: float = param(1e-6, "What keeps a denominator off zero", low=1e-9, high=10.0)
    first: str = param("same", "Of the convolution that reads the pixels", choices=FIRST)
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)

    def check(self, model: Classifier, layer: Layer) -> None:
        check_by_trial(self, model, layer)

    def values(self, task: Task) -> Tensor:
        at_pixels = self.first != "same" and not task.layer.path
        rules = _Layerwise(task, ALPHAS.get(self.rule), self.epsilon, self.first if at_pixels else "same")

        def visit(scores: Tensor) -> None:
            rules.settle()
            self._check_graph(scores, task, at_pixels)

        with rules:
            # What flows back is relevance over activation: of linear operations without a rule that is the gradient.
            ratio = task.gradient(task.inputs, task.rows, visit=visit)
        return ratio if at_pixels else task.inputs * ratio

    def _check_graph(self, scores: Tensor, task: Task, at_pixels: bool) -> None:
        others = undefined(scores, POOLED | {"Relu"})
        if others:
            raise MethodError(
                f"LRP is not defined for {', '.join(others)}, which {task.classifier.name} has behind {task.layer.name}; use IxG or IG instead"
            )
        past = [node for node in graph(scores.grad_fn, stop=_is_first) if kind(node) == "AccumulateGrad"]
        if at_pixels and past:
            raise MethodError(
                f"LRP: first={self.first} needs convolutions that read the pixels and nothing else that does, which {task.classifier.name} "
                "has not; choose first=same"
            )

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=0 if self.rule == "epsilon" else int(2 * ALPHAS[self.rule] - 1), gradient=1)


def _is_first(node: Any) -> bool:
    return kind(node) == FIRST_RULE


def _first_position(values: Tensor) -> tuple[slice, ...]:
    """Of the first image, what all channels have at one position."""
    return (slice(1), slice(None), *[slice(1)] * (values.ndim - 2))[: values.ndim]


@dataclass
class _Called:
    """A convolution that was called: what it gave, what of, how to call it, and its weights."""

    output: Tensor
    version: int
    inputs: Tensor
    run: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weight: Tensor
    bias: Tensor | None

    def folded(self, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
        """Its weight and bias with a BatchNorm behind it."""
        scale = (1 if weight is None else weight) / (variance + eps).sqrt()
        shift = (0 if bias is None else bias) - mean * scale
        return self.weight * scale.view(-1, *[1] * (self.weight.ndim - 1)), shift + (0 if self.bias is None else scale * self.bias)


@dataclass
class _Undamped:
    """What a layer with the epsilon rule gave, a BatchNorm behind it included, in which call; `size` waits for its |z| + e.

    None there says that the activation behind it sees to the damping.
    """

    output: Tensor
    version: int
    call: int
    size: list[Tensor | None]


class _Layerwise(Rules):
    """The rules as a modified gradient, which is relevance over activation, g_i = R_i / a_i."""

    def __init__(self, task: Task, alpha: float | None, epsilon: float, first: str):
        super().__init__()
        self._task, self._alpha, self._epsilon, self._first = task, alpha, epsilon, first
        self._last: _Called | None = None
        self._undamped: _Undamped | None = None

    def settle(self) -> None:
        """Before something is written into what the last layer gave, and at the end: nothing is folded into it."""
        if self._undamped is not None:
            self._undamped.size.append(self._undamped.output.detach().abs().add_(self._epsilon))
        self._last = self._undamped = None

    def activation(self, values: Tensor, function: Map, name: str) -> Tensor:
        # One position is enough: a parameter, where there is one, is of a channel.
        zero = torch.zeros_like(values.detach()[_first_position(values)])
        found = function(zero)
        zero_at_zero, made = not bool(found.any()), self._undamped
        # Then nothing else reads what it writes into.
        straight = zero_at_zero and found is zero and made is not None and self._just_made(values)
        if made is not None and straight:
            made.size.append(None)
            self._last = self._undamped = None
        else:
            self.settle()
            if name == "relu" or not zero_at_zero:
                # Its gradient is its rule, or it has none, which is found in the graph.
                return function(values)
        with torch.no_grad():
            # All relevance passes, R_in = R_out, so that g_in = g_out f(z) / z, here with the damping of z or without.
            ratio = torch.copysign(values.new_full((), self._epsilon), values).add_(values) if straight else values + TINY
            output = function(values)
            torch.div(output, ratio, out=ratio)
        return self.rule(values, output, ratio.mul_)

    def _just_made(self, values: Tensor) -> bool:
        made = self._undamped
        return made is not None and made.output is values and made.version == values._version and made.call + 1 == self.calls

    def maximum(self, values: Tensor, function: Map, name: str) -> Tensor:
        self.settle()
        return super().maximum(values, function, name)

    def layer(self, name: str, values: Tensor, func: Any, args: Any, kwargs: Any) -> Any:
        if name == "batch_norm":
            return self._norm(values, func, args, kwargs)
        if name not in CONVOLUTIONS and name not in LINEAR:
            if re.search(r"[^_]_$|^__i[a-z]+__$|^__setitem__$", func.__name__):
                self.settle()
            return func(*args, **kwargs)
        self.settle()
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        rest = {key: value for key, value in kwargs.items() if key not in ("input", "weight", "bias")}

        def run(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return func(inputs, weight, bias, *args[3:], **rest)

        weight, bias = given["weight"], given.get("bias")
        plain = name in LINEAR or not self._has_rule(values)
        if plain:
            found, size = run(values, weight, bias), list[Tensor | None]()
            found.register_hook(lambda gradient: self._damped(gradient, size[0]))
            self._undamped = _Undamped(found, found._version, self.calls, size)
        else:
            found = self._shared_out(values, run(values.detach(), weight, bias), run, weight, bias)
        if name in CONVOLUTIONS:
            self._last = _Called(found, found._version, values, run, weight, bias)
        return found

    def _norm(self, values: Tensor, func: Any, args: Any, kwargs: Any) -> Tensor:
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        given = {"weight": None, "bias": None, "training": False, "eps": 1e-5} | dict(zip(names, args, strict=False)) | kwargs
        last, output = self._last, func(*args, **kwargs)
        if last is None or last.output is not values or last.version != values._version or given["training"]:
            self.settle()
            return output
        self._last = None
        if self._undamped is not None:
            self._undamped = replace(self._undamped, output=output, version=output._version, call=self.calls)
            return output
        weight, bias = last.folded(given["running_mean"], given["running_var"], given["weight"], given["bias"], given["eps"])
        return self._shared_out(last.inputs, output, last.run, weight, bias)

    def _damped(self, gradient: Tensor, size: Tensor | None) -> Tensor:
        """The gradient times z / (z + e sign z) = 1 - e / (|z| + e), by which the epsilon rule differs from it; written over the size."""
        return gradient if size is None else torch.addcdiv(gradient, gradient, size, value=-self._epsilon, out=size)

    def _has_rule(self, values: Tensor) -> bool:
        return self._alpha is not None or self._reads_pixels(values)

    def _reads_pixels(self, values: Tensor) -> bool:
        """Whether the values are the pixels, at most moved, and a rule for these is asked for."""
        if self._first == "same":
            return False
        node: Any = values.grad_fn
        while kind(node) in STRUCTURAL and node.next_functions:
            node = node.next_functions[0][0]
        return kind(node) == "AccumulateGrad"

    def _shared_out(self, values: Tensor, output: Tensor, run: Callable[..., Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
        """The output of a convolution, whose relevance goes to its input by another rule than epsilon."""
        # Copies, since what follows may write into either.
        inputs, outputs = values.detach().clone().requires_grad_(), output.detach().clone()
        first = self._reads_pixels(values)

        def back(gradient: Tensor) -> Tensor:
            relevance = gradient * outputs
            with torch.enable_grad():
                if first and self._first == "box":
                    return self._box(inputs, relevance, run, weight)
                if first and self._first == "flat":
                    return self._flat(inputs, relevance, run, weight)
                return self._alpha_beta(inputs, relevance, run, weight, bias)

        return self.rule(values, output, back, first)

    def _alpha_beta(self, a: Tensor, relevance: Tensor, run: Callable[..., Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
        """R_in / a for R_in = sum_j (alpha (a w)+ / z+ - beta (a w)- / z-) R_j, biases counted in z+ and z-."""
        assert self._alpha is not None, "has a rule"
        up, down = a.clamp_min(0), a.clamp_max(0)
        negative = bool((a < 0).any())
        rising, falling = weight.clamp_min(0), weight.clamp_max(0)
        plus = run(up, rising, None if bias is None else bias.clamp_min(0))
        plus = plus + run(down, falling, None) if negative else plus
        parts, shares = [plus], [self._alpha * relevance / (plus.detach() + self._epsilon)]
        if self._alpha > 1:
            minus = run(up, falling, None if bias is None else bias.clamp_max(0))
            minus = minus + run(down, rising, None) if negative else minus
            parts.append(minus)
            shares.append((1 - self._alpha) * relevance / (minus.detach() - self._epsilon))
        return torch.autograd.grad(parts, a, shares)[0]

    def _box(self, a: Tensor, relevance: Tensor, run: Callable[..., Tensor], weight: Tensor) -> Tensor:
        """R_in = sum_j (a w - low w+ - high w-) / z R_j, z the sum of the numerators (Montavon et al. 2017, z^B)."""
        ends = (self._task.classifier.preprocessing.normalise(a.new_full((1, 3, 1, 1), colour)) for colour in (0.0, 1.0))
        low, high = (end.expand_as(a).clone().requires_grad_() for end in ends)
        z = run(a, weight, None) - run(low, weight.clamp_min(0), None) - run(high, weight.clamp_max(0), None)
        share = relevance / (z.detach() + self._epsilon * torch.where(z.detach() < 0, -1, 1))
        return sum(
            (x.detach() * g for x, g in zip((a, low, high), torch.autograd.grad(z, (a, low, high), share), strict=True)), a.new_zeros(())
        )

    def _flat(self, a: Tensor, relevance: Tensor, run: Callable[..., Tensor], weight: Tensor) -> Tensor:
        """R_in = sum_j R_j / n_j over the n_j inputs of j: evenly."""
        ones = torch.ones_like(a).requires_grad_()
        z = run(ones, torch.ones_like(weight), None)
        return torch.autograd.grad(z, ones, relevance / z.detach())[0]
