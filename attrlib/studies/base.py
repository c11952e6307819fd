"""Base class of studies, their inputs and results, and the registry."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from attrlib.data.datasets import Dataset
from attrlib.engine.results import RunResult, Score
from attrlib.engine.run import RunListener
from attrlib.errors import SpecError
from attrlib.figures.numbers import json_value
from attrlib.figures.study_figure import StudyFigure
from attrlib.methods import resolve as resolve_method
from attrlib.models import Classifier, parse_model
from attrlib.registry import Paper, Param, Registry, param, params_of, parse_params
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, RunSpec, StudySpec, parse_methods, read_list
from attrlib.specs.codec import Parsers
from attrlib.store import Store
from attrlib.studies.traits import ModelTraits

Row = dict[str, object]


@dataclass(frozen=True, eq=False)
class ModelResults:
    """Results of the runs on one model; `further` holds what `Study.further` computed, by name."""

    traits: ModelTraits
    results: Sequence[RunResult]
    further: Mapping[str, Any] = field(default_factory=dict)

    def scores(self) -> Iterator[tuple[ProtocolSpec, MethodSpec, Score]]:
        """Yield protocol, method and score of all runs."""
        for result in self.results:
            for (protocol, method), score in result.scores.items():
                yield protocol, method, score

    def by_method(self, protocol: str) -> dict[str, Score]:
        """Return the scores under a protocol (in text form) by method."""
        return {str(m): score for p, m, score in self.scores() if str(p) == protocol}


@dataclass(frozen=True)
class Analysis:
    """Findings of a study: the main one in a sentence or two, further ones, table rows, and figures."""

    finding: str
    more: Sequence[str]
    rows: Sequence[Row]
    figures: Sequence[StudyFigure]


@dataclass(frozen=True, eq=False)
class StudyResult:
    """Result of a finished study.

    Attributes:
        spec: The study with its models, methods and data.
        title: Title of the study.
        question: The question that it asks.
        finding: The main finding in a sentence or two.
        more: Further findings.
        see: What to look for in the figures.
        saw: What the papers found.
        papers: The papers.
        rows: Rows of the table.
        figures: The figures.
        models: Names of the models.
        refused: Undefined combinations as (model, protocol, method, reason).
        notes: Remarks of the runs.
        computed: Number of results that were computed.
        cached: Number of results that were already cached.
        seconds: Seconds of computing the study, including earlier runs.
    """

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
    cached: int = 0
    seconds: float = 0.0

    @property
    def nbytes(self) -> int:
        """Return the approximate size in bytes."""
        return 200 * sum(len(row) for row in self.rows) + 150 * sum(len(s.points) for p in self.figures for q in p.panels for s in q.series)

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values. Numbers that are not finite become None."""
        fields = {name: getattr(self, name) for name in ("title", "question", "finding", "see", "saw", "computed", "seconds")}
        fields |= {"cached": self.cached, "study": str(self.spec), "cli": self.spec.cli(), "models": list(self.models)}
        fields["notes"] = list(self.notes)
        fields |= {"papers": [asdict(paper) for paper in self.papers], "rows": list(self.rows), "more": list(self.more)}
        fields["refused"] = [dict(zip(("model", "protocol", "method", "reason"), entry, strict=True)) for entry in self.refused]
        fields["figures"] = [asdict(figure) for figure in self.figures]
        return json_value(fields)


