"""The controls of the Aggregate page: data, setting, model, methods, layers and number of items; and the view controls."""

import streamlit as st

from attrlib.methods import METHODS, named_methods
from attrlib.models import NAMED
from attrlib.protocols import PROTOCOLS
from attrlib.registry import params_of
from attrlib.specs import AVERAGES, AggregateView, RunSpec, options_of
from pages.aggregate import choice
from pages.shared import forms, model_choosers, pickers, presets, targets
from pages.shared.widget_values import widget


def choose(row: pickers.Grid) -> None:
    """Show the controls for what is computed, in the cells of one row that wraps."""
    with row.cell():
        pickers.data("a_data", "The name of a data set, or the path of a folder of class folders or of a CSV file. Grids need labels.")
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
            help="What is explained and how maps are scored: grids of images, where attribution belongs in the target's grid cell, or single images.",
        )
        with st.popover("Parameters", icon=":material/tune:", width="stretch", key="a_setting_popover"):
            _setting()
    _model_and_methods(row)


def _model_and_methods(row: pickers.Grid) -> None:
    """Show the controls for model, methods and layers."""
    with row.cell(column_span=2):
        model_choosers.one("a_model")
        pickers.several(
            "Layers",
            NAMED,
            "a_layers",
            "Every method runs at every layer (ML-Att). Or type a module path. Empty: each method at its default layer.",
            placeholder="default layer of each method",
            label_visibility="collapsed",
        )
    with row.cell(column_span=2):
        pickers.several(
            "Methods", [*METHODS, *named_methods()], "a_methods", pickers.METHOD_HINT, choice.MAX_ROWS, placeholder="Choose methods"
        )
        with st.container(horizontal=True, gap="small"):
            presets.choose("aggregate", choice.take)
            with st.popover("Parameters", icon=":material/tune:", width="stretch", key="a_methods_popover"):
                targets.choose("a_", targets.OF_CLASS)
                forms.edit_one_of(METHODS, st.session_state.a_methods, "a_method_params", "a_form")


def _items() -> None:
    st.number_input(
        "Maximum number of grids or images",
        1,
        2**31 - 1,
        step=1,
        **widget("a_limit"),
        placeholder="all",
        help="Drawn with the seed. The paper uses 500 grids in GridPG and 1000 in DiFull and DiPart. Empty: all.",
    )
    forms.option_input(next(option for option in options_of(RunSpec) if option.name == "seed"), "a_seed")


def _setting() -> None:
    forms.edit(PROTOCOLS[st.session_state.a_setting], "a_setting_params", "a_form", without=("smoothing",))


def choose_view(cells: tuple[int, ...]) -> None:
    """Show the view controls, which change the display and scores, and compute no new attributions."""
    options = {p.name: p for p in params_of(AggregateView)}
    pickers.smoothing("a_smoothing", options["smoothing"].help + ".", width=185)
    pickers.switch("Average", AVERAGES, "a_average", options["average"].help + ".")
    if len(cells) > 1:
        if st.session_state.a_cell not in cells:
            st.session_state.a_cell = cells[0]
        labels = {cell: str(cell + 1) for cell in cells}
        pickers.switch("Target cell", labels, "a_cell", "The outlined grid cell, whose class is explained; numbered row by row.")
