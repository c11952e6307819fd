"""LRP method: passes the logit back to the inputs, layer by layer, in proportion to their contributions."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.autograd_graph import graph, kind, undefined
from attrlib.methods.backward import RELEVANCE_RULE
from attrlib.methods.base import METHODS, Passes
from attrlib.methods.baselines import REDUCTION, REDUCTIONS
from attrlib.methods.context import AttributionContext
from attrlib.methods.gradients import ByChannel
from attrlib.methods.lrp.composite import SAME, Composite, rule_names
from attrlib.methods.lrp.propagation import RelevancePropagation
from attrlib.methods.lrp.rules import PROPAGATION_RULES
from attrlib.methods.trial import check_by_trial
from attrlib.models import Classifier, Layer
from attrlib.registry import Paper, param

LRP_PAPER = Paper(
    "Bach et al. 2015",
    "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation",
    "https://doi.org/10.1371/journal.pone.0130140",
)
POOLED = frozenset(("AdaptiveMaxPool2D", "Amax", "Max", "MaxPool2DWithIndices", "MaxPool3DWithIndices", "MkldnnMaxPool2D"))


@METHODS.register
@dataclass(frozen=True)
class LRP(ByChannel):
    """LRP: relevance R_i = sum_j a_i w_ij / (z_j + e sign z_j) * R_j, passed back from the logit layer by layer.

    `rule` is the rule of convolutions: `epsilon` is the formula, z_j with its bias; `alpha1beta0` (z+) and `alpha2beta1` distribute alpha
    times R_j over the positive contributions, and subtract beta times R_j over the negative ones. Linear layers have the epsilon rule,
    as in the composites of Kohlbrenner et al. (2020). A BatchNorm that follows a convolution is folded into it. Activations pass
    relevance on, maxima give it to the largest input, sums and averages share it by contribution. `first`, used at Input, is the rule of
    the convolution that reads the pixels: that of the others (`same`), `box` (z^B, for pixels from black to white) or `flat` (evenly).
    Without biases, epsilon conserves the sum, up to e. Not defined if activations are multiplied, nor for LayerNorm or softmax
    downstream of the layer.
    """

    name, family, paper, fast = "LRP", "gradient", LRP_PAPER, True
    needs = ("only activations that are zero at zero, maxima and linear layers",)
    operations = linear = True
    rule: str = param("epsilon", "Rule of convolutions", choices=rule_names(reads_pixels=False))
    epsilon: float = param(1e-6, "Added to the magnitude of denominators to keep them off zero", low=1e-9, high=10.0)
    first: str = param(SAME, "Rule of the convolution that reads the pixels", choices=(SAME, *rule_names(reads_pixels=True)))
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)

    def check(self, model: Classifier, layer: Layer) -> None:
        check_by_trial(self, model, layer)

    def values(self, context: AttributionContext) -> Tensor:
        first = SAME if context.layer.path else self.first
        composite = Composite.of(self.rule, first, self.epsilon, context.classifier.preprocessing.normalise)
        propagation = RelevancePropagation(composite)

        def visit(scores: Tensor) -> None:
            propagation.settle()
            self._check_graph(scores, context, first)

        with propagation:
            ratio = context.gradient(context.inputs, context.rows, visit=visit)
        return context.inputs * ratio if first == SAME else ratio

    def _check_graph(self, scores: Tensor, context: AttributionContext, first: str) -> None:
        others = undefined(scores, POOLED | {"Relu"})
        if others:
            raise MethodError(
                f"LRP is not defined for {', '.join(others)}, which {context.classifier.name} has downstream of {context.layer.name}; use IxG or IG instead"
            )
        past = [node for node in graph(scores.grad_fn, stop=_is_first) if kind(node) == "AccumulateGrad"]
        if first != SAME and past:
            raise MethodError(
                f"LRP: first={first} needs a network in which only convolutions read the pixels, which {context.classifier.name} is not; "
                "choose first=same"
            )

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=PROPAGATION_RULES[self.rule].forwards, gradient=1)


def _is_first(node: Any) -> bool:
    return kind(node) == RELEVANCE_RULE
