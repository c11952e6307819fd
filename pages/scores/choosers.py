"""The controls of the Scores page: models, protocols, methods, data and number of items."""

from collections.abc import Mapping, Sequence

import streamlit as st

from attrlib.methods import METHODS, Preset, named_methods
from attrlib.protocols import PROTOCOLS
from attrlib.specs import RunSpec, options_of
from pages.scores import choice, uploads
from pages.shared import forms, model_choosers, pickers, presets, selection, targets
from pages.shared.widget_values import chooser, widget

MAX_METHODS = 64
OPTIONS = {option.name: option for option in options_of(RunSpec)}
LIMIT = "limit"
"""The option with a place on the page; all others are listed under More."""


def choose(row: pickers.Grid) -> None:
    """Show all controls, in the cells of one row that wraps."""
    _models(row)
    with row.cell():
        _several(
            "Protocols",
            "s_protocols",
            list(PROTOCOLS),
            "How methods are scored. Or type a protocol with parameters, such as sds:grid=3.",
            "s_protocol_params",
            PROTOCOLS,
        )
    with row.cell(column_span=2):
        _several(
            "Methods",
            "s_methods",
            [choice.ALL, *METHODS, *named_methods()],
            f"The methods to score. {pickers.METHOD_HINT}",
            "s_method_params",
            METHODS,
        )
    with row.cell():
        pickers.data(
            "s_data",
            "The name of a data set, or the path of a folder of images (in class folders, or with images/ and masks/) or of a CSV file.",
        )
    with row.cell():
        _items()


def _models(row: pickers.Grid) -> None:
    state = st.session_state
    with row.cell(column_span=2):
        model_choosers.several(f"Models: {len(state.s_models)}", "s_models", choice.MAX_MODELS, placeholder="Choose models")


def _several(
    label: str,
    key: str,
    options: Sequence[str],
    hint: str,
    params_key: str,
    registry: Mapping[str, type],
) -> None:
    """Show a multiselect of registered or typed entries with a parameter form for each; entries registered later appear by themselves."""
    chosen = st.session_state[key]
    pickers.several(
        f"{label}: {'all' if choice.ALL in chosen else len(chosen)}", options, key, hint, MAX_METHODS, placeholder=f"Choose {label.lower()}"
    )
    with st.container(horizontal=True, gap="small"):
        if label == "Methods":
            presets.choose("scores", _take)
            uploads.choose()
        with st.popover("Parameters", icon=":material/tune:", width="stretch"):
            if label == "Methods":
                st.selectbox(
                    "Layer",
                    **chooser("s_layer", selection.layer_options(selection.NAMED)),
                    help="Where attribution is computed, for methods that name no layer.",
                )
                targets.choose("s_", targets.OF_CLASS)
            forms.edit_one_of(registry, chosen, params_key, f"{key}-form", label)


def _take(preset: Preset) -> None:
    choice.fill_methods(preset.methods)


def _items() -> None:
    _option(LIMIT)
    with st.popover("More", icon=":material/more_horiz:", width="stretch"):
        _more()


def _more() -> None:
    for name in OPTIONS:
        if name != LIMIT:
            _option(name)
    st.checkbox(
        "Same grids for all models",
        **widget("s_same"),
        help="Compose grids only of images that all chosen models classify with the confidence that the protocol requires.",
    )


def _option(name: str) -> None:
    forms.option_input(OPTIONS[name], f"s_{name}")
