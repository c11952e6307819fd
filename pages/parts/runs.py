"""Runs as jobs: what one will cost, the run itself, and those that did not end. Two pages that ask for the same run share one job."""

import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attrlib.data.datasets import Dataset
from attrlib.engine.agreement import Pair, agreements
from attrlib.engine.jobs import Job, Priority, State, queue
from attrlib.engine.plan import Plan, make_plan
from attrlib.engine.published import published
from attrlib.engine.run import Event, run
from attrlib.engine.scores import RunResult, Score
from attrlib.errors import AttrlibError, Cancelled
from attrlib.progress import NewsProgress
from attrlib.specs import ModelSpec, ProtocolSpec, RunSpec, digest
from attrlib.statistics import Correlation, Difference, paired_difference
from attrlib.store import Run, open_store
from pages.parts import work
from pages.parts.roots import load_data
from pages.parts.short import short_run

FRESH = 20
"""Seconds for which the list of unfinished runs is taken as it was."""
_ended: list[str] = []
# Keys of the runs of this process that have ended: what is known, and what is unfinished, may be different after each.


@dataclass(frozen=True, eq=False)
class Finished:
    """A run that is done: its scores, their table, how far each method is behind the best, and the data that its items count in.

    `agree` says of each pair of protocols how far they agree, over methods and over items. A row of the table has the value of the paper,
    `paper`, where it has any for the protocol.
    """

    result: RunResult
    rows: list[dict[str, Any]]
    behind: Mapping[ProtocolSpec, Mapping[str, Difference]]
    agree: Mapping[Pair, tuple[Correlation, Correlation]]
    data: Dataset
    model_digest: str

    @property
    def run_key(self) -> str:
        """The run's name in the store."""
        return digest(self.result.spec, self.model_digest)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, roughly: numbers and names of items, and the details of each."""
        return sum(len(s.values) * (200 + 60 * len(s.details[0] if s.details else ())) for s in self.result.scores.values())

    def score(self, protocol: str, method: str) -> Score | None:
        """The score of a method under a protocol, both in text form."""
        return next((s for (p, m), s in self.result.scores.items() if (str(p), str(m)) == (protocol, method)), None)

    @property
    def manifest(self) -> Run | None:
        """What the store has written down of it; None where it was pruned."""
        return next((r for r in open_store().runs() if r.key == self.run_key), None)


@dataclass(frozen=True)
class Unfinished:
    """A run that was stopped, by somebody or with the server."""

    spec: RunSpec
    state: str
    updated: str


def find(spec: RunSpec) -> Job | None:
    """The job of this run in this process, if there is one."""
    return work.device_queue().find(_key(spec))


def start(spec: RunSpec) -> Job:
    """Begins the run, or goes on with it where it was stopped; one that is under way goes on as it is."""
    job = find(spec)
    if job is not None:
        job.forget()

    def do(progress: NewsProgress) -> Finished:
        try:
            return _run(spec, progress)
        finally:
            _ended.append(_key(spec))

    return work.device_queue().submit(_key(spec), do, priority=Priority.LONG)


def _key(spec: RunSpec) -> str:
    return digest("run", spec, work.stamp(spec.model.checkpoint))


def _run(spec: RunSpec, progress: NewsProgress) -> Finished:
    models = []
    for own, loading in _loading(spec):
        while not loading.wait(0.1):
            progress(0, 0, Event(f"loading {own}"))
        models.append(_result(loading))
    model, *others = models
    progress(0, 0, Event(f"looking through {spec.data}"))
    data = load_data(spec.data)
    result = run(spec, model, data, open_store(), lambda event: progress(event.done, event.total, event), None, others)
    behind: dict[ProtocolSpec, dict[str, Difference]] = {protocol: {} for protocol, _ in result.scores}
    for protocol, method, difference in _differences(result):
        behind[protocol][method] = difference
        progress(result.computed, result.computed)
    agree = {}
    for pair, over_methods, over_items in agreements(result):
        agree[pair] = over_methods, over_items
        progress(result.computed, result.computed)
    return Finished(result, _rows(result, data), behind, agree, data, model.digest)


def _loading(spec: RunSpec) -> list[tuple[ModelSpec, Job]]:
    """The run's model and its filter models, as jobs."""
    others = [(own, work.model_job(own, spec.deletion_tuned and own.checkpoint is not None)) for own in spec.filter_models]
    return [(spec.model, work.model_job(spec.model, spec.deletion_tuned)), *others]


