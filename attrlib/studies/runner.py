"""Run a study model by model through the engine and its store, so that it can be stopped at any time and resumed."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attrlib.data.datasets import Dataset, anchored, load_dataset
from attrlib.engine.executors.choice import executors
from attrlib.engine.plan import make_plan
from attrlib.engine.results import RunResult
from attrlib.engine.run import Event, ExecutorFactory, local, run
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
from attrlib.studies.traits import ModelTraits, digest_of_weights, intrinsic_map, traits_of

Load = Callable[[ModelSpec, bool], Classifier]
TIMES = 64
"""Maximum number of runs of a study whose seconds are summed."""
DONE = "done"
STUDY_OPTIONS = tuple(p for p in options_of(StudySpec) if p.name != "data")
"""Keywords of `study` that are not parameters of the study itself."""


@dataclass(frozen=True)
class StudyEvent:
    """Progress of a study: the current step, the share done, and the estimated seconds left, None without an estimate."""

    doing: str
    share: float = 0.0
    seconds_left: float | None = None


@dataclass(frozen=True)
class StudyPlan:
    """Cost of a study: the number of cached and missing results, and the seconds and peak bytes to compute the missing ones.

    If `upper_bound`, the actual cost may be lower.
    """

    cached: int
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
    workers: int | None = None,
    cluster: str | None = None,
    on_progress: Listener[StudyEvent] = no_listener,
    **options: Any,
) -> StudyResult:
    """Run a study by name. Cached results are not computed again.

    Args:
        name: Name of the study, optionally with parameters, as in `smoothing:limit=8`.
        models: Models; by default the study's shipped models.
        data: Name, folder or file of the data set.
        methods: Methods; by default those of the study.
        store: Store of results; by default that of `open_store`.
        workers: As in `attrlib.score`.
        cluster: As in `attrlib.score`.
        on_progress: Called with an event every few passes; raises `Cancelled` to stop the study. Computed results stay cached.
        **options: Options of the study (listed below), and its parameters.

    Raises:
        AttrlibError: If an argument is not valid, or nothing is defined on any model.
    """
    study_name, params = parse_study(name)
    model_specs = tuple(m if isinstance(m, ModelSpec) else parse_model(m) for m in models)
    method_specs = tuple(m if isinstance(m, MethodSpec) else MethodSpec.parse(m) for m in methods)
    spec_options = {p.name: options.pop(p.name) for p in STUDY_OPTIONS if p.name in options}
    spec = StudySpec(study_name, tuple((dict(params) | options).items()), model_specs, str(data), method_specs, **spec_options)
    with executors(workers, cluster) as executor:
        return run_study(spec, store or open_store(), on_progress, executor=executor)


def run_study(
    spec: StudySpec,
    store: Store,
    on_progress: Listener[StudyEvent] = no_listener,
    load: Load = load_plain,
    data: Dataset | None = None,
    executor: ExecutorFactory = local,
) -> StudyResult:
    """Run a study: compute the results that are not cached, and analyse all of them.

    Args:
        spec: The study with its models, methods and data.
        store: Store of results.
        on_progress: Called with an event every few passes; raises `Cancelled` to stop the study.
        load: Loads a model from its spec and whether the study's checkpoints were tuned on deleted patches.
        data: The data set; by default loaded by the name in `spec`.
        executor: Returns the executor of each run.

    Raises:
        AttrlibError: If nothing is defined on any model.
    """
    return _StudyRun(spec, store, on_progress, load, data, executor).execute()


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
    running = _StudyRun(spec, store, no_listener, load, data, local)
    plans = []
    for number, model_spec in enumerate(running.resolved.models):
        traits, model = running.open(model_spec)
        prepared = running.prepared(traits, model)
        if prepared is None:
            continue
        spec_here, data_here = prepared
        for run_spec in running.study.runs(spec_here, traits, model, number == 0):
            try:
                plan = make_plan(run_spec, model, data_here, store)
                plans.append((plan, plan.estimate()))
            except REFUSED as error:
                running.refuse(traits, run_spec, error)
    if not plans:
        raise running.error
    return StudyPlan(
        sum(plan.cached for plan, _ in plans),
        sum(plan.missing for plan, _ in plans),
        sum(estimate.seconds for _, estimate in plans),
        max(estimate.nbytes for _, estimate in plans),
        any(plan.upper_bound for plan, _ in plans),
    )


REFUSED = (ProtocolError, MethodError, LayerError, DataError)
"""Errors that leave out a single run of a study, because it is not defined on that model or data set."""


def is_done(spec: StudySpec, store: Store) -> bool:
    """Return whether all results of a study are cached, for the present methods, protocols and weights."""
    _fields, key = _seconds_key(replace(resolve(spec), data=anchored(spec.data)))
    return DONE in store.records(key, [DONE])


def _seconds_key(spec: StudySpec) -> tuple[dict[str, object], str]:
    """Return the fields that the time of a study depends on, and their digest."""
    weights = [digest_of_weights(model) for model in spec.models]
    spec = replace(spec, methods=tuple(map(resolve_method, spec.methods)))
    key_fields: dict[str, object] = {"kind": "study", "study": spec, "weights": weights, "numerics": NUMERICS}
    key_fields |= {"methods": sorted(METHODS), "protocols": sorted(PROTOCOLS)}
    return key_fields, digest(key_fields)


class _StudyRun:
    """The state of one study."""

    def __init__(
        self, spec: StudySpec, store: Store, on_progress: Listener[StudyEvent], load: Load, data: Dataset | None, executor: ExecutorFactory
    ):
        self.spec, self.store, self.on_progress, self.load, self.executor = spec, store, on_progress, load, executor
        self.resolved = replace(resolve(spec), data=anchored(spec.data))
        self.study: Study = create(self.resolved)
        self.data = load_dataset(self.resolved.data) if data is None else data
        self.error: AttrlibError = DataError("the study has no runs; choose other models or methods")
        self.refused: list[tuple[str, str, str, str]] = []
        self.notes: list[str] = []
        self.computed = self.cached = self.number = 0
        self.durations: list[float] = []
        self.start, self.share = time.perf_counter(), 0.0

    def execute(self) -> StudyResult:
        start = time.perf_counter()
        try:
            results = [result for result in map(self._run_model, range(len(self.resolved.models))) if result is not None]
            if not results:
                raise self.error
            analysis = self.study.analyse(results)
        except Cancelled:
            self._seconds(time.perf_counter() - start, done=False)
            raise
        study = self.study
        return StudyResult(
            self.spec, study.title, study.question, analysis.finding, analysis.more, study.see, study.saw, study.papers, analysis.rows,
            analysis.figures, [result.traits.name for result in results], list(dict.fromkeys(self.refused)), list(dict.fromkeys([*self.notes, *self.store.notes])),
            self.computed, self.cached, self._seconds(time.perf_counter() - start, done=True),
        )  # fmt: skip

    def open(self, spec: ModelSpec) -> tuple[ModelTraits, Classifier]:
        """Load a model, and return its traits and the model."""
        traits, model = traits_of(spec, self.resolved.deletion_tuned), self.load(spec, self.resolved.deletion_tuned)
        return replace(traits, tuned=model.deletion_tuned, intrinsic=intrinsic_map(model)), model

    def prepared(self, traits: ModelTraits, model: Classifier) -> tuple[StudySpec, Dataset] | None:
        """Return the study and the data set for a model, None if the study is not defined on it; the reason is then recorded."""
        try:
            return self.study.prepared(
                self.resolved, traits, model, self.data, self.store, lambda event: self._report(f"{traits.name}: {event.doing}", 0.0)
            )
        except REFUSED as error:
            self.error = error
            self.refused.append((traits.name, "", "", str(error)))
            return None

    def refuse(self, traits: ModelTraits, run_spec: RunSpec, error: AttrlibError) -> None:
        """Leave out a run and record the reason."""
        self.error = error
        self.refused += [(traits.name, str(p), "", str(error)) for p in run_spec.protocols]

    def _run_model(self, number: int) -> ModelResults | None:
        """Execute all runs on one model. Return None if none is defined on it."""
        self.number, self.start, self.share = number, time.perf_counter(), 0.0
        computed = self.computed
        self._report(f"loading {self.resolved.models[number]}", 0.0)
        traits, model = self.open(self.resolved.models[number])
        prepared = self.prepared(traits, model)
        if prepared is None:
            return None
        (spec, data), results = prepared, list[RunResult]()
        runs = self.study.runs(spec, traits, model, number == 0)
        for position, run_spec in enumerate(runs):

            def on_progress(event: Event, position: int = position) -> None:
                # Before the first score, the run is still searching for items.
                fraction = event.done / event.total if event.total and event.scores else 0.0
                self._report(f"{traits.name}: {event.doing}", (position + fraction) / len(runs))

            try:
                result = run(make_plan(run_spec, model, data, self.store), on_progress, self.executor)
            except REFUSED as error:
                self.refuse(traits, run_spec, error)
                continue
            results.append(result)
            self.refused += [(traits.name, str(p), str(m), why) for p, m, why in result.refused]
            self.notes += result.notes if self.study.shows_notes else ()
            self.computed, self.cached = self.computed + result.computed, self.cached + result.cached
        if not results:
            return None
        if self.study.wants_accuracy and traits.accuracy is None:
            traits = replace(traits, accuracy=accuracy_on(model, data, spec, self.study.limit, self.store))
        further = self.study.further(spec, traits, model, data, self.store, lambda event: self._report(event.doing, 1.0))
        if self.computed > computed:
            self.durations.append(time.perf_counter() - self.start)
        return ModelResults(traits, results, further)

    def _report(self, doing: str, share: float) -> None:
        """Report progress. The time left is estimated from the models so far."""
        # The share must not decrease when the total changes because a combination turns out to be undefined.
        share = self.share = max(share, self.share)
        elapsed, models = time.perf_counter() - self.start, len(self.resolved.models)
        expected = [*self.durations, *([elapsed / share] if share > 0.02 else [])]
        left = None
        if expected:
            mean = sum(expected) / len(expected)
            left = max(0.0, expected[-1] - elapsed if share > 0.02 else mean) + mean * (models - self.number - 1)
        self.on_progress(StudyEvent(doing, (self.number + share) / models, left))

    def _seconds(self, seconds: float, done: bool) -> float:
        """Store the seconds of this run of the study, and return the total over all its runs."""
        (key_fields, key), items = _seconds_key(self.resolved), [str(k) for k in range(TIMES)]
        before = self.store.records(key, items)
        new = {DONE: Record(0.0)} if done else {}
        if self.computed or not before:
            new |= {item: Record(seconds) for item in [item for item in items if item not in before][:1]}
        else:
            seconds = 0.0
        self.store.add_records(key, key_fields, new)
        return seconds + sum(earlier.value for earlier in before.values())
