import dataclasses
import hashlib
import math
import random
import shlex
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar
from urllib.parse import parse_qsl

import pytest

import attrlib
from attrlib.errors import AttrlibError, MethodError, SpecError
from attrlib.registry import Param, Registry, param, params_of, parse_params
from attrlib.specs import ExplainSpec, MethodSpec, ModelSpec, TargetSpec, ViewSpec, canonical, digest, parse_methods, whole

STEPS = Param("steps", int, 20, "Steps", low=1, high=1000)
SIGMA = Param("sigma", float, 0.1, "Width", low=0.0, high=2.5)
NOISY = Param("noisy", bool, True, "Whether to add noise")
MODE = Param("mode", str, "mean", "How to average", choices=("mean", "median", "max"))
SIZE = Param("size", int, None, "Size", low=1, high=9, auto="as large as the layer")
ANY = Param("number", float, 0.0, "Any number")


# Parameters.


@pytest.mark.parametrize(
    ("parameter", "value", "expected"),
    [
        (STEPS, "20", 20),
        (STEPS, 1, 1),
        (STEPS, "1000", 1000),
        (STEPS, "1e2", 100),
        (STEPS, 5.0, 5),
        (STEPS, " 7 ", 7),
        (SIGMA, "0.25", 0.25),
        (SIGMA, 0, 0.0),
        (SIGMA, "2.5", 2.5),
        (SIGMA, "1e-3", 0.001),
        (NOISY, "true", True),
        (NOISY, "YES", True),
        (NOISY, 1, True),
        (NOISY, "False", False),
        (NOISY, "no", False),
        (NOISY, 0, False),
        (NOISY, True, True),
        (MODE, "median", "median"),
        (SIZE, "auto", None),
        (SIZE, None, None),
        (SIZE, "3", 3),
        (ANY, -1e300, -1e300),
    ],
)
def test_values_are_read_in_their_type(parameter, value, expected):
    found = parameter.parse(value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        (STEPS, 0, "steps=0 is out of range: a whole number from 1 to 1000"),
        (STEPS, "1001", "steps=1001 is out of range: a whole number from 1 to 1000"),
        (STEPS, "2.5", "steps='2.5' is not valid: expected a whole number from 1 to 1000"),
        (STEPS, "many", "steps='many' is not valid: expected a whole number"),
        (STEPS, "", "steps='' is not valid"),
        (STEPS, True, "steps='True' is not valid"),
        (STEPS, "nan", "steps='nan' is not valid"),
        (STEPS, "inf", "steps='inf' is not valid"),
        (STEPS, "9" * 400, "steps=9999999999999999999999999999999999999999 is out of range"),
        (STEPS, [3], "steps='[3]' is not valid"),
        (STEPS, None, "steps needs a value: a whole number from 1 to 1000"),
        (STEPS, "auto", "steps='auto' is not valid"),
        (SIGMA, -0.01, "sigma=-0.01 is out of range: a number from 0 to 2.5"),
        (SIGMA, 2.51, "sigma=2.51 is out of range"),
        (SIGMA, "nan", "sigma='nan' is not valid"),
        (SIGMA, "inf", "sigma='inf' is not valid"),
        (SIGMA, False, "sigma='False' is not valid"),
        (NOISY, "maybe", "noisy='maybe' is not valid: expected true or false"),
        (NOISY, 2, "noisy='2' is not valid"),
        (NOISY, None, "noisy needs a value: true or false"),
        (MODE, "medina", "unknown mode 'medina'. Did you mean median"),
        (MODE, "MEDIAN", "Did you mean median?"),
        (MODE, None, "mode needs a value: one of mean, median, max"),
        (SIZE, 10, "size=10 is out of range"),
        (SIZE, "Auto", "size='Auto' is not valid"),
        (ANY, "nan", "number='nan' is not valid"),
    ],
)
def test_invalid_values_are_refused_with_the_allowed_ones(parameter, value, message):
    with pytest.raises(SpecError) as caught:
        parameter.parse(value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        (STEPS, [1, 20, 999, 1000]),
        (SIGMA, [0.0, 0.1, 1 / 3, 1e-17, 2.5]),
        (NOISY, [True, False]),
        (MODE, ["mean", "median", "max"]),
        (SIZE, [None, 1, 9]),
        (ANY, [-0.1, 1e300, 5e-324, math.pi]),
    ],
)
def test_a_formatted_value_is_read_back_as_it_was(parameter, values):
    for value in values:
        text = parameter.format(value)
        assert isinstance(text, str)
        assert parameter.parse(text) == value
        assert type(parameter.parse(text)) is type(value)


