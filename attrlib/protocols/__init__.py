"""Protocols, which score attribution maps, and their registry."""

import attrlib.protocols.deletion
import attrlib.protocols.faithfulness
import attrlib.protocols.localisation
import attrlib.protocols.objects
import attrlib.protocols.parts
import attrlib.protocols.stability  # noqa: F401
from attrlib.protocols.base import (
    PROTOCOLS,
    Batch,
    Cost,
    EvalBatch,
    EvalContext,
    Explain,
    ExplanationRequest,
    Measurement,
    Outcome,
    Prediction,
    Protocol,
    ProtocolInfo,
    create,
    list_protocols,
    resolve,
)

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
