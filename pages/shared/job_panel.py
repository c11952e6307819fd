"""The panel of jobs of minutes or hours: the button that starts and cancels them, their progress, and how they ended."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import streamlit as st

from attrlib.engine.jobs import Job, State
from pages.shared import notices
from pages.shared.jobs import plain
from pages.shared.times import duration

WIDTH = 150
"""Width of the button in pixels, the same for all labels, so that nothing beside it moves."""


class Labels(NamedTuple):
    """Labels of the button for jobs that were not started, were cancelled, or are done."""

    start: str = "Start"
    resume: str = "Resume"
    repeat: str = "Run again"


LABELS = Labels()


def show_button(
    page: str,
    jobs: Sequence[Job | None],
    start: Callable[[], None],
    labels: Labels = LABELS,
    disabled: bool = False,
    kept: bool = True,
) -> None:
    """Show the button that cancels jobs in progress, or starts, resumes or repeats them, always in the same place.

    Args:
        page: First letter of the page's session keys.
        jobs: Jobs in any state; None for one that was not started.
        start: Starts the jobs that are not done, or all of them if all are.
        labels: Labels of the button.
        disabled: Whether the jobs cannot be started.
        kept: Whether the store keeps what is computed, also of a job that is cancelled.
    """
    alive = [job for job in jobs if job is not None and not job.ended]
    hint = None
    if alive:
        label, icon, hint = "Cancel", "close", "Results computed so far are kept."
    elif all(job is not None and job.state is State.DONE for job in jobs):
        label, icon, hint = labels.repeat, "refresh", "Use this after models or data have changed. Cached results are not computed again."
    else:
        label = labels.resume if any(job is not None and job.state is State.CANCELLED for job in jobs) else labels.start
        icon = "play_arrow"
    st.button(
        label,
        on_click=partial(_cancel, alive) if alive else start,
        type="primary" if icon == "play_arrow" else "secondary",
        icon=f":material/{icon}:",
        key=f"{page}_{label}",
        width=WIDTH,
        help=hint if kept else None,
        disabled=disabled and not alive,
    )


def _cancel(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.cancel()


def show_progress(share: float, doing: str, *facts: str, seconds_left: float | None = None) -> None:
    """Show one line about a job in progress: facts, given as Markdown, the remaining time, and what is being done."""
    left = [] if seconds_left is None else [f"{duration(seconds_left)} left"]
    st.progress(min(1.0, share), text=" · ".join([*facts, *left, plain(doing)]))


def show_ended(job: Job, progress: str, name: str = "") -> None:
    """Show why a job failed, or that it was cancelled and how far it got before."""
    if job.state is State.FAILED:
        notices.error(f"{name}: {job.error}" if name else job.error)
    elif job.state is State.CANCELLED:
        st.info(f"{f'**{plain(name)}**: cancelled' if name else 'Cancelled'}, {progress}. **Resume** to continue.", icon=":material/pause_circle:")  # fmt: skip
