"""Request what the Aggregate page shows from the library's queues. Nothing is computed here."""

from collections.abc import Sequence
from dataclasses import dataclass

from attrlib.aggregation.panels import line_of, samples, view_of
from attrlib.aggregation.rows import Row
from attrlib.aggregation.view import Aggregation
from attrlib.engine.jobs import Job, Priority
from attrlib.errors import ImageError
from attrlib.figures.aggatt import SIDE, PanelRow, draw_bin, draw_sample, mosaic
from attrlib.figures.overlay import encode
from attrlib.progress import NewsProgress
from attrlib.specs import AggregateView, MethodSpec, RunSpec, digest
from attrlib.store import open_store
from pages.shared import jobs
from pages.shared.roots import load_data

SHOWN = 4
"""Number of examples shown of the first and of the last bin."""
PAGE = 12
"""Number of items on one page of a bin."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A drawn row: a picture of each bin, None for a bin without maps, and the examples on the left and right."""

    row: Row
    line: PanelRow
    bins: tuple[bytes | None, ...]
    best: bytes
    worst: bytes

    @property
    def nbytes(self) -> int:
        """Return the size in bytes."""
        return self.line.nbytes + sum(len(b or b"") for b in (*self.bins, self.best, self.worst))


@dataclass(frozen=True, eq=False)
class Tile:
    """A drawn item of a bin, or the reason why it cannot be read."""

    picture: bytes = b""
    names: tuple[str, ...] = ()
    defect: str = ""

    @property
    def nbytes(self) -> int:
        """Return the size in bytes."""
        return len(self.picture)


@dataclass(frozen=True)
class Found:
    """A run whose maps can be viewed, and the key that its drawn rows and tiles are cached under."""

    key: str
    aggregation: Aggregation

    @property
    def nbytes(self) -> int:
        """Return the size in bytes."""
        return self.aggregation.nbytes


def found_job(spec: RunSpec, run_job: Job) -> Job:
    """Return the job that finds a run's results so far; its key changes as the run progresses and ends."""
    key = digest("aggregation", spec, jobs.stamp(spec.model), run_job.state.value, run_job.done)

    def find(on_progress: NewsProgress) -> Found:
        model = jobs.result_of(jobs.model_job(spec.model, spec.deletion_tuned), on_progress)
        return Found(key, Aggregation(spec, model, load_data(spec.data), open_store()))

    return jobs.device_queue().submit(key, find, jobs.PATIENCE, priority=Priority.QUICK)


def row_job(found: Found, method: MethodSpec, view: AggregateView) -> Job:
    """Return the job that sorts, averages and draws one row."""

    def make(on_progress: NewsProgress) -> Shown:
        row = found.aggregation.row(method, view, on_progress)
        line = line_of(found.aggregation, row, view, on_progress, SHOWN)
        colours, own = view_of(view), row.aggregate
        bins = tuple(encode(draw_bin(own, k, colours)) if size else None for k, size in enumerate(own.sizes))
        best, worst = (
            encode(mosaic([draw_sample(s, colours, own.target_cell, own.grid, SIDE) for s in side], 2 * SIDE), "PNG", level=1)
            for side in (line.best, line.worst)
        )
        return Shown(row, line, bins, best, worst)

    # The key has the effective kernel: the dial moves in finer steps than the kernels of inner layers.
    key = digest(found.key, "row", method, found.aggregation.kernel(method, view), view.cell, view.average)
    return jobs.device_queue().submit(key, make, jobs.PATIENCE, priority=Priority.QUICK)


def tiles_job(found: Found, row: Row, positions: Sequence[int], view: AggregateView) -> Job:
    """Return the job that draws some items of a bin, one tile for each position."""

    def make(on_progress: NewsProgress) -> list[Tile]:
        return [_tile(found.aggregation, row, position, view, on_progress) for position in positions]

    key = digest(found.key, "tiles", row.method, list(positions), view)
    return jobs.device_queue().submit(key, make, jobs.PATIENCE, priority=Priority.QUICK)


def _tile(aggregation: Aggregation, row: Row, position: int, view: AggregateView, on_progress: NewsProgress) -> Tile:
    try:
        example = aggregation.example(row, position, view, on_progress)
    except ImageError as error:
        return Tile(defect=str(error))
    (sample,) = samples([example], 2 * SIDE)
    picture = draw_sample(sample, view_of(view), row.aggregate.target_cell, row.aggregate.grid, 2 * SIDE)
    return Tile(encode(picture), tuple(name for name in example.names if name))