def test_random_numbers_survive_their_text():
    draw = random.Random(0)
    for _ in range(500):
        value = draw.uniform(0, 2.5)
        assert SIGMA.parse(SIGMA.format(value)) == value


@pytest.mark.parametrize(
    ("parameter", "text"),
    [(STEPS, "20"), (SIGMA, "0.1"), (NOISY, "true"), (MODE, "mean"), (SIZE, "auto")],
)
def test_defaults_are_written_as_a_user_would_type_them(parameter, text):
    assert parameter.format(parameter.default) == text


def test_whole_numbers_of_any_size_are_read_exactly():
    assert Param("n", int, 0, "Any").parse(str(2**53 + 1)) == 2**53 + 1


def test_infinity_is_not_a_valid_number():
    with pytest.raises(SpecError):
        ANY.parse("inf")


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        (Param("n", int, 1, "From 1", low=1), 0, "from 1"),
        (Param("x", float, 1.0, "At most 2", high=2.0), 3, "2"),
        (Param("label", str, "a", "Any text"), None, "text"),
    ],
)
def test_the_expectation_is_stated_for_one_sided_ranges_and_for_free_text(parameter, value, message):
    with pytest.raises(SpecError) as caught:
        parameter.parse(value)
    assert message in str(caught.value).partition(": ")[2]


@dataclass(frozen=True)
class Example:
    name: ClassVar[str] = "Example"
    steps: int = param(20, "Steps", low=1, high=1000)
    sigma: float | None = param(None, "Width", low=0.0, high=1.0, auto="from the image")
    noisy: bool = param(False, "Noise")
    mode: str = param("mean", "Mode", choices=("mean", "max"))


@dataclass(frozen=True)
class Bare:
    name: ClassVar[str] = "Bare"


def test_the_parameters_of_a_class_are_its_fields():
    assert params_of(Example) == (
        Param("steps", int, 20, "Steps", 1, 1000),
        Param("sigma", float, None, "Width", 0.0, 1.0, (), "from the image"),
        Param("noisy", bool, False, "Noise"),
        Param("mode", str, "mean", "Mode", None, None, ("mean", "max")),
    )
    assert params_of(Bare) == ()


def test_values_are_parsed_and_missing_ones_keep_their_default():
    assert parse_params(Example, {"steps": "5", "mode": "max"}, "X") == dict(steps=5, sigma=None, noisy=False, mode="max")
    assert parse_params(Example, {"sigma": "auto"}, "X") == dict(steps=20, sigma=None, noisy=False, mode="mean")
    assert parse_params(Bare, {}, "X") == {}
    assert Example(**parse_params(Example, {"noisy": "true"}, "X")) == Example(noisy=True)


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (Example, {"steps": "0"}, "SmoothGrad: steps=0 is out of range"),
        (Example, {"mode": "min"}, "SmoothGrad: unknown mode 'min'"),
        (Example, {"step": "3"}, "unknown parameter of SmoothGrad 'step'. Did you mean steps?"),
        (Example, {"zzz": 1}, "unknown parameter of SmoothGrad 'zzz'. Known: steps, sigma, noisy, mode."),
        (Bare, {"steps": 1}, "SmoothGrad has no parameters, so 'steps' cannot be set."),
    ],
)
def test_every_error_names_the_owner_of_the_parameter(cls, values, message):
    with pytest.raises(SpecError) as caught:
        parse_params(cls, values, "SmoothGrad")
    assert message in str(caught.value)


# Registry.


