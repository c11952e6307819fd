"""Runs with `fast`: results of their own, and how well they agree."""

from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from support.runs import (
    GRID,
    HALF,
    SIZE,
    Calls,
    classifier,
    compare,
    named,
    net,
    read,
)
from torch import nn

import attrlib.engine.evaluations
import attrlib.engine.evaluator
import attrlib.engine.plan
from attrlib.data.datasets import load_dataset
from attrlib.engine.memory import row_bytes
from attrlib.methods import AttributionOptions, attribute
from attrlib.models.modules.preserve import has_bfloat16
from attrlib.statistics import spearman
from attrlib.store import Store

pytestmark = pytest.mark.usefixtures("own_cache")


needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="no bfloat16 here")


@needs_bfloat16
def test_fast_has_results_of_its_own_and_says_how_well_they_agree(
    model: attrlib.Classifier, data: Path, store: Store, calls: Calls
) -> None:
    methods = "IG:steps=3,IxG,RISE:samples=8"
    exact = compare(model, "sds", methods, data, store)
    calls.clear()
    fast = compare(model, "sds", methods, data, store, fast=True)
    assert (fast.computed, fast.cached, exact.agreement) == (60, 0, {})
    assert (calls.of("IG"), calls.of("IxG"), calls.of("RISE")) == (0, 0, 20), "a gradient is never rounded"
    assert ",".join(str(m) for m in fast.agreement) == methods
    order = load_dataset(data).order(0)[:2]
    images, labels = read(model, data)
    for method, value in fast.agreement.items():
        rounded = method.name == "RISE"
        maps = [
            attribute(model, method, images[order], [labels[i] for i in order], options=AttributionOptions(fast=f)).maps.flatten(1)
            for f in (False, rounded)
        ]
        # In another batch the last of bfloat16's 8 bits is another, and near ties change places.
        assert value == pytest.approx(float(spearman(*maps).mean()), abs=5e-3 if rounded else 1e-4)
        assert 0.5 < value < 1 if rounded else value == 1
    details = {
        m: [repr(d) for d in named(fast)["sds", m].details] == [repr(d) for d in named(exact)["sds", m].details] for m in methods.split(",")
    }
    assert details == {"IG:steps=3": True, "IxG": True, "RISE:samples=8": False}
    calls.clear()
    again = compare(model, "sds", methods, data, store, fast=True)
    assert (again.computed, again.agreement, calls) == (0, fast.agreement, [])
    assert compare(model, "sds", methods, data, store).cached == 60


@needs_bfloat16
def test_fast_folds_and_folded_maps_are_not_taken_for_exact_ones(data: Path, store: Store, calls: Calls) -> None:
    module = net()
    module.conv2 = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
    model = attrlib.wrap_model(module.eval(), SIZE, HALF, HALF)
    exact, fast = (
        compare(model, f"sds,{GRID.replace('gridpg', 'difull')}", "IG:steps=3,IxG@conv2.0", data, store, fast=f) for f in (False, True)
    )
    for key, score in named(exact).items():
        np.testing.assert_allclose(named(fast)[key].values, score.values, rtol=1e-3)
    assert fast.agreement.keys() == {m for _, m in exact.scores}
    assert min(fast.agreement.values()) > 0.999
    # Exactly the maps at a convolution that would be folded are those of the exact run.
    assert (calls.of("IG"), calls.of("IxG")) == (2 * calls.of("IxG"), calls.of("IxG"))
    assert sum(isinstance(own, nn.BatchNorm2d) for own in module.modules()) == 1


@needs_bfloat16
def test_fast_goes_on_without_what_is_refused(data: Path, store: Store) -> None:
    result = compare(classifier(activation=nn.GELU), "sds", "IxG,Guided Backprop,IxG@nowhere", data, store, fast=True)
    assert [str(m) for m in result.agreement] == ["IxG"]
    assert len(result.refused) == 2


@needs_bfloat16
def test_agreement_is_measured_within_the_memory_too(
    model: attrlib.Classifier, data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    original = attrlib.engine.evaluator.attribute_each

    def spy(*args: Any) -> list[Any]:
        rows.append(args[4].batch_size)
        return original(*args)

    monkeypatch.setattr(attrlib.engine.evaluator, "attribute_each", spy)
    compare(model, "sds", "IG:steps=3", data, store, fast=True, max_memory=model.nbytes + int(1.5 * row_bytes(model)))
    assert set(rows) == {1}
