"""Whether what lies behind a layer is affine in it, as a pooling and a linear head are: then one gradient says all."""

import re
from collections.abc import Iterator
from typing import Any

import torch

from attrlib.methods.task import Task

_AFFINE = re.compile(
    r"(AccumulateGrad|Add|AdaptiveAvgPool2D|Addmm|Alias|AsStrided|AvgPool2D|Baddbmm|Bmm|Clone|ConstantPadNd|Convolution|CudnnBatchNorm|CudnnConvolution|Div|Expand|MkldnnConvolution|Mean|Mm|Mul|"
    r"Mv|NativeBatchNorm|Neg|Permute|ReshapeAlias|Rsub|Select|Slice|Squeeze|Sub|Sum|T|ToCopy|Transpose|UnsafeView|Unsqueeze|View)"
)
_PRODUCTS = ("Addmm", "Baddbmm", "Bmm", "Div", "Mm", "Mul", "Mv")


def is_affine(task: Task) -> bool:
    """Whether the logits are an affine function of the layer's output: of nothing but affine operations, by the autograd graph.

    What code takes out of the graph (`detach`) it does not show, so the logits are compared, too, with what an affine function would
    be on random parts of the inputs.
    """
    return task.shared("affine", lambda: _of_affine_operations(task) and _adds_up(task))


def _of_affine_operations(task: Task) -> bool:
    leaf = task.inputs[:1].detach().requires_grad_()
    with torch.enable_grad():
        return all(_is_affine(node) for node in graph(task.logits(leaf, task.rows[:1]).grad_fn))


def _adds_up(task: Task) -> bool:
    """f(x m) + f(x (1 - m)) = f(x) + f(0), for one random m, of both signs, of each position and channel."""
    inputs, rows = task.sources[:1], task.rows[:1]
    mask = torch.randn(inputs.shape, generator=task.generator("affine")).to(inputs)
    with torch.no_grad():
        one, other, whole, nothing = (task.logits(part, rows) for part in (inputs * mask, inputs * (1 - mask), inputs, 0 * inputs))
    scale = torch.stack([one, other, whole, nothing]).abs().amax()
    return bool((one + other - whole - nothing).abs().amax() <= 1e-4 * scale)


def _is_affine(node: Any) -> bool:
    name = node.name().removeprefix("torch::autograd::").split("Backward")[0]
    if not _AFFINE.fullmatch(name):
        return False
    variable = [following is not None for following, _ in node.next_functions]
    if name == "Div":
        return not any(variable[1:])
    # The sum that Addmm and Baddbmm add to is not part of the product.
    return name not in _PRODUCTS or sum(variable[len(variable) - 2 :]) <= 1


def graph(node: Any) -> Iterator[Any]:
    """The nodes of an autograd graph, each once."""
    seen, queue = set(), [node]
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            queue.extend(following for following, _ in node.next_functions)
