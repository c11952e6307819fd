"""Compare: any two maps, their difference, and their rank correlation."""

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from attrlib.diagnostics.map_comparison import Comparison, compare_maps
from attrlib.figures.numbers import signed
from attrlib.figures.overlay import draw
from attrlib.specs import ViewSpec
from pages.inspect.pick import pick, switch
from pages.inspect.tile_rows import Ready
from pages.shared import tiles
from pages.shared.tiles import figure

UNITS = ("normalised", "raw")


def show(maps: Sequence[Ready], view: ViewSpec) -> bool:
    """Show two choosers and three pictures; return False, as no job is needed."""
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom"):
        first, second = pick("First map", maps, "compare_first"), pick("Second map", maps, "compare_second", 1)
        units = switch(
            "Scale",
            UNITS,
            "compare_units",
            "Maps of different methods have different scales. Normalised: divide each map by the clip percentile of its magnitudes before "
            "subtracting. Raw: subtract as is, for maps of the same method.",
        )
    found = _compare((first.job.key, second.job.key), first, second, view, units == UNITS[0])
    photo, difference = first.row.picture, replace(view, sign="signed")
    grid = st.grid(3, min_column_width=165, gap="small", key="compare-tiles")
    for place, ready, values in (("First", first, found.first), ("Second", second, found.second)):
        with grid.cell():
            title, _, line = ready.name.partition("@")
            figure(title, line, draw(values, photo, view, found.top), f"{place} map: {ready.name}")
            st.html(tiles.legend(view, found.top))
    with grid.cell():
        alt = f"Difference: {first.name} minus {second.name}"
        figure("Difference", "first − second", draw(found.difference, photo, difference, found.top), alt)
        st.html(tiles.legend(difference, found.top))
    st.markdown(_sentence(found, first, second))
    return False


@st.cache_data(max_entries=8, show_spinner=False)
def _compare(keys: tuple[str, str], _first: Ready, _second: Ready, view: ViewSpec, own_units: bool) -> Comparison:
    return compare_maps(_first.attribution.maps, _second.attribution.maps, _first.attribution.input_size, view, own_units)


def _sentence(found: Comparison, first: Ready, second: Ready) -> str:
    if found.correlation != found.correlation:
        return "**Rank correlation undefined**: one of the maps is constant in this view. Choose the signed view or another map."
    warm, cold = first.name.replace("@", " at "), second.name.replace("@", " at ")
    return (
        f"**Rank correlation {signed(found.correlation)}** (Spearman, over all pixels, with sign and smoothing as shown). "
        f"1: both rank the pixels alike; 0: no relation. Warm colours: {warm} is higher; cold colours: {cold} is higher."
    )
