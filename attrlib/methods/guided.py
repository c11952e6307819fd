"""Guided Backpropagation and Deconvolution for any form of ReLU, by hooks on the autograd graph."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.autograd_graph import STRUCTURAL, graph, in_words, kind
from attrlib.methods.base import METHODS, Passes
from attrlib.methods.baselines import REDUCTION, REDUCTIONS
from attrlib.methods.context import AttributionContext
from attrlib.methods.gradients import ByChannel
from attrlib.methods.operation_rules import GRADIENT, OfRules
from attrlib.methods.trial import check_by_trial
from attrlib.models import Classifier, Layer
from attrlib.registry import Paper, param

ALL_CONVOLUTIONAL = Paper(
    "Springenberg et al. 2015", "Striving for Simplicity: The All Convolutional Net", "https://arxiv.org/abs/1412.6806"
)
ZEILER = Paper("Zeiler and Fergus 2014", "Visualizing and Understanding Convolutional Networks", "https://arxiv.org/abs/1311.2901")
_OTHER_ACTIVATIONS = re.compile(
    r"(gelu|silu|swish|mish|elu|softplus|hardtanh|threshold|maximum|clamp|tanh|erf|sigmoid|shrink)", re.IGNORECASE
)
_SIGMOIDS = ("Sigmoid", "Hardsigmoid")
_ON_THE_WAY = STRUCTURAL | {"UpsampleNearest2D", "UpsampleBilinear2D", "UpsampleBicubic2D"}
Hook = Callable[[tuple[Tensor | None, ...], tuple[Tensor | None, ...]], tuple[Tensor | None, ...]]


_GRADIENTS = dict.fromkeys(("linear", "convolution", "batch_norm", "norm", "softmax", "product", "quotient"), GRADIENT)
_GRADIENTS |= {"matrix_product": GRADIENT, "maximum": GRADIENT, "sum": GRADIENT, "sigmoid": "gradient, as a gate only"}


class OfRectifiers(OfRules, ByChannel):
    """Base class of gradients with a custom rule at every ReLU: nn.ReLU and nn.ReLU6, in place or not, and their functional forms.

    If the model has other activations (GELU, SiLU, sigmoid, ...) downstream of the layer, the rule is not defined and `MethodError` is
    raised. A sigmoid that only weights activations (the gate of squeeze-and-excitation) or ends the model is not an activation between
    layers: it keeps its gradient.
    """

    needs = ("ReLU or ReLU6 as the only activations, besides sigmoid gates",)
    operations = True

    def check(self, model: Classifier, layer: Layer) -> None:
        check_by_trial(self, model, layer)

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=1)


@METHODS.register
@dataclass(frozen=True)
class GuidedBackprop(OfRectifiers):
    """Guided Backpropagation: the gradient with only positive values passed back through every ReLU, where its input is positive."""

    name, family, paper, fast = "Guided Backprop", "gradient", ALL_CONVOLUTIONAL, True
    summaries = _GRADIENTS | {"rectifier": "ReLU and ReLU6: positive values only, where the input is positive"}
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)

    def values(self, context: AttributionContext) -> Tensor:
        return guided_gradient(context)


@METHODS.register
@dataclass(frozen=True)
class Deconvolution(OfRectifiers):
    """Deconvolution: the gradient with only positive values passed back through every ReLU, whatever its input."""

    name, family, paper, fast = "Deconvolution", "gradient", ZEILER, True
    summaries = _GRADIENTS | {"rectifier": "ReLU and ReLU6: positive values only"}
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)

    def values(self, context: AttributionContext) -> Tensor:
        return context.gradient(context.inputs, context.rows, visit=_with_rule(context, self.name, _deconvolved))


def guided_gradient(context: AttributionContext) -> Tensor:
    """Return the guided gradient at the context's inputs, of their shape; shared.

    Raises:
        MethodError: If the model has activations other than ReLU downstream of the layer.
    """
    visit = _with_rule(context, GuidedBackprop.name, _guided)
    return context.shared("guided gradient", lambda: context.gradient(context.inputs, context.rows, visit=visit))


def _with_rule(context: AttributionContext, name: str, rule: Hook) -> Callable[[Tensor], None]:
    def visit(scores: Tensor) -> None:
        nodes = list(graph(scores.grad_fn))
        others = [n for n in nodes if not _is_rectifier(n) and _OTHER_ACTIVATIONS.search(n.name())]
        if any(kind(n) in _SIGMOIDS for n in others):
            gates = {*_moved(scores.grad_fn), *_gates(nodes)}
            others = [n for n in others if kind(n) not in _SIGMOIDS or n not in gates]
        names = sorted({in_words(kind(n)) for n in others} | {"softsign" for n in nodes if _is_softsign(n)})
        if names:
            raise MethodError(
                f"{name} is defined for ReLU networks, but {context.classifier.name} has {', '.join(names)} downstream of "
                f"{context.layer.name}; use Gradient or IxG instead"
            )
        for node in filter(_is_rectifier, nodes):
            node.register_hook(rule)

    return visit


def _guided(inputs: tuple[Tensor | None, ...], _outputs: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    # relu'(x) * max(g, 0) = max(relu'(x) * g, 0), so clamping the node's result is the guided rule. In place, because it is a new tensor.
    return tuple(None if g is None else g.clamp_min_(0) for g in inputs)


def _deconvolved(inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    (gradient,) = outputs
    return tuple(None if g is None or gradient is None else gradient.clamp_min(0) for g in inputs)


def _moved(node: Any) -> Iterator[Any]:
    """Yield a node and the nodes whose values it only moves or resizes."""
    return graph(node, lambda n: kind(n) not in _ON_THE_WAY)


def _gates(nodes: Sequence[Any]) -> Iterator[Any]:
    """Yield the sigmoids that are gates: a factor of activations that neither depend on them nor are their input.

    A sigmoid times its own input is not a gate but a SiLU that is written out.
    """
    for node in nodes:
        if kind(node) == "Mul":
            factors = [following for following, _ in node.next_functions if following is not None]
            for factor, other in zip(factors, factors[::-1], strict=True) if len(factors) == 2 else ():
                for gate in _moved(factor):
                    if kind(gate) in _SIGMOIDS and gate.next_functions[0][0] is not other and gate not in graph(other):
                        yield gate


def _is_softsign(node: Any) -> bool:
    """Return whether a node is a softsign, x / (|x| + 1), for which PyTorch has no dedicated node."""
    if kind(node) != "Div" or any(following is None for following, _ in node.next_functions):
        return False
    (numerator, _), (denominator, _) = node.next_functions
    sizes = graph(denominator, lambda n: kind(n) != "Add")
    return any(kind(n) == "Abs" and n.next_functions[0][0] is numerator for n in sizes)


def _is_rectifier(node: Any) -> bool:
    name = node.name()
    if name.startswith("ReluBackward"):
        return True
    floors = {"HardtanhBackward": "_saved_min_val", "ThresholdBackward": "_saved_threshold", "Clamp": "_saved_min"}
    return any(name.startswith(kind) and _is_zero(getattr(node, attribute, None)) for kind, attribute in floors.items())


def _is_zero(value: Any) -> bool:
    return bool((value == 0).all()) if isinstance(value, Tensor) else value == 0
