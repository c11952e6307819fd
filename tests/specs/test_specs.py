"""Link, flags, JSON and keywords, derived from the declared fields, for every spec."""

import dataclasses
import inspect
import json
import shlex
from collections.abc import Callable
from urllib.parse import parse_qsl

import pytest
from typer.testing import CliRunner

import attrlib
from attrlib.cli import app
from attrlib.errors import SpecError
from attrlib.registry import Param, params_of
from attrlib.specs import (
    AggregateSpec,
    AggregateView,
    ExplainSpec,
    MethodSpec,
    ModelSpec,
    ProtocolSpec,
    RoarSpec,
    RunSpec,
    Spec,
    StudySpec,
    TuneSpec,
    ViewSpec,
    canonical,
    flag_of,
    options_of,
    parse_space,
)

MODEL = ModelSpec(
    "timm:resnet18?img_size=96&in_chans=4",
    "/a b/c@d=e.pth",
    (32, 48),
    "sigmoid",
    (0.1, 0.2, 0.3, 1e-05),
    (0.4, 0.5, 0.6, 1.0),
    "bicubic",
    0.9,
    "squash",
    4095.0,
    (3, 2, 1),
)
METHODS = (MethodSpec("IG", "Final", (("steps", "20"),)), MethodSpec("Grad-CAM"))


def changed(p: Param) -> object:
    """Return a value of an option other than its default."""
    if p.choices:
        return next(choice for choice in p.choices if choice != p.default)
    if p.kind is bool:
        return not p.default
    if p.kind is str:
        return "other"
    value = (p.default or p.low or p.above or 0) + 3
    return p.kind(value if p.high is None else min(value, p.high))


RUN = RunSpec(
    MODEL,
    "my data",
    (ProtocolSpec("sds"), ProtocolSpec("difull", (("grid", "3"),))),
    METHODS,
    filter_models=(ModelSpec("timm:vgg11", "random:1"), ModelSpec("efficientnet_lite0")),
    **{p.name: changed(p) for p in options_of(RunSpec)},  # type: ignore[arg-type]
)
SPECS: list[Spec] = [
    ExplainSpec(MODEL, "my photo.jpg", METHODS, 3, 4, ViewSpec("positive", 5, 0.5, "shared", 98.0, "RdBu", "Magma")),
    RUN,
    AggregateSpec(
        RunSpec(
            MODEL,
            "my data",
            (ProtocolSpec("gridpg", (("grid", "3"),)),),
            METHODS,
            **{p.name: changed(p) for p in options_of(RunSpec) if ("run", p.name) in {q.path for q in params_of(AggregateSpec)}},  # type: ignore[arg-type]
        ),
        AggregateView(2, 33, "signed"),
    ),
    StudySpec("smoothing", (("limit", "8"), ("steps", "4")), (MODEL, ModelSpec("efficientnet_lite0")), "photos", METHODS, 5, "name", True),
    TuneSpec(
        MODEL,
        "my data",
        ProtocolSpec("difull", (("grid", "3"),)),
        METHODS[0],
        parse_space("steps=5..80:log:3,layer=Input/layer4.1,baseline=zeros"),
        **{p.name: changed(p) for p in options_of(TuneSpec)},  # type: ignore[arg-type]
    ),
    RoarSpec(MODEL, "my data", METHODS, shares=(0.25, 0.5), **{p.name: changed(p) for p in options_of(RoarSpec)}),  # type: ignore[arg-type]
]
PLAIN: list[Spec] = [
    ExplainSpec(ModelSpec("m"), "x", METHODS),
    RunSpec(ModelSpec("m"), "x", (ProtocolSpec("sds"),), METHODS),
    AggregateSpec(RunSpec(ModelSpec("m"), "x", (ProtocolSpec("sds"),), METHODS)),
    StudySpec("ranking"),
    TuneSpec(ModelSpec("m"), "x", ProtocolSpec("sds"), METHODS[1]),
    RoarSpec(ModelSpec("m"), "x", METHODS),
]
each = pytest.mark.parametrize("spec", [*SPECS, *PLAIN], ids=lambda spec: type(spec).__name__)


def test_every_field_of_the_specs_here_differs_from_its_default() -> None:
    for spec in SPECS:
        flags = shlex.split(spec.cli())
        for p in params_of(type(spec)):
            assert p.positional or flag_of(p) in flags, p.name