@pytest.fixture
def shapes() -> Registry:
    registry: Registry = Registry("shape", MethodError)
    registry.register(type("Square", (), {"name": "square"}))
    registry.register(type("Circle", (), {"name": "circle"}))
    return registry


def test_a_registry_holds_classes_by_name_in_order_of_registration(shapes):
    assert list(shapes) == ["square", "circle"]
    assert len(shapes) == 2
    assert shapes["circle"].__name__ == "Circle"
    assert "square" in shapes
    assert "triangle" not in shapes
    assert 3 not in shapes
    assert shapes.get("square") is shapes["square"]


def test_registering_returns_the_class_and_refuses_a_name_twice(shapes):
    triangle = type("Triangle", (), {"name": "triangle"})
    assert shapes.register(triangle) is triangle
    with pytest.raises(MethodError, match="shape 'triangle' is registered twice"):
        shapes.register(type("Other", (), {"name": "triangle"}))
    assert shapes["triangle"] is triangle


@pytest.mark.parametrize(
    ("name", "message"), [("circel", r"Did you mean circle\?"), ("CIRCLE", r"Did you mean circle\?"), ("x", "Known: square, circle")]
)
def test_an_unknown_name_is_answered_in_the_registrys_own_error(shapes, name, message):
    with pytest.raises(MethodError, match=f"unknown shape '{name}'. {message}"):
        shapes[name]


def test_every_error_is_one_of_the_library():
    assert issubclass(SpecError, AttrlibError)
    assert issubclass(MethodError, AttrlibError)


# Methods as text.


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("IG", MethodSpec("IG")),
        ("IG@Final", MethodSpec("IG", "Final")),
        ("IG@Final:steps=20", MethodSpec("IG", "Final", (("steps", "20"),))),
        ("IG:steps=20:noisy=true", MethodSpec("IG", "", (("steps", "20"), ("noisy", "true")))),
        ("Grad-CAM++@features.12", MethodSpec("Grad-CAM++", "features.12")),
        ("  IG @ Final : steps = 20 ", MethodSpec("IG", "Final", (("steps", "20"),))),
        ("IG@", MethodSpec("IG")),
        ("IG:text=a=b", MethodSpec("IG", "", (("text", "a=b"),))),
        ("IG:text=", MethodSpec("IG", "", (("text", ""),))),
        ("IG:target=probability", MethodSpec("IG", target=TargetSpec("probability"))),
        ("IG@Final:steps=20:target=contrast:k=3", MethodSpec("IG", "Final", (("steps", "20"),), TargetSpec("contrast", (("k", "3"),)))),
        ("IG:target=similarity:to=sample:cat", MethodSpec("IG", target=TargetSpec("similarity", (("to", "sample:cat"),)))),
    ],
)
def test_a_method_is_read_from_text(text, spec):
    assert MethodSpec.parse(text) == spec


def test_a_layer_is_used_where_the_text_names_none():
    assert MethodSpec.parse("IG", "Middle").layer == "Middle"
    assert MethodSpec.parse("IG@", "Middle").layer == "Middle"
    assert MethodSpec.parse("IG@Final", "Middle").layer == "Final"


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (MethodSpec("IG"), "IG"),
        (MethodSpec("IG", "Final"), "IG@Final"),
        (MethodSpec("IG", "Final", (("steps", 20),)), "IG@Final:steps=20"),
        (MethodSpec("IG", "", (("noisy", True), ("size", None), ("sigma", 0.5))), "IG:noisy=true:size=auto:sigma=0.5"),
    ],
)
def test_a_method_is_written_as_text(spec, text):
    assert str(spec) == text
    assert str(MethodSpec.parse(text)) == text


def test_random_methods_survive_their_text():
    draw = random.Random(1)
    for _ in range(300):
        spec = random_method(draw)
        assert MethodSpec.parse(str(spec)) == spec
        assert spec.values == dict(spec.params)


