"""Base class of methods that pass the target's score back with changed rules, and read off relevance or input times gradient."""

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.autograd_graph import undefined
from attrlib.methods.backward import OperationRule
from attrlib.methods.context import AttributionContext
from attrlib.methods.gradients import ByChannel
from attrlib.methods.lrp.composite import Composite
from attrlib.methods.lrp.propagation import RelevancePropagation
from attrlib.methods.operation_rules import DenominatorConstant, HalfToEach, OfRules, ScaleConstant, WeightsConstant
from attrlib.methods.trial import check_by_trial
from attrlib.models import Classifier, Layer

POOLED = frozenset(("AdaptiveMaxPool2D", "Amax", "Max", "MaxPool2DWithIndices", "MaxPool3DWithIndices", "MkldnnMaxPool2D"))
CONSERVING: Mapping[str, OperationRule] = MappingProxyType(
    {"norm": ScaleConstant(), "product": WeightsConstant(), "matrix_product": WeightsConstant(), "quotient": DenominatorConstant()}
)
"""Rules under which attention weights, gates and the scales of norms are constants, so that relevance is conserved but for biases."""
TAYLOR: Mapping[str, OperationRule] = MappingProxyType(
    {"norm": ScaleConstant(), "product": HalfToEach(), "matrix_product": HalfToEach(), "quotient": DenominatorConstant()}
)
"""Rules under which relevance reaches what attention weights and gates were computed from, too."""


CONSTANT = "constant, where it weights activations; else refused"
LAYERS: dict[str, str] = {
    "batch_norm": "folded into the convolution before it; else linear",
    "rectifier": "all relevance, g f(z) / z",
    "activation": "all relevance, g f(z) / z",
    "sigmoid": CONSTANT,
    "softmax": CONSTANT,
    "maximum": "all to the largest input",
    "sum": "by contribution: the gradient",
}
"""Rules in words of what relevance passes besides layers with weights and the operations of `CONSERVING` or `TAYLOR`."""


class OfRelevance(OfRules, ByChannel):
    """Base class of modified backward passes, whose values are input times modified gradient.

    Attributes:
        plain: Kinds of nodes of the graph that are not linear but keep their gradient.
        error: Name in the diagnostics of |sum - score| / |score|.
    """

    needs = ("only operations that have a rule: see the table of rules",)
    operations = linear = True
    plain: ClassVar[frozenset[str]] = POOLED | {"Relu"}
    error: ClassVar[str] = "conservation"

    def check(self, model: Classifier, layer: Layer) -> None:
        check_by_trial(self, model, layer)

    def attribute(self, context: AttributionContext) -> Tensor:
        _, context.diagnostics[self.error] = self._propagated(context)
        return super().attribute(context)

    def values(self, context: AttributionContext) -> Tensor:
        return self._propagated(context)[0]

    @abstractmethod
    def composite(self, context: AttributionContext) -> Composite:
        """Return the rules of convolutions and linear layers."""

    def gives_relevance(self, context: AttributionContext) -> bool:
        """Return whether the backward pass ends with relevance rather than with relevance over activation."""
        return False

    def check_graph(self, scores: Tensor, context: AttributionContext, handled: set[Any]) -> None:
        """Raise `MethodError` if an operation has no rule.

        Args:
            scores: Target scores (B,), with their graph.
            context: The context of the items.
            handled: Nodes of products that have a rule.
        """
        others = undefined(scores, self.plain, handled)
        if others:
            raise MethodError(
                f"{self.name} is not defined for {', '.join(others)}, which {context.classifier.name} has downstream of "
                f"{context.layer.name}; use IxG or IG instead"
            )

    def _propagated(self, context: AttributionContext) -> tuple[Tensor, Tensor]:
        """Return the relevance (B,...) and its relative error (B,); shared by the variants that differ in `channels`."""
        return context.shared((self._unreduced(), "propagated"), lambda: self._propagate(context))

    def _propagate(self, context: AttributionContext) -> tuple[Tensor, Tensor]:
        propagation = RelevancePropagation(self.composite(context), self.rules)
        scores = context.inputs.new_empty(len(context))

        def visit(part: Tensor) -> None:
            propagation.settle()
            self.check_graph(part, context, propagation.handled)
            propagation.handled.clear()

        def work(inputs: Tensor, rows: Tensor) -> Tensor:
            scores[rows], gradient = context.scored_gradient(inputs, rows, visit)
            return gradient

        with propagation:
            ratio = context.in_chunks(work, context.inputs, context.rows)
        relevance = ratio if self.gives_relevance(context) else context.inputs * ratio
        error = (relevance.flatten(1).sum(1) - scores).abs() / scores.abs().clamp_min(1e-12)
        return relevance, error
