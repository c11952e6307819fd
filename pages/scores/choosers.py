"""The controls of the Scores page: models, protocols, methods, data and number of items."""

from collections.abc import Mapping, Sequence

import streamlit as st
from streamlit.elements.lib.grid_container import GridContainer

from attrlib.data.datasets import list_datasets
from attrlib.methods import METHODS, Preset
from attrlib.models import list_models
from attrlib.protocols import PROTOCOLS
from attrlib.specs import RunSpec, options_of
from pages.scores import choice
from pages.shared import custom_model, forms, presets, selection

MAX_METHODS = 64
OPTIONS = {option.name: option for option in options_of(RunSpec)}
PLACED = ("limit", "deletion_tuned")
"""Options with a fixed place on the page; all others are listed under More."""


def choose(row: GridContainer) -> None:
    """Show all controls, in the cells of one row that wraps."""
    _models(row)
    with row.cell():
        _several(
            "Protocols",
            "s_protocols",
            list(PROTOCOLS),
            "How methods are judged. Or type one with parameters, such as sds:grid=3.",
            "s_protocol_params",
            PROTOCOLS,
        )
    with row.cell(column_span=2):
        _several(
            "Methods",
            "s_methods",
            [choice.ALL, *METHODS],
            "What is judged. Or type one with layer and parameters, such as IG@Middle:steps=20.",
            "s_method_params",
            METHODS,
        )
    with row.cell():
        _data()
    with row.cell():
        _items()


def _models(row: GridContainer) -> None:
    state = st.session_state
    with row.cell(column_span=2):
        st.multiselect(
            f"Models: {len(state.s_models)}",
            list(dict.fromkeys([*(info.name for info in list_models()), *state.s_models])),
            key="s_models",
            persist_state="session",
            accept_new_options=True,
            max_selections=choice.MAX_MODELS,
            placeholder="Choose models",
            help="Or type timm:NAME or torchvision:NAME; with @FILE behind it for a checkpoint, with @random:0 for random weights, with @192x256 for another input size.",
        )
        with st.popover("Weights, size", icon=":material/folder_open:", width="stretch"):
            custom_model.form("s")
            _option("deletion_tuned")


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
    st.multiselect(
        f"{label}: {'all' if choice.ALL in chosen else len(chosen)}",
        list(dict.fromkeys([*options, *chosen])),
        key=key,
        persist_state="session",
        accept_new_options=True,
        max_selections=MAX_METHODS,
        placeholder=f"Choose {label.lower()}",
        help=hint,
    )
    with st.container(horizontal=True, gap="small"):
        if label == "Methods":
            presets.choose("scores", _take)
        with st.popover("Parameters", icon=":material/tune:", width="stretch"):
            _params(label, key, params_key, registry)


def _take(preset: Preset) -> None:
    state = st.session_state
    state.s_layer, state.s_methods, state.s_method_params = selection.as_widgets(preset.methods)


def _params(label: str, key: str, params_key: str, registry: Mapping[str, type]) -> None:
    named = [name for name in st.session_state[key] if name in registry]
    if label == "Methods":
        st.selectbox(
            "Layer",
            selection.layer_options(selection.NAMED),
            key="s_layer",
            persist_state="session",
            help="For methods that name none: where attribution is computed.",
        )
    if not named:
        st.caption(f"Choose {label.lower()} by name to set their parameters here.")
        return
    name = st.selectbox(f"Parameters of {label.lower()}", named, key=f"{key}_of", label_visibility="collapsed")
    forms.edit(registry[name], params_key, f"{key}-form")


def _data() -> None:
    state = st.session_state
    infos = {info.name: info for info in list_datasets()}
    st.selectbox(
        "Data",
        list(dict.fromkeys([*infos, *([state.s_data] if state.s_data else [])])),
        key="s_data",
        persist_state="session",
        accept_new_options=True,
        index=None,
        placeholder="Choose or type a folder",
        help="A named data set, or the path of a folder of pictures (in class folders, or with images/ and masks/), or of a CSV file.",
    )


def _items() -> None:
    _option("limit")
    with st.popover("More", icon=":material/more_horiz:", width="stretch"):
        _more()


def _more() -> None:
    for name in OPTIONS:
        if name not in PLACED:
            _option(name)
    st.checkbox(
        "Several models share their grids",
        key="s_same",
        persist_state="session",
        help="Grids are made of images that all the chosen models classify with the confidence that the protocol asks for.",
    )


def _option(name: str) -> None:
    forms.option_input(OPTIONS[name], f"s_{name}")
