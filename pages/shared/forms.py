"""Forms generated from the typed parameters of registered classes."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import streamlit as st

from attrlib.registry import Param, Value, params_of
from pages.shared.jobs import plain
from pages.shared.widget_values import chooser, widget


def param_input(param: Param, value: Value, key: str) -> Value:
    """Show the widget of one parameter and return its value; None stands for `auto`."""
    label = param.name
    if param.choices:
        return st.selectbox(label, param.choices, index=param.choices.index(str(value)), key=key, help=param.help)
    if param.kind is bool:
        return st.checkbox(label, bool(value), key=key, help=param.help)
    if param.kind is int:
        low, high = int(param.low or 0), int(param.high or 2**31)
        whole = None if value is None else int(value)
        return st.number_input(label, low, high, whole, 1, key=key, help=param.help, placeholder=param.auto)
    lowest, highest = float(param.low or 0.0), float(param.high or 1e9)
    number = None if value is None else float(value)
    step = (highest - lowest) / 100
    return st.number_input(label, lowest, highest, number, step, key=key, help=param.help, placeholder=param.auto, format="%.3g")


def option_input(param: Param, key: str) -> None:
    """Show the widget of an option of a spec, whose value is kept in the session under `key`."""
    label, hint = param.label or param.name.replace("_", " ").capitalize(), f"{param.help}."
    if param.choices:
        st.selectbox(label, help=hint, **chooser(key, param.choices))
    elif param.kind is bool:
        st.checkbox(label, help=hint, **widget(key))
    elif param.kind is str:
        st.text_input(label, help=hint, **widget(key))
    else:
        hint = f"{hint} Empty: {param.auto}." if param.auto else hint
        whole = param.kind is int
        low, high = param.low if param.above is None else param.above, param.high
        options: dict[str, Any] = dict(placeholder=param.auto or None, help=hint, **widget(key))
        if whole:
            st.number_input(label, None if low is None else int(low), None if high is None else int(high), step=1, **options)
        else:
            st.number_input(label, low, high, step=0.01, format="%.3g", **options)


def fill(options: Iterable[Param], spec: object, page: str = "") -> None:
    """Set the widgets of options to the values of a spec; `page` is the prefix of their session keys."""
    for option in options:
        st.session_state[f"{page}{option.name}"] = getattr(spec, option.name)


def values(options: Iterable[Param], page: str = "") -> dict[str, Any]:
    """Return the values of the widgets of options by name: the inverse of `fill`. An excluded bound stands for None."""
    chosen = ((option, st.session_state[f"{page}{option.name}"]) for option in options)
    return {option.name: None if option.auto and value == option.above else value for option, value in chosen}


def edit_one_of(registry: Mapping[str, type], names: Iterable[str], values_key: str, key: str, label: str = "Method") -> None:
    """Show a chooser for one of the named methods or protocols that have parameters, and its form; see `edit`."""
    named = [name for name in names if name in registry and params_of(registry[name])]
    if not named:
        st.caption("None of the selected entries has parameters.")
        return
    edit(registry[st.selectbox(label, named, key=f"{values_key}_of")], values_key, key)


def edit(cls: type, values_key: str, key: str, without: Collection[str] = ()) -> None:
    """Show what a method or protocol does and a form for its parameters; applied values are kept in the session, by name.

    `without` names parameters that are set elsewhere.
    """
    summary, paper, name = (cls.__doc__ or "").strip().splitlines()[0], cls.paper, cls.name  # type: ignore[attr-defined]
    st.caption(f"{plain(summary)}  \n[{plain(paper.authors)}: {plain(paper.title)}]({paper.url})")
    params = tuple(p for p in params_of(cls) if p.name not in without)
    if not params:
        st.caption("No parameters.")
        return
    values = params_form(params, st.session_state[values_key].get(name, {}), f"{key}-{name}")
    if values is not None:
        st.session_state[values_key] = st.session_state[values_key] | {name: values}
        st.rerun()


def params_form(params: tuple[Param, ...], values: Mapping[str, Value], key: str) -> dict[str, Value] | None:
    """Show all parameters and an apply button; return the new values once it is pressed, else None."""
    with st.form(key, border=False):
        new_values = {p.name: param_input(p, values.get(p.name, p.default), f"{key}-{p.name}") for p in params}
        return new_values if st.form_submit_button("Apply") else None
