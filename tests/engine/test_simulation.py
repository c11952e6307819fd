"""The simulation of large runs, on cases in closed form."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from support.runs import classifier, pictures

from attrlib.data.datasets import load_dataset
from attrlib.engine.plan import FORWARD_PASSES, Plan, item_seconds, make_plan
from attrlib.specs import ModelSpec, RunSpec, parse_methods, parse_protocols
from attrlib.store import Store
from benchmarks.simulation import Costs, Simulated, made_up_units, passes_of, records_of, simulate

BATCH = 16
GRID = 4
MEASURED = 1 + GRID**2
"""Forward passes of SDS for each image, shared by all methods."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    folder = tmp_path_factory.mktemp("simulation")
    model, data = classifier(), load_dataset(pictures(folder / "pictures"))
    with closing(Store(folder=folder / "store")) as store:
        spec = RunSpec(ModelSpec("timm:resnet18"), data.name, parse_protocols("sds"), parse_methods("IxG,SmoothGrad:samples=3"))
        yield make_plan(spec, model, data, store)


@pytest.fixture(scope="module", autouse=True)
def _loadable() -> Iterator[None]:
    """The network of the tests exists in memory only, which real workers are right to refuse."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attrlib.engine.executors.dispatcher.worker_spec", lambda *_: None)
        yield


def simulated(plan: Plan, images: int, workers: int, passes: float, load: float = 0.0, record: float = 0.0) -> Simulated:
    return simulate(plan, made_up_units(plan.groups[0].group, images), workers, Costs(passes, load, record))


def passes_of_an_image(plan: Plan) -> float:
    return MEASURED + sum(item_seconds(each, plan.model, FORWARD_PASSES) for each in plan.groups[0].group.evaluations)


def test_the_passes_and_records_of_a_unit(plan: Plan) -> None:
    (unit, last) = made_up_units(plan.groups[0].group, BATCH + 1)
    # A gradient pass counts 2.5 forward passes.
    assert passes_of(unit, plan.model) == pytest.approx(BATCH * (MEASURED + 2.5 + 3 * 2.5)) == BATCH * passes_of_an_image(plan)
    assert (records_of(unit), records_of(last)) == (BATCH * 3, 3)


@pytest.mark.parametrize(("units", "workers", "rounds"), [(12, 1, 12), (12, 4, 3), (13, 4, 4), (5, 8, 1), (100, 7, 15)])
def test_equal_units_take_rounds(plan: Plan, units: int, workers: int, rounds: int) -> None:
    unit = BATCH * passes_of_an_image(plan)
    done = simulated(plan, BATCH * units, workers, passes=unit, load=5)  # a unit takes a second
    assert done.seconds == pytest.approx(5 + rounds)
    assert done.working == pytest.approx(units)
    assert done.utilisation == pytest.approx(units / (workers * (5 + rounds)))
    assert done.records == BATCH * units * 3


def test_a_driver_that_is_busy_sets_the_pace(plan: Plan) -> None:
    unit = BATCH * passes_of_an_image(plan)
    done = simulated(plan, BATCH * 6, 6, passes=unit, load=2, record=1.0)
    # All units arrive at once, and are stored one after the other.
    stored = 6 * BATCH * 3
    assert done.seconds == pytest.approx(2 + 1 + stored)
    assert done.driver == pytest.approx(stored / (3 + stored))
    assert done.rate == pytest.approx(stored / (3 + stored))


def test_the_last_unit_is_as_short_as_it_is(plan: Plan) -> None:
    image = passes_of_an_image(plan)
    done = simulated(plan, BATCH * 4 + 3, 2, passes=image)  # an image takes a second
    assert done.seconds == pytest.approx(2 * BATCH + 3)
