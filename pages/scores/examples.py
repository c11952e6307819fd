"""The example images of a score: the best, the median and the worst item, each with the map that was judged."""

from typing import Any

import numpy as np
import streamlit as st

from attrlib.analysis.examples import JudgedItem, examples_of, judged_item
from attrlib.engine.jobs import Job, Priority, State
from attrlib.engine.results import Score
from attrlib.figures.numbers import number
from attrlib.models import Classifier
from attrlib.specs import digest
from attrlib.store import open_store
from pages.shared import job_status, jobs
from pages.shared.run_jobs import Finished
from pages.shared.tiles import blank, head

SIZE = 64, 64
"""Size of a blank picture, whose width on the page is that of its tile."""


def show(finished: Finished, score: Score, chosen: int | None) -> bool:
    """Show the items on a grid that wraps; return whether any of them is pending."""
    loading = jobs.model_job(score.spec.model, score.spec.deletion_tuned)
    waiting = False
    grid = st.grid(min_column_width=145, gap="small", key="examples")
    for label, place in examples_of(score, chosen):
        with grid.cell():
            value = score.values[place]
            shown = "undefined" if np.isnan(value) else number(value)
            job = _job(finished, score, place, loading.result) if loading.state is State.DONE else loading
            waiting |= not job.ended
            _tile(label, shown, job)
    return waiting


def _tile(label: str, value: str, job: Job) -> None:
    title = f"{label} {value}"
    item: Any = job.result if job.state is State.DONE and isinstance(job.result, JudgedItem) else None
    head(title, item.target if item else "…")
    if item is not None:
        st.image(item.picture, width="stretch", alt=f"{title}: the picture, {item.name}")
        st.image(item.overlay, width="stretch", alt=f"{title}: the map over the picture, for {item.target}")
        st.caption(f":material/block: {item.defect}" if item.defect else jobs.plain(item.name))
    elif job.ended and job.state is not State.DONE:
        # One item may be several examples.
        job_status.show_failure(job, small=True, place=label)
    else:
        for _ in range(2):
            st.image(blank(SIZE), width="stretch", alt="Not ready yet")


def _job(finished: Finished, score: Score, place: int, model: Classifier) -> Job:
    key = digest("example", finished.run_key, score.spec, score.keys[place])
    return jobs.device_queue().submit(
        key,
        lambda on_progress: judged_item(finished.data, score, place, model, open_store(), on_progress),
        jobs.PATIENCE,
        priority=Priority.QUICK,
    )
