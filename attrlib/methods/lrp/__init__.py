"""Layer-wise relevance propagation (LRP): the method, its propagation rules, and their application to a network."""

from attrlib.methods.lrp.composite import Composite
from attrlib.methods.lrp.method import LRP
from attrlib.methods.lrp.propagation import RelevancePropagation
from attrlib.methods.lrp.rules import PROPAGATION_RULES, LayerCall, PropagationRule

__all__ = ["LRP", "PROPAGATION_RULES", "Composite", "LayerCall", "PropagationRule", "RelevancePropagation"]
