"""The gradient of scores and the product of their Hessian with the values it is taken at, by differentiating twice."""

from typing import Any

import torch
from torch import Tensor

from attrlib.methods.autograd_graph import graph


def curvature(scores: Tensor, leaf: Tensor) -> Tensor:
    """Return the gradient of scores (N,) in a leaf x (N,...), and the product of their Hessian with x: both, (N,2,...).

    Raises:
        RuntimeError: If an operation cannot be differentiated twice.
    """
    if not scores.requires_grad:
        return torch.zeros_like(leaf.detach())[:, None].repeat_interleave(2, dim=1)
    # The gradient of such a function is a constant for torch, which would leave a part of the Hessian out.
    once = next((name for node in graph(scores.grad_fn) if (name := _once(node))), None)
    if once is not None:
        raise RuntimeError(f"{once} cannot be differentiated twice")
    options: dict[str, Any] = dict(allow_unused=True, materialize_grads=True)
    (first,) = torch.autograd.grad(scores.sum(), leaf, create_graph=True, **options)
    second = torch.autograd.grad(first, leaf, leaf.detach(), **options)[0] if first.requires_grad else torch.zeros_like(first)
    return torch.stack([first.detach(), second], dim=1)


def _once(node: Any) -> str | None:
    """Return the name of a custom function that is marked as differentiable only once; else None."""
    function = getattr(node, "_forward_cls", None)
    code = getattr(getattr(function, "backward", None), "__code__", None)
    if function is None or code is None:
        return None
    marked = code.co_name == "wrapper" and code.co_filename == torch.autograd.function.once_differentiable.__code__.co_filename
    return function.__name__ if marked else None
