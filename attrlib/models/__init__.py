"""Load and wrap classifiers, and name the layers to attribute to."""

from attrlib.models.added import add_model, architecture_of, named, remove_model
from attrlib.models.cards import Card, card_of, shipped, smallest
from attrlib.models.classifier import Classifier
from attrlib.models.download import download
from attrlib.models.layers import NAMED, Layer, Layout
from attrlib.models.loading.suggestions import suggest
from attrlib.models.modules.device import pick_device
from attrlib.models.names import ModelInfo, check_name, list_models, parse_model
from attrlib.models.preprocessing import Preprocessing
from attrlib.models.sources import EMBEDDED
from attrlib.models.wrapping import wrap_model
from attrlib.models.zoo import load_model, with_classes

__all__ = [
    "EMBEDDED",
    "NAMED",
    "Card",
    "Classifier",
    "Layer",
    "Layout",
    "ModelInfo",
    "Preprocessing",
    "add_model",
    "architecture_of",
    "card_of",
    "check_name",
    "download",
    "list_models",
    "load_model",
    "named",
    "parse_model",
    "pick_device",
    "remove_model",
    "shipped",
    "smallest",
    "suggest",
    "with_classes",
    "wrap_model",
]
