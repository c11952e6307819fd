"""The controls of the Aggregate page: data, setting, model, methods, layers and number of items; and the dials of the view."""

import streamlit as st
from streamlit.elements.lib.grid_container import GridContainer

from attrlib.data.datasets import list_datasets
from attrlib.methods import METHODS, list_methods
from attrlib.models import EMBEDDED, NAMED, shipped
from attrlib.protocols import PROTOCOLS
from attrlib.registry import params_of
from attrlib.specs import AVERAGES, AggregateView, RunSpec, options_of
from pages.aggregate import choice
from pages.shared import forms, presets

KERNELS = [0, *range(1, 258, 2)]


def choose(row: GridContainer) -> None:
    """Show the controls for what is computed, in the cells of one row that wraps."""
    state = st.session_state
    with row.cell():
        st.selectbox(
            "Data",
            list(dict.fromkeys([*(info.name for info in list_datasets()), *([state.a_data] if state.a_data else [])])),
            key="a_data",
            persist_state="session",
            accept_new_options=True,
            index=None,
            placeholder="Choose or type a folder",
            help="A named data set, or the path of a folder of class folders or of a CSV file. Grids need labels.",
        )
        with st.popover("Items", icon=":material/grid_view:", width="stretch"):
            _items()
    with row.cell():
        names = choice.settings()
        st.selectbox(
            "Setting",
            list(names),
            format_func=names.__getitem__,
            key="a_setting",
            persist_state="session",
            help="What the maps are of and sorted by: grids of images, where attribution belongs into the target's cell, or single images.",
        )
        with st.popover("Parameters", icon=":material/tune:", width="stretch", key="a_setting_popover"):
            _setting()
    model_and_methods(row)


def model_and_methods(row: GridContainer) -> None:
    """Show the controls for model, methods and layers."""
    state = st.session_state
    with row.cell(column_span=2):
        st.selectbox(
            "Model",
            list(dict.fromkeys([EMBEDDED, *shipped(), state.a_model])),
            key="a_model",
            persist_state="session",
            accept_new_options=True,
            help="Or type timm:NAME or torchvision:NAME; with @FILE behind it for a checkpoint, with @192x256 for another input size.",
        )
        st.multiselect(
            "Layers",
            list(dict.fromkeys([*NAMED, *state.a_layers])),
            key="a_layers",
            persist_state="session",
            accept_new_options=True,
            placeholder="each method's own layer",
            label_visibility="collapsed",
            help="Every method runs at every layer (ML-Att). Or type a module path. None: each method at its own.",
        )
    with row.cell(column_span=2):
        infos = [info.name for info in list_methods()]
        st.multiselect(
            "Methods",
            list(dict.fromkeys([*infos, *state.a_methods])),
            key="a_methods",
            persist_state="session",
            accept_new_options=True,
            max_selections=choice.MAX_ROWS,
            placeholder="Choose methods",
            help="Or type one with layer and parameters, such as IG@Middle:steps=20.",
        )
        with st.container(horizontal=True, gap="small"):
            presets.choose("aggregate", choice.take)
            with st.popover("Parameters", icon=":material/tune:", width="stretch", key="a_methods_popover"):
                _method([name for name in state.a_methods if name in METHODS and params_of(METHODS[name])])


def _items() -> None:
    st.number_input(
        "Grids or images, at most",
        1,
        2**31 - 1,
        step=1,
        key="a_limit",
        persist_state="session",
        placeholder="all",
        help="Drawn by the seed. The paper uses 500 grids in GridPG, 1000 in DiFull and DiPart. Empty: all.",
    )
    forms.option_input(next(option for option in options_of(RunSpec) if option.name == "seed"), "a_seed")


def _setting() -> None:
    forms.edit(PROTOCOLS[st.session_state.a_setting], "a_setting_params", "a_form", without=("smoothing",))


def _method(names: list[str]) -> None:
    if not names:
        st.caption("None of the methods chosen by name has parameters.")
        return
    forms.edit(METHODS[st.selectbox("Method", names, key="a_params_of")], "a_method_params", "a_form")


def choose_view(cells: tuple[int, ...]) -> None:
    """Show the dials: they change the display and scores, and compute no new attributions."""
    options = {p.name: p for p in params_of(AggregateView)}
    st.select_slider("Smoothing K", KERNELS, key="a_smoothing", persist_state="session", width=185, help=options["smoothing"].help + ".")
    st.segmented_control("Average", AVERAGES, key="a_average", persist_state="session", required=True, help=options["average"].help + ".")
    if len(cells) > 1:
        if st.session_state.a_cell not in cells:
            st.session_state.a_cell = cells[0]
        st.segmented_control(
            "Target cell", cells, format_func=lambda cell: str(cell + 1), key="a_cell", persist_state="session", required=True,
            help="The cell of the target, row by row; it is outlined.",
        )  # fmt: skip
