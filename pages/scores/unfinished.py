"""Runs that were stopped by a user or with the server, each with a button to resume it."""

from collections.abc import Sequence
from datetime import datetime

import streamlit as st

from attrlib.specs import RunSpec
from pages.scores import choice
from pages.shared import run_jobs
from pages.shared.jobs import plain

SHOWN = 5
"""Largest number of unfinished runs that are listed."""


def show(here: Sequence[RunSpec] = ()) -> None:
    """Show the unfinished runs, except those in `here` that this process has a job for."""
    runs = [each for each in run_jobs.unfinished() if each.spec not in here or run_jobs.find(each.spec) is None]
    if not runs:
        return
    with st.expander(f"Unfinished runs: {len(runs)}", icon=":material/pause_circle:"):
        for number, each in enumerate(runs[:SHOWN]):
            spec = each.spec
            with st.container(horizontal=True, gap="small", vertical_alignment="center", key=f"s_unfinished_{number}"):
                names = ", ".join(map(str, spec.protocols))
                st.markdown(
                    f"{plain(names)} · {len(spec.methods)} methods · {plain(spec.model.text)} · {plain(spec.data)} · {_when(each.updated)}",
                    width="content",
                )
                st.button("Resume", key=f"s_resume_{number}", on_click=_resume, args=(spec,), icon=":material/play_arrow:", help=spec.cli())
        if len(runs) > SHOWN:
            st.caption(f"And {len(runs) - SHOWN} older ones.")


def _when(updated: str) -> str:
    try:
        return f"{datetime.fromisoformat(updated).astimezone():%d %b %H:%M}"
    except ValueError:
        return "some time ago"


def _resume(spec: RunSpec) -> None:
    choice.fill_from(spec)
    run_jobs.start(spec)
