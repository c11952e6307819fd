"""What the user has chosen on the page of scores, kept in the session and readable from and writable to a link."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from attrlib.data.datasets import anchored
from attrlib.errors import AttrlibError, SpecError, unknown
from attrlib.methods import METHODS
from attrlib.models import EMBEDDED, parse_model, smallest
from attrlib.protocols import PROTOCOLS
from attrlib.protocols import resolve as resolve_protocol
from attrlib.registry import Value
from attrlib.specs import MethodSpec, ModelSpec, ProtocolSpec, RunSpec, parse_methods, parse_protocols, whole
from pages.parts import choice
from pages.parts.short import short_method, short_protocol

ALL = "all that are defined"
MAX_MODELS = 12
WAYS = ("auto", "wnid", "name", "index", "order")
SHOWN = {"shown": "s_protocol", "on": "s_model", "plot": "s_view", "behind": "s_method", "item": "s_item"}
"""What of the results is looked at: fields of the address, and where the session has them. Who shows them checks that they are there."""


@dataclass(frozen=True)
class Wanted:
    """Protocols on methods on several models: one run for each model. `methods` None stands for all that there are."""

    models: tuple[ModelSpec, ...]
    data: str
    protocols: tuple[ProtocolSpec, ...]
    methods: tuple[MethodSpec, ...] | None
    limit: int | None = 16
    seed: int = 0
    width: float | None = None
    fast: bool = False
    classes: str = "auto"
    deletion_tuned: bool = False
    same_grids: bool = True

    def runs(self) -> list[RunSpec]:
        """One run for each model; none where protocols, methods or data are missing."""
        methods = tuple(MethodSpec(name) for name in METHODS) if self.methods is None else self.methods
        if not (self.protocols and methods and self.data):
            return []
        options = (self.limit, self.seed, self.fast, self.width, self.classes)
        grids = self.same_grids and any(PROTOCOLS[own.name].items == "grids" for own in self.protocols)
        return [
            RunSpec(
                own,
                anchored(self.data),
                self.protocols,
                methods,
                *options,
                self.deletion_tuned and own.checkpoint is not None,
                tuple(sorted((other for other in self.models if grids and other != own), key=lambda spec: spec.text)),
            )
            for own in self.models
        ]

    def link(self) -> dict[str, str | list[str]]:
        """The fields of the address that restores it. Every value is written out: a later change of a default changes no link."""
        return {
            "model": [model.text for model in self.models],
            "protocols": ",".join(map(str, self.protocols)),
            "methods": "all" if self.methods is None else ",".join(map(str, self.methods)),
            "data": self.data,
            "limit": "all" if self.limit is None else str(self.limit),
            "seed": str(self.seed),
            "width": "none" if self.width is None else f"{self.width:g}",
            "fast": str(self.fast).lower(),
            "classes": self.classes,
            "tuned": str(self.deletion_tuned).lower(),
            "same": str(self.same_grids).lower(),
        }


_METHODS = tuple(MethodSpec(name) for name in ("Grad-CAM", "Layer-CAM", "IxG", "Guided Backprop", "Random"))
PHOTOS = Wanted((ModelSpec(EMBEDDED),), "photos", (ProtocolSpec("sds", (("target", "prediction"),)),), _METHODS)


def default() -> Wanted:
    """IDSDS on the birds with a model that was tuned for it, where one comes with the project; else `PHOTOS`."""
    name = smallest("birds", tuned=True)
    return PHOTOS if name is None else replace(PHOTOS, models=(ModelSpec(name),), data="birds", protocols=(ProtocolSpec("idsds"),))


def read_fields(fields: Mapping[str, Sequence[str]], default: Wanted) -> tuple[Wanted, list[str]]:
    """The inverse of `Wanted.link`, forgiving: what makes no sense keeps its default and is named in the list of problems."""
    problems: list[str] = []

    def read(name: str, parse: Callable[[str], Any], otherwise: Any) -> Any:
        try:
            return parse(fields[name][-1]) if fields.get(name) else otherwise
        except AttrlibError as error:
            problems.append(str(error))
            return otherwise

    models = []
    for text in fields.get("model", ()):
        try:
            models.append(parse_model(text))
        except AttrlibError as error:
            problems.append(str(error))
    if len(models) > MAX_MODELS:
        problems.append(f"the link has {len(models)} models; the first {MAX_MODELS} are taken")
    known = [*default.link(), *SHOWN]
    problems += [unknown("field of the link", name, known) for name in sorted(set(fields) - set(known))]
    wanted = Wanted(
        tuple(dict.fromkeys(models))[:MAX_MODELS] or default.models,
        read("data", str, default.data),
        read("protocols", _known_protocols, default.protocols),
        read("methods", lambda text: None if text == "all" else _known_methods(text), default.methods),
        read("limit", lambda text: None if text == "all" else max(1, whole(text, "limit")), default.limit),
        read("seed", lambda text: whole(text, "seed"), default.seed),
        read("width", _width, default.width),
        read("fast", lambda text: text == "true", default.fast),
        read("classes", _way, default.classes),
        read("tuned", lambda text: text == "true", default.deletion_tuned),
        read("same", lambda text: text == "true", default.same_grids),
    )
    return wanted, list(dict.fromkeys(problems))


def _known_protocols(text: str) -> tuple[ProtocolSpec, ...]:
    return tuple(map(short_protocol, parse_protocols(text)))


def _known_methods(text: str) -> tuple[MethodSpec, ...]:
    return tuple(map(short_method, parse_methods(text)))


def _width(text: str) -> float | None:
    try:
        width = None if text == "none" else float(text)
    except ValueError:
        width = -1.0
    if width is not None and not 0 < width < float("inf"):
        raise SpecError(f"width={text[:40]!r} is not valid: expected the width of an interval, as in 0.05, or none")
    return width


def _way(text: str) -> str:
    if text not in WAYS:
        raise SpecError(unknown("way to find classes", text, WAYS))
    return text


def start(fields: Mapping[str, Sequence[str]]) -> None:
    """At the first look of a session: fills the session from the link, naming what in it makes no sense."""
    if "s_models" not in st.session_state:
        wanted, problems = read_fields(fields, PHOTOS if fields else default())
        fill(wanted)
        st.session_state.s_problems = problems
        for field, key in SHOWN.items():
            if fields.get(field):
                text = fields[field][-1]
                st.session_state[key] = text if field != "item" else int(text) if text.isdecimal() and len(text) < 10 else None


def shown() -> dict[str, str | list[str]]:
    """The fields of the address that say what of the results is looked at."""
    found = {field: st.session_state.get(key) for field, key in SHOWN.items()}
    return {field: str(value) for field, value in found.items() if value is not None}


def fill(wanted: Wanted) -> None:
    """Sets all controls."""
    state = st.session_state
    state.s_models = [model.text for model in wanted.models]
    state.s_data, state.s_limit, state.s_seed, state.s_width = wanted.data, wanted.limit, wanted.seed, wanted.width
    state.s_fast, state.s_classes, state.s_tuned, state.s_same = wanted.fast, wanted.classes, wanted.deletion_tuned, wanted.same_grids
    state.s_protocols, state.s_protocol_params = [], {}
    for protocol in wanted.protocols:
        plain = protocol.name not in state.s_protocols
        state.s_protocols = [*state.s_protocols, protocol.name if plain else str(protocol)]
        state.s_protocol_params |= {protocol.name: resolve_protocol(protocol).values} if plain else {}
    if wanted.methods is None:
        state.s_layer, state.s_methods, state.s_method_params = choice.OWN_LAYER, [ALL], {}
    else:
        state.s_layer, state.s_methods, state.s_method_params = choice.as_widgets(wanted.methods)


def fill_from(spec: RunSpec) -> None:
    """Sets all controls to one run, with the models that it shares its grids with."""
    options = (spec.limit, spec.seed, spec.width, spec.fast, spec.classes, spec.deletion_tuned)
    every = tuple(MethodSpec(name) for name in METHODS)
    models = (spec.model, *spec.filter_models)
    fill(Wanted(models, spec.data, spec.protocols, None if spec.methods == every else spec.methods, *options))


def wanted() -> tuple[Wanted, list[str]]:
    """What the controls say, and what is wrong with it."""
    state = st.session_state
    problems: list[str] = []
    models: list[ModelSpec] = []
    for text in state.s_models:
        try:
            models.append(parse_model(text))
        except AttrlibError as error:
            problems.append(str(error))
    protocols = _protocols(state.s_protocols, state.s_protocol_params, problems)
    if ALL in state.s_methods:
        methods = None
    else:
        found, wrong = choice.chosen_methods(state.s_methods, state.s_layer, state.s_method_params)
        methods, problems = tuple(map(short_method, found)), [*problems, *wrong]
    unique = tuple(dict.fromkeys(models))
    options = (state.s_limit, state.s_seed, state.s_width or None, state.s_fast, state.s_classes, state.s_tuned, state.s_same)
    return Wanted(unique, (state.s_data or "").strip(), protocols, methods, *options), problems


def _protocols(entries: Sequence[str], params: Mapping[str, Mapping[str, Value]], problems: list[str]) -> tuple[ProtocolSpec, ...]:
    found: list[ProtocolSpec] = []
    for text in entries:
        try:
            given = [ProtocolSpec(text, tuple(params.get(text, {}).items()))] if text in PROTOCOLS else parse_protocols(text)
            found += map(short_protocol, given)
        except AttrlibError as error:
            problems.append(str(error))
    return tuple(dict.fromkeys(found))
