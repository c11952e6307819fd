"""What a study is, what it gets to look at, what comes out, and the registry of all of them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from attrlib.data.datasets import Dataset
from attrlib.engine.results import RunResult, Score
from attrlib.engine.run import Watch
from attrlib.errors import SpecError
from attrlib.figures.study_figure import StudyFigure
from attrlib.methods import resolve as resolve_method
from attrlib.models import Classifier, parse_model
from attrlib.registry import Paper, Param, Registry, param, params_of, parse_params
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, RunSpec, StudySpec, parse_methods, read_list
from attrlib.specs.codec import Parsers
from attrlib.statistics import Difference, paired_difference
from attrlib.store import Store
from attrlib.studies.traits import ModelTraits

Row = dict[str, object]


@dataclass(frozen=True, eq=False)
class ModelResults:
    """What the runs on one model gave; `further` is what the study computed besides, by name."""

    traits: ModelTraits
    results: Sequence[RunResult]
    further: Mapping[str, Any] = field(default_factory=dict)

    def scores(self) -> Iterator[tuple[ProtocolSpec, MethodSpec, Score]]:
        """All scores with what they are of."""
        for result in self.results:
            for (protocol, method), score in result.scores.items():
                yield protocol, method, score

    def by_method(self, protocol: str) -> dict[str, Score]:
        """The scores under a protocol (in text form) by method."""
        return {str(m): score for p, m, score in self.scores() if str(p) == protocol}


@dataclass(frozen=True)
class Analysis:
    """What a study says: the finding in a sentence or two, and more of it, with the numbers in them; table rows, figures."""

    finding: str
    more: Sequence[str]
    rows: Sequence[Row]
    figures: Sequence[StudyFigure]


@dataclass(frozen=True, eq=False)
class StudyResult:
    """A study that is done. `seconds` are those of computing it, whenever that was; `refused` names what is not defined, with the reason."""

    spec: StudySpec
    title: str
    question: str
    finding: str
    more: Sequence[str]
    see: str
    saw: str
    papers: Sequence[Paper]
    rows: Sequence[Row]
    figures: Sequence[StudyFigure]
    models: Sequence[str]
    refused: Sequence[tuple[str, str, str, str]] = ()
    notes: Sequence[str] = ()
    computed: int = 0
    known: int = 0
    seconds: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, roughly."""
        return 200 * sum(len(row) for row in self.rows) + 150 * sum(len(s.points) for p in self.figures for q in p.panels for s in q.series)

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON values; what is not finite is None."""
        fields = {name: getattr(self, name) for name in ("title", "question", "finding", "see", "saw", "computed", "known", "seconds")}
        fields |= {"study": str(self.spec), "cli": self.spec.cli(), "models": list(self.models), "notes": list(self.notes)}
        fields |= {"papers": [asdict(paper) for paper in self.papers], "rows": list(self.rows), "more": list(self.more)}
        fields["refused"] = [dict(zip(("model", "protocol", "method", "reason"), own, strict=True)) for own in self.refused]
        fields["figures"] = [asdict(figure) for figure in self.figures]
        return _plain(fields)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Study(ABC):
    """One question, as runs of the engine and what is to be read from them. A subclass is a frozen dataclass, its fields its parameters.

    `number` is its place among the studies, `see` says what to look for in the figure, `saw` what the papers found, `minutes` the budget on the shipped models on one core.
    """

    name: ClassVar[str]
    number: ClassVar[int]
    title: ClassVar[str]
    question: ClassVar[str]
    see: ClassVar[str]
    saw: ClassVar[str]
    papers: ClassVar[tuple[Paper, ...]]
    minutes: ClassVar[float]
    wants_accuracy: ClassVar[bool] = False
    """Whether accuracy is measured on the data where no card tells it."""
    limit: int = param(16, "Items for each model: images, or grids", low=2, high=100_000)

    @abstractmethod
    def models(self) -> list[str]:
        """The shipped models that it runs on by default."""

    @abstractmethod
    def runs(self, given: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        """What is to be scored on a model; `main` for the first one, where a study looks at one closely."""

    def further(
        self, given: StudySpec, traits: ModelTraits, model: Classifier, data: Dataset, store: Store, watch: Watch
    ) -> Mapping[str, Any]:
        """What else is to be known of a model, after its runs."""
        return {}

    @abstractmethod
    def analyse(self, found: Sequence[ModelResults]) -> Analysis:
        """What the scores say, from nothing but the scores. Raises `DataError` where they say nothing."""

    def run_of(
        self,
        given: StudySpec,
        traits: ModelTraits,
        model: Classifier,
        protocols: Sequence[str],
        methods: Sequence[MethodSpec],
        seed: int | None = None,
    ) -> RunSpec:
        """A run on the study's data and items."""
        return RunSpec(
            model.spec, given.data, tuple(ProtocolSpec.parse(p) for p in protocols), tuple(dict.fromkeys(methods)), self.limit,
            given.seed if seed is None else seed, classes=given.classes, deletion_tuned=traits.tuned and model.spec.checkpoint is not None,
        )  # fmt: skip