@pytest.mark.parametrize("text", ["", "  ", "@Final", ":steps=3", "@", "@Final:steps=3"])
def test_text_without_a_method_is_refused(text):
    with pytest.raises(SpecError, match=r"names no method; write NAME, NAME@LAYER"):
        MethodSpec.parse(text)


@pytest.mark.parametrize("text", ["IG:steps", "IG:", "IG:=3", "IG: =3", "IG@Final:steps=3:", "IG::steps=3"])
def test_text_that_is_not_key_value_is_refused(text):
    with pytest.raises(SpecError, match=r"is not key=value; write for example IG:steps=20"):
        MethodSpec.parse(text)


@pytest.mark.parametrize("text", ["IG:steps=3:steps=4", "IG@Final@Middle"])
def test_text_that_contradicts_itself_is_refused(text):
    with pytest.raises(SpecError):
        MethodSpec.parse(text)


def test_a_list_of_methods_holds_each_once_in_order():
    found = parse_methods("IG, Grad-CAM@Final ,IG,, IG:steps=5,IG@Final")
    assert [str(m) for m in found] == ["IG", "Grad-CAM@Final", "IG:steps=5", "IG@Final"]
    assert parse_methods("A,B@Final", "Middle") == (MethodSpec("A", "Middle"), MethodSpec("B", "Final"))
    assert parse_methods("IG,IG@Input", "Input") == (MethodSpec("IG", "Input"),)


@pytest.mark.parametrize("text", ["", " ", ",", " , ,"])
def test_a_list_without_methods_is_refused(text):
    with pytest.raises(SpecError, match="no method given; write for example"):
        parse_methods(text)


def test_one_invalid_method_invalidates_the_list():
    with pytest.raises(SpecError, match="names no method"):
        parse_methods("IG,@Final")


# Whole numbers.


@pytest.mark.parametrize(("value", "expected"), [("0", 0), (7, 7), (" 12 ", 12), ("2147483647", 2**31 - 1)])
def test_whole_numbers_are_read(value, expected):
    assert whole(value, "seed") == expected


@pytest.mark.parametrize("value", ["-1", "2147483648", "1.0", "1e3", "", "x", None, True, 2.5, "9" * 5000, "²"])
def test_an_invalid_whole_number_is_refused_by_name(value):
    with pytest.raises(SpecError, match=r"^seed='.{0,40}' is not valid: expected a whole number from 0$"):
        whole(value, "seed")


# Digests.


def by_hand(*parts: bytes) -> str:
    return hashlib.blake2b(b"".join(len(p).to_bytes(8, "little") + p for p in parts), digest_size=16).hexdigest()


def test_a_digest_is_that_of_the_canonical_json():
    assert digest({"b": [1, 2.5, None], "a": "ä"}) == by_hand(b'{"a":"\\u00e4","b":[1,2.5,null]}')
    assert digest("x", b"\x00\xff", True) == by_hand(b'"x"', b"\x00\xff", b"true")
    assert digest(memoryview(b"abc")) == by_hand(b"abc")
    assert canonical(MethodSpec("IG", "Final", (("steps", 20),))) == '{"layer":"Final","name":"IG","params":[["steps",20]]}'


def test_the_order_of_keys_does_not_matter():
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("ab",), ("a", "b")),
        (("a", "bc"), ("ab", "c")),
        (([1, 2],), ([2, 1],)),
        (([1], [2]), ([1, 2],)),
        (("1",), (1,)),
        ((0,), (False,)),
        ((None,), ("null",)),
        ((), ("",)),
        (({"a": None},), ({},)),
        ((b"ab", b""), (b"a", b"b")),
    ],
)
def test_other_content_has_another_digest(first, second):
    assert digest(*first) != digest(*second)


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, object(), ViewSpec])
def test_values_without_canonical_json_have_no_digest(value):
    with pytest.raises((ValueError, TypeError)):
        digest(value)


FULL = ExplainSpec(
    model=ModelSpec(
        "timm:resnet18", "my.pth", (32, 48), "sigmoid", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", 0.9, "squash", 4095.0, (2, 1, 0)
    ),
    image="photo.jpg",
    methods=(MethodSpec("IG", "Final", (("steps", "20"),), TargetSpec("contrast", (("k", "2"),))), MethodSpec("Grad-CAM", "Middle")),
    target=3,
    seed=4,
    view=ViewSpec("positive", 5, 0.5, "shared", 98.0, "RdBu", "Magma"),
)


