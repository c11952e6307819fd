"""Layer-wise relevance propagation through a transformer with alpha 1, as defined by Chefer et al. (CVPR 2021, arXiv 2012.09838).

Inside `Relevance()`, the backward pass carries relevance instead of a gradient through every function downstream of the first attention.
The relevance R of the output y of a function is passed to its inputs as follows:

- y = W x + b, also as a convolution: x+ (W+^T s) + x- (W-^T s), s = R / (W+ x+ + W- x-), with positive and negative parts; the bias
  receives none
- y = A B: A (s B^T) / 2 and B (A^T s) / 2, s = R / y
- y = a + b: a s and b s, s = R / y, scaled so that they share the sum of R in the ratio |sum(a s)| to |sum(b s)|
- y = a b, entry by entry (a gate): R / 2 and R / 2, as in a matrix product of one row and one column
- y = mean of x, also over windows: x R / sum(x)
- y = softmax, norm or activation of x, or x times a constant, such as -1 or the factors of a rotary embedding: R unchanged
- y = x moved, split, joined, padded, or its maximum: R moved in the same way
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from attrlib.errors import MethodError
from attrlib.models.attention import Attentions
from attrlib.models.operations import operation, writes

_TINY = 1e-9
_MOVED = (
    *("view", "view_as", "reshape", "flatten", "unflatten", "transpose", "permute", "movedim", "swapaxes", "t", "get", "squeeze"),
    *("unsqueeze", "expand", "getitem", "select", "index_select", "narrow", "split", "chunk", "unbind", "cat", "stack"),
    *("clone", "contiguous", "to", "type_as", "float", "masked_fill", "flip", "roll", "pad", "repeat", "max_pool2d"),
)
_KEPT = (
    *("softmax", "layer_norm", "rms_norm", "batch_norm", "group_norm", "normalize", "gelu", "relu", "relu6", "leaky_relu", "elu", "silu"),
    *("mish", "hardswish", "hardsigmoid", "softplus", "tanh", "sigmoid", "dropout", "neg"),
)


class Relevance(Attentions):
    """Mode that records attention matrices as `Attentions` does, and in which `torch.autograd.grad` returns their relevance.

    Raises:
        MethodError: If there is no rule for a function downstream of the first attention.
    """

    def compute(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        values = [a for a in _flat([*args, *kwargs.values()]) if isinstance(a, Tensor) and a.requires_grad]
        if not self.matrices or not values:
            return func(*args, **kwargs)
        name = operation(func)
        rule = _RULES.get(name)
        if writes(func):
            # What the rules have kept of the tensor would change, too.
            raise _without_rule(f"{name} in place")
        if rule is not None:
            result = rule(func, args, kwargs)
            if result is not None:
                return result
        result = func(*args, **kwargs)
        if any(isinstance(r, Tensor) and r.requires_grad for r in _flat([result])) and name not in _MOVED:
            raise _without_rule(name)
        return result


def _without_rule(name: str) -> MethodError:
    return MethodError(f"CheferLRP has no rule for {name}, which this model uses downstream of its first attention; use Chefer instead")


def shares(weights: Tensor, logits: Tensor) -> Tensor:
    """Return the relevance (N,C) of logits in their weighted sum, whose relevance is 1, by the rules of sums and of constant factors.

    They share it in the ratio of their magnitudes in the sum. Were it that of the weights, the relevance of a difference would be zero
    in total, and the sums that follow would pass on rounding errors.
    """
    parts = (weights * logits.detach()).abs()
    parts = torch.where(parts.sum(1, keepdim=True) == 0, weights.abs(), parts)
    return parts / parts.sum(1, keepdim=True)


class _Replaced(torch.autograd.Function):
    """Result with a custom backward pass."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, back: Callable[[Tensor], Sequence[Tensor | None]], *_inputs: Tensor) -> Tensor:
        ctx.back = back
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> Any:
        return None, None, *ctx.back(relevance)


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _flat(value)
        else:
            yield value


