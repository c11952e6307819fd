"""Units are executed elsewhere, in any order, by workers that die: the same scores, bit for bit, and nothing is computed twice."""

import itertools
import pickle
import random
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.executors import KILLS, KINDS, MODEL, CountingStore, copied_birds, crew_of, executed, kill, on, worker_pids
from support.runs import same
from support.waiting import ends, until

import attrlib
import attrlib.engine.evaluations
import attrlib.engine.plan
import attrlib.engine.run
from attrlib.engine.cache import InMemoryCache
from attrlib.engine.executors.crew import Crew
from attrlib.engine.plan import make_plan
from attrlib.engine.results import RunResult
from attrlib.engine.run import Event, local
from attrlib.engine.shards import run_shard
from attrlib.errors import AttrlibError, Cancelled, SpecError
from attrlib.protocols import PROTOCOLS
from attrlib.specs import ModelSpec, ProtocolSpec, RunSpec, Shard, parse_methods, parse_protocols
from attrlib.store import Store, merge_shards

CHUNK = 2
"""Items of a unit, so that few items make several units."""
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
METHODS = "IxG,SmoothGrad:samples=2,Grad-CAM@Final,Random"
GRIDS = ("gridpg", "difull", "dipart")


@pytest.fixture(scope="module", autouse=True)
def _small_units() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attrlib.engine.evaluations, "BATCH_SIZE", CHUNK)
        patch.setattr(attrlib.engine.plan, "BATCH_SIZE", CHUNK)
        yield


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied_birds(tmp_path_factory.mktemp("birds"), range(36))


@pytest.fixture(scope="module")
def specs(birds: Path) -> tuple[RunSpec, RunSpec]:
    """All protocols: those of images, one of which needs parts, and those of grids, which need the predictions of all images."""
    texts = [f"{name}:{FEW[name]}" if name in FEW else name for name in PROTOCOLS]
    images = tuple(ProtocolSpec.parse(text) for text in texts if not text.startswith(GRIDS))
    grids = tuple(ProtocolSpec.parse(text) for text in texts if text.startswith(GRIDS))
    methods = parse_methods(METHODS)
    return RunSpec(ModelSpec(MODEL), "birds", images, methods, 4), RunSpec(ModelSpec(MODEL), str(birds), grids, methods[:2], 4)


@pytest.fixture(scope="module", params=KINDS)
def crew(request: pytest.FixtureRequest) -> Iterator[Crew]:
    """Two workers that serve all tests of the module, run after run."""
    with crew_of(request.param) as crew:
        yield crew


@pytest.fixture(scope="module")
def here(specs: tuple[RunSpec, RunSpec], tmp_path_factory: pytest.TempPathFactory) -> list[RunResult]:
    return [executed(spec, tmp_path_factory.mktemp("here")) for spec in specs]


@pytest.fixture(scope="module")
def there(specs: tuple[RunSpec, RunSpec], crew: Crew, tmp_path_factory: pytest.TempPathFactory) -> list[RunResult]:
    return [executed(spec, tmp_path_factory.mktemp("there"), on(crew)) for spec in specs]


@pytest.fixture(scope="module")
def long(birds: Path) -> RunSpec:
    """A run of many units."""
    return RunSpec(
        ModelSpec(MODEL), str(birds), parse_protocols("sds,sds:target=prediction"), parse_methods("IxG,IG:steps=6,Random,Gradient")
    )


