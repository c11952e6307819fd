"""Inspection of the autograd graph of a forward pass, to refuse operations that a method has no rule for."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from torch import Tensor

from attrlib.methods.backward import ACTIVATION_RULE, RELEVANCE_RULE, RULE


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STRUCTURAL = _words(
    "AccumulateGrad Alias AsStrided Clone ConstantPadNd Copy CopyBackwards CopySlices Expand Gather Permute ReshapeAlias Select Slice "
    "Squeeze T ToCopy Transpose UnsafeView Unsqueeze View"
)
"""Nodes that only move values."""
LINEAR = STRUCTURAL | _words(
    "AdaptiveAvgPool2D Add Addcmul Addmm AvgPool2D AvgPool3D Baddbmm Bmm Cat Col2Im Convolution CudnnBatchNorm CudnnConvolution Diagonal Div Dot Flip Im2Col "
    "Index IndexSelect Linear Mean MiopenBatchNorm MaskedFill MkldnnConvolution Mm Mul Mv NativeBatchNorm NativeDropout Neg PixelShuffle "
    "PixelUnshuffle ReflectionPad2D Repeat ReplicationPad2D Roll Rsub Split SplitWithSizes Stack Sub Sum Unbind Unfold UnsafeSplit "
    "UpsampleBicubic2D UpsampleBilinear2D UpsampleNearest2D"
)
"""Nodes that are linear in each of their inputs."""
PRODUCTS = _words("Addcmul Addmm Baddbmm Bmm Convolution Div Dot Linear Mm Mul Mv")
"""Linear nodes that are linear in the explained values only if at most one factor depends on these."""
WORDS = {
    "Mul": "products of activations",
    "Div": "quotients of activations",
    "Bmm": "matrix products of activations",
    "NativeLayerNorm": "LayerNorm",
    "NativeGroupNorm": "GroupNorm",
    "LinalgVectorNorm": "vector norms",
    "SafeSoftmax": "softmax",
    "Gelu": "GELU",
    "Silu": "SiLU",
    "Elu": "ELU",
    "LeakyRelu": "leaky ReLU",
    "PreluKernel": "PReLU",
    "Clamp": "clamping",
    "ClampMin": "clamping",
    "ClampMax": "clamping",
}
"""What messages say for the kinds of nodes whose name is not a word."""


def graph(node: Any, stop: Callable[[Any], bool] = lambda _node: False) -> Iterator[Any]:
    """Yield a node and all nodes that it depends on, each once.

    Args:
        node: Node of the autograd graph.
        stop: Returns whether to skip what a node depends on; the node itself is yielded.
    """
    seen, queue = set(), [node]
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            queue += [] if stop(node) else [following for following, _ in node.next_functions]


def kind(node: Any) -> str:
    """Return the name of the operation whose derivative a node is, such as `Convolution`."""
    return re.sub(r"Backward\d*$", "", node.name().removeprefix("torch::autograd::"))


def in_words(name: str) -> str:
    """Return what messages say for a kind of node."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return WORDS.get(name, "attention" if "Attention" in name else apart)


def undefined(scores: Tensor, allowed: Iterable[str] = (), handled: Collection[Any] = ()) -> list[str]:
    """Return the names of the operations that a propagation of relevance or multipliers is not defined for.

    These are all operations that are not linear in the explained values, have no custom backward rule, and are not allowed.

    Args:
        scores: Target logits (B,), with their graph.
        allowed: Further kinds of nodes that the caller handles.
        handled: Nodes that the caller handles.
    """
    defined = LINEAR | {RULE, ACTIVATION_RULE, RELEVANCE_RULE} | set(allowed)
    refused = set()
    for node in graph(scores.grad_fn):
        name = kind(node)
        if node in handled:
            continue
        inputs = [following is not None for following, _ in node.next_functions]
        # The first input of these is a summand.
        factors = inputs[1:] if name in ("Addcmul", "Addmm", "Baddbmm") else inputs
        if name not in defined or (name in PRODUCTS and sum(factors) > 1) or (name == "Div" and inputs[1]):
            refused.add(in_words(name))
    return sorted(refused)
