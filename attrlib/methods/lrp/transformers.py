"""AttnLRP, CP-LRP and LibraGrad: modified backward passes for transformers, defined for convolutional networks too."""

from dataclasses import dataclass

from attrlib.methods.base import METHODS, Passes
from attrlib.methods.baselines import REDUCTION, REDUCTIONS
from attrlib.methods.context import AttributionContext
from attrlib.methods.lrp.composite import Composite
from attrlib.methods.lrp.method import EPSILON
from attrlib.methods.lrp.of_relevance import CONSERVING, LAYERS, TAYLOR, OfRelevance
from attrlib.methods.lrp.rules import Gamma
from attrlib.methods.operation_rules import GRADIENT
from attrlib.models import Layer
from attrlib.registry import Paper, param

ATTN_LRP = Paper(
    "Achtibat et al. 2024", "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers", "https://arxiv.org/abs/2402.05602"
)
CP_LRP = Paper(
    "Ali et al. 2022", "XAI for Transformers: Better Explanations through Conservative Propagation", "https://arxiv.org/abs/2202.07304"
)
LIBRA = Paper(
    "Mehri et al. 2025",
    "LibraGrad: Balancing Gradient Flow for Universally Better Vision Transformer Attributions",
    "https://arxiv.org/abs/2411.16760",
)


class WithGammas(OfRelevance):
    """Base class of LRP with a gamma for each type of layer."""

    summaries = LAYERS | {
        "linear": "gamma, or epsilon where it is 0",
        "convolution": "gamma, or epsilon where it is 0",
    }
    epsilon: float
    gamma_conv: float
    gamma_linear: float

    def composite(self, context: AttributionContext) -> Composite:
        return Composite.of_gammas(self.epsilon, self.gamma_conv, self.gamma_linear)

    def passes(self, layer: Layer) -> Passes:
        return Passes(forward=Gamma.forwards if self.gamma_conv or self.gamma_linear else 0, gradient=1)


@METHODS.register
@dataclass(frozen=True)
class AttnLRP(WithGammas):
    """AttnLRP: LRP in which relevance flows through attention weights and gates too.

    With relevance over activation, g = R / a, the rules are: a softmax and a sigmoid pass their gradient on, which is their Taylor
    expansion, R_i = z_i (R_i' - s_i sum_j R_j'); a product A B of activations passes half to each factor, g_A = g B^T / 2 and
    g_B = A^T g / 2; the scale of a norm (LayerNorm, RMSNorm, GroupNorm) is constant; GELU, SiLU and other activations f that are 0 at 0
    pass all relevance, g f(z) / z. Linear layers and convolutions have the rule gamma, or epsilon where gamma is 0; a BatchNorm after a
    convolution is folded into it. The best gammas differ from model to model.

    The diagnostics return |sum - logit| / |logit| as `conservation`. It is what biases, other constants and the Taylor expansion of
    softmax and sigmoid have taken: it is zero, up to epsilon, in a network without any of them.
    """

    name, family, paper, fast = "AttnLRP", "gradient", ATTN_LRP, True
    rules = TAYLOR
    summaries = WithGammas.summaries | dict.fromkeys(("softmax", "sigmoid"), "Taylor expansion: the gradient")
    plain = OfRelevance.plain | {"Softmax", "Sigmoid", "Hardsigmoid"}
    epsilon: float = param(1e-6, EPSILON, low=1e-9, high=10.0)
    gamma_conv: float = param(0.25, "Gamma of convolutions; 0 is the epsilon rule", low=0.0, high=100.0)
    gamma_linear: float = param(0.05, "Gamma of linear layers; 0 is the epsilon rule", low=0.0, high=100.0)
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)


@METHODS.register
@dataclass(frozen=True)
class CPLRP(WithGammas):
    """CP-LRP: LRP in which attention weights and the scales of norms are constants, so that relevance flows through the values alone.

    Sigmoid gates count as weights too. Products of activations pass half to each factor, activations that are 0 at 0 pass all
    relevance, and linear layers and convolutions have the rule gamma, or epsilon where gamma is 0, as by default. With the same gammas it
    is `LRP`. Not defined for a softmax or a sigmoid that weights nothing.

    The diagnostics return |sum - logit| / |logit| as `conservation`. It is what biases and other constants, such as position embeddings,
    have taken: it is zero without any, up to epsilon.
    """

    name, family, paper, fast = "CP-LRP", "gradient", CP_LRP, True
    rules = CONSERVING
    epsilon: float = param(1e-6, EPSILON, low=1e-9, high=10.0)
    gamma_conv: float = param(0.0, "Gamma of convolutions; 0 is the epsilon rule", low=0.0, high=100.0)
    gamma_linear: float = param(0.0, "Gamma of linear layers; 0 is the epsilon rule", low=0.0, high=100.0)
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)


@METHODS.register
@dataclass(frozen=True)
class LibraGrad(OfRelevance):
    """LibraGrad: input times a gradient whose paths are pruned and scaled so that it is complete, sum_i x_i g_i = f(x) without biases.

    Pruned are the paths through attention weights, the scales of norms, sigmoid gates, and the gate g of an activation z g(z), such as
    GELU and SiLU: each counts as constant. Scaled by 1/2 are both paths of a product of activations, as in SwiGLU. All other operations
    keep their gradient. Not defined for a softmax or a sigmoid that weights nothing.

    The diagnostics return the completeness error |sum - logit| / |logit| as `completeness`. It is what biases and other constants, such
    as position embeddings, contribute: it is zero without any.
    """

    name, family, paper, fast = "LibraGrad", "gradient", LIBRA, True
    rules = CONSERVING
    summaries = (
        LAYERS
        | dict.fromkeys(("linear", "convolution", "batch_norm"), GRADIENT)
        | {
            "rectifier": "gate constant: g f(z) / z",
            "activation": "gate constant: g f(z) / z",
        }
    )
    error = "completeness"
    channels: str = param("sum", REDUCTION, choices=REDUCTIONS)

    def composite(self, context: AttributionContext) -> Composite:
        return Composite()

    def passes(self, layer: Layer) -> Passes:
        return Passes(gradient=1)
