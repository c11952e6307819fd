"""The user's choices on the Scores page, kept in the session and restored from or written to a link."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import streamlit as st

from attrlib.data.datasets import anchored
from attrlib.errors import AttrlibError
from attrlib.methods import METHODS
from attrlib.models import EMBEDDED
from attrlib.protocols import PROTOCOLS
from attrlib.protocols import resolve as resolve_protocol
from attrlib.registry import Value, params_of
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, RunSpec, TargetSpec, options_of, parse_methods, parse_protocols, read_list
from attrlib.specs.codec import Parsers
from pages.shared import forms, selection, targets
from pages.shared.first_run import on_birds, on_photos
from pages.shared.roots import parse_model
from pages.shared.short import short_method, short_protocol

ALL = "all that are defined"
MAX_MODELS = 12
OF_MODEL = params_of(ModelSpec)[1:]
"""The fields of a model besides its name. Links of one run have them beside the model, links of this page within its text."""
SHOWN = {"shown": "s_protocol", "on": "s_model", "plot": "s_view", "examples": "s_method", "item": "s_item"}
"""Link fields for which results are looked at, with their session keys. The code that shows them checks that they exist."""


@dataclass(frozen=True)
class Wanted:
    """Protocols on methods on several models: one run per model, all equal to `run` except for the model."""

    models: tuple[ModelSpec, ...]
    run: RunSpec
    same_grids: bool = True

    def runs(self) -> list[RunSpec]:
        """Return one run for each model; none where protocols, methods or data are missing."""
        run = self.run
        if not (run.protocols and run.methods and run.data):
            return []
        grids = self.same_grids and any(PROTOCOLS[own.name].items == "grids" for own in run.protocols)
        return [
            replace(
                run,
                model=own,
                data=anchored(run.data),
                deletion_tuned=run.deletion_tuned and own.checkpoint is not None,
                filter_models=tuple(sorted((other for other in self.models if grids and other != own), key=lambda spec: spec.text)),
            )
            for own in self.models
        ]

    def link(self) -> dict[str, str | list[str]]:
        """Return the link fields: those of the run, with all models in place of its one model."""
        fields = replace(self.run, model=ModelSpec(EMBEDDED), filter_models=()).fields()
        return {
            **{name: text for name, text in fields.items() if name not in {p.name for p in OF_MODEL}},
            "model": [model.text for model in self.models],
            "methods": "all" if self.run.methods == every_method() else fields["methods"],
            "same": str(self.same_grids).lower(),
        }


def every_method(target: TargetSpec = TargetSpec()) -> tuple[MethodSpec, ...]:  # noqa: B008  it is immutable
    """Return all available methods with their defaults, for one target."""
    return tuple(MethodSpec(name, target=target) for name in METHODS)


METHODS_AT_FIRST = tuple(MethodSpec(name) for name in ("Grad-CAM", "Layer-CAM", "IxG", "Guided Backprop", "Random"))
PHOTOS = Wanted((ModelSpec(EMBEDDED),), on_photos(METHODS_AT_FIRST, limit=16))


def default() -> Wanted:
    """Return IDSDS on the birds if the project includes a model tuned for it, else `PHOTOS`."""
    run = on_birds(PHOTOS.run, "idsds", tuned=True)
    return replace(PHOTOS, models=(run.model,), run=replace(run, model=PHOTOS.run.model))


def read_fields(fields: Mapping[str, Sequence[str]], default: Wanted) -> tuple[Wanted, list[str]]:
    """Read a link of this page or of one run; an invalid field keeps its default and is named in the list of problems."""
    texts = {name: values[-1] for name, values in fields.items() if values and name not in (*SHOWN, "same")}
    of_one_run = "filter_models" in texts or any(texts.get(p.name, "") not in ("", p.format(p.default)) for p in OF_MODEL)
    run, problems = RunSpec.read_link({n: t for n, t in texts.items() if n != "model" or of_one_run}, default.run, PARSERS)
    models = [run.model, *run.filter_models] if of_one_run else selection.parse_models(fields.get("model", ()), problems)
    if len(models) > MAX_MODELS:
        problems.append(f"the link has {len(models)} models; the first {MAX_MODELS} are taken")
    same = fields["same"][-1] == "true" if fields.get("same") else default.same_grids
    chosen = tuple(dict.fromkeys(models))[:MAX_MODELS] or default.models
    return Wanted(chosen, replace(run, model=default.run.model, filter_models=()), same), list(dict.fromkeys(problems))


def _known_methods(text: str) -> tuple[MethodSpec, ...]:
    return every_method() if text == "all" else tuple(map(short_method, parse_methods(text)))


PARSERS: Parsers = {
    "model": parse_model,
    "protocols": lambda text: tuple(map(short_protocol, parse_protocols(text))),
    "methods": _known_methods,
    "filter_models": lambda text: read_list(text, parse_model),
}
"""Parsers of link fields. Names must be registered; protocols and methods are brought into their shortest form."""


def start(fields: Mapping[str, Sequence[str]]) -> None:
    """Fill the session from the link on a session's first run; report invalid fields."""
    if "s_models" not in st.session_state:
        wanted, problems = read_fields(fields, PHOTOS if fields else default())
        fill(wanted)
        st.session_state.s_problems = problems
        for field, key in SHOWN.items():
            if fields.get(field):
                text = fields[field][-1]
                st.session_state[key] = text if field != "item" else int(text) if text.isdecimal() and len(text) < 10 else None