@each
def test_a_link_restores_a_spec_whatever_the_defaults_of_the_reader(spec: Spec) -> None:
    fields = dict(parse_qsl(spec.link()[1:], keep_blank_values=True, strict_parsing=True))
    assert type(spec).read_link(fields, spec) == (spec, [])
    (other,) = (s for s in SPECS if type(s) is type(spec))
    restored, problems = type(spec).read_link(fields, other)
    assert problems == []
    if isinstance(spec, StudySpec):
        # Models and methods that the study chooses are not fields of a link.
        restored = dataclasses.replace(restored, models=spec.models, methods=spec.methods)
    if isinstance(spec, RunSpec):
        restored = dataclasses.replace(restored, filter_models=spec.filter_models)
    if isinstance(spec, TuneSpec):
        restored = dataclasses.replace(restored, space=spec.space)
    assert restored == spec


@each
def test_flags_restore_a_spec(spec: Spec) -> None:
    words = shlex.split(spec.cli())[4:]
    texts: dict[str, str] = {}
    for p in params_of(type(spec)):
        if p.positional:
            texts[p.name] = words[0]
        elif flag_of(p) in words:
            texts[p.name] = "true" if p.is_switch else words[words.index(flag_of(p)) + 1]
    assert type(spec).read(texts) == spec


@each
def test_json_restores_a_spec(spec: Spec) -> None:
    assert type(spec).from_json(json.loads(canonical(spec))) == spec


@pytest.mark.parametrize("command", ["score", "explain", "aggregate", "study", "tune", "roar"])
def test_every_field_is_a_flag_of_its_command(command: str) -> None:
    (cls,) = (type(s) for s in SPECS if s.command == command)
    text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).output
    for p in params_of(cls):
        assert p.positional or flag_of(p) in text
        assert p.help.split()[0] in text


@pytest.mark.parametrize(
    ("function", "cls"), [(attrlib.score, RunSpec), (attrlib.compare, RunSpec), (attrlib.tune, TuneSpec), (attrlib.roar, RoarSpec)]
)
def test_every_option_is_a_documented_keyword(function: Callable[..., object], cls: type[Spec]) -> None:
    for option in options_of(cls):
        if option.name == "deletion_tuned":
            continue  # read from the model
        parameter = inspect.signature(function).parameters[option.name]
        assert parameter.default == option.default
        assert f"    {option.name}: {option.help}" in str(function.__doc__)


def test_an_unknown_keyword_is_refused_with_the_nearest_name(tmp_path) -> None:
    with pytest.raises(SpecError, match=r"unknown option of a run 'limt'\. Did you mean limit"):
        attrlib.compare(["sds"], object(), ["IG"], tmp_path, limt=3)  # type: ignore[arg-type]


def test_the_snippet_contains_what_differs_from_the_defaults() -> None:
    text = RUN.snippet()
    for words in ("limit=4", "seed=3", "fast=True", "ci_width=3.0", "classes='wnid'", "filter_models=[attrlib.load_model("):
        assert words in text
    assert "deletion_tuned=True)\ndata" in text, "an option of the model"
    assert "compare(protocols, model, methods, data)\n" in PLAIN[1].snippet()  # type: ignore[attr-defined]
    for spec in [*SPECS, *PLAIN]:
        compile(spec.snippet(), "snippet", "exec")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": "3"}, "seed: Input should be a valid integer"),
        ({"seed": True}, "seed"),
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"limit": 0}, "limit=0 is out of range"),
        ({"ci_width": 0}, "ci_width=0.0 is out of range: a number above 0"),
        ({"classes": "wnids"}, "Did you mean wnid"),
        ({"width": 0.1}, "width: Unexpected keyword argument"),
        ({"model": {"architecture": 3}}, "model.architecture: Input should be a valid string"),
        ({"model": {"architecture": "m", "input_size": [3, 0]}}, "input size"),
        ({"methods": [{"name": "IG", "layer": "", "params": [["steps"]]}]}, "methods.0.params.0"),
        ({"data": None}, "data"),
    ],
)
def test_json_that_is_not_a_run_is_refused_with_the_field(changed: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        RunSpec.from_json(json.loads(canonical(RUN)) | changed)
    assert words in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, [], "x", {}, {"model": {}}, float("nan")])
def test_json_that_is_not_an_object_is_refused(value: object) -> None:
    with pytest.raises(SpecError, match="not a valid run"):
        RunSpec.from_json(value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, "limit=0 is out of range: a whole number from 1"),
        ({"limit": "8"}, "limit='8' is not valid: expected a whole number"),
        ({"limit": 2.5}, "limit='2.5' is not valid"),
        ({"seed": None}, "seed='None' is not valid"),
        ({"ci_width": float("nan")}, "ci_width=nan is out of range"),
        ({"classes": "x"}, "unknown way to match classes 'x'"),
    ],
)
def test_values_are_checked_in_python_too(options: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        RunSpec(MODEL, "x", (), (), **options)  # type: ignore[arg-type]
    assert words in str(caught.value)
