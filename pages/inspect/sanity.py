"""Sanity: a map beside the map of the same model with shuffled weights, and beside noise."""

from collections.abc import Sequence

import streamlit as st

from attrlib.diagnostics.map_comparison import twin_correlation
from attrlib.engine.explain import tile
from attrlib.engine.jobs import Job, State
from attrlib.figures.numbers import signed
from attrlib.figures.overlay import draw
from attrlib.figures.panel import Tile, limits
from attrlib.methods import Attribution, resolve
from attrlib.protocols.stability import SANITY_PAPER
from attrlib.specs import MethodSpec, ViewSpec
from pages.inspect.pick import pick, switch
from pages.inspect.tile_rows import Ready
from pages.shared import job_status, jobs, map_jobs, tiles
from pages.shared.tiles import figure

SHARES = {0.25: "last quarter", 0.5: "last half", 1.0: "all"}


def show(maps: Sequence[Ready], view: ViewSpec) -> bool:
    """Show controls for the map and the shuffled layers, then three pictures with correlations; return whether a job is pending."""
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        ready = pick("Map", maps, "sanity_map")
        share: float = switch(
            "Layers with shuffled weights",
            SHARES,
            "sanity_share",
            "Counted from the logits. The weights of a layer are permuted: their distribution stays the same, but what they have learnt is lost.",
            default=1.0,
        )
    row, method, seed = ready.row, ready.attribution.spec, st.session_state.seed
    noise = jobs.map_job(row.model, row.photo, resolve(MethodSpec("Random", method.layer)), row.target, seed)
    making: Job = map_jobs.shuffled_job(row.model, share, seed)
    job = jobs.map_job(making.result, row.photo, method, row.target, seed) if making.state is State.DONE else making
    shown = [("This model", ready.job), ("Shuffled weights", job), ("Random", noise)]
    grid = st.grid(3, min_column_width=165, gap="small", key="sanity-tiles")
    waits = False
    for title, own in shown:
        with grid.cell():
            if own.state is State.DONE and own is not making:
                _tile(title, ready, own.result, view)
                continue
            tiles.head(title, ready.name)
            if own.state is State.DONE:
                # The shuffled model is ready by now: the next rerun requests its map.
                st.progress(1.0, text="running")
                waits = True
            else:
                waits |= job_status.waits_for(own)
    st.caption(
        "A map that stays similar after shuffling shows the photo rather than what the model has learnt; its rank correlation should be near 0. "
        f"Random is a map without information. [{SANITY_PAPER.authors}]({SANITY_PAPER.url})"
    )
    return waits


def _tile(title: str, ready: Ready, found: Attribution, view: ViewSpec) -> None:
    shown: Tile = tile(found, view)
    original = ready.attribution
    line = ready.name if found is original else f"rank correlation {signed(twin_correlation(original.maps, found.maps))}"
    if shown.defect is not None:
        tiles.head(title, line)
        st.caption(f":material/block: {shown.defect}")
        return
    top = limits([shown], view)[0]
    figure(title, line, draw(shown.values, ready.row.picture, view, top), f"{title}: {ready.name}, {line}")
    st.html(tiles.legend(view, top))