def other(value: object, declared: Param | None) -> object:
    if isinstance(value, bool):
        return not value
    if declared is not None and declared.choices:
        return next(choice for choice in declared.choices if choice != value)
    if isinstance(value, float):
        return value + 0.25
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return value[::-1] if value[::-1] != value else value[:-1]
    raise AssertionError(value)


def variations(spec: object) -> list[tuple[str, object]]:
    """Return every variation of one field of a spec, or of a nested spec."""
    found = []
    declared = {p.path[0]: p for p in params_of(type(spec)) if len(p.path) == 1}
    for f in dataclasses.fields(spec):
        value = getattr(spec, f.name)
        if dataclasses.is_dataclass(value):
            found += [(f"{f.name}.{path}", dataclasses.replace(spec, **{f.name: inner})) for path, inner in variations(value)]
        elif f.name == "smoothing":
            found.append((f.name, dataclasses.replace(spec, smoothing=value + 2)))
        else:
            found.append((f.name, dataclasses.replace(spec, **{f.name: other(value, declared.get(f.name))})))
        if value is not None and f.default is None:
            found.append((f"{f.name} absent", dataclasses.replace(spec, **{f.name: None})))
    return found


def test_the_digest_of_a_spec_changes_with_every_field():
    changed = variations(FULL) + variations(FULL.methods[0])
    digests = {path: digest(spec) for path, spec in changed}
    assert {"model.checkpoint absent", "target absent", "view.clip", "view.sequential", "image", "layer", "params"} <= digests.keys()
    everything = [digest(FULL), digest(FULL.methods[0]), *digests.values()]
    assert len(set(everything)) == len(everything)


def test_equal_specs_have_equal_digests():
    again = dataclasses.replace(FULL, view=ViewSpec(**dataclasses.asdict(FULL.view)))
    assert again is not FULL
    assert digest(again) == digest(FULL)
    assert digest(FULL, 1) == digest(again, 1) != digest(FULL)


# Views.


def test_a_view_is_read_from_text():
    found = ViewSpec.parse({"sign": "absolute", "smoothing": "7", "opacity": "0.25", "clip": "100"})
    assert found == ViewSpec(sign="absolute", smoothing=7, opacity=0.25, clip=100.0)
    assert ViewSpec.parse({}) == ViewSpec()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sign", "negative", "unknown sign"),
        ("smoothing", "4", "smoothing=4 is even"),
        ("smoothing", "-1", "smoothing=-1 is out of range"),
        ("smoothing", "258", "smoothing=258 is out of range"),
        ("opacity", "1.1", "opacity=1.1 is out of range"),
        ("scale", "none", "unknown scale"),
        ("clip", "49", "clip=49 is out of range"),
        ("diverging", "Jet", "unknown diverging"),
        ("sequential", "jet", "unknown sequential"),
        ("colour", "red", "unknown parameter of view"),
    ],
)
def test_an_invalid_view_is_refused(field, value, message):
    with pytest.raises(SpecError, match=message):
        ViewSpec.parse({field: value})


# Links.


def random_method(draw: random.Random) -> MethodSpec:
    name = draw.choice(["IG", "Grad-CAM", "Grad-CAM++", "Integrated Gradients", "Gradient×Input"])
    layer = draw.choice(["", "Input", "Final", "features.denseblock1.denselayer2.conv1"])
    keys = draw.sample(["steps", "sigma", "noisy", "mode"], draw.randrange(4))
    return MethodSpec(name, layer, tuple((k, draw.choice(["20", "0.125", "true", "auto", "a b", "50%", "a=b", "ü&#+?"])) for k in keys))