@pytest.fixture(scope="module")
def undisturbed(long: RunSpec, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return executed(long, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_same_scores_bit_for_bit(protocol: str, here: list[RunResult], there: list[RunResult]) -> None:
    number = int(protocol in GRIDS)
    pairs = [pair for pair in here[number].scores if pair[0].name == protocol]
    assert len(pairs) == (2 if number else 4) - sum(refused.protocol.name == protocol for refused in here[number].refused)
    assert pairs
    for pair in pairs:
        one, other = here[number].scores[pair], there[number].scores[pair]
        assert one.ids == other.ids
        assert len(one.ids) == 4
        assert one.values.tobytes() == other.values.tobytes()
        assert repr(one.details) == repr(other.details)


def test_counts_notes_and_refusals_are_the_same(here: list[RunResult], there: list[RunResult]) -> None:
    for one, other in zip(here, there, strict=True):
        assert (other.computed, other.cached) == (one.computed, one.cached)
        assert set(other.refused) == set(one.refused)
        assert other.notes == one.notes


def test_a_run_stops_after_the_same_items(crew: Crew, tmp_path: Path) -> None:
    spec = RunSpec(ModelSpec(MODEL), "birds", parse_protocols("sds"), parse_methods("IxG"), 128, ci_width=0.35)
    one, other = executed(spec, tmp_path / "here"), executed(spec, tmp_path / "there", on(crew))
    ((pair, score),) = one.scores.items()
    assert 10 < len(score.values) < 128
    np.testing.assert_array_equal(other.scores[pair].values, score.values)


def test_workers_that_are_killed_at_random_moments_are_replaced(crew: Crew, long: RunSpec, undisturbed: RunResult, tmp_path: Path) -> None:
    moments, kills = random.Random(3), list[int]()

    def on_progress(event: Event) -> None:
        # Not while one is being replaced, so that no unit meets three of these in a row before it has a result.
        pids = worker_pids(crew)
        if len(kills) < KILLS and event.workers == 2 and len(pids) == 2 and event.done and moments.random() < 0.3:
            kills.append(moments.choice(pids))
            threading.Timer(moments.uniform(0, 0.02), kill, [kills[-1]]).start()

    notes = list[str]()
    for attempt in itertools.count():
        with ends():
            result = executed(long, tmp_path / str(attempt), on(crew), on_progress)
        assert same(result, undisturbed)
        assert result.computed + result.cached == undisturbed.computed
        notes += result.notes
        if len(kills) == KILLS:
            break
    # A worker that is killed when the run has just ended leaves no note.
    assert any("worker(s) died and were replaced" in note for note in notes)


def test_a_run_that_is_cancelled_resumes(crew: Crew, long: RunSpec, undisturbed: RunResult, tmp_path: Path) -> None:
    def on_progress(event: Event) -> None:
        if event.done >= 40:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        executed(long, tmp_path, on(crew), on_progress)
    result = executed(long, tmp_path, on(crew))
    assert same(result, undisturbed)
    assert 0 < result.computed <= undisturbed.computed - 40
    assert result.computed + result.cached == undisturbed.computed


def test_workers_compute_shards(crew: Crew, long: RunSpec, undisturbed: RunResult, tmp_path: Path) -> None:
    """As this process computes them. A shard has other batches than the whole run, in which kernels may round otherwise."""
    model, data = attrlib.load_model(MODEL, "cpu"), attrlib.load_dataset(long.data)
    merged = []
    for name, executor in (("here", local), ("there", on(crew))):
        folder = tmp_path / name
        for index in range(2):
            with closing(CountingStore(folder / str(index))) as store:
                run_shard(long, Shard(index, 2), model, data, store, folder / "shards", executor=executor)
                assert store.repeated == []
        with closing(Store(folder=folder / "merged")) as store:
            assert not merge_shards([folder / "shards"], store).problems
        merged.append(executed(long, folder / "merged"))
    assert [result.computed for result in merged] == [0, 0]
    assert same(*merged)
    for pair, score in undisturbed.scores.items():
        np.testing.assert_allclose(merged[1].scores[pair].values, score.values, rtol=1e-5)


def test_a_worker_whose_pictures_differ_is_refused(crew: Crew, tmp_path: Path) -> None:
    data = copied_birds(tmp_path / "data", range(6))
    spec = RunSpec(ModelSpec(MODEL), str(data), parse_protocols("sds"), parse_methods("IxG"))
    changed = next(data.rglob("0003.png"))

    def on_progress(event: Event) -> None:
        # After the plan was made, and before any worker has read it.
        if event.doing in ("planning", "starting workers"):
            changed.write_bytes(next(data.rglob("0004.png")).read_bytes())

    with pytest.raises(AttrlibError, match=r"no worker is left.*its data differ from those of the run: .*0003\.png"):
        executed(spec, tmp_path / "store", on(crew), on_progress)


def test_a_worker_without_the_data_is_refused(crew: Crew, tmp_path: Path) -> None:
    data = copied_birds(tmp_path / "data", range(4))
    spec = RunSpec(ModelSpec(MODEL), str(data), parse_protocols("sds"), parse_methods("IxG"))

    def on_progress(event: Event) -> None:
        if event.doing == "starting workers" and data.exists():
            data.rename(tmp_path / "gone")

    with pytest.raises(AttrlibError, match=r"no worker is left.*worker \d+.* was refused: it(s| has no) data"):
        executed(spec, tmp_path / "store", on(crew), on_progress)


def test_a_worker_whose_model_differs_is_refused(crew: Crew, birds: Path, tmp_path: Path) -> None:
    """Random weights of another seed stand for a checkpoint that is not the same everywhere."""
    model = attrlib.load_model("birds_resnet10", "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "digest", "another", raising=False)
        plan = make_plan(
            RunSpec(model.spec, str(birds), parse_protocols("sds"), parse_methods("IxG")),
            model,
            attrlib.load_dataset(str(birds)),
            Store(folder=tmp_path),
        )
    with pytest.raises(AttrlibError, match=r"its weights or preprocessing of birds_resnet10 differ from those of the run"):
        attrlib.engine.run.run(plan, executor=on(crew))


def test_a_budget_too_small_for_one_image_is_named(crew: Crew, long: RunSpec, tmp_path: Path) -> None:
    model = attrlib.load_model(MODEL, "cpu")
    plan = make_plan(long, model, attrlib.load_dataset(long.data), Store(folder=tmp_path), max_memory=2 * model.nbytes + 1000)
    with pytest.raises(AttrlibError, match=r"no worker is left.*needs .* for a single image.*raise max_memory"):
        attrlib.engine.run.run(plan, executor=on(crew))


def test_models_and_data_in_memory_are_refused_before_anything_starts(crew: Crew, birds: Path, tmp_path: Path) -> None:
    started = crew.members
    model = attrlib.load_model(MODEL, "cpu")
    wrapped = attrlib.wrap_model(model.module, 128, class_names=model.class_names)
    data = attrlib.load_dataset(str(birds))
    memory = attrlib.load_dataset([(data[k].image, data.class_names[data.label(k) or 0]) for k in range(3)])
    with closing(Store(folder=tmp_path)) as store:
        for one, source, reason in (
            (wrapped, data, "is a module in the memory of this process"),
            (model, memory, "is a data set in the memory"),
        ):
            spec = RunSpec(one.spec, source.source, parse_protocols("sds"), parse_methods("IxG"))
            with pytest.raises(SpecError, match=reason):
                attrlib.engine.run.run(make_plan(spec, one, source, store), executor=on(crew))
        assert store.runs() == []
    assert crew.members == started


def test_no_process_is_left(long: RunSpec, tmp_path: Path) -> None:
    with crew_of("processes", 1) as crew:
        executed(replace(long, limit=2), tmp_path, on(crew))
        pids = worker_pids(crew)
        assert len(pids) == 1
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_units_are_plain_data(specs: tuple[RunSpec, RunSpec]) -> None:
    for spec in specs:
        plan = make_plan(spec, attrlib.load_model(MODEL, "cpu"), attrlib.load_dataset(spec.data), InMemoryCache())  # type: ignore[arg-type]
        units = [u for group in plan.groups for u in group.units(plan.area).values()] + [u for own in plan.predict_units() for u in own]
        assert units
        for unit in units:
            assert pickle.loads(pickle.dumps(unit)) == unit
            assert len(pickle.dumps(unit)) < 200_000
