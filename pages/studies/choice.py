"""The chosen study with its models, data and methods, kept in the session and restored from or written to a link."""

from collections.abc import Mapping

import streamlit as st

from attrlib.errors import AttrlibError
from attrlib.methods import METHODS, read_methods
from attrlib.registry import Value, parse_params
from attrlib.specs import MethodSpec, StudySpec, options_of, read_list
from attrlib.studies import PARSERS, STUDIES, list_studies
from pages.shared import forms, selection
from pages.shared.roots import parse_model
from pages.shared.short import short_method

LIMIT = "limit"


def default() -> StudySpec:
    """Return the first study, on its default models."""
    return StudySpec(list_studies()[0].name)


def start(fields: Mapping[str, str]) -> None:
    """Fill the session from the link on a session's first run; report invalid fields."""
    if "t_study" not in st.session_state:
        spec, problems = StudySpec.read_link(fields, default(), {**PARSERS, "models": lambda text: read_list(text, parse_model)})
        fill(spec)
        st.session_state.t_problems = problems


def fill(spec: StudySpec) -> None:
    """Set all controls."""
    state = st.session_state
    params = dict(spec.params)
    state.t_study = spec.study
    forms.fill(options_of(StudySpec), spec, "t_")
    state.t_models = [model.text for model in spec.models]
    state.t_methods = [str(method) for method in spec.methods]
    state.t_limit = params.pop(LIMIT, None)
    state.t_params = {spec.study: params}


def wanted() -> tuple[StudySpec, list[str]]:
    """Return what the controls describe, and a message for each problem with it."""
    state = st.session_state
    problems: list[str] = []
    models = selection.parse_models(state.t_models, problems)
    methods: list[MethodSpec] = []
    for text in state.t_methods:
        try:
            specs = (MethodSpec(text),) if text in METHODS else read_methods(text)
            methods += [short_method(each) for each in specs]
        except AttrlibError as error:
            problems.append(str(error))
    params: dict[str, Value] = dict(state.t_params.get(state.t_study, {}))
    params |= {LIMIT: state.t_limit} if state.t_limit is not None else {}
    plain = parse_params(STUDIES[state.t_study], {}, state.t_study)
    pairs = tuple((name, value) for name, value in params.items() if value != plain[name])
    options = forms.values(options_of(StudySpec), "t_")
    options["data"] = (options["data"] or "").strip() or "birds"
    return StudySpec(state.t_study, pairs, models=tuple(models), methods=tuple(dict.fromkeys(methods)), **options), problems
