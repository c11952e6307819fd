"""Forms generated from the typed parameters of registered classes."""

from collections.abc import Mapping

import streamlit as st

from attrlib.registry import Param, Value


def param_input(param: Param, value: Value, key: str) -> Value:
    """The widget for one parameter; returns its value, None where it is left to `auto`."""
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


def params_form(params: tuple[Param, ...], values: Mapping[str, Value], key: str) -> dict[str, Value] | None:
    """All parameters and an apply button; the new values once it is pressed, else None."""
    with st.form(key, border=False):
        found = {p.name: param_input(p, values.get(p.name, p.default), f"{key}-{p.name}") for p in params}
        return found if st.form_submit_button("Apply") else None
