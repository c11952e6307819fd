from . import (
    aggregation,
    analysis,
    binning,
    cli,
    data,
    diagnosis,
    diagnostics,
    engine,
    errors,
    figures,
    methods,
    models,
    protocols,
    retraining,
    specs,
    statistics,
    store,
    studies,
    targets,
    training,
    tuning,
)
from .aggregation.view import Aggregation
from .api import compare, explain, score
from .binning import Aggregate, aggregate
from .data.datasets import Dataset, list_datasets, load_dataset
from .data.pictures import open_image
from .diagnosis import Diagnosis, doctor
from .engine.results import RunResult, Score
from .errors import (
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
    TargetError,
)
from .methods import Attribution, Preset, list_methods, list_presets
from .models import Classifier, add_model, list_models, load_model, remove_model, wrap_model
from .postprocess import resize, smooth
from .protocols import list_protocols
from .retraining import RoarResult, roar
from .specs import (
    AggregateSpec,
    AggregateView,
    ExplainSpec,
    MethodSpec,
    ModelSpec,
    ProtocolSpec,
    RoarSpec,
    RunSpec,
    StudySpec,
    TargetSpec,
    TuneSpec,
    ViewSpec,
)
from .store import Store, open_store
from .studies import StudyResult, list_studies, study
from .targets import list_targets
from .tuning import TuneResult, tune

__version__: str
__all__ = [
    "Aggregate",
    "AggregateSpec",
    "AggregateView",
    "Aggregation",
    "Attribution",
    "AttrlibError",
    "Cancelled",
    "Classifier",
    "DataError",
    "Dataset",
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
    "RoarResult",
    "RoarSpec",
    "RunResult",
    "RunSpec",
    "Score",
    "SpecError",
    "Store",
    "StoreError",
    "StudyResult",
    "StudySpec",
    "TargetError",
    "TargetSpec",
    "TuneResult",
    "TuneSpec",
    "ViewSpec",
    "add_model",
    "aggregate",
    "compare",
    "doctor",
    "explain",
    "list_datasets",
    "list_methods",
    "list_models",
    "list_presets",
    "list_protocols",
    "list_studies",
    "list_targets",
    "load_dataset",
    "load_model",
    "open_image",
    "open_store",
    "remove_model",
    "resize",
    "roar",
    "score",
    "smooth",
    "study",
    "tune",
    "wrap_model",
]
