"""Runs as jobs: their cost, their execution and unfinished runs. Two pages that ask for the same run share one job."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attrlib.analysis.agreement import Agreement, Pair, agreements
from attrlib.analysis.differences import from_best
from attrlib.analysis.funnybirds import Dimensions, dimensions_of
from attrlib.analysis.leaderboard import leaderboard
from attrlib.data.datasets import Dataset
from attrlib.engine.executors.choice import configured
from attrlib.engine.jobs import Job, Priority, State, queue
from attrlib.engine.plan import Estimate, Plan, make_plan
from attrlib.engine.results import RunResult, Score
from attrlib.engine.run import Event, run
from attrlib.errors import AttrlibError
from attrlib.figures.leaderboard import LeaderboardRow
from attrlib.progress import NewsProgress
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, RunSpec, digest
from attrlib.specs.maps import map_files
from attrlib.statistics import Difference
from attrlib.store import Run, open_store
from attrlib.studies.trust import Kind, kind_of
from pages.shared import jobs
from pages.shared.roots import load_data
from pages.shared.short import short_run

FRESH = 20
"""Seconds for which the list of unfinished runs is reused."""
_ended: list[str] = []
# Keys of the runs that have ended in this process. Each may change what is cached and what is unfinished.


@dataclass(frozen=True, eq=False)
class Finished:
    """A finished run with its analysis.

    Attributes:
        result: The scores.
        leaderboards: The rows of each protocol, best first.
        differences: For each protocol, how much higher each method scores than the best, by method.
        agreement: The agreement of each pair of protocols.
        dimensions: For each protocol that has them, the dimensions of FunnyBirds by method.
        data: The data set that item indices refer to.
        model_digest: Digest of the model's weights.
        kind: The kind of model, None if unknown.
    """

    result: RunResult
    leaderboards: Mapping[ProtocolSpec, Sequence[LeaderboardRow]]
    differences: Mapping[ProtocolSpec, Mapping[str, Difference]]
    agreement: Mapping[Pair, Agreement]
    dimensions: Mapping[ProtocolSpec, Mapping[MethodSpec, Dimensions]]
    data: Dataset
    model_digest: str
    kind: Kind | None = None

    @property
    def run_key(self) -> str:
        """Return the run's name in the store."""
        return digest(self.result.spec, self.model_digest)

    @property
    def nbytes(self) -> int:
        """Return the approximate size in bytes: numbers, item names and the details of each item."""
        return sum(200 * len(score.values) for score in self.result.scores.values())

    def score(self, protocol: str, method: str) -> Score | None:
        """Return the score of a method under a protocol, both in text form."""
        return self.result.score(protocol, method)

    @property
    def manifest(self) -> Run | None:
        """Return the stored manifest of the run, or None if it was pruned."""
        return next((r for r in open_store().runs() if r.key == self.run_key), None)


@dataclass(frozen=True)
class Unfinished:
    """A run that was stopped by a user or together with the server."""

    spec: RunSpec
    state: str
    updated: str


def find(spec: RunSpec) -> Job | None:
    """Return the job of this run in this process, if there is one."""
    return jobs.device_queue().find(_key(spec))


def start(spec: RunSpec) -> Job:
    """Start the run, or resume it where it was stopped; a run in progress continues unchanged."""
    plan = prepare(spec).plan

    def execute(on_progress: NewsProgress) -> Finished:
        try:
            return _run(spec, plan.plan if plan else None, on_progress)
        finally:
            _ended.append(_key(spec))

    return jobs.restart(jobs.device_queue(), _key(spec), execute, Priority.LONG)


def _key(spec: RunSpec) -> str:
    return digest("run", spec, jobs.stamp(spec.model), [_folder_stamp(path) for path in map_files(spec.methods)])


def _run(spec: RunSpec, plan: Plan | None, on_progress: NewsProgress) -> Finished:
    """Execute a run with the plan whose cost was shown, or with a new one."""
    plan = plan or _plan(spec, on_progress)
    with configured() as executor:
        result = run(plan, lambda event: on_progress(event.done, event.total, event), executor)
    leaderboards = {protocol: leaderboard(result, protocol, len(plan.data.class_names)) for protocol in result.protocols}
    differences: dict[ProtocolSpec, dict[str, Difference]] = {}
    for protocol, rows in leaderboards.items():
        scores = {str(method): score for method, score in result.of_protocol(protocol).items()}
        differences[protocol] = {}
        for method, difference in from_best(scores, [row.method for row in rows]):
            differences[protocol][method] = difference
            on_progress(result.computed, result.computed)
    agreement = {}
    for pair, value in agreements(result):
        agreement[pair] = value
        on_progress(result.computed, result.computed)
    kind = kind_of(plan.evaluators[0].model)
    return Finished(result, leaderboards, differences, agreement, dimensions_of(result), plan.data, plan.model_digest, kind)