def shown() -> dict[str, str | list[str]]:
    """Return the link fields that say which results are looked at."""
    found = {field: st.session_state.get(key) for field, key in SHOWN.items()}
    return {field: str(value) for field, value in found.items() if value is not None}


def fill(wanted: Wanted) -> None:
    """Set all controls."""
    state, run = st.session_state, wanted.run
    state.s_models = [model.text for model in wanted.models]
    state.s_data, state.s_same = run.data, wanted.same_grids
    forms.fill(options_of(RunSpec), run, "s_")
    state.s_protocols, state.s_protocol_params = [], {}
    for protocol in run.protocols:
        plain = protocol.name not in state.s_protocols
        state.s_protocols = [*state.s_protocols, protocol.name if plain else str(protocol)]
        state.s_protocol_params |= {protocol.name: resolve_protocol(protocol).values} if plain else {}
    fill_methods(run.methods)


def fill_methods(methods: Sequence[MethodSpec]) -> None:
    """Set the controls of methods, their layer, parameters and target."""
    state = st.session_state
    target = methods[0].target if methods else TargetSpec()
    if methods == every_method(target):
        state.s_layer, state.s_methods, state.s_method_params = selection.DEFAULT_LAYER, [ALL], {}
    else:
        state.s_layer, state.s_methods, state.s_method_params, target = selection.as_widgets(methods)
    targets.fill(target, "s_")


def fill_from(spec: RunSpec) -> None:
    """Set all controls to one run, with the models that it shares its grids with."""
    fill(Wanted((spec.model, *spec.filter_models), spec))


def wanted() -> tuple[Wanted, list[str]]:
    """Return what the controls describe, and a message for each problem with it."""
    state = st.session_state
    problems: list[str] = []
    models = selection.parse_models(state.s_models, problems)
    protocols = _protocols(state.s_protocols, state.s_protocol_params, problems)
    methods = every_method(targets.chosen("s_"))
    if ALL not in state.s_methods:
        found, wrong = selection.chosen_methods(state.s_methods, state.s_layer, state.s_method_params, targets.chosen("s_"))
        methods, problems = tuple(map(short_method, found)), [*problems, *wrong]
    run = RunSpec(ModelSpec(EMBEDDED), (state.s_data or "").strip(), protocols, methods, **forms.values(options_of(RunSpec), "s_"))
    return Wanted(tuple(models), run, state.s_same), problems


def _protocols(entries: Sequence[str], params: Mapping[str, Mapping[str, Value]], problems: list[str]) -> tuple[ProtocolSpec, ...]:
    found: list[ProtocolSpec] = []
    for text in entries:
        try:
            given = [ProtocolSpec(text, tuple(params.get(text, {}).items()))] if text in PROTOCOLS else parse_protocols(text)
            found += map(short_protocol, given)
        except AttrlibError as error:
            problems.append(str(error))
    return tuple(dict.fromkeys(found))
