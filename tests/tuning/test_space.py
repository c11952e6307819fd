"""Search spaces: their text form, their values in closed form, and the settings drawn from them."""

import math
import re
from collections import Counter

import pytest

from attrlib.errors import MethodError, SpecError
from attrlib.methods import METHODS, resolve
from attrlib.specs import Dimension, MethodSpec, ModelSpec, ProtocolSpec, TuneSpec, parse_space
from attrlib.specs.text import write_list
from attrlib.tuning.space import default_space, read_space, search_space

WITH_PARAMS = [name for name in METHODS if default_space(MethodSpec(name))]


def tuned(method: str, space: str = "", **options: object) -> TuneSpec:
    return TuneSpec(ModelSpec("m"), "d", ProtocolSpec("sds"), MethodSpec.parse(method), parse_space(space), **options)  # type: ignore[arg-type]


def settings(method: str, space: str = "", trials: int = 20, seed: int = 0, **options: object) -> list[str]:
    return [str(each) for each in search_space(tuned(method, space, trials=trials, **options)).settings(trials, seed)]


# Text form


@pytest.mark.parametrize(
    ("text", "grid"),
    [
        ("g=0..1", (0, 0.25, 0.5, 0.75, 1)),
        ("g=-1..2:4", (-1, 0, 1, 2)),
        ("e=1e-6..1e-2:log", (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)),
        ("e=1..64:log:4", (1, 4, 16, 64)),
        ("e=0.1..0.3:2", (0.1, 0.3)),
        ("s=1..2:4", (1, 1.333, 1.667, 2)),
    ],
)
def test_a_range_has_evenly_spaced_values_on_a_grid(text: str, grid: tuple[float, ...]) -> None:
    (dimension,) = parse_space(text)
    assert dimension.is_range
    assert dimension.grid() == pytest.approx(grid, rel=1e-12)
    assert parse_space(str(dimension)) == (dimension,)


def test_a_list_keeps_its_order_without_duplicates() -> None:
    space = parse_space(" steps = 8/ 2/8 , layer=Input/layer4.1,")
    assert space == (Dimension("steps", ("8", "2")), Dimension("layer", ("Input", "layer4.1")))
    assert parse_space(write_list(space)) == space
    assert parse_space("") == ()


def test_a_space_in_python_is_a_mapping_text_or_dimensions() -> None:
    expected = parse_space("steps=2/8,noise=0.1..1:log,window=auto/8,layer=Input/Final")
    given = {"steps": [2, 8], "noise": "0.1..1:log", "window": (None, 8), "layer": ["Input", "Final"]}
    assert read_space(given) == read_space(write_list(expected)) == read_space(expected) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps", "'steps' is not a dimension of a search space; write for example gamma=0/0.25/1"),
        ("steps=", "is not a dimension"),
        ("=3/4", "is not a dimension"),
        ("a=1/2:log", "is not a dimension"),
        ("a=x..y", "'a=x..y' is not a range of numbers"),
        ("a=0..1:3:4", "is not a range of numbers"),
        ("a=0..1:log:log", "is not a range of numbers"),
        ("a=1..0", "a=1..0 is not a range: its first number must be below its second"),
        ("a=1..nan", "is not a range"),
        ("a=0..1:log", "a=0..1:log cannot be spaced logarithmically"),
        ("a=0..1:1", "asks for 1 values: a range has 2 to 1000"),
        ("a=1,a=2", "'a' is given twice in the search space"),
    ],
)
def test_a_text_that_is_not_a_space_is_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_space(text)
    assert words in str(caught.value)


# Values of a method's parameters


