"""Classifiers: loading, wrapping, layers."""

from attrlib.models.classifier import Classifier, pick_device
from attrlib.models.layers import NAMED, Layer, Layout
from attrlib.models.preprocessing import Preprocessing
from attrlib.models.zoo import EMBEDDED, ModelInfo, check_name, list_models, load_model, wrap_model

__all__ = [
    "EMBEDDED",
    "NAMED",
    "Classifier",
    "Layer",
    "Layout",
    "ModelInfo",
    "Preprocessing",
    "check_name",
    "list_models",
    "load_model",
    "pick_device",
    "wrap_model",
]
