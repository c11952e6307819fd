"""The choice of what maps explain: a target, with a control for each of its parameters."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import streamlit as st

from attrlib.errors import AttrlibError
from attrlib.registry import Param, params_of
from attrlib.specs import TargetSpec
from attrlib.targets import TARGETS, resolve, short
from attrlib.targets.classes import JOIN
from pages.shared import forms
from pages.shared.jobs import plain
from pages.shared.widget_values import chooser, widget

OF_CLASS = tuple(name for name, cls in TARGETS.items() if cls.about_class)
"""Targets of which protocols can judge the maps."""
HINT = "What the maps explain, for all methods that name no target of their own."


@dataclass(frozen=True)
class Offers:
    """What a model offers where a parameter names something.

    Attributes:
        options: Options by kind of name (see `Param.names`), in text form with their labels.
        first: The option that a newly chosen target starts with, by kind of name.
    """

    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    first: Mapping[str, str] = field(default_factory=dict)


def fill(spec: TargetSpec, page: str = "") -> None:
    """Set the controls to a target; `page` is the prefix of their session keys."""
    state = st.session_state
    for name, cls in TARGETS.items():
        given = resolve(spec).values if name == spec.name else {}
        for param in params_of(cls):
            value = given.get(param.name, param.default)
            state[_key(page, name, param)] = [part for part in str(value).split(JOIN) if part] if param.names == "classes" else value
    state[f"{page}explained"] = spec.name


def chosen(page: str = "") -> TargetSpec:
    """Return the target that the controls describe, in its shortest form if it is valid: the inverse of `fill`."""
    state = st.session_state
    name = state[f"{page}explained"]
    values = {param.name: state[_key(page, name, param)] for param in params_of(TARGETS[name])}
    spec = TargetSpec(name, tuple((key, JOIN.join(value) if isinstance(value, list) else value) for key, value in values.items()))
    try:
        return short(spec)
    except AttrlibError:
        return spec


def choose(page: str = "", offered: Iterable[str] = TARGETS, offers: Offers = Offers()) -> None:
    """Show the chooser of the target, what it is, and its parameters.

    Args:
        page: Prefix of the session keys.
        offered: Names of the targets to choose from.
        offers: What the model offers for parameters that name something.
    """
    name = st.session_state[f"{page}explained"]
    options = list(dict.fromkeys([*offered, name]))
    start = partial(_start, page, offers)
    titles = {option: TARGETS[option].title for option in options}
    st.selectbox("Target", format_func=titles.__getitem__, help=HINT, **chooser(f"{page}explained", options, start))
    cls = TARGETS[name]
    summary = plain((cls.__doc__ or "").strip().splitlines()[0]).replace(r"\`", "`")
    st.caption(summary if cls.paper is None else f"{summary}  \n[{plain(cls.paper.authors)}: {plain(cls.paper.title)}]({cls.paper.url})")
    for param in params_of(cls):
        _input(param, _key(page, name, param), offers.options.get(param.names))


def set_versus(other: int) -> None:
    """Explain the class rather than another one; again the logit if it is so already."""
    spec = TargetSpec("versus", (("other", str(other)),))
    fill(TargetSpec() if chosen() == spec else spec)


def _start(page: str, offers: Offers) -> None:
    """Set the parameters of a newly chosen target that name something, unless the user has set them before."""
    state = st.session_state
    name = state[f"{page}explained"]
    for param in params_of(TARGETS[name]):
        key = _key(page, name, param)
        if not state[key] and param.names in offers.first:
            first = offers.first[param.names]
            state[key] = first.split(JOIN) if param.names == "classes" else first


def _input(param: Param, key: str, options: Mapping[str, str] | None) -> None:
    """Show the control of one parameter: a chooser if it names something that the model offers."""
    if options is None:
        forms.option_input(param, key)
        return
    labels: Callable[[str], str] = lambda option: options.get(option, option)  # noqa: E731
    common: dict[str, Any] = dict(format_func=labels, help=f"{param.help}.")
    label, value = param.label or param.name.capitalize(), st.session_state[key]
    if param.names == "classes":
        st.multiselect(label, _with(options, value), **common, **widget(key, default="default"))
    else:
        typed = param.names == "picture"
        st.selectbox(label, accept_new_options=typed, **common, **chooser(key, _with(options, [value] if value else [])))


def _with(options: Iterable[str], chosen: Sequence[str]) -> list[str]:
    # What a link names may be a name, or not exist; the maps then say so.
    return list(dict.fromkeys([*options, *chosen]))


def _key(page: str, name: str, param: Param) -> str:
    return f"{page}explained_{name}_{param.name}"
