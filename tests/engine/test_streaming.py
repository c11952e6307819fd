"""A run whose maps do not fit into the store: it says so before it starts, keeps none, computes none twice, and scores the same."""

from contextlib import closing
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
from support.runs import GRID, SIZE, Calls, alone, compare, plan_of, same

import attrlib.engine.streaming
from attrlib.engine.streaming import StreamingStore
from attrlib.store import Store

PROTOCOLS = f"sds,ids:steps=3,{GRID}"
METHODS = "IxG,IG:steps=3"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_run_above_the_limit_keeps_no_maps_and_scores_the_same(
    dtype: str, model: attrlib.Classifier, data: Path, tmp_path: Path, calls: Calls
) -> None:
    with closing(Store(folder=tmp_path / "large", dtype=dtype)) as large:
        whole = compare(model, PROTOCOLS, METHODS, data, large)
        assert large.sizes().maps > 0
    once = calls.times
    calls.clear()
    with closing(Store(folder=tmp_path / "small", dtype=dtype, max_bytes=10_000)) as small:
        plan = plan_of(model, PROTOCOLS, METHODS, data, small)
        assert plan.streams
        assert "maps are not kept, scores are; raise ATTRLIB_CACHE_BYTES" in plan.notes[-1]
        found = compare(model, PROTOCOLS, METHODS, data, small)
        assert small.sizes().maps == 0
        assert small.notes == ()
        assert compare(model, PROTOCOLS, METHODS, data, small).computed == 0
    assert same(found, whole)
    assert calls.times == once, "protocols of the same items share maps in memory"


def test_a_run_that_fits_keeps_its_maps(model: attrlib.Classifier, data: Path, tmp_path: Path) -> None:
    nbytes = 20 * SIZE * SIZE * 4
    for limit, streams in ((nbytes, False), (nbytes - 1, True)):
        with closing(Store(folder=tmp_path / str(limit), max_bytes=limit)) as store:
            assert plan_of(model, "sds", "IxG", data, store).streams is streams


def test_the_latest_maps_stay_in_memory_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attrlib.engine.streaming, "MEMORY", 3 * 64 * 4)
    with closing(alone(tmp_path)) as store:
        streaming = StreamingStore(store)
        store.add_maps({"stored": torch.ones(1, 8, 8)})
        streaming.add_maps({str(k): torch.full((1, 8, 8), float(k)) for k in range(4)})
        assert list(streaming.maps(["0", "1", "3", "stored"])) == ["1", "3", "stored"]
        assert store.sizes().maps == 1
