"""Check which methods are valid on a model and at which layers, and tabulate it for many models."""

from attrlib.diagnosis.examine import FAILED, REFUSED, VALID, Diagnosis, Finding, doctor
from attrlib.diagnosis.families import FAMILIES
from attrlib.diagnosis.matrix import Cell, Matrix, ending, read_matrix, survey, updated

__all__ = [
    "FAILED",
    "FAMILIES",
    "REFUSED",
    "VALID",
    "Cell",
    "Diagnosis",
    "Finding",
    "Matrix",
    "doctor",
    "ending",
    "read_matrix",
    "survey",
    "updated",
]
