"""Immutable specs of what to compute and show, shared by the library, the command line, links and manifests.

Each spec declares its fields once. `codec` derives text, link, command line, Python and JSON from the declarations.
"""

from attrlib.specs.aggregate import AVERAGES, AggregateSpec, AggregateView, at_layers
from attrlib.specs.codec import Spec, flag_of, options_of
from attrlib.specs.digest import NUMERICS, canonical, digest
from attrlib.specs.explain import ExplainSpec
from attrlib.specs.method import MethodSpec, parse_methods
from attrlib.specs.model import FITS, INTERPOLATIONS, LARGEST, OUTPUTS, ModelSpec, Size, check_size, parse_size, size_text
from attrlib.specs.protocol import ProtocolSpec, parse_protocols
from attrlib.specs.roar import RoarSpec
from attrlib.specs.run import CLASSES, IN_MEMORY, RunSpec
from attrlib.specs.shard import Shard
from attrlib.specs.space import Dimension, parse_space
from attrlib.specs.study import StudySpec
from attrlib.specs.target import LOGIT, TargetSpec
from attrlib.specs.text import read_list, whole
from attrlib.specs.tune import TuneSpec
from attrlib.specs.view import SCALES, SIGNS, View, ViewSpec

__all__ = [
    "AVERAGES",
    "CLASSES",
    "FITS",
    "INTERPOLATIONS",
    "IN_MEMORY",
    "LARGEST",
    "LOGIT",
    "NUMERICS",
    "OUTPUTS",
    "SCALES",
    "SIGNS",
    "AggregateSpec",
    "AggregateView",
    "Dimension",
    "ExplainSpec",
    "MethodSpec",
    "ModelSpec",
    "ProtocolSpec",
    "RoarSpec",
    "RunSpec",
    "Shard",
    "Size",
    "Spec",
    "StudySpec",
    "TargetSpec",
    "TuneSpec",
    "View",
    "ViewSpec",
    "at_layers",
    "canonical",
    "check_size",
    "digest",
    "flag_of",
    "options_of",
    "parse_methods",
    "parse_protocols",
    "parse_size",
    "parse_space",
    "read_list",
    "size_text",
    "whole",
]