STUDIES: Registry[Study] = Registry("study", SpecError)


def deletion(traits: ModelTraits) -> str:
    """Single deletion as the model allows it: in its domain where it was tuned for it."""
    return "idsds" if traits.tuned else "sds"


def ordered() -> list[type[Study]]:
    """All studies by their number."""
    return sorted(STUDIES.values(), key=lambda cls: cls.number)


def create(spec: StudySpec) -> Study:
    """The study of a spec, with its parameters. Raises `SpecError`."""
    cls = STUDIES[spec.study]
    return cls(**parse_params(cls, dict(spec.params), spec.study))  # type: ignore[arg-type]


def resolve(spec: StudySpec) -> StudySpec:
    """The spec with its models and parameters filled in."""
    study = create(spec)
    params = tuple((p.name, getattr(study, p.name)) for p in params_of(type(study)))
    models = spec.models or tuple(ModelSpec(name) for name in study.models())
    if not models:
        raise SpecError(f"no shipped model fits the study {spec.study}; name some with --models")
    return replace(spec, params=params, models=models)


def parse_study(text: str) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """`NAME:key=value:key=value` as name and parameters in type, those that are not given left out. Raises `SpecError`."""
    own = ProtocolSpec.parse(text)
    cls = STUDIES[own.name]
    values = parse_params(cls, own.values, own.name)
    return own.name, tuple((name, values[name]) for name in own.values)


def _known_methods(text: str) -> tuple[MethodSpec, ...]:
    methods = parse_methods(text)
    for method in methods:
        resolve_method(method)
    return methods


PARSERS: Parsers = {"study": parse_study, "models": lambda text: read_list(text, parse_model), "methods": _known_methods}
"""What reads the fields of a `StudySpec` that name something: each must be known."""


@dataclass(frozen=True)
class StudyInfo:
    """What is known of a study without running it."""

    name: str
    title: str
    question: str
    papers: tuple[Paper, ...]
    minutes: float
    models: tuple[str, ...]
    params: tuple[Param, ...]


def list_studies() -> list[StudyInfo]:
    """All registered studies, with the shipped models that they run on by default."""
    return [
        StudyInfo(cls.name, cls.title, cls.question, cls.papers, cls.minutes, tuple(cls().models()), params_of(cls)) for cls in ordered()
    ]


def paired(a: Score, b: Score) -> Difference:
    """How much higher a is than b on the items that both have, in whatever order, with its interval."""
    return paired_difference(*aligned(a, b))


def aligned(a: Score, b: Score) -> tuple[np.ndarray, np.ndarray]:
    """Counted values of the items that both scores have, in one order."""
    other = dict(zip(b.ids, b.counted, strict=True))
    pairs = [(value, other[item]) for item, value in zip(a.ids, a.counted, strict=True) if item in other]
    return np.array([p for p, _ in pairs]), np.array([q for _, q in pairs])
