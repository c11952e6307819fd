"""Deletion: the photo is deleted in the order of a map; one slider moves photo, probability and the next deletion together."""

from collections.abc import Sequence

import streamlit as st

from attrlib.diagnostics.deletion_curve import DeletionPath
from attrlib.engine.explain import tile
from attrlib.engine.jobs import State
from attrlib.figures.deletion import curve_svg, draw_deleted
from attrlib.figures.overlay import draw
from attrlib.figures.panel import limits
from attrlib.protocols.incremental import ORDERS
from attrlib.specs import ViewSpec
from pages.inspect.patches import choose_baseline, choose_grid
from pages.inspect.pick import of_class, pick, switch
from pages.inspect.tile_rows import Ready
from pages.shared import job_status, map_jobs
from pages.shared.tiles import figure

FIRST = {ORDERS[1]: "most relevant", ORDERS[0]: "least relevant"}


def show(maps: Sequence[Ready], view: ViewSpec) -> bool:
    """Show controls for map, order, unit and baseline, then the slider; return whether a job is pending."""
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        ready = pick("Map", maps, "deletion_map")
        order: str = switch(
            "Delete first",
            FIRST,
            "deletion_order",
            "Most relevant first: with a good map the probability falls quickly. Least relevant first: it stays high for long.",
        )
        grid = choose_grid(ready, "deletion_grid", singles="pixels")
        baseline = choose_baseline("deletion_baseline")
    if not ready.row.model.outputs.has_classes:
        st.info(
            "The model predicts a number. Deletion follows the probability of a class, which a number does not have. "
            "**Patches** shows how the number changes when patches are deleted.",
            icon=":material/block:",
        )
        return False
    if not of_class(ready):
        return False
    job = map_jobs.path_job(ready.row.model, ready.row.photo, ready.job, order, grid or None, baseline, st.session_state.seed)
    if job_status.waits_for(job):
        return True
    if job.state is State.DONE:
        _scrubber(ready, job.result, order, view)
    return False


def _scrubber(ready: Ready, path: DeletionPath, order: str, view: ViewSpec) -> None:
    grid = st.grid(4, min_column_width=165, gap="small", key="deletion-tiles")
    photo, beside = grid.cell(), grid.cell()
    with grid.cell(column_span=2):
        place = st.container()
        if st.session_state.get("deletion_step", 0) > path.steps:
            st.session_state.deletion_step = path.steps
        step = st.slider(
            "Step", 0, path.steps, key="deletion_step", persist_state="session", help="Drag to move along the curve, or use the arrow keys."
        )
        share, probability, start = path.counts[step] / path.counts[-1], float(path.probabilities[step]), float(path.probabilities[0])
        name = ready.row.class_name
        alt = f"Probability of {name} at each of {path.steps} steps, from {start:.2f} to {float(path.probabilities[-1]):.2f}; {probability:.2f} at step {step}"
        place.image(curve_svg(path.probabilities, step), width="stretch", alt=alt)
        st.markdown(
            f"**p({name}) = {probability:.2f}** with {100 * share:.0f} % of the photo deleted, {FIRST[order]} first (whole photo: {start:.2f}). "
            f"Mean along the curve: {path.area:.2f}, {'lower' if order == ORDERS[1] else 'higher'} is better."
        )
    with beside:
        shown = tile(ready.attribution, view)
        values = draw(shown.values, ready.row.picture, view, limits([shown], view)[0])
        figure(shown.title, shown.subtitle, values, f"{ready.name}: the map that defines the order")
    with photo:
        unit = "patch" if path.grid else "pixels"
        line = f"pink: next {unit} to be deleted" if step < path.steps else "everything is deleted"
        image = draw_deleted(
            ready.row.picture, path.deleted(step), path.following(step), path.replacement_values, outlined=path.grid is not None
        )
        figure(f"{100 * share:.0f} % deleted", line, image, f"The photo with {100 * share:.0f} % deleted in order of {ready.name}; {line}")