@dataclass(frozen=True)
class Study(ABC):
    """A question, the runs that answer it, and their analysis. A subclass is a frozen dataclass whose fields are its parameters.

    Attributes:
        name: Name in links and on the command line.
        number: Position in the list of studies.
        title: Title of the study.
        question: The question that it asks.
        see: What to look for in the figures.
        saw: What the papers found.
        papers: The papers.
        minutes: Time budget in minutes, for the shipped models on one core.
        limit: Items for each model: images, or grids.
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
    """Whether to measure accuracy on the data if the model card does not state it."""
    shows_notes: ClassVar[bool] = True
    """Whether the notes of the runs are of use; those on maps that the study made are not."""
    limit: int = param(16, "Items for each model: images, or grids", low=2, high=100_000)

    @abstractmethod
    def models(self) -> list[str]:
        """Return the names of the shipped models that the study runs on by default."""

    def prepared(
        self, spec: StudySpec, traits: ModelTraits, model: Classifier, data: Dataset, store: Store, on_progress: RunListener
    ) -> tuple[StudySpec, Dataset]:
        """Return the study and the data set for one model, before its runs. By default as given.

        Args:
            spec: The study with its models, methods and data.
            traits: Traits of the model.
            model: The model.
            data: The study's data set.
            store: Store of results.
            on_progress: Called with an event as the work advances; raises `Cancelled` to stop it.

        Raises:
            DataError: If the study is not defined on this model and its data.
        """
        return spec, data

    @abstractmethod
    def runs(self, spec: StudySpec, traits: ModelTraits, model: Classifier, main: bool) -> list[RunSpec]:
        """Return the runs for a model.

        Args:
            spec: The study with its models, methods and data.
            traits: Traits of the model.
            model: The model.
            main: Whether this is the first model, which some studies examine more closely.
        """

    def further(
        self, spec: StudySpec, traits: ModelTraits, model: Classifier, data: Dataset, store: Store, on_progress: RunListener
    ) -> Mapping[str, Any]:
        """Compute further values that the analysis needs, after the runs of a model. By default none.

        Args:
            spec: The study with its models, methods and data.
            traits: Traits of the model.
            model: The model.
            data: The data set.
            store: Store of results.
            on_progress: Called with an event as the work advances; raises `Cancelled` to stop it.

        Returns:
            Values by name, passed to `analyse` as `ModelResults.further`.
        """
        return {}

    @abstractmethod
    def analyse(self, results: Sequence[ModelResults]) -> Analysis:
        """Analyse the results, one for each model, without computing maps. Raises `DataError` if they allow no finding."""

    def run_of(
        self,
        spec: StudySpec,
        traits: ModelTraits,
        model: Classifier,
        protocols: Sequence[str],
        methods: Sequence[MethodSpec],
        seed: int | None = None,
    ) -> RunSpec:
        """Return a run on the study's data and items.

        Args:
            spec: The study with its models, methods and data.
            traits: Traits of the model.
            model: The model.
            protocols: Protocols in text form.
            methods: The methods; duplicates are removed.
            seed: Seed of the run; by default that of the study.
        """
        return RunSpec(
            model.spec, spec.data, tuple(ProtocolSpec.parse(p) for p in protocols), tuple(dict.fromkeys(methods)), self.limit,
            spec.seed if seed is None else seed, classes=spec.classes, deletion_tuned=traits.tuned and model.spec.checkpoint is not None,
        )  # fmt: skip


STUDIES: Registry[Study] = Registry("study", SpecError)


def deletion(traits: ModelTraits) -> str:
    """Return the variant of single deletion for a model: `idsds` if it was tuned on deleted patches, otherwise `sds`."""
    return "idsds" if traits.tuned else "sds"


def ordered() -> list[type[Study]]:
    """Return all studies, sorted by their number."""
    return sorted(STUDIES.values(), key=lambda cls: cls.number)


def create(spec: StudySpec) -> Study:
    """Create the study of a spec, with its parameters. Raises `SpecError` if one is not valid."""
    cls = STUDIES[spec.study]
    return cls(**parse_params(cls, dict(spec.params), spec.study))  # type: ignore[arg-type]


def resolve(spec: StudySpec) -> StudySpec:
    """Return the spec with its models and parameters filled in. Raises `SpecError` if no shipped model fits."""
    study = create(spec)
    params = tuple((p.name, getattr(study, p.name)) for p in params_of(type(study)))
    models = spec.models or tuple(ModelSpec(name) for name in study.models())
    if not models:
        raise SpecError(f"no shipped model fits the study {spec.study}; name some with --models")
    return replace(spec, params=params, models=models)


def parse_study(text: str) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """Parse `NAME:key=value:key=value` into a name and typed parameters. Raises `SpecError`."""
    parsed = ProtocolSpec.parse(text)
    cls = STUDIES[parsed.name]
    values = parse_params(cls, parsed.values, parsed.name)
    return parsed.name, tuple((name, values[name]) for name in parsed.values)


def _existing_methods(text: str) -> tuple[MethodSpec, ...]:
    methods = parse_methods(text)
    for method in methods:
        resolve_method(method)
    return methods


PARSERS: Parsers = {"study": parse_study, "models": lambda text: read_list(text, parse_model), "methods": _existing_methods}
"""Parsers of the fields of a `StudySpec` that are names. Each name must exist."""


@dataclass(frozen=True)
class StudyInfo:
    """Description of a study, available without running it."""

    name: str
    title: str
    question: str
    papers: tuple[Paper, ...]
    minutes: float
    models: tuple[str, ...]
    params: tuple[Param, ...]


def list_studies() -> list[StudyInfo]:
    """Return all registered studies, with their default models."""
    return [
        StudyInfo(cls.name, cls.title, cls.question, cls.papers, cls.minutes, tuple(cls().models()), params_of(cls)) for cls in ordered()
    ]