def random_spec(draw: random.Random) -> ExplainSpec:
    odd = [
        "photo.jpg",
        "my photo (1).jpg",
        "a&b=c",
        "100%",
        "c++.png",
        "ordner/ü?#.jpeg",
        "sample:tench",
        "a,b@c",
        "x;y",
        '"quoted"',
        "日本",
    ]
    methods = tuple(dict.fromkeys(random_method(draw) for _ in range(draw.randint(1, 5))))
    view = ViewSpec(
        sign=draw.choice(["signed", "positive", "absolute"]),
        smoothing=draw.choice([0, 1, 3, 99, 257]),
        opacity=draw.choice([0.0, 1.0, draw.random()]),
        scale=draw.choice(["shared", "each"]),
        clip=draw.choice([50.0, 100.0, draw.uniform(50, 100)]),
        diverging=draw.choice(["BlueOrange", "RdBu", "PuOr", "PRGn"]),
        sequential=draw.choice(["Inferno", "Viridis", "Cividis", "Magma"]),
    )
    model = ModelSpec(draw.choice(["efficientnet_lite0", "timm:resnet18.a1_in1k"]), draw.choice([None, *odd]))
    return ExplainSpec(model, draw.choice(odd), methods, draw.choice([None, 0, 999]), draw.choice([0, 1, 2**31 - 1]), view)


DEFAULT = ExplainSpec(ModelSpec("efficientnet_lite0"), "sample:tench", (MethodSpec("IG"),))


def fields_of(link: str) -> dict[str, str]:
    assert link.startswith("?")
    pairs = parse_qsl(link[1:], strict_parsing=True)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_a_link_restores_its_spec():
    draw = random.Random(2)
    for _ in range(400):
        spec = random_spec(draw)
        found, problems = ExplainSpec.read_link(fields_of(spec.link()), DEFAULT)
        assert problems == []
        assert found == spec


def test_a_link_does_not_depend_on_the_defaults_of_its_reader():
    found, problems = ExplainSpec.read_link(fields_of(DEFAULT.link()), FULL)
    assert (found, problems) == (DEFAULT, [])


def test_a_link_can_be_read_by_people():
    link = dataclasses.replace(FULL, model=ModelSpec("timm:resnet18"), target=None).link()
    assert "model=timm:resnet18&" in link
    assert "&methods=IG@Final:steps=20:target=contrast:k=2,Grad-CAM@Middle&" in link
    assert "&target=predicted&" in link


def test_typed_parameters_are_written_as_text():
    spec = dataclasses.replace(FULL, methods=(MethodSpec("IG", "Final", (("steps", 20), ("noisy", True), ("size", None))),))
    found, _ = ExplainSpec.read_link(fields_of(spec.link()), DEFAULT)
    assert found.methods == (MethodSpec("IG", "Final", (("steps", "20"), ("noisy", "true"), ("size", "auto"))),)


def test_an_empty_link_is_the_default():
    assert ExplainSpec.read_link({}, FULL) == (FULL, [])


def test_fields_that_are_absent_keep_their_default():
    found, problems = ExplainSpec.read_link({"target": "7", "clip": "60"}, FULL)
    assert problems == []
    assert found == dataclasses.replace(FULL, target=7, view=dataclasses.replace(FULL.view, clip=60.0))


def test_a_link_restores_random_weights():
    spec = dataclasses.replace(DEFAULT, model=ModelSpec("timm:resnet18", "random:3"))
    assert ExplainSpec.read_link(fields_of(spec.link()), DEFAULT)[0] == spec


INVALID = {
    "target": ["-1", "tench", "1.5", "99999999999", "PREDICTED"],
    "seed": ["-3", "x", "0.5", "2147483648"],
    "methods": [",", "@Final", "IG:steps", "IG,:x=1"],
    "sign": ["both", "Signed", "1"],
    "smoothing": ["4", "256"],
    "opacity": ["-0.1", "1.01", "nan", "half"],
    "scale": ["one", "SHARED"],
    "clip": ["49.9", "101", "inf", "x"],
    "diverging": ["Jet", "Inferno"],
    "sequential": ["BlueOrange", "x" * 300],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in INVALID.items() for v in values])
