"""The state of a job: pending with its progress, or failed or cancelled with a button to try again."""

import time
from typing import Any

import streamlit as st

from attrlib.engine.jobs import Job, Priority, State
from pages.shared import notices
from pages.shared.jobs import plain, sentence
from pages.shared.times import duration


def pending(text: str) -> None:
    """Show what the page is waiting for."""
    st.caption(f":material/hourglass_top: {plain(text)}")


def wait_for(job: Job, label: str) -> Any:
    """Wait with a message until the job has ended; a click elsewhere interrupts the wait but not the job.

    Returns the result, or None after showing why there is none.
    """
    if not job.wait(0.1):
        place = st.empty()
        started = time.monotonic()
        while not job.wait(0.3):
            with place:
                pending(f"{label} {time.monotonic() - started:.0f} s")
        place.empty()
    show_failure(job)
    return job.result


def waits_for(job: Job, doing: str = "", small: bool = False) -> bool:
    """Return whether the job is pending, after showing its progress or why it failed.

    Each state takes two elements, so that tiles keep their layout.

    Args:
        job: Job to show.
        doing: Text of the progress bar; by default the remaining time.
        small: Whether this is a tile: a failure is a caption, and a job that is done counts as pending until the next rerun draws it.
    """
    # Read the state once: a job may end while this runs, and what is shown must match what is returned.
    if job.ended and not (small and job.state is State.DONE):
        show_failure(job, small)
        return False
    st.progress(job.done / job.total if job.total else 0.0, text=doing or _remaining(job))
    if job.priority is Priority.QUICK:
        st.empty()
    else:
        st.button("Cancel", key=f"cancel-{job.key}", on_click=job.cancel, type="tertiary", icon=":material/close:")
    return True


def show_failure(job: Job, small: bool = False, place: str = "") -> None:
    """Show why a job failed or that it was cancelled, with a button to try again; nothing for a job that is done.

    Args:
        job: Job that has ended.
        small: Whether this is a tile: the reason is a caption.
        place: What distinguishes several places that show the same job.
    """
    if job.state is State.DONE:
        return
    if not small:
        notices.error(job.error or "It was cancelled.")
    else:
        st.caption(f":material/block: {sentence(job.error)}" if job.error else ":material/cancel: Cancelled")
    key = f"{'retry' if small else 'again'}-{job.key}{place}"
    st.button("Try again", key=key, on_click=job.forget, type="tertiary", icon=":material/refresh:")


def _remaining(job: Job) -> str:
    if job.state is State.WAITING:
        return "waiting"
    return "running" if job.seconds_left is None else f"{duration(job.seconds_left)} left"
