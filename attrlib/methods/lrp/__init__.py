"""Layer-wise relevance propagation (LRP) and its kin: the methods, the rules of layers, and their application to a network."""

from attrlib.methods.lrp.composite import Composite
from attrlib.methods.lrp.method import LRP
from attrlib.methods.lrp.propagation import RelevancePropagation
from attrlib.methods.lrp.rules import PROPAGATION_RULES, LayerCall, PropagationRule
from attrlib.methods.lrp.transformers import CPLRP, AttnLRP, LibraGrad

__all__ = ["CPLRP", "LRP", "PROPAGATION_RULES", "AttnLRP", "Composite", "LayerCall", "LibraGrad", "PropagationRule", "RelevancePropagation"]
