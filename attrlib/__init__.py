"""attrlib: attribution maps of image classifiers, and which of them to trust."""

import attrlib._openmp  # must come before torch
import attrlib._torchvision  # noqa: F401  must come before torchvision and timm
from attrlib.aggregate import Aggregate, aggregate
from attrlib.api import compare, explain, score
from attrlib.data.datasets import list_datasets, load_dataset
from attrlib.data.pictures import open_image
from attrlib.doctor import Diagnosis, doctor
from attrlib.engine.results import RunResult, Score
from attrlib.errors import (
    AttrlibError,
    Cancelled,
    DataError,
    ImageError,
    LayerError,
    MethodError,
    ModelError,
    ProtocolError,
    SpecError,
    StoreError,
)
from attrlib.methods import Attribution, Preset, list_methods, list_presets
from attrlib.methods.custom import load_custom
from attrlib.models import Classifier, list_models, load_model, wrap_model
from attrlib.postprocess import resize, smooth
from attrlib.protocols import list_protocols
from attrlib.specs import ExplainSpec, MethodSpec, ModelSpec, ProtocolSpec, RunSpec, ViewSpec

__version__ = "0.2.0"
__all__ = [
    "Aggregate",
    "Attribution",
    "AttrlibError",
    "Cancelled",
    "Classifier",
    "DataError",
    "Diagnosis",
    "ExplainSpec",
    "ImageError",
    "LayerError",
    "MethodError",
    "MethodSpec",
    "ModelError",
    "ModelSpec",
    "Preset",
    "ProtocolError",
    "ProtocolSpec",
    "RunResult",
    "RunSpec",
    "Score",
    "SpecError",
    "StoreError",
    "ViewSpec",
    "aggregate",
    "compare",
    "doctor",
    "explain",
    "list_datasets",
    "list_methods",
    "list_models",
    "list_presets",
    "list_protocols",
    "load_dataset",
    "load_model",
    "open_image",
    "resize",
    "score",
    "smooth",
    "wrap_model",
]

load_custom()