def _plan(spec: RunSpec, on_progress: NewsProgress) -> Plan:
    """Load models and data, and plan a run."""
    models = [jobs.result_of(loading, on_progress, Event(f"loading {model_spec}")) for model_spec, loading in _loading(spec)]
    on_progress(0, 0, Event(f"reading {spec.data}"))
    return make_plan(spec, models[0], load_data(spec.data), open_store(), filter_models=models[1:])


def _loading(spec: RunSpec) -> list[tuple[ModelSpec, Job]]:
    """Return the jobs that load the run's model and its filter models."""
    others = [(each, jobs.model_job(each, spec.deletion_tuned and each.checkpoint is not None)) for each in spec.filter_models]
    return [(spec.model, jobs.model_job(spec.model, spec.deletion_tuned)), *others]


@dataclass(frozen=True)
class Planned:
    """A plan with its estimated cost."""

    plan: Plan
    estimate: Estimate


@dataclass(frozen=True)
class Stage:
    """A job that must end before the cost is known, with a description."""

    job: Job
    doing: str

    @property
    def plan(self) -> Planned | None:
        """Return the plan with its cost once it has been made, else None."""
        return self.job.result if isinstance(self.job.result, Planned) else None


def prepare(spec: RunSpec) -> Stage:
    """Return the next step towards the cost of a run: the model, the data set, then the plan. Call it again when the step has ended."""
    models = []
    for model_spec, loading in _loading(spec):
        if loading.state is not State.DONE:
            return Stage(loading, f"Loading {model_spec}")
        models.append(loading.result)
    listing = queue("data").submit(digest("data", spec.data, _folder_stamp(spec.data)), lambda _progress: load_data(spec.data))
    if listing.state is not State.DONE:
        return Stage(listing, f"Reading {spec.data}")
    data: Dataset = listing.result

    def plan(on_progress: NewsProgress) -> Planned:
        new_plan = make_plan(spec, models[0], data, open_store(), filter_models=models[1:], on_progress=on_progress)
        return Planned(new_plan, new_plan.estimate())

    key = digest("plan", _key(spec), listing.key, len(_ended))
    return Stage(jobs.device_queue().submit(key, plan, jobs.PATIENCE, priority=Priority.QUICK), "Estimating the cost")


def _folder_stamp(source: str) -> list[int]:
    """Return when a folder and its direct entries were last changed, so that an added or removed picture is noticed."""
    try:
        path = Path(source).expanduser()
        inside = [entry.stat().st_mtime_ns for entry in os.scandir(path) if entry.is_dir()] if path.is_dir() else []
        return [path.stat().st_mtime_ns, len(inside), max(inside, default=0)]
    except (OSError, RuntimeError, ValueError):
        return []


def unfinished() -> list[Unfinished]:
    """Return the stopped runs in the store that no job of this process is working on, latest first."""
    job = queue("store").submit(
        digest("unfinished", str(open_store().folder), len(_ended), int(time.time() / FRESH)), lambda _progress: _stopped()
    )
    # Reading a large store takes longer; the list then appears at the next rerun.
    if not job.wait(0.5) or job.state is not State.DONE:
        return []
    return [each for each in job.result if not _is_active(each.spec)]


def _is_active(spec: RunSpec) -> bool:
    job = find(spec)
    return job is not None and (not job.ended or job.state is State.DONE)


def _stopped() -> list[Unfinished]:
    stopped, done = [], set()
    for stored in open_store().runs():
        try:
            spec = short_run(RunSpec.from_json(stored.spec["spec"]))
        except (AttrlibError, KeyError):
            continue
        if stored.state == "done":
            done.add(spec)
        elif stored.state in ("running", "cancelled") and not (spec.model.architecture.startswith("wrapped:") or spec.in_memory):
            stopped.append(Unfinished(spec, stored.state, stored.updated))
    latest = {each.spec: each for each in sorted(stopped, key=lambda each: each.updated) if each.spec not in done}
    return list(latest.values())[::-1]
