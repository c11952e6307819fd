"""Report the progress of a method that consists of several parts."""

from collections.abc import Iterator
from contextlib import contextmanager

from attrlib.methods.context import AttributionContext


@contextmanager
def part_of(context: AttributionContext, number: int, parts: int) -> Iterator[None]:
    """Report the progress of what a context computes inside as that of one of several parts of the same size, counted from 0."""
    report = context.on_progress

    def shifted(done: int, total: int) -> None:
        # The part before has reported the count at which this one starts.
        if done or not number:
            report(number * total + done, parts * total)

    context.on_progress = shifted
    try:
        yield
    finally:
        context.on_progress = report
