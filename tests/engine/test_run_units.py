"""Units of work executed elsewhere."""

from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from support.engine import evaluate_items
from support.runs import (
    GRID,
    classifier,
    compare,
    named,
    spec_of,
)
from torch import Tensor

import attrlib.engine.evaluations
import attrlib.engine.evaluator
import attrlib.engine.plan
from attrlib.data.datasets import load_dataset
from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluations import find_evaluations
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import chunked
from attrlib.engine.loader import Loader
from attrlib.engine.selection import select
from attrlib.protocols import Prediction
from attrlib.store import Store

pytestmark = pytest.mark.usefixtures("own_cache")


class Recorder(InMemoryCache):
    """What is added to a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[str, tuple[Any, Any]] = {}  # type: ignore[assignment]
        self.maps: dict[str, Tensor] = {}  # type: ignore[assignment]

    def add_records(self, key: str, spec: Any, records: Any) -> None:
        self.records[key] = spec, records

    def add_maps(self, maps: Any) -> None:
        self.maps |= maps


def test_a_unit_of_work_elsewhere_gives_the_same_records(model: attrlib.Classifier, data: Path, store: Store) -> None:
    """What a cluster does: a spec and items in, records and maps out, with nothing but a scratch."""
    compare(model, f"sds,{GRID}", "IxG,Random,IG:steps=3", data, store)
    spec, dataset = spec_of(model, f"sds,{GRID}", "IxG,Random,IG:steps=3", data), load_dataset(data)
    cache, other = InMemoryCache(), classifier()
    bench = Evaluator(other, cache, spec.seed, spec.fast)
    groups, refused = find_evaluations(spec, dataset, bench)
    assert (len(groups), refused) == (2, [])
    for group in groups:
        selection, unpredicted = select(group, spec, dataset, [bench])
        loader = Loader(other, dataset)
        assert set(unpredicted) <= {0}
        for units in unpredicted.values():
            _, batch = loader.get(units)
            assert batch is not None
            bench.measure(Prediction(), batch)
        selection, unpredicted = select(group, spec, dataset, [bench])
        assert unpredicted == {}
        for chunk in chunked(selection.items, group.chunk_size):
            units, batch = loader.get(chunk)
            assert batch is not None
            for own in group.evaluations:
                records = evaluate_items(bench, own.protocol, own.method, units, batch)
                assert list(records) == [unit.key(own.protocol.target_choice) for unit in units]
                assert store.records(own.key, list(records)) == records
    # Measurements and maps have the keys of the run, too, so that all of it can be sent back.
    sent = Recorder()
    cache.move_to(sent)
    for key, (about, records) in sent.records.items():
        stored = store.records(key, list(records))
        assert list(stored) == list(records)
        if about["kind"] == "measurement":
            assert stored == records
    maps = store.maps(list(sent.maps))
    assert len(maps) == len(sent.maps) > 60
    assert all(torch.equal(values, sent.maps[key]) for key, values in maps.items())
    cache.move_to(sent)
    assert cache.maps(list(maps)) == {}


@pytest.mark.parametrize("several", [1, 3])
def test_a_unit_may_have_any_number_of_items(several: int, model: attrlib.Classifier, data: Path, store: Store) -> None:
    result = named(compare(model, "sds", "IG:steps=3", data, store))["sds", "IG:steps=3"]
    spec, dataset = spec_of(model, "sds", "IG:steps=3", data), load_dataset(data)
    bench = Evaluator(model, InMemoryCache())
    (group,), _ = find_evaluations(spec, dataset, bench)
    (own,) = group.evaluations
    units = select(group, spec, dataset, [bench])[0].items
    values = []
    for first in range(0, len(units), several):
        good, batch = Loader(model, dataset).get(units[first : first + several])
        assert batch is not None
        values += [r.value for r in evaluate_items(bench, own.protocol, own.method, good, batch).values()]
    assert np.allclose(values, result.values, rtol=0, atol=1e-6)
