"""An oracle for modified backward passes: the network as the affine map that they linearise it to, evaluated forwards.

`Linearised` runs a network once at x and keeps what counts as a constant: scales of norms, attention weights or the slopes of softmax,
gates, ratios of activations, and the positions of maxima. Run again with other inputs, the network is then the affine map F with
F(x) = f(x), whose slope is the modified gradient: F(x + d) - F(x) = g . d for every d. No backward pass is taken.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

RATIOS = ("gelu", "silu", "hardswish", "relu", "relu6", "tanh")
GATES = ("sigmoid", "hardsigmoid", "softmax")
NORMS = ("layer_norm", "group_norm", "normalize")
PRODUCTS = ("mul", "imul", "rmul", "matmul", "bmm", "einsum")


class Linearised(TorchFunctionMode):
    """Mode in which a network is affine, once it has run at x. Whether a tensor asks for gradients marks whether it depends on x.

    Args:
        module: The network, whose parameters ask for no gradients.
        taylor: Whether softmax and sigmoid are their Taylor expansions at x (AttnLRP) rather than constants.
    """

    def __init__(self, module: Callable[[Tensor], Tensor], taylor: bool = False) -> None:
        super().__init__()
        self.module, self.taylor, self.recording = module, taylor, True
        self.kept: list[Tensor] = []
        self.replay: Iterator[Tensor] = iter(())

    def at(self, x: Tensor) -> Tensor:
        """Return the outputs for x: those of the network at the first call, and of the affine map at later ones."""
        self.replay = iter(self.kept)
        with self, torch.enable_grad():
            result = self.module(x.clone().requires_grad_().clone()).detach()
        self.recording = False
        return result

    def _constant(self, value: Tensor) -> Tensor:
        if self.recording:
            self.kept.append(value.detach().clone())
        return self.kept[-1] if self.recording else next(self.replay)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.__name__.strip("_")
        active = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
        if func is F.scaled_dot_product_attention and active:
            with self:
                return _attention(*args, **kwargs)
        if not active:
            return func(*args, **kwargs)
        x = args[0]
        if name in RATIOS:
            result = x * self._constant((func(x.clone(), *args[1:], **kwargs) / x).nan_to_num())
            in_place = kwargs.get("inplace", func.__name__.endswith("_"))
            return x.copy_(result) if in_place else result
        if name in GATES:
            if not self.taylor:
                return self._constant(func(*args, **kwargs))
            z = self._constant(x)
            value, slope = torch.func.jvp(lambda v: func(v, *args[1:], **kwargs), (z,), (x.detach() - z,))
            return (value + slope).detach().requires_grad_()
        if name in NORMS:
            return self._norm(name, args, kwargs)
        if name in PRODUCTS and len(active) == 2:
            return self._product(func, args, kwargs)
        if name == "max_pool2d":
            where = self._constant(F.max_pool2d(x, *args[1:], **kwargs | {"return_indices": True})[1])
            return x.flatten(2).gather(2, where.flatten(2)).view(where.shape)
        return func(*args, **kwargs)

    def _norm(self, name: str, args: Any, kwargs: Any) -> Tensor:
        x = args[0]
        if name == "normalize":
            return x / self._constant(x.norm(dim=kwargs.get("dim", args[2] if len(args) > 2 else 1), keepdim=True))
        given = {"weight": None, "bias": None, "eps": 1e-5} | dict(zip(("input", "groups", "weight", "bias", "eps"), args, strict=False))
        given |= kwargs
        groups = x if name == "layer_norm" else x.unflatten(1, (given["groups"], -1)).flatten(2)
        centred = groups - groups.mean(-1, keepdim=True)
        scale = self._constant((centred.square().mean(-1, keepdim=True) + given["eps"]).sqrt())
        shape = (-1,) if name == "layer_norm" else (-1, *[1] * (x.ndim - 2))
        weight, bias = (empty if v is None else v.view(shape) for v, empty in ((given["weight"], 1), (given["bias"], 0)))
        return (centred / scale).view_as(x) * weight + bias

    def _product(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        one, other = (i for i, a in enumerate(args) if isinstance(a, Tensor))
        halves = []
        for varied, fixed in ((one, other), (other, one)):
            factors = list(args)
            factors[varied], factors[fixed] = args[varied].clone(), self._constant(args[fixed])
            halves.append(0.5 * func(*factors, **kwargs))
        return halves[0] + halves[1]


def _attention(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False, **scaled: float
) -> Tensor:
    assert dropout_p == 0
    assert not is_causal
    scores = torch.matmul(q, k.transpose(-2, -1)) * (scaled.get("scale") or 1 / math.sqrt(q.shape[-1]))
    return torch.matmul((scores if attn_mask is None else scores + attn_mask).softmax(-1), v)
