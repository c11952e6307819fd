"""Attribution methods: one small class each, grouped by family. Importing the package registers all of them."""

from attrlib.methods import (  # noqa: F401, I001  this is the order of lists and menus
    gradients,
    noise,
    expectations,
    fullgrad,
    paths,
    regions,
    deeplift,
    lrp,
    guided,
    cams,
    channel_cams,
    refine,
    guided_cam,
    perturbation,
    surrogates,
    sensitivity,
    extremal,
    token_sampling,
    token_masks,
    attention,
    intrinsic,
    sanity,
    made_elsewhere,
)
from attrlib.methods.attribution import (
    BATCH_SIZE,
    Attribution,
    AttributionOptions,
    attribute,
    attribute_all,
    attribute_each,
    rows_at_once,
)
from attrlib.methods.base import METHODS, Method, MethodInfo, Passes, create, instance, list_methods, resolve
from attrlib.methods.presets import PRESETS, Preset, defined, list_presets, named_methods, names_many, read_method, read_methods
from attrlib.methods.context import AttributionContext
from attrlib.methods.custom import load_custom
from attrlib.methods.differentiable import check_defined
from attrlib.methods.shared_maps import SharedMaps

__all__ = [
    "BATCH_SIZE",
    "METHODS",
    "PRESETS",
    "Attribution",
    "AttributionContext",
    "AttributionOptions",
    "Method",
    "MethodInfo",
    "Passes",
    "Preset",
    "SharedMaps",
    "attribute",
    "attribute_all",
    "attribute_each",
    "check_defined",
    "create",
    "defined",
    "instance",
    "list_methods",
    "list_presets",
    "named_methods",
    "names_many",
    "read_method",
    "read_methods",
    "resolve",
    "rows_at_once",
]

# Last, since files with custom methods import this package.
load_custom()
