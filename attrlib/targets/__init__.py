"""Targets: which function of a model's outputs maps explain. Importing the package registers all of them."""

from attrlib.targets import classes, inner, similarity  # noqa: F401
from attrlib.targets.base import TARGETS, Target, TargetInfo, create, list_targets, resolve, short
from attrlib.targets.classes import Logit
from attrlib.targets.readout import Readout

LOGIT = Logit()
"""The default target."""

__all__ = ["LOGIT", "TARGETS", "Logit", "Readout", "Target", "TargetInfo", "create", "list_targets", "resolve", "short"]
