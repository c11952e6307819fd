"""Patches: the drop of the model's output for each deleted patch, compared with the map's sum over that patch."""

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from attrlib.deletion import FIXED_BASELINES
from attrlib.diagnostics.single_deletion import CellScore, cell_score
from attrlib.engine.jobs import State
from attrlib.figures.cells import cell_scatter, draw_cells, magnitude
from attrlib.figures.numbers import signed
from attrlib.protocols.deletion import IDSDS_PAPER, OUTPUTS
from attrlib.specs import ViewSpec
from pages.inspect.pick import keep, of_class, pick, switch
from pages.inspect.tile_rows import Ready
from pages.shared import job_status, map_jobs, tiles
from pages.shared.plots import camera
from pages.shared.tiles import figure

COARSEST, FINEST = 2, 16


def show(maps: Sequence[Ready], view: ViewSpec) -> bool:
    """Show controls for map, patches and baseline, then drops, sums and their scatter plot; return whether a job is pending."""
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        ready = pick("Map", maps, "patch_map")
        grid = choose_grid(ready, "patch_grid")
        baseline = choose_baseline("patch_baseline")
        offered = OUTPUTS if ready.row.model.outputs.has_classes else OUTPUTS[:1]
        output: str = switch("Output", offered, "patch_output", "The output of the target whose drop is measured.")
    if not of_class(ready):
        return False
    row = ready.row
    job = map_jobs.outputs_job(row.model, row.photo, row.target, grid, baseline, st.session_state.seed)
    if job_status.waits_for(job):
        return True
    if job.state is State.DONE:
        score = cell_score(job.result, ready.attribution, output)
        _pictures(ready, score, view, output)
        st.markdown(_sentence(score, ready, grid))
        st.caption(f"Single deletion as in [{IDSDS_PAPER.authors}]({IDSDS_PAPER.url}): {IDSDS_PAPER.title}.")
    return False


def choose_grid(ready: Ready, key: str, singles: str | None = None) -> int:
    """Return the chosen number of patches per side, among those that divide the model's input.

    With `singles`, an option of that name comes first and returns 0.
    """
    height, width = ready.row.model.input_size
    fitting = [n for n in range(COARSEST, FINEST + 1) if height % n == width % n == 0]
    options = [0, *fitting] if singles else fitting or [1]
    keep(key, options, 0 if singles else 4 if 4 in options else options[0])
    label = "Delete" if singles else "Patches"
    return st.selectbox(
        label, options, format_func=lambda n: f"{n} × {n} patches" if n else str(singles), key=key, persist_state="session", width=150
    )


def choose_baseline(key: str) -> str:
    """Return the chosen baseline, which replaces deleted pixels."""
    keep(key, FIXED_BASELINES, FIXED_BASELINES[0])
    hint = "Replacement of deleted pixels. zeros: the mean colour of the training data; random: noise; blur: the blurred photo; mean: the mean colour of the photo."
    return st.selectbox("Baseline", FIXED_BASELINES, key=key, persist_state="session", width=130, help=hint)


def _pictures(ready: Ready, score: CellScore, view: ViewSpec, output: str) -> None:
    photo, signed_view = ready.row.picture, replace(view, sign="signed")
    cells = st.grid(4, min_column_width=165, gap="small", key="patch-tiles")
    sides = (
        ("Output drop", f"of the {output} when the patch is deleted", score.drops),
        ("Attribution", f"{ready.name}, sum over the patch", score.sums),
    )
    for title, line, values in sides:
        with cells.cell():
            top = magnitude([values])
            figure(title, line, draw_cells(photo, values, signed_view, top), _words(title, values))
            st.html(tiles.legend(signed_view, top))
    with cells.cell(column_span=2):
        tiles.head("Drop against attribution", "one point per patch")
        st.plotly_chart(
            cell_scatter(score.drops, score.sums, output),
            key="patch-scatter",
            config=camera("drop-against-attribution"),
            alt=f"Scatter of output drop against attribution sum of each patch, rank correlation {signed(score.correlation)}",
        )


def _words(title: str, values: object) -> str:
    rows = [f"{float(value):.3g}" for value in values]  # type: ignore[attr-defined]
    return f"{title} of each patch, row by row: {', '.join(rows) if len(rows) <= 16 else f'{len(rows)} patches'}"


def _sentence(score: CellScore, ready: Ready, grid: int) -> str:
    if score.correlation != score.correlation:
        return f"**{score.name} undefined** for this photo: all patches have the same output drop or the same attribution."
    tuned = (
        ""
        if score.name == "IDSDS"
        else " The model was not fine-tuned on deleted patches, so they are out of its domain and the score is SDS, not IDSDS."
    )
    return (
        f"**{score.name} {signed(score.correlation)}** on this photo: Spearman correlation of output drop and attribution over {grid * grid} patches. "
        f"1: both rank the patches alike (target: {ready.row.class_name}); 0: no relation.{tuned}"
    )
