"""Asks the library's queues for what the page Aggregate shows. Nothing is computed here."""

from collections.abc import Sequence
from dataclasses import dataclass

from attrlib.aggregation.panels import line_of, samples, view_of
from attrlib.aggregation.view import Aggregation, Row
from attrlib.engine.jobs import Job, Priority
from attrlib.figures.aggatt import SIDE, PanelRow, draw_bin, draw_sample, mosaic
from attrlib.figures.overlay import encode
from attrlib.progress import NewsProgress
from attrlib.specs import AggregateView, MethodSpec, RunSpec, digest
from attrlib.store import open_store
from pages.shared import jobs
from pages.shared.roots import load_data

SHOWN = 4
"""Examples of the first and the last bin."""
PAGE = 12
"""Items on one page of a bin."""


@dataclass(frozen=True, eq=False)
class Shown:
    """One row as it is drawn: a picture of each bin, None for one without maps, and the examples left and right."""

    row: Row
    line: PanelRow
    bins: tuple[bytes | None, ...]
    best: bytes
    worst: bytes

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.line.nbytes + sum(len(b or b"") for b in (*self.bins, self.best, self.worst))


@dataclass(frozen=True, eq=False)
class Tile:
    """One item of a bin as it is drawn."""

    picture: bytes
    score: float
    names: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return len(self.picture)


@dataclass(frozen=True)
class Found:
    """A run whose maps can be looked at, and the key under which what is seen of them is kept."""

    key: str
    aggregation: Aggregation

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.aggregation.nbytes


def found_job(spec: RunSpec, run_job: Job) -> Job:
    """What is known of a run; more, where it goes on and ends."""
    key = digest("aggregation", spec, jobs.stamp(spec.model.checkpoint), run_job.state.value, run_job.done)

    def find(progress: NewsProgress) -> Found:
        loading = jobs.model_job(spec.model, spec.deletion_tuned)
        while not loading.wait(0.1):
            progress(0, 0)
        if loading.error is not None:
            raise loading.error
        return Found(key, Aggregation(spec, loading.result, load_data(spec.data), open_store()))

    return jobs.device_queue().submit(key, find, jobs.PATIENCE, priority=Priority.QUICK)


def row_job(found: Found, method: MethodSpec, view: AggregateView) -> Job:
    """One row: sorted, averaged and drawn."""

    def make(progress: NewsProgress) -> Shown:
        row = found.aggregation.row(method, view, progress)
        line = line_of(found.aggregation, row, view, progress, SHOWN)
        colours, own = view_of(view), row.aggregate
        bins = tuple(encode(draw_bin(own, k, colours)) if size else None for k, size in enumerate(own.sizes))
        best, worst = (
            encode(mosaic([draw_sample(s, colours, own.target_cell, own.grid, SIDE) for s in side], 2 * SIDE), "PNG", level=1)
            for side in (line.best, line.worst)
        )
        return Shown(row, line, bins, best, worst)

    # The dial moves in finer steps than the kernels of inner layers.
    key = digest(found.key, "row", method, found.aggregation.kernel(method, view), view.cell, view.average)
    return jobs.device_queue().submit(key, make, jobs.PATIENCE, priority=Priority.QUICK)


def tiles_job(found: Found, row: Row, positions: Sequence[int], view: AggregateView) -> Job:
    """Some items of a bin, drawn."""

    def make(progress: NewsProgress) -> list[Tile]:
        examples = found.aggregation.examples(row, positions, view, progress)
        colours, own = view_of(view), row.aggregate
        drawn = (encode(draw_sample(s, colours, own.target_cell, own.grid, 2 * SIDE)) for s in samples(examples, 2 * SIDE))
        return [Tile(picture, e.score, e.names) for picture, e in zip(drawn, examples, strict=True)]

    key = digest(found.key, "tiles", row.method, list(positions), view)
    return jobs.device_queue().submit(key, make, jobs.PATIENCE, priority=Priority.QUICK)
