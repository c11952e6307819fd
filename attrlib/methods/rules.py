"""Backward rules of one's own for parts of a network, without a change to it; and what a network is made of that has none.

Inside `Rules`, a torch function mode, activations and layers go through a method that may give them a backward pass of its own,
whatever form they have: module or function, in place, used twice. Everything else keeps its gradient. The graph that a forward
pass leaves then says what the network is made of, so that what no rule is defined for is found rather than passed over.
"""

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attrlib.errors import MethodError, no_gradients, overwritten
from attrlib.methods.base import Method
from attrlib.methods.task import Task
from attrlib.models import Classifier, Layer

Map = Callable[[Tensor], Tensor]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ACTIVATIONS = _words(
    "relu relu6 hardtanh threshold clamp clamp_min clamp_max clip leaky_relu prelu elu selu celu gelu silu mish hardswish hardsigmoid "
    "sigmoid logsigmoid softplus softsign tanh tanhshrink hardshrink softshrink"
)
MAXIMA = _words("max_pool1d max_pool2d max_pool3d adaptive_max_pool2d")

STRUCTURAL = _words(
    "AccumulateGrad Alias AsStrided Clone ConstantPadNd Copy CopyBackwards CopySlices Expand Gather Permute ReshapeAlias Select Slice "
    "Squeeze T ToCopy Transpose UnsafeView Unsqueeze View"
)
"""Nodes of the graph that only move values."""
RULE, FIRST_RULE = "_Rule", "_FirstRule"
LINEAR = STRUCTURAL | _words(
    "AdaptiveAvgPool2D Add Addmm AvgPool2D AvgPool3D Baddbmm Bmm Cat Convolution CudnnBatchNorm CudnnConvolution Diagonal Div Dot Flip "
    "Index IndexSelect Linear Mean MiopenBatchNorm MkldnnConvolution Mm Mul Mv NativeBatchNorm NativeDropout Neg PixelShuffle "
    "PixelUnshuffle ReflectionPad2D Repeat ReplicationPad2D Roll Rsub Split SplitWithSizes Stack Sub Sum Unbind Unfold UnsafeSplit "
    "UpsampleBicubic2D UpsampleBilinear2D UpsampleNearest2D"
)
"""Nodes that are linear in each of their inputs."""
PRODUCTS = _words("Addmm Baddbmm Bmm Convolution Div Dot Linear Mm Mul Mv")
"""Of these, those that are linear in the explained values only where no more than one factor depends on them."""
WORDS = {
    "Mul": "products of activations",
    "Div": "quotients of activations",
    "Bmm": "matrix products of activations",
    "NativeLayerNorm": "LayerNorm",
    "NativeGroupNorm": "GroupNorm",
}

TINY = 1e-30
"""Added to what is divided by: 0 / 0 becomes 0, and no other value changes."""


class Rules(TorchFunctionMode):
    """Hands activations, maxima and layers in the forward pass to the methods of a subclass; nothing of the network is changed."""

    def __init__(self) -> None:
        super().__init__()
        self.backward = False
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.calls += 1
        given = args[0] if args else kwargs.get("input")
        if self.backward or not (isinstance(given, Tensor) and given.requires_grad):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "").strip("_")
        if name in ACTIVATIONS or name in MAXIMA:
            rest = {key: value for key, value in kwargs.items() if key != "input"}

            def apply(values: Tensor) -> Tensor:
                return func(values, *args[1:], **rest)

            return (self.activation if name in ACTIVATIONS else self.maximum)(given, apply, name)
        return self.layer(name, given, func, args, kwargs)

    @abstractmethod
    def activation(self, values: Tensor, function: Map, name: str) -> Tensor:
        """The function of every value, which is of each on its own, with the rule for its backward pass; it may write into the values."""

    def maximum(self, values: Tensor, function: Map, name: str) -> Tensor:
        """Pooling by maxima: by default as it is, which sends everything to the largest value."""
        return function(values)

    def layer(self, name: str, values: Tensor, func: Any, args: Any, kwargs: Any) -> Any:
        """Any other function of the values, called `name`: by default as it is."""
        return func(*args, **kwargs)

    def rule(self, values: Tensor, output: Tensor, back: Map, first: bool = False) -> Tensor:
        """`output` as a function of `values` whose backward pass is `back`; `first` marks that it gives relevance, not a gradient.

        The output may be the values themselves, which the function has written into.
        """
        given = output if output is values else output.detach()
        return (_FirstRule if first else _Rule).apply(values, self, (given,), back)


class _Rule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rules: Rules, output: tuple[Tensor], back: Map) -> Tensor:
        ctx.rules, ctx.back = rules, back
        if output[0] is values:
            ctx.mark_dirty(values)
        # Else not an argument itself, which would make of the result a view that nothing could write into.
        return output[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.rules.backward = True
        try:
            return ctx.back(gradients[0]), None, None, None
        finally:
            ctx.rules.backward = False


class _FirstRule(_Rule):
    pass


def graph(node: Any, stop: Callable[[Any], bool] = lambda _node: False) -> Iterator[Any]:
    """All nodes of the graph below a node, each once; not below one where `stop` holds."""
    seen, queue = set(), [node]
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            queue += [] if stop(node) else [following for following, _ in node.next_functions]


def kind(node: Any) -> str:
    """What a node of the graph is the derivative of."""
    return re.sub(r"Backward\d*$", "", node.name().removeprefix("torch::autograd::"))


def undefined(scores: Tensor, allowed: Iterable[str] = ()) -> list[str]:
    """What the scores were computed by that neither is linear in what is explained nor has a rule or is `allowed`, in words."""
    known = LINEAR | {RULE, FIRST_RULE} | set(allowed)
    found = set()
    for node in graph(scores.grad_fn):
        name = kind(node)
        inputs = [following is not None for following, _ in node.next_functions]
        # The first input of these is a summand.
        factors = inputs[1:] if name in ("Addmm", "Baddbmm") else inputs
        if name not in known or (name in PRODUCTS and sum(factors) > 1) or (name == "Div" and inputs[1]):
            found.add(WORDS.get(name, "attention" if "Attention" in name else name.lower()))
    return sorted(found)


_tried: WeakKeyDictionary[Classifier, dict[object, str]] = WeakKeyDictionary()


def check_by_trial(method: Method, model: Classifier, layer: Layer) -> None:
    """Explains a picture of noise, once for each model, layer and method. Raises the `MethodError` that this raises."""
    known, key = _tried.setdefault(model, {}), (method, layer)
    if key not in known:
        height, width = model.input_size
        with model.session():
            picture = model.place(torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0)))
            known[key] = ""
            try:
                at = model.layer(layer.name)
                method.attribute(Task(model, at, picture, torch.zeros(1, dtype=torch.long, device=picture.device)))
            except MethodError as error:
                known[key] = str(error)
            except BaseException as error:
                if not overwritten(error):
                    del known[key]
                    raise
                known[key] = str(no_gradients(method.name))
    if known[key]:
        raise MethodError(known[key])
