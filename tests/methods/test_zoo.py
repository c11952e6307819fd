"""Every method on a member of every family of backbones: it works, or is refused for the reason in `support/refusals.py`."""

import re
from functools import cache
from itertools import product

import pytest
import torch
from support import refusals, zoo
from support.method_nets import snapshot
from support.numbers import SEED
from support.zoo_maps import PLACES, TARGETS, by_class, cheap, reference, same
from torch import Tensor

from attrlib.errors import MethodError
from attrlib.methods import METHODS, attribute, attribute_all, check_defined, create


@cache
def untouched(family: str) -> dict[str, object]:
    """Return the state of a member before the first method ran on it."""
    return snapshot(zoo.member(family).module)


@pytest.mark.parametrize(("family", "method", "layer"), [(family, *place) for family, place in product(zoo.FAMILIES, PLACES)])
def test_a_method_works_or_is_refused_for_the_expected_reason(family: str, method: str, layer: str) -> None:
    model, spec, before = zoo.member(family), cheap(method, layer), untouched(family)
    expected, reason = refusals.expected(method, layer, family), ""
    try:
        check_defined(create(spec), model, model.layer(layer))
    except MethodError as error:
        reason = str(error)
    if expected is None:
        assert reason == "", "it works according to support/refusals.py"
        assert_proper(family, method, layer, reference(family, method, layer))
    else:
        assert expected.search(reason), f"support/refusals.py expects {expected.pattern!r}, but the reason is {reason!r}"
        runs = list[int]()
        counter = model.module.register_forward_pre_hook(lambda *_: runs.append(1))
        with counter, pytest.raises(MethodError, match=re.escape(reason)):
            attribute_all(model, [cheap("Sobel", layer), spec], zoo.pictures(family, 1), [0])
        assert not runs
    assert snapshot(model.module) == before


def assert_proper(family: str, method: str, layer: str, found: Tensor) -> None:
    """Assert that maps have a value for each position, are not all empty, and do not depend on the batch."""
    model, images = zoo.member(family), zoo.pictures(family, len(TARGETS))
    assert found.shape == (len(TARGETS), 1, *model.layer(layer).shape[1:])
    assert found.isfinite().all()
    spread = by_class(family, method, layer).flatten(0, 1).flatten(1)
    assert SEED or (spread.std(1) > 1e-5 * spread.abs().amax(1)).any(), "every map is constant or zero"
    alone = [attribute(model, cheap(method, layer), images[k : k + 1], [t]).maps for k, t in enumerate(TARGETS[:2])]
    assert same(family, method, layer, torch.cat(alone), found[:2])
    assert same(family, method, layer, by_class(family, method, layer)[range(3), TARGETS], found)


def test_the_table_of_refusals_names_what_exists() -> None:
    for refusal in refusals.REFUSALS:
        assert refusal.members, refusal
        assert refusal.members <= set(zoo.FAMILIES), refusal
        for name in refusal.methods.split(","):
            method, _, layer = name.strip().partition("@")
            assert method in METHODS, refusal
            assert layer in ("", "Input", "Middle", "Final"), refusal
