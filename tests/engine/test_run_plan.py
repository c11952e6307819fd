"""Plans: what is cached, missing and refused, and what it costs."""

import functools
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
from support.runs import GRID, Calls, compare, plan_of, stop_at

import attrlib.engine.evaluations
import attrlib.engine.evaluator
import attrlib.engine.plan
from attrlib.engine.memory import row_bytes
from attrlib.errors import Cancelled, ProtocolError, SpecError
from attrlib.methods import BATCH_SIZE
from attrlib.store import Store

pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_plan_says_what_is_known_before_between_and_after(model: attrlib.Classifier, data: Path, store: Store, calls: Calls) -> None:
    ask = functools.partial(plan_of, model, "sds,ids:steps=2", "IxG,Random", data, store)
    before = ask()
    assert (before.cached, before.missing, before.upper_bound, before.refused) == (0, 80, False, ())
    assert before.estimate().seconds > 0
    assert before.estimate().nbytes == model.nbytes + BATCH_SIZE * row_bytes(model)
    assert (calls, store.runs(), store.sizes().records) == ([], [], 0), "a plan computes nothing"
    compare(model, "sds", "IxG,Random", data, store, limit=8)
    assert (ask().cached, ask().missing) == (16, 64)
    assert (ask(limit=8).cached, ask(limit=8).missing) == (16, 16)
    with pytest.raises(Cancelled):
        compare(model, "sds,ids:steps=2", "IxG,Random", data, store, on_progress=stop_at(20))
    between = ask()
    assert 16 < between.cached < 80
    assert between.cached + between.missing == 80
    result = compare(model, "sds,ids:steps=2", "IxG,Random", data, store)
    assert (result.cached, result.computed) == (between.cached, between.missing)
    after = ask()
    assert (after.cached, after.missing, after.estimate().seconds) == (80, 0, 0.0)


def test_a_plan_of_grids_is_an_upper_bound_until_the_filter_has_run(model: attrlib.Classifier, data: Path, store: Store) -> None:
    (data / "4" / "0.png").rename(data / "3" / "wrong.png")
    before = plan_of(model, GRID, "IxG,Random", data, store)
    assert (before.cached, before.missing, before.upper_bound) == (0, 2 * 5, True)
    result = compare(model, GRID, "IxG,Random", data, store, limit=1)
    assert result.computed == 2
    between = plan_of(model, GRID, "IxG,Random", data, store)
    assert (between.cached, between.missing, between.upper_bound) == (2, 2 * 3, False)
    assert any("19 of 20 images" in note for note in between.notes)
    compare(model, GRID, "IxG,Random", data, store)
    after = plan_of(model, GRID, "IxG,Random", data, store)
    assert (after.cached, after.missing, after.estimate().seconds) == (8, 0, 0.0)


def test_a_plan_names_what_is_refused(model: attrlib.Classifier, data: Path, store: Store) -> None:
    found = plan_of(model, "sds,idsds", "IxG,IxG@nowhere", data, store)
    assert {(str(p), str(m)) for p, m, _ in found.refused} == {("sds", "IxG@nowhere"), ("idsds", "IxG"), ("idsds", "IxG@nowhere")}
    assert found.missing == 20
    with pytest.raises(ProtocolError, match="use sds"):
        plan_of(model, "idsds", "IxG", data, store)
    with pytest.raises(SpecError, match="limit=0"):
        plan_of(model, "sds", "IxG", data, store, limit=0)


def test_a_plan_estimates_more_for_more_work(model: attrlib.Classifier, data: Path, store: Store) -> None:
    def seconds(protocol: str, method: str, **options: Any) -> float:
        return plan_of(model, protocol, method, data, store, **options).estimate().seconds

    assert seconds("sds", "IG:steps=200") > 5 * seconds("sds", "IG:steps=5")
    assert seconds("sds", "IG:steps=200", limit=4) < 0.6 * seconds("sds", "IG:steps=200")
    assert seconds("ids:steps=500", "IxG") > 5 * seconds("ids:steps=5", "IxG")


def test_a_plan_costs_nothing_when_all_is_known_of_the_predictions(model: attrlib.Classifier, data: Path, store: Store) -> None:
    (data / "0" / "1.png").rename(data / "1" / "wrong.png")
    compare(model, "sds:target=prediction", "IxG", data, store)
    found = plan_of(model, "sds:target=prediction", "IxG", data, store)
    assert (found.missing, found.estimate().seconds) == (0, 0.0)


def test_a_plan_with_a_stop_rule_is_an_upper_bound(model: attrlib.Classifier, data: Path, store: Store) -> None:
    assert plan_of(model, "sds", "IxG", data, store, ci_width=0.5).upper_bound
