"""LRP method: passes the logit back to the inputs, layer by layer, in proportion to their contributions."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods.autograd_graph import graph, kind
from attrlib.methods.backward import RELEVANCE_RULE
from attrlib.methods.base import METHODS, Passes
from attrlib.methods.baselines import REDUCTION, REDUCTIONS
from attrlib.methods.context import AttributionContext
from attrlib.methods.lrp.composite import SAME, Composite, rule_names
from attrlib.methods.lrp.of_relevance import CONSERVING, LAYERS, OfRelevance
from attrlib.methods.lrp.rules import PROPAGATION_RULES
from attrlib.models import Layer
from attrlib.registry import Paper, param

LRP_PAPER = Paper(
    "Bach et al. 2015",
    "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation",
    "https://doi.org/10.1371/journal.pone.0130140",
)
EPSILON = "Added to the magnitude of denominators to keep them off zero"


@METHODS.register
@dataclass(frozen=True)
class LRP(OfRelevance):
    """LRP: relevance R_i = sum_j a_i w_ij / (z_j + e sign z_j) * R_j, passed back from the logit layer by layer.

    `rule` is the rule of convolutions: `epsilon` is the formula, z_j with its bias; `alpha1beta0` (z+) and `alpha2beta1` distribute alpha
    times R_j over the positive contributions, and subtract beta times R_j over the negative ones; `gamma` counts contributions that have
    the sign of z_j 1 + gamma times. Linear layers have the epsilon rule, as in the composites of Kohlbrenner et al. (2020), or gamma with
    `gamma_linear`. A BatchNorm that follows a convolution is folded into it. Activations pass relevance on, maxima give it to the largest
    input, sums and averages share it by contribution. `first`, used at Input, is the rule of the convolution that reads the pixels: that
    of the others (`same`), `box` (z^B, for pixels from black to white) or `flat` (evenly).

    In transformers and gated networks, what scales or weights activations counts as constant: the deviation of LayerNorm and other norms,
    attention weights, and sigmoid gates (Ali et al. 2022; Arras et al. 2017). A product of two activations, as in SwiGLU, passes half of
    the relevance to each. Not defined for a softmax or a sigmoid that weights nothing, nor for other quotients of activations.

    The diagnostics return |sum - logit| / |logit| as `conservation`, the sum over all channels and, at a token layer, over the prefix
    tokens too. It is what biases and other constants, such as position embeddings, have taken: it is zero without any, up to e.
    """

    name, family, paper, fast = "LRP", "gradient", LRP_PAPER, True
    rules = CONSERVING
    summaries = LAYERS | {"linear": "epsilon, or gamma with `gamma_linear`", "convolution": "`rule`; `first` where it reads the pixels"}
    rule: str = param("epsilon", "Rule of convolutions", choices=rule_names(reads_pixels=False))
    epsilon: float = param(1e-6, EPSILON, low=1e-9, high=10.0)
    first: str = param(SAME, "Rule of the convolution that reads the pixels", choices=(SAME, *rule_names(reads_pixels=True)))
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)
    gamma: float = param(0.25, "Gamma of convolutions with rule=gamma", low=0.0, high=100.0, digest="if set")
    gamma_linear: float = param(0.0, "Gamma of linear layers; 0 is the epsilon rule", low=0.0, high=100.0, digest="if set")

    def composite(self, context: AttributionContext) -> Composite:
        normalise = context.classifier.preprocessing.normalise
        return Composite.of(self.rule, self._first(context), self.epsilon, normalise, self.gamma, self.gamma_linear)

    def gives_relevance(self, context: AttributionContext) -> bool:
        return self._first(context) != SAME

    def check_graph(self, scores: Tensor, context: AttributionContext, handled: set[Any]) -> None:
        super().check_graph(scores, context, handled)
        past = [node for node in graph(scores.grad_fn, stop=_is_first) if kind(node) == "AccumulateGrad"]
        if self._first(context) != SAME and past:
            raise MethodError(
                f"LRP: first={self.first} needs a network in which only convolutions read the pixels, which {context.classifier.name} is "
                "not; choose first=same"
            )

    def _first(self, context: AttributionContext) -> str:
        return SAME if context.layer.path else self.first

    def passes(self, layer: Layer) -> Passes:
        gamma = PROPAGATION_RULES["gamma"].forwards if self.gamma_linear else 0
        return Passes(forward=max(PROPAGATION_RULES[self.rule].forwards, gamma), gradient=1)


def _is_first(node: Any) -> bool:
    return kind(node) == RELEVANCE_RULE
