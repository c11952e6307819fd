"""Convert the rows of an aggregation to the rows of the AggAtt figure."""

from collections.abc import Sequence

from PIL import Image

from attrlib.aggregation.rows import Example, Row
from attrlib.aggregation.view import Aggregation
from attrlib.figures.aggatt import EXAMPLES, SIDE, PanelRow, Sample
from attrlib.methods import resolve as resolve_method
from attrlib.postprocess import resize
from attrlib.progress import Progress, no_progress
from attrlib.specs import AggregateView, ViewSpec


def view_of(view: AggregateView) -> ViewSpec:
    """Return the colours of a view."""
    return ViewSpec(sign=view.average)


def line_of(
    aggregation: Aggregation, row: Row, view: AggregateView, on_progress: Progress = no_progress, count: int = EXAMPLES
) -> PanelRow:
    """Return a row of the panel, with examples of the first and the last bin that have maps.

    Args:
        aggregation: The aggregation.
        row: The row.
        view: The view.
        on_progress: The progress callback.
        count: Maximum number of examples of each bin.
    """
    filled = [number for number, size in enumerate(row.aggregate.sizes) if size]
    best, worst = (
        (
            samples(aggregation.examples(row, row.aggregate.examples[number][:count], view, on_progress))
            for number in (filled[0], filled[-1])
        )
        if filled
        else ([], [])
    )
    return PanelRow(row.method.label, subtitle(row), row.aggregate, best, worst)


def subtitle(row: Row) -> str:
    """Return layer, resolution, smoothing kernel and mean score of a row as text."""
    summary, (height, width) = row.summary, row.side
    kernel = f" · smoothed K = {row.kernel}" if row.kernel else ""
    interval = f" [{summary.low:.2f}, {summary.high:.2f}]" if summary.n > 1 else ""
    return f"{resolve_method(row.method).layer} {height}×{width}{kernel} · mean {summary.mean:.2f}{interval}, n = {summary.n}"


def samples(examples: Sequence[Example], side: int = SIDE) -> list[Sample]:
    """Return examples for the figure, resized to `side` x `side` pixels."""
    return [
        Sample(one.picture.resize((side, side), Image.Resampling.BILINEAR), resize(one.values[None, None], (side, side))[0, 0], one.score)
        for one in examples
    ]
