"""Units of work are plain data: executed elsewhere and in any order they give the same scores, bit for bit."""

import pickle
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.executors import ShuffledProcesses

import attrlib
from attrlib.engine.cache import InMemoryCache
from attrlib.engine.plan import make_plan
from attrlib.engine.results import RunResult
from attrlib.engine.run import run
from attrlib.progress import no_listener
from attrlib.protocols import PROTOCOLS
from attrlib.specs import ModelSpec, ProtocolSpec, RunSpec, parse_methods
from attrlib.store import Store

MODEL = "birds_resnet10_tuned"
FEW = {
    "infidelity": "samples=2",
    "sensitivity": "samples=2",
    "ids": "steps=3",
    "srg": "steps=3",
    "deletion": "steps=3",
    "insertion": "steps=3",
    "irof": "steps=3",
    "saco": "groups=3",
    **dict.fromkeys(("gridpg", "difull", "dipart"), "confidence=0.5"),
}
ITEMS = 18
SPEC = RunSpec(
    ModelSpec(MODEL),
    "birds",
    tuple(ProtocolSpec.parse(f"{name}:{FEW[name]}" if name in FEW else name) for name in PROTOCOLS),
    parse_methods("IxG,SmoothGrad:samples=2"),
    ITEMS,
)


def executed(spec: RunSpec, folder: Path, *executor: object) -> RunResult:
    model = attrlib.load_model(spec.model.architecture, "cpu")
    with closing(Store(folder=folder)) as store:
        result = run(make_plan(spec, model, attrlib.load_dataset(spec.data), store), no_listener, *executor)  # type: ignore[arg-type]
        scores = {pair: replace(score, details=list(score.details)) for pair, score in result.scores.items()}
    return replace(result, scores=scores)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, RunResult]:
    """The same run in this process, and shuffled in two others."""
    here, there = (tmp_path_factory.mktemp(name) for name in ("here", "there"))
    return executed(SPEC, here), executed(SPEC, there, ShuffledProcesses)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_units_shuffled_over_two_processes_give_the_same_scores_bit_for_bit(protocol: str, results: tuple[RunResult, RunResult]) -> None:
    here, there = results
    pairs = [pair for pair in here.scores if pair[0].name == protocol]
    assert len(pairs) == len(SPEC.methods)
    for pair in pairs:
        one, other = here.scores[pair], there.scores[pair]
        assert one.ids == other.ids
        assert len(one.ids) > 4
        assert one.values.tobytes() == other.values.tobytes()
        assert one.details == other.details


def test_a_run_elsewhere_counts_the_same(results: tuple[RunResult, RunResult]) -> None:
    here, there = results
    assert (there.computed, there.cached, there.refused) == (here.computed, here.cached, here.refused)
    assert there.notes == here.notes


def test_a_run_elsewhere_stops_after_the_same_items(tmp_path: Path) -> None:
    spec = replace(SPEC, protocols=(ProtocolSpec("sds"),), methods=parse_methods("IxG"), limit=128, ci_width=0.5)
    here, there = executed(spec, tmp_path / "here"), executed(spec, tmp_path / "there", ShuffledProcesses)
    ((pair, score),) = here.scores.items()
    assert 16 <= len(score.values) < 128
    np.testing.assert_array_equal(there.scores[pair].values, score.values)


def test_units_are_plain_data() -> None:
    model = attrlib.load_model(MODEL, "cpu")
    plan = make_plan(SPEC, model, attrlib.load_dataset("birds"), InMemoryCache())  # type: ignore[arg-type]
    units = [unit for group in plan.groups for unit in group.units(plan.area).values()] + [u for own in plan.predict_units() for u in own]
    assert units
    for unit in units:
        again = pickle.loads(pickle.dumps(unit))
        assert again == unit
        assert len(pickle.dumps(unit)) < 200_000
