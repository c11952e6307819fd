"""Protocols, which score attribution maps, and their registry."""

import attrlib.protocols.complexity
import attrlib.protocols.concentration
import attrlib.protocols.deletion
import attrlib.protocols.faithfulness
import attrlib.protocols.funnybirds
import attrlib.protocols.incremental
import attrlib.protocols.information
import attrlib.protocols.localisation
import attrlib.protocols.objects
import attrlib.protocols.parts
import attrlib.protocols.regions
import attrlib.protocols.reliability
import attrlib.protocols.rise
import attrlib.protocols.sanity
import attrlib.protocols.stability
import attrlib.protocols.subsets  # noqa: F401
from attrlib.protocols.base import PROTOCOLS, Cost, Protocol, ProtocolInfo, create, list_protocols, resolve
from attrlib.protocols.context import Batch, EvalBatch, EvalContext, Explain, ExplanationRequest, Measurement, Outcome, Prediction

__all__ = [
    "PROTOCOLS",
    "Batch",
    "Cost",
    "EvalBatch",
    "EvalContext",
    "Explain",
    "ExplanationRequest",
    "Measurement",
    "Outcome",
    "Prediction",
    "Protocol",
    "ProtocolInfo",
    "create",
    "list_protocols",
    "resolve",
]