@pytest.mark.parametrize(
    ("method", "space", "options", "words"),
    [
        ("IG", "stepz=2/8", {}, "unknown parameter of IG 'stepz'. Did you mean steps?"),
        ("IG", "stepz=2..8", {}, "unknown parameter of IG 'stepz'. Did you mean steps?"),
        ("Grad-CAM", "steps=2/8", {}, "Grad-CAM has no parameters, so 'steps' cannot be set"),
        ("IG", "steps=0/8", {}, "IG: steps=0 is out of range: a whole number from 1 to 1000"),
        ("IG", "steps=8..2000", {}, "IG: steps=2000 is out of range: a whole number from 1 to 1000"),
        ("IG", "steps=1.5..8", {}, "IG: steps=1.5 is not valid: expected a whole number"),
        ("IG", "baseline=grey/blur", {}, "IG: unknown baseline 'grey'"),
        ("IG", "baseline=0..1", {}, "baseline=0..1 is not valid: baseline of IG is one of zeros"),
        ("IG", "layer=0..1", {}, "layers have no range"),
        ("IG", "steps=8", {}, "the search space steps=8 has a single setting, so there is nothing to search"),
        ("IG", "steps=20/20.0,baseline=blur", {}, "has a single setting"),
        ("Grad-CAM", "", {}, "Grad-CAM has no parameter with declared values left to search; give a space"),
        ("Gaussian:sigma=1", "", {}, "Gaussian:sigma=1 has no parameter with declared values left to search"),
        ("RISE", "seed=1/2", {}, "seed is not a parameter of a method"),
        ("IG:steps=0", "steps=1/2", {}, "IG: steps=0 is out of range"),
    ],
)
def test_a_space_that_does_not_fit_the_method_is_refused(method: str, space: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        search_space(tuned(method, space, **options))
    assert words in str(caught.value).replace("'1.5'", "1.5")


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(MethodError, match="unknown method 'IGG'"):
        search_space(tuned("IGG"))


@pytest.mark.parametrize("name", WITH_PARAMS)
def test_the_default_space_of_every_method_is_valid_and_holds_every_default_that_is_a_number_or_choice(name: str) -> None:
    space = search_space(tuned(name))
    default = resolve(MethodSpec(name)).values
    for dimension in space.dimensions:
        assert default[dimension.name] in space.values[dimension.name]
        assert len(space.values[dimension.name]) > 1
    assert parse_space(write_list(space.dimensions)) == space.dimensions


def test_the_default_space_is_choices_and_numbers_around_their_defaults_without_what_the_text_names() -> None:
    assert (
        write_list(default_space(MethodSpec.parse("IG:channels=sum"))) == "steps=12/25/50/100/200,baseline=zeros/uniform/black/white/blur"
    )
    assert write_list(default_space(MethodSpec("Rollout"))) == "start=0/1/2/4"
    assert default_space(MethodSpec("Occlusion")) == (), "its numbers have no default"


# Settings


def test_all_settings_are_tried_if_there_are_no_more_than_trials() -> None:
    tried = settings("IG", "steps=8/50,baseline=zeros/blur", trials=4)
    assert tried == ["IG", "IG:steps=8:baseline=zeros", "IG:steps=8:baseline=blur", "IG:steps=50:baseline=blur"]


def test_a_named_parameter_is_the_default_and_the_space_replaces_it() -> None:
    assert settings("IG@Final:steps=8", "steps=2/8/20") == ["IG@Final:steps=8", "IG@Final:steps=2", "IG@Final:steps=20"]
    assert settings("Grad-CAM", "layer=Middle/Final") == ["Grad-CAM", "Grad-CAM@Middle"]


def test_every_setting_keeps_the_target_of_the_method() -> None:
    tried = settings("IG:steps=8:target=contrast:k=3", "steps=2/8")
    assert tried == ["IG:steps=8:target=contrast:k=3", "IG:steps=2:target=contrast:k=3"]


def test_a_large_grid_is_sampled_without_repeats_and_by_the_seed() -> None:
    grid = {str(resolve(MethodSpec.parse(text))) for text in settings("IG", trials=1000)}
    assert len(grid) == 5 * 5 * 3
    tried = settings("IG", trials=30)
    assert tried[0] == "IG"
    assert len({str(resolve(MethodSpec.parse(text))) for text in tried}) == 31
    assert {str(resolve(MethodSpec.parse(text))) for text in tried} <= grid
    assert settings("IG", trials=30) == tried
    assert settings("IG", trials=10) == tried[:11], "a longer search contains a shorter one"
    assert settings("IG", trials=30, seed=1) != tried


def test_random_search_draws_any_value_of_a_range_evenly_or_by_magnitude() -> None:
    even, by_magnitude = (
        [MethodSpec.parse(text).values["std"] for text in settings("Smooth Grad-CAM++", f"std=0.01..1{scale}", 400, sampler="random")[1:]]
        for scale in ("", ":log")
    )
    for values, quartiles in ((even, (0.2575, 0.505, 0.7525)), (by_magnitude, (10**-1.5, 0.1, 10**-0.5))):
        numbers = [float(str(value)) for value in values]
        assert len(set(numbers)) > 350
        assert min(numbers) >= 0.01
        assert max(numbers) <= 1
        for share, quartile in zip((0.25, 0.5, 0.75), quartiles, strict=True):
            below = sum(number < quartile for number in numbers) / len(numbers)
            assert abs(below - share) < 4 * math.sqrt(share * (1 - share) / len(numbers)), "four standard errors"


def test_random_search_keeps_lists_and_numbered_ranges_and_rounds_whole_numbers() -> None:
    tried = settings("RISE", "samples=2..5,p=0.1..0.3:3,cells=4/8", trials=100, sampler="random")[1:]
    found = {name: Counter(re.findall(rf"{name}=([^:]+)", " ".join(tried).replace(" ", ":"))) for name in ("samples", "p", "cells")}
    assert set(found["samples"]) == {"2", "3", "4", "5"}
    assert set(found["p"]) == {"0.1", "0.2", "0.3"}
    assert set(found["cells"]) == {"4", "8"}
    assert len(set(tried)) == len(tried) == 4 * 3 * 2, "every setting once, then the search ends"