def test_an_invalid_field_of_a_link_is_reported_once_and_keeps_the_default(field, value):
    found, problems = ExplainSpec.read_link({field: value}, FULL)
    assert found == FULL
    assert len(problems) == 1
    assert len(problems[0]) < 300
    assert field.rstrip("s") in problems[0] or "IG" in problems[0]


@pytest.mark.parametrize("value", ["-1", "259", "x", "2.5"])
def test_an_invalid_smoothing_is_reported_once(value):
    found, problems = ExplainSpec.read_link({"smoothing": value}, FULL)
    assert found == FULL
    assert len(problems) == 1


def test_all_invalid_fields_are_reported_and_valid_ones_are_used():
    fields = {field: values[0] for field, values in INVALID.items()}
    found, problems = ExplainSpec.read_link(fields | {"image": "other.jpg", "model": "torchvision:vgg11"}, FULL)
    assert found == dataclasses.replace(FULL, image="other.jpg", model=ModelSpec("torchvision:vgg11"))
    assert len(problems) == len(fields)


def test_unknown_fields_are_reported_with_the_nearest_name():
    found, problems = ExplainSpec.read_link({"opacitiy": "0.5", "utm_source": "x"}, FULL)
    assert found == FULL
    assert len(problems) == 2
    assert "unknown field of the link 'opacitiy'. Did you mean opacity?" in problems


def test_a_checkpoint_without_a_model_is_one_of_the_default_model():
    found, problems = ExplainSpec.read_link({"checkpoint": "other.pth"}, FULL)
    assert found == dataclasses.replace(FULL, model=ModelSpec(FULL.model.architecture, "other.pth"))
    assert problems == []


# Equivalent command line and Python code.


def test_the_command_line_contains_what_differs_from_the_defaults():
    draw = random.Random(3)
    for _ in range(100):
        spec = random_spec(draw)
        words = shlex.split(spec.cli())
        assert words[:4] == ["python", "-m", "attrlib", "explain"]
        flags = dict(zip(words[4::2], words[5::2], strict=True))
        expected = {
            "--model": spec.model.architecture,
            "--image": spec.image,
            "--methods": ",".join(map(str, spec.methods)),
            "--out": "explained",
        }
        expected |= {"--checkpoint": spec.model.checkpoint} if spec.model.checkpoint else {}
        expected |= {} if spec.target is None else {"--target": str(spec.target)}
        expected |= {"--seed": str(spec.seed)} if spec.seed else {}
        view, default = dataclasses.asdict(spec.view), dataclasses.asdict(ViewSpec())
        expected |= {f"--{k}": str(v) for k, v in view.items() if v != default[k]}
        assert flags == expected


def test_the_snippet_computes_every_method(monkeypatch):
    calls = []

    def explain(model: object, photo: object, method: str, **options: object) -> SimpleNamespace:
        calls.append((model, photo, method, options))
        return SimpleNamespace(maps=f"maps of {method}")

    monkeypatch.setattr(attrlib, "load_model", lambda name, **options: SimpleNamespace(name=name, **options))
    monkeypatch.setattr(attrlib, "open_image", lambda name: f"opened {name}")
    monkeypatch.setattr(attrlib, "explain", explain)
    monkeypatch.setattr(attrlib, "resize", lambda maps, size: f"{maps} at {size}")
    monkeypatch.setattr(attrlib, "smooth", lambda maps, kernel: f"{maps} smoothed {kernel}")
    spec = dataclasses.replace(FULL, image='it\'s "odd".jpg')
    names: dict[str, object] = {}
    exec(compile(spec.snippet(), "snippet", "exec"), names)
    assert [c[1:] for c in calls] == [(f"opened {spec.image}", str(m), dict(target=3, seed=4)) for m in spec.methods]
    assert (calls[0][0].name, calls[0][0].checkpoint) == ("timm:resnet18", "my.pth")
    assert names["maps"] == {str(m): f"maps of {m}" for m in spec.methods}
    assert names["smooth"] == {str(m): f"maps of {m} at (32, 48) smoothed 5" for m in spec.methods}
