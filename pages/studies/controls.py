"""The controls of the Studies page: the study, and the models, data, methods and number of items that it runs on."""

import streamlit as st

from attrlib.methods import METHODS
from attrlib.registry import params_of
from attrlib.specs import StudySpec, options_of
from attrlib.studies import STUDIES, create, list_studies
from pages.shared import forms, model_choosers, pickers
from pages.shared.jobs import plain
from pages.studies import choice

MOST_MODELS, MOST_METHODS = 48, 64


def choose_study() -> None:
    """Show the chooser for the study."""
    titles = {info.name: info.title for info in list_studies()}
    st.pills(
        "Study", list(titles), format_func=titles.__getitem__, key="t_study", persist_state="session", required=True,
        label_visibility="collapsed",
    )  # fmt: skip


def choose(row: pickers.Grid) -> None:
    """Show the controls for the study's inputs, in the cells of one row that wraps; an empty control means the study's default."""
    state = st.session_state
    spec, _ = choice.wanted()
    study = create(StudySpec(state.t_study))
    with row.cell(column_span=2):
        count = len(study.models())
        model_choosers.several(
            "Models",
            "t_models",
            MOST_MODELS,
            f"Empty: the shipped models of the study. {model_choosers.HINT}",
            placeholder=f"{count} shipped model{'s' if count > 1 else ''}",
        )
    with row.cell():
        pickers.data("t_data", "The name of a data set, or the path of a folder of class folders or of a CSV file.")
    with row.cell():
        pickers.several(
            "Methods",
            METHODS,
            "t_methods",
            "Empty: the methods of the study, with few samples for expensive ones. Methods that you choose run with your settings, as in "
            "IG@Final:steps=20.",
            MOST_METHODS,
            placeholder="methods of the study",
        )
    with row.cell():
        st.number_input(
            "Items", 2, 100_000, step=1, key="t_limit", persist_state="session", placeholder=str(study.limit),
            help="Images or grids per model. Empty: the default of the study.",
        )  # fmt: skip
        with st.popover("More", icon=":material/more_horiz:", width="stretch"):
            _more(dict(spec.params))


def _more(current: dict) -> None:
    state = st.session_state
    for option in options_of(StudySpec):
        if option.name != "data":
            forms.option_input(option, f"t_{option.name}")
    params = tuple(p for p in params_of(STUDIES[state.t_study]) if p.name != choice.LIMIT)
    st.caption(f"This study: {plain(create(StudySpec(state.t_study)).question)}")
    values = forms.params_form(params, current, f"t_form_{state.t_study}")
    if values is not None:
        state.t_params = state.t_params | {state.t_study: values}
        st.rerun()
