"""Run a study model by model through the engine and its store, so that nothing is computed twice and it can stop at any time."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attrlib.data.datasets import Dataset, anchored, load_dataset
from attrlib.engine.plan import make_plan
from attrlib.engine.results import RunResult
from attrlib.engine.run import Event, run
from attrlib.errors import AttrlibError, Cancelled, DataError, LayerError, MethodError, ProtocolError
from attrlib.methods import METHODS
from attrlib.methods import resolve as resolve_method
from attrlib.models import Classifier, load_model, parse_model
from attrlib.progress import Listener, no_listener
from attrlib.protocols import PROTOCOLS
from attrlib.specs import NUMERICS, MethodSpec, ModelSpec, RunSpec, StudySpec, digest, options_of
from attrlib.specs.codec import documented
from attrlib.store import Record, Store, open_store
from attrlib.studies.base import ModelResults, Study, StudyResult, create, parse_study, resolve
from attrlib.studies.measure import accuracy_on
from attrlib.studies.traits import ModelTraits, digest_of_weights, own_map, traits_of

Load = Callable[[ModelSpec, bool], Classifier]
TIMES = 64
"""Most runs of one study whose seconds are added up."""
DONE = "done"
STUDY_OPTIONS = tuple(p for p in options_of(StudySpec) if p.name != "data")
"""Keywords of `study` that are not parameters of the study itself."""


@dataclass(frozen=True)
class StudyEvent:
    """Progress of a study: the current step, the share done, and seconds left (None while there is no estimate)."""

    doing: str
    share: float = 0.0
    seconds_left: float | None = None


@dataclass(frozen=True)
class StudyPlan:
    """Cost of a study: number of cached (`known`) and `missing` results, and seconds and peak bytes to compute the missing ones.

    With `upper_bound` the costs are at most these.
    """

    known: int
    missing: int
    seconds: float
    nbytes: int
    upper_bound: bool


def load_plain(spec: ModelSpec, deletion_tuned: bool) -> Classifier:
    """Load a model onto the best available device.

    Args:
        spec: The model.
        deletion_tuned: Whether its checkpoint, if it has one, was tuned on deleted patches.
    """
    tuned = deletion_tuned and spec.checkpoint is not None
    return load_model(spec.architecture, deletion_tuned=tuned, **spec.options())


@documented(STUDY_OPTIONS)
def study(
    name: str,
    models: Iterable[str | ModelSpec] = (),
    data: str | Path = "birds",
    *,
    methods: Iterable[str | MethodSpec] = (),
    store: Store | None = None,
    on_progress: Listener[StudyEvent] = no_listener,
    **options: Any,
) -> StudyResult:
    """Run a study by name. Cached results are not computed again.

    Args:
        name: Name of the study, with parameters if wanted (`smoothing:limit=8`).
        models: Models; by default the shipped models that the study asks for.
        data: Name, folder or file of the data set.
        methods: Methods; by default those that the study asks for.
        store: Store of results; by default that of `open_store`.
        on_progress: Called with an event every few passes; raises `Cancelled` to stop the study. Computed results are kept.
        **options: Options of the study (listed below), and its parameters.

    Raises:
        AttrlibError: If an argument is not valid, or nothing is defined on any model.
    """
    own, given = parse_study(name)
    chosen = tuple(m if isinstance(m, ModelSpec) else parse_model(m) for m in models)
    asked = tuple(m if isinstance(m, MethodSpec) else MethodSpec.parse(m) for m in methods)
    of_spec = {p.name: options.pop(p.name) for p in STUDY_OPTIONS if p.name in options}
    spec = StudySpec(own, tuple((dict(given) | options).items()), chosen, str(data), asked, **of_spec)
    return run_study(spec, store or open_store(), on_progress)


def run_study(
    spec: StudySpec, store: Store, on_progress: Listener[StudyEvent] = no_listener, load: Load = load_plain, data: Dataset | None = None
) -> StudyResult:
    """Run a study: compute what is not in the store, and analyse the results.

    Args:
        spec: The study with its models, methods and data.
        store: Store of results.
        on_progress: Called with an event every few passes; raises `Cancelled` to stop the study.
        load: Loads a model from its spec and whether the study's checkpoints were tuned on deleted patches.
        data: The data set; by default loaded by the name in `spec`.

    Raises:
        AttrlibError: If nothing is defined on any model.
    """
    return _Running(spec, store, on_progress, load, data).execute()


def plan_study(spec: StudySpec, store: Store, load: Load = load_plain, data: Dataset | None = None) -> StudyPlan:
    """Plan a study: count cached and missing results, and estimate the cost of the missing ones.

    Args:
        spec: As in `run_study`.
        store: As in `run_study`.
        load: As in `run_study`.
        data: As in `run_study`.

    Raises:
        AttrlibError: If nothing is defined on any model.
    """
    running = _Running(spec, store, no_listener, load, data)
    plans = []
    for number, model_spec in enumerate(running.given.models):
        traits, model = running.open(model_spec)
        for own in running.study.runs(running.given, traits, model, number == 0):
            try:
                plan = make_plan(own, model, running.data, store)
                plans.append((plan, plan.estimate()))
            except REFUSED as error:
                running.refuse(traits, own, error)
    if not plans:
        raise running.error
    return StudyPlan(
        sum(plan.known for plan, _ in plans),
        sum(plan.missing for plan, _ in plans),
        sum(estimate.seconds for _, estimate in plans),
        max(estimate.nbytes for _, estimate in plans),
        any(plan.upper_bound for plan, _ in plans),
    )


REFUSED = (ProtocolError, MethodError, LayerError, DataError)
"""Errors that leave out one run of a study, as it is not defined on that model or those data."""


def is_done(spec: StudySpec, store: Store) -> bool:
    """Return whether a study was computed completely before, with the present methods, protocols and weights."""
    _about, key = _seconds_key(replace(resolve(spec), data=anchored(spec.data)))
    return DONE in store.records(key, [DONE])


def _seconds_key(given: StudySpec) -> tuple[dict[str, object], str]:
    """Return everything that the time of a study depends on, and its digest."""
    weights = [digest_of_weights(model) for model in given.models]
    given = replace(given, methods=tuple(map(resolve_method, given.methods)))
    about: dict[str, object] = {"kind": "study", "study": given, "weights": weights, "numerics": NUMERICS}
    about |= {"methods": sorted(METHODS), "protocols": sorted(PROTOCOLS)}
    return about, digest(about)


class _Running:
    """The state of one study."""

    def __init__(self, spec: StudySpec, store: Store, on_progress: Listener[StudyEvent], load: Load, data: Dataset | None):
        self.spec, self.store, self.on_progress, self.load = spec, store, on_progress, load
        self.given = replace(resolve(spec), data=anchored(spec.data))
        self.study: Study = create(self.given)
        self.data = load_dataset(self.given.data) if data is None else data
        self.error: AttrlibError = DataError("there is nothing to study")
        self.refused: list[tuple[str, str, str, str]] = []
        self.notes: list[str] = []
        self.computed = self.known = self.number = 0
        self.lengths: list[float] = []

    def execute(self) -> StudyResult:
        begun = time.perf_counter()
        try:
            found = [own for own in map(self._look_at, range(len(self.given.models))) if own is not None]
            if not found:
                raise self.error
            analysis = self.study.analyse(found)
        except Cancelled:
            self._seconds(time.perf_counter() - begun, done=False)
            raise
        own = self.study
        return StudyResult(
            self.spec, own.title, own.question, analysis.finding, analysis.more, own.see, own.saw, own.papers, analysis.rows, analysis.figures,
            [f.traits.name for f in found], list(dict.fromkeys(self.refused)), list(dict.fromkeys([*self.notes, *self.store.notes])),
            self.computed, self.known, self._seconds(time.perf_counter() - begun, done=True),
        )  # fmt: skip

    def open(self, spec: ModelSpec) -> tuple[ModelTraits, Classifier]:
        """Load a model, and return its traits and the model."""
        traits, model = traits_of(spec, self.given.deletion_tuned), self.load(spec, self.given.deletion_tuned)
        return replace(traits, tuned=model.deletion_tuned, own=own_map(model)), model

    def refuse(self, traits: ModelTraits, own: RunSpec, error: AttrlibError) -> None:
        """Leave out a run, and keep the reason."""
        self.error = error
        self.refused += [(traits.name, str(p), "", str(error)) for p in own.protocols]

    def _look_at(self, number: int) -> ModelResults | None:
        """Run everything on one model. Return None if nothing is defined on it."""
        self.number, self.begun, self.share = number, time.perf_counter(), 0.0
        computed = self.computed
        self._tell(f"loading {self.given.models[number]}", 0.0)
        traits, model = self.open(self.given.models[number])
        results: list[RunResult] = []
        runs = self.study.runs(self.given, traits, model, number == 0)
        for place, own in enumerate(runs):

            def on_progress(event: Event, place: int = place) -> None:
                # Until there is a first score, the run is still searching for items.
                far = event.done / event.total if event.total and event.scores else 0.0
                self._tell(f"{traits.name}: {event.doing}", (place + far) / len(runs))

            try:
                result = run(make_plan(own, model, self.data, self.store), on_progress)
            except REFUSED as error:
                self.refuse(traits, own, error)
                continue
            results.append(result)
            self.refused += [(traits.name, str(p), str(m), why) for p, m, why in result.refused]
            self.notes += result.notes
            self.computed, self.known = self.computed + result.computed, self.known + result.known
        if not results:
            return None
        if self.study.wants_accuracy and traits.accuracy is None:
            traits = replace(traits, accuracy=accuracy_on(model, self.data, self.given, self.study.limit, self.store))
        further = self.study.further(self.given, traits, model, self.data, self.store, lambda event: self._tell(event.doing, 1.0))
        if self.computed > computed:
            self.lengths.append(time.perf_counter() - self.begun)
        return ModelResults(traits, results, further)

    def _tell(self, doing: str, share: float) -> None:
        """Report progress. The time left is estimated from the models so far."""
        # The share must not fall, although the total changes when something turns out to be undefined.
        share = self.share = max(share, self.share)
        elapsed, models = time.perf_counter() - self.begun, len(self.given.models)
        expected = [*self.lengths, *([elapsed / share] if share > 0.02 else [])]
        left = None
        if expected:
            mean = sum(expected) / len(expected)
            left = max(0.0, expected[-1] - elapsed if share > 0.02 else mean) + mean * (models - self.number - 1)
        self.on_progress(StudyEvent(doing, (self.number + share) / models, left))

    def _seconds(self, these: float, done: bool) -> float:
        """Return the seconds of computing the study over all its runs, which are kept in the store."""
        (about, key), items = _seconds_key(self.given), [str(k) for k in range(TIMES)]
        before = self.store.records(key, items)
        new = {DONE: Record(0.0)} if done else {}
        if self.computed or not before:
            new |= {item: Record(these) for item in [item for item in items if item not in before][:1]}
        else:
            these = 0.0
        self.store.add_records(key, about, new)
        return these + sum(record.value for record in before.values())
