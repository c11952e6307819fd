"""Show the events of a run: as a live table on a terminal, else as lines."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from attrlib.cli.common import duration, interruptible
from attrlib.engine.run import Event, RunListener
from attrlib.errors import Cancelled
from attrlib.statistics import Summary

T = TypeVar("T")
EVERY = 5.0
"""Seconds between lines of progress if standard error is not a terminal."""


@contextmanager
def show_events(quiet: bool) -> Iterator[Callable[[Event], None]]:
    """Show events: as a live table on a terminal, else as a line every few seconds; not at all if quiet."""
    if quiet or not sys.stderr.isatty():
        last = time.monotonic()

        def line(event: Event) -> None:
            nonlocal last
            if not quiet and time.monotonic() - last > EVERY:
                last = time.monotonic()
                typer.echo(_status(event) + _so_far(event), err=True)

        yield line
        return
    with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
        yield lambda event: live.update(_live(event))


def run_showing(run: Callable[[RunListener], T], quiet: bool, stopped: str) -> T:
    """Run and show the events, until it has ended or is interrupted.

    Args:
        run: Runs with a progress callback, which raises `Cancelled` to stop it.
        quiet: Whether to show no events.
        stopped: What to print if it was interrupted: how to go on.

    Returns:
        The result.

    Raises:
        Cancelled: It was interrupted.
    """
    with interruptible() as check, show_events(quiet) as show:

        def on_progress(event: Event) -> None:
            check()
            show(event)

        try:
            return run(on_progress)
        except Cancelled:
            typer.echo(stopped, err=True)
            raise


def _status(event: Event) -> str:
    left = "" if event.seconds_left is None else f", {duration(event.seconds_left)} left"
    rate = f", {event.rate:.2g} per second" if event.rate else ""
    workers = f", {event.workers} workers" if event.workers > 1 else ""
    return f"{event.done}/{event.total} {event.doing}{rate}{left}{workers}"


def _so_far(event: Event) -> str:
    """Format the running mean of the current protocol and method, with its 95 % CI."""
    summaries = (s for (protocol, method), s in event.scores.items() if f"{protocol} {method}" == event.doing and s.n)
    summary = next(summaries, None)
    return "" if summary is None else f"; mean {_number(summary.mean)}, 95 % CI {_interval(summary)}, n={summary.n}"


def _live(event: Event) -> Table:
    table = Table("protocol", "method", "mean", "95 % CI", "n", title=_status(event), title_justify="left", box=None)
    for (protocol, method), summary in event.scores.items():
        table.add_row(protocol, method, _number(summary.mean), _interval(summary), str(summary.n))
    return table


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


def _interval(summary: Summary) -> str:
    return "–" if math.isnan(summary.low) else f"{summary.low:.4g} to {summary.high:.4g}"