def _detached(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    with torch.no_grad():
        return func(*args, **kwargs)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, with the denominator moved slightly away from zero; 0 where b is 0."""
    return torch.where(b == 0, 0, a / (b + torch.where(b < 0, -_TINY, _TINY)))


def _same(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    return _Replaced.apply(_detached(func, args, kwargs), lambda relevance: (relevance,), args[0])


def _linear(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    x, weight = args[0].detach(), (args[1] if len(args) > 1 else kwargs["weight"]).detach()

    def back(relevance: Tensor) -> tuple[Tensor]:
        up, down, w_up, w_down = x.clamp_min(0), x.clamp_max(0), weight.clamp_min(0), weight.clamp_max(0)
        share = _divide(relevance, F.linear(up, w_up) + F.linear(down, w_down))
        return (up * (share @ w_up) + down * (share @ w_down),)

    return _Replaced.apply(_detached(func, args, kwargs), back, args[0])


def _convolution(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    x, weight = args[0].detach(), (args[1] if len(args) > 1 else kwargs["weight"]).detach()
    rest = {key: value for key, value in kwargs.items() if key not in ("weight", "bias")}

    def back(relevance: Tensor) -> tuple[Tensor]:
        parts = [(part(x, 0).requires_grad_(), part(weight, 0)) for part in (torch.clamp_min, torch.clamp_max)]
        with torch.enable_grad():
            total = torch.stack([func(values, w, None, *args[3:], **rest) for values, w in parts]).sum(0)
        up, down = torch.autograd.grad(total, [values for values, _ in parts], _divide(relevance, total.detach()))
        return (parts[0][0].detach() * up + parts[1][0].detach() * down,)

    return _Replaced.apply(_detached(func, args, kwargs), back, args[0])


def _matmul(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    a, b = (value.detach() for value in args)
    result, both = _detached(func, args, kwargs), args[0].requires_grad and args[1].requires_grad

    def back(relevance: Tensor) -> tuple[Tensor, Tensor]:
        share = _divide(relevance, result) / (2 if both else 1)
        left, right = a * (share @ b.transpose(-2, -1)).sum_to_size(a.shape), b * (a.transpose(-2, -1) @ share).sum_to_size(b.shape)
        return left, right

    return _Replaced.apply(result, back, *args)


def _add(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    if not all(isinstance(value, Tensor) and value.requires_grad for value in args):
        return _scaled_or_shifted(func, args, kwargs)
    a, b = (value.detach() for value in args)
    result = _detached(func, args, kwargs)

    def back(relevance: Tensor) -> tuple[Tensor, ...]:
        share = _divide(relevance, result)
        parts = (a * share, b * share)
        sums = [_sum(part) for part in parts]
        total = _sum(relevance)
        magnitude = sums[0].abs() + sums[1].abs()
        return tuple(
            part * _divide(_divide(subtotal.abs(), magnitude) * total, subtotal) for part, subtotal in zip(parts, sums, strict=True)
        )

    return _Replaced.apply(result, back, *args)


def _sum(values: Tensor) -> Tensor:
    """Return the sum of each item, in a shape that broadcasts against the values."""
    return values.flatten(1).sum(1).view(-1, *[1] * (values.ndim - 1))


def _scaled_or_shifted(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    values = [value for value in args if isinstance(value, Tensor) and value.requires_grad]
    if len(values) != 1:
        return None
    (value,) = values
    return _Replaced.apply(_detached(func, args, kwargs), lambda relevance: (relevance.sum_to_size(value.shape),), value)


def _product(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    if not all(isinstance(value, Tensor) and value.requires_grad for value in args):
        return _scaled_or_shifted(func, args, kwargs)
    shapes = [value.shape for value in args]

    def back(relevance: Tensor) -> tuple[Tensor, ...]:
        return tuple((relevance / 2).sum_to_size(shape) for shape in shapes)

    return _Replaced.apply(_detached(func, args, kwargs), back, *args)


def _scaled_only(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    return _scaled_or_shifted(func, args, kwargs) if isinstance(args[0], Tensor) and args[0].requires_grad else None


def _mean(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    x, result = args[0].detach(), _detached(func, args, kwargs)

    def back(relevance: Tensor) -> tuple[Tensor]:
        with torch.enable_grad():
            leaf = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(func(leaf, *args[1:], **kwargs), leaf, _divide(relevance, result))
        return (x * slope,)

    return _Replaced.apply(result, back, args[0])


_RULES: dict[str, Callable[[Callable[..., Any], Sequence[Any], Mapping[str, Any]], Tensor | None]] = {
    "linear": _linear,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "matmul": _matmul,
    "bmm": _matmul,
    "add": _add,
    "sub": _scaled_or_shifted,
    "rsub": _scaled_or_shifted,
    "mul": _product,
    "div": _scaled_only,
    "mean": _mean,
    "sum": _mean,
    "avg_pool2d": _mean,
    "adaptive_avg_pool1d": _mean,
    "adaptive_avg_pool2d": _mean,
} | dict.fromkeys(_KEPT, _same)
