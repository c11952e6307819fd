"""Which study on which models, data and methods, kept in the session and readable from and writable to a link."""

from collections.abc import Mapping

import streamlit as st

from attrlib.errors import AttrlibError
from attrlib.methods import METHODS, read_methods
from attrlib.models import parse_model
from attrlib.registry import Value, parse_params
from attrlib.specs import MethodSpec, ModelSpec
from attrlib.studies import STUDIES, StudySpec, list_studies, parse_study, read_study_link
from pages.parts.short import short_method

LIMIT = "limit"


def default() -> StudySpec:
    """The first study, on its own models."""
    return StudySpec(list_studies()[0].name)


def start(fields: Mapping[str, str]) -> None:
    """At the first look of a session: fills the session from the link, naming what in it makes no sense."""
    if "t_study" not in st.session_state:
        spec, problems = read_study_link(fields, default(), parse_study)
        fill(spec)
        st.session_state.t_problems = problems


def fill(spec: StudySpec) -> None:
    """Sets all controls."""
    state = st.session_state
    params = dict(spec.params)
    state.t_study, state.t_data, state.t_seed = spec.study, spec.data, spec.seed
    state.t_models = [model.text for model in spec.models]
    state.t_methods = [str(method) for method in spec.methods]
    state.t_limit = params.pop(LIMIT, None)
    state.t_params = {spec.study: params}
    state.t_classes, state.t_tuned = spec.classes, spec.deletion_tuned


def wanted() -> tuple[StudySpec, list[str]]:
    """What the controls say, and what is wrong with it."""
    state = st.session_state
    problems: list[str] = []
    models: list[ModelSpec] = []
    methods: list[MethodSpec] = []
    for text in state.t_models:
        try:
            models.append(parse_model(text))
        except AttrlibError as error:
            problems.append(str(error))
    for text in state.t_methods:
        try:
            given = (MethodSpec(text),) if text in METHODS else read_methods(text)
            methods += [short_method(own) for own in given]
        except AttrlibError as error:
            problems.append(str(error))
    params: dict[str, Value] = dict(state.t_params.get(state.t_study, {}))
    params |= {LIMIT: state.t_limit} if state.t_limit is not None else {}
    plain = parse_params(STUDIES[state.t_study], {}, state.t_study)
    pairs = tuple((name, value) for name, value in params.items() if value != plain[name])
    data = (state.t_data or "").strip() or "birds"
    unique = tuple(dict.fromkeys(models)), tuple(dict.fromkeys(methods))
    return StudySpec(state.t_study, pairs, unique[0], data, unique[1], state.t_seed, state.t_classes, state.t_tuned), problems
