"""The user's choices on the Aggregate page, kept in the session and restored from or written to a link."""

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from attrlib.binning import SHARES
from attrlib.data.datasets import anchored
from attrlib.errors import AttrlibError
from attrlib.methods import Preset, resolve
from attrlib.protocols import PROTOCOLS, Cost, create
from attrlib.protocols import resolve as resolve_protocol
from attrlib.registry import Value, params_of
from attrlib.specs import AggregateSpec, AggregateView, MethodSpec, ProtocolSpec, RunSpec, TargetSpec, options_of
from pages.shared import forms, selection, targets
from pages.shared.first_run import on_birds, on_photos
from pages.shared.roots import parse_model
from pages.shared.short import short_run

MAX_ROWS = 40
LAYERS = ("Input", "Final")
SHOWN = ("row", "bin", "item")
"""Link fields for what is looked at: the row, the bin (a number, or absent for all), and the clicked item."""
PHOTOS = AggregateSpec(on_photos(tuple(MethodSpec(name, layer) for name in ("IxG", "Grad-CAM") for layer in LAYERS), limit=50))


def default() -> AggregateSpec:
    """Return DiFull on the birds if the project includes a model trained on them, else `PHOTOS`."""
    return replace(PHOTOS, run=on_birds(PHOTOS.run, "difull", tuned=False))


def settings() -> dict[str, str]:
    """Return the protocols that an aggregate view can sort by, with their labels: those on grids, then those on single images.

    On single images only protocols whose scores follow from one map per image are listed, so that smoothing changes them without a forward
    pass of the model.
    """
    grids = {name: cls.title for name, cls in PROTOCOLS.items() if cls.items == "grids"}
    plain = {name: f"single images, {cls.title}" for name, cls in PROTOCOLS.items() if cls.items == "images" and cls().cost == Cost()}
    return grids | plain


def start(query: dict[str, str]) -> None:
    """Fill the session from the link on a session's first run; report invalid fields."""
    state = st.session_state
    if "a_data" in state:
        return
    own = default()
    spec, problems = AggregateSpec.read_link({name: text for name, text in query.items() if name not in SHOWN}, own)
    run = spec.run
    state.a_model = own.run.model.text
    try:
        state.a_model = parse_model(run.model.text).text
    except AttrlibError as error:
        problems.append(str(error))
    state.a_data = run.data
    forms.fill(options_of(RunSpec), run, "a_")
    state.a_setting = own.setting.name
    state.a_setting_params = {own.setting.name: resolve_protocol(own.setting).values}
    try:
        given = resolve_protocol(spec.setting)
        if given.name in settings():
            state.a_setting, state.a_setting_params = given.name, {given.name: {**given.values, **_no_smoothing(given)}}
        else:
            problems.append(f"{given.name} needs more than one map of each image; {own.setting.name} is taken")
    except AttrlibError as error:
        problems.append(str(error))
    methods = [m for m in run.methods if selection.is_known(m, problems)]
    if len(methods) > MAX_ROWS:
        problems.append(f"the link has {len(methods)} rows; the first {MAX_ROWS} are shown")
    _fill_methods(methods[:MAX_ROWS])
    forms.fill(params_of(AggregateView), spec.view, "a_")
    state.a_bin, state.a_page = _read_bin(query), 0
    state.a_problems = problems


def shown() -> dict[str, str]:
    """Return the link fields that say which items are looked at."""
    if st.session_state.a_bin is None:
        return {}
    row, place, item = st.session_state.a_bin
    return {name: str(value) for name, value in zip(SHOWN, (row, place, item), strict=True) if value is not None}


def _read_bin(query: dict[str, str]) -> tuple[str, int | None, int | None] | None:
    """Return row, bin and item from a link: the inverse of `shown`. Whether the row exists is checked when it is drawn."""
    numbers = [int(text) if (text := query.get(name, "")).isdecimal() and len(text) < 10 else None for name in SHOWN[1:]]
    place, item = numbers
    known = place is None or place < len(SHARES) - 1
    return (query["row"], place if known else None, item) if query.get("row") else None


def _no_smoothing(given: ProtocolSpec) -> dict[str, Value]:
    """Return parameters that turn off the setting's smoothing: the view smooths, and maps must not be smoothed twice."""
    return {"smoothing": 0} if "smoothing" in given.values else {}


def _fill_methods(methods: Sequence[MethodSpec]) -> None:
    """Set the controls: names, common layers, parameters and target if every name occurs at every layer; else each method as text."""
    state = st.session_state
    resolved = [resolve(m) for m in methods]
    target = resolved[0].target if resolved else TargetSpec()
    names, layers = list(dict.fromkeys(m.name for m in resolved)), list(dict.fromkeys(m.layer for m in resolved))
    params = {m.name: m.values for m in resolved}
    if resolved == [MethodSpec(name, layer, tuple(params[name].items()), target) for name in names for layer in layers]:
        state.a_methods, state.a_layers, state.a_method_params = names, layers, params
    else:
        state.a_methods, state.a_layers, state.a_method_params, target = [str(m) for m in methods], [], {}, TargetSpec()
    targets.fill(target, "a_")


def take(preset: Preset) -> None:
    """Select the methods of a preset."""
    _fill_methods(preset.methods)


def chosen() -> tuple[tuple[MethodSpec, ...], list[str]]:
    """Return each method at each layer, at most `MAX_ROWS` of them, and a message for each invalid entry."""
    state = st.session_state
    methods: list[MethodSpec] = []
    problems: list[str] = []
    for text in state.a_methods:
        for layer in state.a_layers or [selection.DEFAULT_LAYER]:
            found, wrong = selection.chosen_methods([text], layer, state.a_method_params, targets.chosen("a_"))
            methods, problems = methods + found, problems + wrong
    methods = list(dict.fromkeys(methods))
    if len(methods) > MAX_ROWS:
        problems.append(f"{len(methods)} rows are more than fit; the first {MAX_ROWS} are shown")
    return tuple(methods[:MAX_ROWS]), list(dict.fromkeys(problems))


def setting() -> ProtocolSpec:
    """Return the chosen protocol with its parameters."""
    state = st.session_state
    return ProtocolSpec(state.a_setting, tuple(state.a_setting_params.get(state.a_setting, {}).items()))


def run_spec(methods: Sequence[MethodSpec]) -> RunSpec:
    """Return the run that the controls describe, in its shortest form. Raises `AttrlibError` for an unknown model."""
    state = st.session_state
    data = anchored((state.a_data or "").strip())
    return short_run(
        RunSpec(parse_model(state.a_model or ""), data, (setting(),), tuple(methods), **forms.values(options_of(RunSpec), "a_"))
    )


def cells() -> tuple[int, ...]:
    """Return the grid cells that are targets in the chosen setting. Raises `AttrlibError` for invalid parameters."""
    return getattr(create(setting()), "cells", (0,))


def view() -> AggregateView:
    """Return the view chosen in the session; a cell that is no target in this setting is replaced by the first that is."""
    given = AggregateView.parse(forms.values(params_of(AggregateView), "a_"))
    targets = cells()
    return given if given.cell in targets else replace(given, cell=targets[0])
