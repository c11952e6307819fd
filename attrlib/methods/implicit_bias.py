"""The bias of every operation of a forward pass: what its output f(a) holds besides the linear part in its inputs, b = f(a) - J a.

It is the bias of a convolution or a linear layer, what BatchNorm returns for zeros, and the value at zero of the linear approximation of
any other function, such as LayerNorm or GELU, at its inputs a. ReLUs, maxima, means and what only moves values have none.

Biases come from a closed form, from the backward pass of the operation itself (`pullback.py`), or else from forward-mode derivatives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from attrlib.methods.pullback import AliasedCall, AliasedPullback, PendingCall, Pullback
from attrlib.methods.unfused import unfused


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


HOMOGENEOUS = _words(
    "abs adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d alpha_dropout amax amin as_strided avg_pool1d avg_pool2d chunk clone "
    "contiguous detach dropout dropout1d dropout2d expand expand_as flatten flip float fold gather get getitem index_select interpolate "
    "leaky_relu max_pool1d max_pool2d mean movedim narrow neg permute pixel_shuffle pixel_unshuffle prelu relu repeat repeat_interleave "
    "reshape reshape_as roll select split squeeze sum swapaxes t tile to transpose type unbind unflatten unfold unsqueeze view view_as"
)
"""Functions with f(c a) = c f(a) for c > 0, which have no bias. Those that are not listed are found to have none, at a cost."""
SUMS = _words("add iadd radd sub isub")
JOINTLY = SUMS | _words("cat concat concatenate stack maximum minimum")
"""Functions that have no bias if all of their arguments vary."""
PRODUCTS = _words("mul imul rmul matmul rmatmul bmm mm")
"""Products of two arguments."""
SEPARATELY = PRODUCTS | _words("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear")
"""Functions that have no bias, except an argument of that name, if one of their tensors varies."""
CHANNELS_FIRST = _words("conv2d conv_transpose2d batch_norm group_norm instance_norm local_response_norm")
"""Layers with the channels of their output in dimension 1."""
CHANNELS_LAST = _words("linear layer_norm rms_norm")
ACTIVATIONS = _words(
    "celu clamp clamp_max clamp_min clip elu gelu hardshrink hardsigmoid hardswish hardtanh logsigmoid mish relu6 selu sigmoid silu "
    "softplus softshrink softsign tanh tanhshrink threshold"
)
ELEMENTWISE = ACTIVATIONS | _words("add clone contiguous dropout dropout2d iadd imul leaky_relu mul prelu relu rmul sub")
"""Functions whose output has its channels where their first varying tensor has them."""


Bias = Tensor | Pullback | AliasedPullback


@dataclass(frozen=True)
class Term:
    """The bias of one operation.

    Attributes:
        number: Number of the term in the forward pass, from 0.
        output: Output of the operation, with its graph.
        bias: The bias, which broadcasts against the output, or the operation whose backward pass yields its product with the gradient.
        channel_dim: Dimension of the channels in the output of a layer, norm, activation or sum with a parameter, if it is known. None
            for all other operations, such as products, attention or a class token: their bias belongs to no position.
    """

    number: int
    output: Tensor
    bias: Bias
    channel_dim: int | None

    def watch(self, visit: Callable[[Tensor], None]) -> None:
        """Call `visit` in the backward pass with the product of the bias and the gradient in the output, or with parts that add up to it.

        It has the shape of the output, or, if the bias belongs to no position, possibly only its first two dimensions.
        """
        bias = self.bias
        if isinstance(bias, Tensor):
            self.output.register_hook(lambda gradient: visit(gradient * bias))
        else:
            bias.watch(self.output, visit)


class BiasTerms(TorchFunctionMode):
    """Mode that passes the bias of every operation on values that need a gradient to `found`, in order of execution.

    Outputs are the same as without it. The bias of an operation without a forward derivative is left out.

    Args:
        found: Called with each bias.
        channel_dim: Dimension of the channels of the values that the operations start from.
    """

    def __init__(self, found: Callable[[Term], None], channel_dim: int) -> None:
        super().__init__()
        self._found, self._count, self._start = found, 0, channel_dim
        self._channels = WeakIdKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = _tensors((args, kwargs)) if torch.is_grad_enabled() else []
        varying = [t for t in tensors if t.requires_grad]
        if not varying or func is torch.autograd.grad:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "").strip("_")
        values, channels = varying[0], self._channels.get(varying[0], self._start if varying[0].is_leaf else None)
        place = _channel_dim(name, args, kwargs, values, channels)
        biases: Sequence[Bias] | None = _closed_form(func, name, args, kwargs, tensors, len(varying))
        derived, bounds = biases is None, _bounds(name, *args, **kwargs)
        after = bounds is not None or (name in PRODUCTS and len(varying) == 2)
        pending: PendingCall | AliasedCall | None = None
        if derived and not after:
            if aliased := AliasedCall.of(func, args, kwargs, varying):
                pending, args = aliased, aliased.args
            elif _may_write(func, args, kwargs):
                # The operation overwrites what its derivative is taken at.
                biases = _derived(func, args, kwargs, copy=True)
            else:
                pending = PendingCall.of(func, args, kwargs, varying)
        output = func(*args, **kwargs)
        if isinstance(pending, AliasedCall):
            # A view that is overwritten later would lose its hook.
            output = tree_map(lambda t: t.clone() if isinstance(t, Tensor) and t._is_view() else t, output)
        outputs = [t for t in _tensors(output) if t.requires_grad]
        if not outputs:
            return output
        if biases is None and after:
            biases = [_of_output(outputs[0].detach(), bounds)]
        elif biases is None:
            biases = (pending.pullbacks(outputs) if pending else []) or _derived(func, args, kwargs, copy=False)
        if name in CHANNELS_LAST:
            place = outputs[0].ndim - 1
        if place is not None:
            self._channels[outputs[0]] = place
        mapped = not derived or name in CHANNELS_FIRST | CHANNELS_LAST | ACTIVATIONS
        for value, bias in zip(outputs, biases, strict=False):
            self._found(Term(self._count, value, bias, place if mapped else None))
            self._count += 1
        return output


def _tensors(values: object) -> list[Tensor]:
    return [t for t in tree_leaves(values) if isinstance(t, Tensor)]


def _channel_dim(name: str, args: Any, kwargs: Any, values: Tensor, channels: int | None) -> int | None:
    """Return the dimension of the channels in the output of an operation, given that in its first varying tensor; None if unknown."""
    if name in CHANNELS_FIRST:
        return 1
    if channels is None or name in ELEMENTWISE:
        return channels
    numbers = [n for n in tree_leaves((args[1:], kwargs)) if type(n) is int]
    dims = [n % values.ndim for n in numbers]
    if name == "permute":
        return dims.index(channels)
    if name in ("transpose", "swapaxes"):
        return {dims[0]: dims[1], dims[1]: dims[0]}.get(channels, channels)
    sliced = name == "getitem" and all(isinstance(part, slice) or part is Ellipsis for part in tree_leaves(args[1]))
    kept = sliced or (name == "flatten" and dims and channels < dims[0])
    return channels if kept or (name in ("cat", "concat") and channels not in (dims or [0])) else None


def _closed_form(func: Any, name: str, args: Any, kwargs: Any, tensors: Sequence[Tensor], varying: int) -> list[Tensor] | None:
    """Return the bias of an operation, nothing if it has none, or None if it must be derived."""
    if name in HOMOGENEOUS or (name in JOINTLY and varying == len(tensors) and (varying > 1 or name not in SUMS)):
        return []
    if varying > 1:
        return None
    if name in SEPARATELY:
        bias = (args[2] if len(args) > 2 else kwargs.get("bias")) if name == "linear" or name.startswith("conv") else None
        if bias is None:
            return []
        spatial = 0 if name == "linear" else int(name[-2])
        return [bias.detach().view(-1, *[1] * spatial)]
    if func is F.batch_norm:
        bias = _of_batch_norm(*args, **kwargs)
        return None if bias is None else [bias.view(-1, *[1] * (tensors[0].ndim - 2))]
    if func is F.layer_norm:
        return _of_layer_norm(*args, **kwargs)
    if name in ("add", "iadd", "radd") and len(tensors) == 2 and not kwargs:
        return [t.detach() for t in tensors if not t.requires_grad]
    return None


def _of_batch_norm(
    _input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,  # noqa: ARG001  that of the function
    eps: float = 1e-5,
) -> Tensor | None:
    """Return the output of BatchNorm for zeros (C,); None if it depends on the input."""
    if training or running_mean is None or running_var is None:
        return None
    zeros = torch.zeros_like(running_mean)[None]
    return F.batch_norm(zeros, running_mean, running_var, weight, bias, False, 0.0, eps).detach()[0]


def _of_layer_norm(
    values: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> list[Tensor]:
    """Return LayerNorm less its derivative in the direction of its input, which is what eps takes from the normalised values."""
    result, _, factor = torch.native_layer_norm(values.detach(), shape, None, None, eps)
    result = result * (1 - eps * factor.square())
    result = result if weight is None else result * weight.detach()
    return [result if bias is None else result + bias.detach()]


def _bounds(name: str, *args: Any, min_val: float = -1.0, max_val: float = 1.0, **_: Any) -> tuple[float, float] | None:
    """Return the bounds of a function that is linear between and constant beyond them, where its bias is its output; else None."""
    if name == "relu6":
        return 0.0, 6.0
    return (*args[1:3], *(min_val, max_val)[len(args[1:3]) :]) if name == "hardtanh" else None


def _of_output(output: Tensor, bounds: tuple[float, float] | None) -> Tensor:
    """Return the bias of a function with such bounds, or else of a product of two inputs: its derivative is twice the product."""
    if bounds is None:
        return -output
    low, high = bounds
    bias = (output >= high).to(output.dtype).mul_(high)
    return bias.add_(output <= low, alpha=low) if low else bias


def _may_write(func: Any, args: Any, kwargs: Any) -> bool:
    """Return whether a function may write into its arguments."""
    name = getattr(func, "__name__", "")
    in_place = name.startswith("__i") if name.endswith("__") else name.endswith("_")
    return in_place or any(value is True for value in (*args, *kwargs.values()))


def _derived(func: Any, args: Any, kwargs: Any, copy: bool) -> list[Tensor]:
    """Return f(a) - J a for each tensor that f returns and that varies; nothing if f has no forward derivative."""

    def dual(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        at = value.detach().clone() if copy else value.detach()
        if getattr(func, "__name__", "") == "group_norm":
            # Its forward derivative fails for other layouts in memory.
            at = at.contiguous()
        return forward_ad.make_dual(at, value.detach().clone() if copy else at) if value.requires_grad else at

    with torch.no_grad(), forward_ad.dual_level():
        args, kwargs = tree_map(dual, (args, kwargs))
        try:
            parts = [forward_ad.unpack_dual(t) for t in _tensors(unfused(func, args, kwargs)) if t.is_floating_point()]
        except (RuntimeError, NotImplementedError) as error:
            if "forward AD" not in str(error):
                raise
            return []
        return [part.primal if part.tangent is None else part.primal - part.tangent for part in parts]
