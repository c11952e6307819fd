"""A lesson's controls, generated from its parameters and restored from or written to a link."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from attrlib.errors import SpecError, unknown
from attrlib.registry import Param, Value, param, params_of
from pages.learn.context import pairs
from pages.learn.lesson import LESSONS, Lesson

FEW = 4
"""Largest number of choices that are all shown at once."""
LETTERS = 24
"""Largest total number of letters for choices that fit side by side."""
CHOICES = {"cells": "patches", "as they are": "raw"}
"""Choices that are shown under another name than in links."""


@dataclass(frozen=True)
class LessonOptions:
    """The options that all lessons share."""

    model: str = param((pairs() or ("",))[0], "The model; a deletion-tuned version is used where needed", choices=pairs())
    bird: int = param(4, "Index of the bird in the data set", low=0, high=999)
    present: bool = param(False, "Show only the lesson, in large type")


def key_of(lesson: str, name: str) -> str:
    """Return the session key of a control."""
    return f"learn_{lesson}_{name}"


def start(query: Mapping[str, str]) -> None:
    """Fill the session from the link on a session's first run; report invalid fields."""
    state = st.session_state
    if "learn_lesson" in state:
        return
    state.learn_problems = []
    state.learn_lesson = query.get("lesson", next(iter(LESSONS)))
    if state.learn_lesson not in LESSONS:
        state.learn_problems.append(unknown("lesson", state.learn_lesson, LESSONS))
        state.learn_lesson = next(iter(LESSONS))
    for name, cls in LESSONS.items():
        for option in params_of(cls):
            state[key_of(name, option.name)] = option.default
    own_fields = {p.name: (p, key_of(state.learn_lesson, p.name)) for p in params_of(LESSONS[state.learn_lesson])}
    fields = {p.name: (p, f"learn_{p.name}") for p in params_of(LessonOptions)} | own_fields
    for option in params_of(LessonOptions):
        state[f"learn_{option.name}"] = option.default
    for name, text in query.items():
        if name in fields:
            option, key = fields[name]
            try:
                state[key] = option.parse(text)
            except SpecError as error:
                state.learn_problems.append(str(error))
        elif name != "lesson":
            state.learn_problems.append(unknown("field of the link", name, ["lesson", *fields]))


def chosen(name: str) -> Lesson:
    """Return the lesson with the values of its controls."""
    cls = LESSONS[name]
    return cls(**{p.name: st.session_state[key_of(name, p.name)] for p in params_of(cls)})


def fields_of(lesson: Lesson) -> dict[str, str]:
    """Return the link fields that restore this screen. All values are written out, so links survive a later change of defaults."""
    shared = {p.name: p.format(st.session_state[f"learn_{p.name}"]) for p in params_of(LessonOptions)}
    return {"lesson": lesson.name} | shared | {p.name: p.format(getattr(lesson, p.name)) for p in params_of(type(lesson))}


def show(lesson: type[Lesson]) -> None:
    """Show one widget for each parameter, in one row that wraps."""
    option = params_of(lesson)
    with st.container(horizontal=True, gap="small", vertical_alignment="bottom", key="learn_controls"):
        for p in option:
            _widget(p, key_of(lesson.name, p.name))


def _widget(p: Param, key: str) -> Value:
    label = p.label or p.name.replace("_", " ").capitalize()
    options: dict[str, Any] = dict(key=key, help=p.help, persist_state="session")
    if p.kind is bool:
        return st.toggle(label, **options)
    if p.kind is int:
        return st.slider(label, int(p.low or 0), int(p.high or 100), width=170, **options)
    if all(choice.replace(".", "", 1).isdigit() for choice in p.choices):
        return st.select_slider(label, p.choices, width=220, **options)
    if len(p.choices) <= FEW and sum(map(len, p.choices)) <= LETTERS:
        return st.segmented_control(label, p.choices, format_func=lambda choice: CHOICES.get(choice, choice), required=True, **options)
    return st.selectbox(label, p.choices, width=220, **options)
