"""Symmetric relevance gain against both curves of a plain loop, and its results that it shares with incremental deletion."""

import math
from collections.abc import Sequence
from dataclasses import replace

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from support.engine import evaluate_items
from support.judged import SIZE, TARGETS, Mass, evaluate, given, noise_maps, probability, steep_model, values
from support.method_nets import pictures
from torch import Tensor, nn

from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem
from attrlib.engine.sources import cached_forwards
from attrlib.methods import resolve
from attrlib.models import Layer
from attrlib.protocols import Batch, ExplanationRequest, create
from attrlib.specs import MethodSpec, ProtocolSpec, digest

# Symmetric relevance gain ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", ["signed", "absolute"])
@pytest.mark.parametrize("steps", [2, 9])
def test_srg_is_the_area_between_the_curves_of_a_plain_loop(steps: int, sign: str) -> None:
    model, images, maps = steep_model(), pictures(3, *SIZE), noise_maps()
    found = evaluate(f"srg:steps={steps}:sign={sign}", model, images, given(maps))
    for outcome, image, map_, target in zip(found, images, maps, TARGETS, strict=True):
        own = map_.double().numpy().ravel()
        own = np.abs(own) if sign == "absolute" else own
        areas = []
        for order in (np.argsort(own, kind="stable"), np.argsort(-own, kind="stable")):
            curve = []
            for step in range(steps):
                deleted = image.clone()
                deleted.flatten(1)[:, order[: own.size * step // steps].tolist()] = 0
                curve.append(probability(model, deleted, target))
            areas.append(np.mean(curve))
        assert abs(areas[0] - areas[1]) > 1e-3
        assert outcome.value == pytest.approx(areas[0] - areas[1], abs=1e-6)
        assert [outcome.details["ascending"][0], outcome.details["descending"][0]] == pytest.approx(areas, abs=1e-6)


def test_srg_of_an_additive_model_has_a_closed_form_and_changes_its_sign_with_the_map() -> None:
    model, images = attrlib.wrap_model(Mass(), SIZE), pictures(3, *SIZE).sigmoid()
    maps, n = images[:, :1], SIZE[0] * SIZE[1]
    found = values(evaluate(f"srg:steps={n}", model, images, given(maps), (0, 0, 0)))
    ranked = np.sort(maps.double().numpy().reshape(3, -1), 1)
    # After i steps the i lowest (highest) values are gone.
    expected = sum(ranked[:, i:].sum(1) - ranked[:, : n - i].sum(1) for i in range(n)) / n**2
    assert found == pytest.approx(expected, abs=1e-5)
    assert (found > 0.02).all()
    assert values(evaluate(f"srg:steps={n}", model, images, given(-maps), (0, 0, 0))) == pytest.approx(-expected, abs=1e-5)


def test_srg_of_a_constant_map_is_0_and_that_of_a_map_that_is_not_finite_is_undefined() -> None:
    maps = noise_maps()
    maps[0], maps[1, 0, 2, 2] = 1, math.nan
    found = values(evaluate("srg:steps=4", steep_model(), pictures(3, *SIZE), given(maps)))
    assert found[0] == 0
    assert math.isnan(found[1])
    assert found[2] != 0


def test_the_maps_of_both_orders_are_requested_once() -> None:
    asked: list[ExplanationRequest] = []
    maps = given(noise_maps())

    def explain(request: ExplanationRequest) -> tuple[Tensor, Layer]:
        asked.append(request)
        return maps(request)

    evaluate("srg:steps=3", steep_model(), pictures(3, *SIZE), explain)
    assert len(asked) == 1


class Counter:
    """A hook that counts the rows that go through a model."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.rows += len(args[0])


def test_srg_reads_the_results_of_ids_in_either_order_and_leaves_its_own_to_ids() -> None:
    model, images, counter = steep_model(), pictures(3, *SIZE), Counter()
    items = [EvalItem(f"u{i}", (i,), (target,)) for i, target in enumerate(TARGETS)]
    batch = Batch(tuple(item.id for item in items), images, torch.tensor(TARGETS))
    method = resolve(MethodSpec("Sobel"))
    evaluator = Evaluator(model, InMemoryCache())

    def passes(text: str, rows: Sequence[int] = range(3)) -> tuple[int, list[float]]:
        protocol = create(ProtocolSpec.parse(text))
        part = replace(batch, ids=tuple(batch.ids[k] for k in rows), images=images[list(rows)], labels=batch.labels[list(rows)])
        counter.rows = 0
        records = evaluate_items(evaluator, protocol, method, [items[k] for k in rows], part)
        return counter.rows, [record.value for record in records.values()]

    _ = model.behaviour
    model.module.register_forward_pre_hook(counter)
    fresh = [outcome.value for outcome in evaluate("srg:steps=5", model, images, evaluator.explainer(method))]
    srg = create(ProtocolSpec.parse("srg:steps=5"))
    left = lambda: cached_forwards(srg, method, [item.key("label") for item in items], evaluator.cache, evaluator.keys)  # noqa: E731
    assert left() == 0
    ascending, descending = srg.sources
    evaluator.cache.add_records(*_key(evaluator, ascending, method), evaluate_items(evaluator, ascending, method, items, batch))
    assert left() == 15
    assert passes("srg:steps=5", [1]) == (5, pytest.approx(fresh[1:2], abs=1e-6))
    assert left() == 20
    count, found = passes("srg:steps=5")
    assert count == 10, "two images in the other order"
    assert found == pytest.approx(fresh, abs=1e-6)
    assert passes("srg:steps=5") == (0, found)
    assert passes("srg:steps=4")[0] == 24
    # What srg computed is the record of ids itself.
    stored = evaluator.cache.records(_key(evaluator, descending, method)[0], [item.key("label") for item in items])
    again = evaluate_items(Evaluator(model, InMemoryCache()), descending, method, items, batch)
    assert stored.keys() == again.keys()
    for name, record in stored.items():
        assert record.value == pytest.approx(again[name].value, abs=1e-6)
        assert record.details["curve"] == pytest.approx(again[name].details["curve"], abs=1e-6)


def _key(evaluator: Evaluator, protocol: object, method: MethodSpec) -> tuple[str, dict[str, object]]:
    fields = evaluator.keys.score(protocol, method)  # type: ignore[arg-type]
    return digest(fields), fields