def _rows(result: RunResult, data: Dataset) -> list[dict[str, Any]]:
    """The table; of protocols that the paper has values for, with these, NaN where it has none."""
    values = {(str(p), str(m)): published(score.spec, len(data.class_names)) for (p, m), score in result.scores.items()}
    known = {protocol for (protocol, _), value in values.items() if value is not None}
    rows = []
    for row in result.table():
        value = values[str(row["protocol"]), str(row["method"])]
        rows.append(row | ({"paper": math.nan if value is None else value} if row["protocol"] in known else {}))
    return rows


def _result(job: Job) -> Any:
    if job.error is not None:
        raise job.error
    if job.state is not State.DONE:
        raise Cancelled("cancelled")
    return job.result


def _differences(result: RunResult) -> Iterator[tuple[ProtocolSpec, str, Difference]]:
    """Of each method under each protocol how much higher the best one scores on the same items."""
    for protocol in dict.fromkeys(own for own, _ in result.scores):
        scores = {str(m): s for (p, m), s in result.scores.items() if p == protocol}
        best, *others = (place.name for place in result.places(protocol))
        for name in others:
            yield protocol, name, paired_difference(scores[name].counted, scores[best].counted)


@dataclass(frozen=True)
class Estimate:
    """A plan as a job's result: by itself it would count for the memory that the run needs, and drive all else from the queue."""

    plan: Plan


@dataclass(frozen=True)
class Stage:
    """What is waited for before the cost is known: the job, and what it does in words."""

    job: Job
    doing: str

    @property
    def plan(self) -> Plan | None:
        """The plan, once it is made."""
        return self.job.result.plan if isinstance(self.job.result, Estimate) else None


def prepare(spec: RunSpec) -> Stage:
    """The next step towards the cost of a run: the model, the data set, then the plan itself. Asking again asks for the next one."""
    models = []
    for own, loading in _loading(spec):
        if loading.state is not State.DONE:
            return Stage(loading, f"Loading {own}")
        models.append(loading.result)
    listing = queue("data").submit(digest("data", spec.data, _folder_stamp(spec.data)), lambda _progress: load_data(spec.data))
    if listing.state is not State.DONE:
        return Stage(listing, f"Looking through {spec.data}")
    data: Dataset = listing.result

    def plan(progress: NewsProgress) -> Estimate:
        return Estimate(make_plan(spec, models[0], data, open_store(), None, models[1:], progress))

    key = digest("plan", _key(spec), listing.key, len(_ended))
    return Stage(work.device_queue().submit(key, plan, work.PATIENCE, priority=Priority.QUICK), "Estimating the cost")


def _folder_stamp(source: str) -> list[int]:
    """When a folder and what lies directly in it were last changed, so that a picture more or less is noticed."""
    try:
        path = Path(source).expanduser()
        inside = [entry.stat().st_mtime_ns for entry in os.scandir(path) if entry.is_dir()] if path.is_dir() else []
        return [path.stat().st_mtime_ns, len(inside), max(inside, default=0)]
    except (OSError, RuntimeError, ValueError):
        return []


def unfinished() -> list[Unfinished]:
    """The runs in the store that were stopped, the last one first, and that no job of this process works on."""
    job = queue("store").submit(
        digest("unfinished", str(open_store().folder), len(_ended), int(time.time() / FRESH)), lambda _progress: _stopped()
    )
    # Reading a large store takes longer; then the list comes with the next look at the page.
    if not job.wait(0.5) or job.state is not State.DONE:
        return []
    return [own for own in job.result if not _at_work(own.spec)]


def _at_work(spec: RunSpec) -> bool:
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
        elif stored.state in ("running", "cancelled") and not spec.model.architecture.startswith("wrapped:"):
            stopped.append(Unfinished(spec, stored.state, stored.updated))
    latest = {own.spec: own for own in sorted(stopped, key=lambda own: own.updated) if own.spec not in done}
    return list(latest.values())[::-1]
