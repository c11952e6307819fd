"""Retraining: a planted feature is found, random maps are chance, and every training is kept and done once."""

import math
import pickle
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from support.planted import PATCH, SHARE, SIDE, planted, registered, small, use_small
from support.runs import classifier, pictures

import attrlib.retraining.pool
import attrlib.retraining.run
from attrlib.data.datasets import Dataset, load_dataset
from attrlib.deletion import BASELINES
from attrlib.engine.run import Event
from attrlib.errors import AttrlibError, Cancelled, DataError, MethodError, ModelError, ProtocolError, SpecError, TrainingError
from attrlib.retraining import RoarPlan, RoarResult, plan_roar, run_roar
from attrlib.retraining.images import RoarImages, load_images, ranks_of, replaced_pixels, with_replaced
from attrlib.retraining.plan import recipe_of
from attrlib.retraining.pool import Task, execute, serve, task_of
from attrlib.specs import MethodSpec, RoarSpec, TargetSpec
from attrlib.specs.roar import DATA_MEAN, ROAR_BASELINES
from attrlib.store import Record, Store
from attrlib.training.fit import count_correct, fit

pytestmark = pytest.mark.usefixtures("own_cache")
MODEL = small(seed=1)
DATA = planted()
QUICK: dict[str, Any] = dict(limit=160, size=SIDE, epochs=6, batch=16, lr=0.05, flip=False)
HIGH, LOW = MethodSpec("Planted"), MethodSpec("Planted", params=(("low", True),))


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    use_small(monkeypatch)
    with registered():
        yield


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(folder=tmp_path / "store")) as store:
        yield store


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of all trainings in this process."""
    seeds: list[int] = []
    original = attrlib.retraining.pool.execute

    def counted(task: Task, *check: Any) -> int:
        result = original(task, *check)
        seeds.append(task.recipe.seed)
        return result

    monkeypatch.setattr(attrlib.retraining.pool, "execute", counted)
    return seeds


def roar(store: Store, *methods: MethodSpec | str, data: Any = DATA, **options: Any) -> RoarResult:
    return attrlib.roar(MODEL, data, methods or (HIGH,), store=store, **QUICK | options)


def plan(store: Store, *methods: MethodSpec, **options: Any) -> RoarPlan:
    workers = {name: options.pop(name) for name in ("max_memory",) if name in options}
    spec = RoarSpec(MODEL.spec, DATA.source, methods or (HIGH,), **QUICK | options)
    return plan_roar(spec, MODEL, DATA, store, **workers)


def same(one: RoarResult, other: RoarResult) -> bool:
    return [c.accuracies.tolist() for c in one.curves] == [c.accuracies.tolist() for c in other.curves]


# The truth


def test_without_the_planted_patch_networks_are_at_chance_and_with_only_the_patch_they_are_right(store: Store) -> None:
    result = roar(store, HIGH, LOW, shares=[SHARE, 1 - SHARE], seeds=2, keep=True)
    n = result.tests
    assert (n, result.trains, result.largest) == (40, 120, 0.5)
    chance = 0.5 + 4 * math.sqrt(0.25 / n)
    high, low = (result.curve(method) for method in (HIGH, LOW))
    assert (high.accuracies[0] > 0.95).all(), "the images as they are"
    assert (high.accuracies[1] < chance).all(), "the patch is gone"
    assert (low.accuracies[1] > 0.95).all()
    assert (low.accuracies[2] > 0.95).all(), "only the patch is left"
    kept, lost = (result.curve(method, keep=True) for method in (HIGH, LOW))
    assert (kept.accuracies[2] > 0.95).all(), "only the patch is left"
    assert (lost.accuracies[1] < chance).all(), "the patch is gone"
    for keep in (False, True):
        assert [place.name for place in result.ranking(keep)] == [str(HIGH), "Random", str(LOW)]
        assert result.to_random(result.curve("Random", keep)).mean == 0
    assert result.to_random(high).mean < -0.1
    assert result.to_random(lost).mean < -0.1


def test_random_maps_are_at_the_accuracy_of_random_deletion(store: Store) -> None:
    share, seeds = 0.85, 6
    found = roar(store, "Random", shares=[share], seeds=seeds).curve("Random").accuracies[1]
    images = load_images(plan(store), [], lambda _doing, _share: None)
    mean = images.images[~images.tests].mean((0, 2, 3))
    rng, expected = np.random.default_rng(5), []
    for seed in range(seeds):
        values = images.images.clone()
        for image in values:
            for pixel in rng.permutation(SIDE * SIDE)[: round(share * SIDE * SIDE)]:
                image[:, pixel // SIDE, pixel % SIDE] = mean
        net = small(2, seed)
        fit(net, values[~images.tests], images.labels[~images.tests], replace(recipe_of(plan(store).spec), seed=seed))
        expected.append(count_correct(net, values[images.tests], images.labels[images.tests]) / int(images.tests.sum()))
    assert 0.6 < np.mean(expected) < 0.97, "neither chance nor solved, so that a bias would show"
    error = math.sqrt((np.var(found, ddof=1) + np.var(expected, ddof=1)) / seeds)
    assert abs(found.mean() - np.mean(expected)) < 0.02 + 3 * error < 0.25


# The removal


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("sign", ["signed", "positive", "absolute"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.75])
def test_the_replaced_pixels_are_those_of_a_plain_loop(keep: bool, sign: str, share: float) -> None:
    maps = torch.randn(3, 1, 12, 8, generator=torch.Generator().manual_seed(0)).round(decimals=0)
    found = replaced_pixels(ranks_of(maps, sign, (6, 4)), share, keep)
    for values, row in zip(maps[:, 0], found, strict=True):
        values = {"signed": values, "positive": values.clamp_min(0), "absolute": values.abs()}[sign]
        blocks = [float(values[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].double().mean()) for r in range(6) for c in range(4)]
        order = sorted(range(24), key=lambda k: (-blocks[k], k))
        count = round(share * 24)
        replaced = order[24 - count :] if keep else order[:count]
        assert sorted(row.nonzero()[:, 0].tolist()) == sorted(replaced)


def test_keeping_leaves_what_removing_replaces_at_the_rest_of_the_share() -> None:
    ranks = ranks_of(torch.zeros(2, 1, 16, 16), "signed", (16, 16))
    assert torch.equal(replaced_pixels(ranks, 0.25, True), ~replaced_pixels(ranks, 0.75, False))


def prepared(store: Store, **options: Any) -> tuple[RoarPlan, RoarImages]:
    planned = plan(store, **options)
    return planned, load_images(planned, list(planned.methods), lambda _doing, _share: None)


def test_pixels_get_the_mean_colour_of_the_training_images(store: Store) -> None:
    planned, images = prepared(store)
    method = next(iter(planned.methods))
    changed = with_replaced(images, planned, method, SHARE, False)
    train = images.images[~images.tests].double().numpy()
    mean = [train[:, c].sum() / (len(train) * SIDE * SIDE) for c in range(3)]
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[PATCH] = True
    for c in range(3):
        np.testing.assert_allclose(changed[:, c, mask].numpy(), mean[c], rtol=1e-5, atol=1e-6)
    assert torch.equal(changed[:, :, ~mask], images.images[:, :, ~mask])


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_baselines_of_deletion_replace_the_same_pixels(store: Store, baseline: str) -> None:
    planned, images = prepared(store, baseline=baseline, limit=16)
    method = next(iter(planned.methods))
    changed = with_replaced(images, planned, method, SHARE, False)
    where = (changed != images.images).any(1)
    expected = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    expected[PATCH] = True
    assert torch.equal(where, expected.expand_as(where))
    again = with_replaced(images, planned, method, SHARE, False)
    assert torch.equal(changed, again)


def test_the_baselines_are_that_of_the_paper_and_those_of_deletion() -> None:
    assert (DATA_MEAN, *BASELINES) == ROAR_BASELINES


# Kept, resumed, done once


def test_nothing_is_trained_twice(store: Store, trained: list[int]) -> None:
    first = roar(store, shares=[0.5], seeds=1)
    assert (first.computed, first.cached, len(trained)) == (3, 0, 3)
    again = roar(store, shares=[0.5], seeds=1)
    assert (again.computed, again.cached, len(trained)) == (0, 3, 3)
    assert same(first, again)
    more = roar(store, shares=[0.3, 0.5], seeds=2, keep=True)
    # The networks of images as they are belong to all methods.
    assert (more.computed, more.cached) == (2 * (1 + 2 * 2 * 2) - 3, 3)
    assert more.curve(HIGH).accuracies[[0, 2], :1].tolist() == first.curve(HIGH).accuracies.tolist()


@pytest.mark.parametrize(
    "options", [{"epochs": 11}, {"lr": 0.06}, {"batch": 15}, {"baseline": "zeros"}, {"sign": "absolute"}, {"seed": 1}, {"test": 0.5}]
)
def test_a_setting_that_changes_the_result_is_part_of_the_key(store: Store, options: dict[str, Any]) -> None:
    one, other = plan(store), plan(store, **options)
    method = next(iter(one.methods))
    assert one.key(method, False)[1] != other.key(method, False)[1]
    assert one.key(method, False)[1] != one.key(method, True)[1]
    assert one.key(method, False)[1] == plan(store, seeds=9, shares=(0.2,), keep=True).key(method, False)[1]


def test_after_a_stop_the_same_call_resumes(store: Store, trained: list[int]) -> None:
    def stop(event: Event) -> None:
        if event.done == 3:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        roar(store, shares=[0.5], seeds=2, on_progress=stop)
    assert len(trained) == 3
    events: list[Event] = []
    result = roar(store, shares=[0.5], seeds=2, on_progress=events.append)
    assert (result.computed, result.cached, sorted(trained)) == (3, 3, [0, 0, 0, 1, 1, 1])
    assert (events[-1].done, events[-1].total, events[-1].of) == (3, 3, "trainings")
    with closing(Store(folder=store.folder.with_name("other"))) as other:
        assert same(result, roar(other, shares=[0.5], seeds=2))


def test_what_another_process_trains_is_not_trained_here(store: Store, trained: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan(store, shares=(0.5,), seeds=1)
    elsewhere = planned.missing[0]
    fields, key = planned.key(elsewhere.method, elsewhere.keep)
    claims = store.claims()
    assert claims.claim([{key: [elsewhere.item]}]) == [True]
    slept: list[float] = []

    def finish(seconds: float) -> None:
        slept.append(seconds)
        store.add_records(key, fields, {elsewhere.item: Record(0.625)})
        claims.release([{key: [elsewhere.item]}])

    monkeypatch.setattr(attrlib.retraining.run.time, "sleep", finish)
    result = run_roar(planned)
    assert result.curve(HIGH).accuracies[0].tolist() == [0.625]
    assert (len(trained), len(slept), result.computed, result.cached) == (2, 1, 2, 1)
    assert not any(store.claimed([planned.key(each.method, each.keep)[1] for each in planned.trainings]).values()), "all released"


def test_maps_that_do_not_fit_into_the_store_are_streamed(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Store(folder=tmp_path / "tight", max_bytes=1000)) as tight:
        monkeypatch.setattr(tight, "add_maps", lambda _maps: pytest.fail("nothing is kept to be evicted at once"))
        found = roar(tight, shares=[0.5], seeds=1)
        assert "maps are not kept, scores are" in " ".join(found.notes)
        assert not tight.sizes().maps
    kept = roar(store, shares=[0.5], seeds=1)
    assert same(found, kept)
    assert store.sizes().maps == 2 * 160


def test_the_model_is_not_changed(store: Store) -> None:
    model = classifier()
    model.module.train()
    before = pickle.dumps([(name, t.numpy().tobytes()) for name, t in model.module.state_dict().items()])
    attrlib.roar(model, DATA, ["IG:steps=2"], shares=[0.5], seeds=1, store=store, **QUICK)
    assert pickle.dumps([(name, t.numpy().tobytes()) for name, t in model.module.state_dict().items()]) == before
    assert all(m.training for m in model.module.modules())
    assert all(p.requires_grad and p.grad is None for p in model.module.parameters())


# Determinism


def test_the_result_does_not_depend_on_threads_chance_or_the_order_of_trainings(store: Store) -> None:
    images = torch.randn(48, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(48) % 2
    recipe = replace(recipe_of(plan(store).spec), epochs=2, flip=True, seed=3)
    states = []
    for threads, chance in ((1, 0), (2, 7)):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        torch.manual_seed(chance)
        try:
            net = small(dropout=0.5)
            fit(net, images, labels, recipe)
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        states.append([t.numpy().tobytes() for t in net.module.state_dict().values()])
    assert states[0] == states[1]
    other = small(dropout=0.5)
    fit(other, images, labels, replace(recipe, seed=4))
    assert [t.numpy().tobytes() for t in other.module.state_dict().values()] != states[0]


def test_training_uses_one_thread(store: Store) -> None:
    seen: set[int] = set()
    images, labels = torch.zeros(8, 3, SIDE, SIDE), torch.arange(8) % 2
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        fit(small(), images, labels, recipe_of(plan(store).spec), lambda: seen.add(torch.get_num_threads()))
    finally:
        torch.set_num_threads(before)
    assert seen == {1}


def real_task(seed: int) -> Task:
    """Return a training of the default network, which other processes can build."""
    images = torch.randn(24, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    tests = torch.arange(24) >= 16
    recipe = recipe_of(RoarSpec(MODEL.spec, "x", (HIGH,), epochs=2, batch=8))
    return task_of("attrlib:small_resnet10_w16", 2, "cpu", recipe, seed, images, torch.arange(24) % 2, tests)


def test_every_seed_begins_with_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[bytes] = []
    weights = lambda model: begun.append(next(model.module.parameters()).detach().numpy().tobytes())  # noqa: E731
    monkeypatch.setattr(attrlib.retraining.pool, "fit", lambda model, *_arguments: weights(model))
    for seed in (0, 1, 0):
        execute(real_task(seed))
    assert begun[0] == begun[2] != begun[1]


def test_processes_return_what_this_process_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    beats: list[int] = []
    tasks = ((seed, real_task(seed)) for seed in range(2))
    found = dict(attrlib.retraining.pool.execute_all(tasks, 1, lambda: beats.append(1)))
    assert found == {seed: execute(real_task(seed)) for seed in range(2)}
    assert beats


def test_a_worker_answers_with_a_number_or_an_error() -> None:
    good = real_task(0)
    bad = replace(good, train=np.full_like(good.train, np.nan))
    source, target = BytesIO(), BytesIO()
    for task in (good, bad, replace(good, train=good.train[:, :2])):
        pickle.dump(task, source)
    source.seek(0)
    serve(source, target)
    target.seek(0)
    number, error, failure = (pickle.load(target) for _ in range(3))
    assert number == execute(good)
    assert isinstance(error, TrainingError)
    assert "the loss is nan in epoch 1; try a lower lr" in str(error)
    assert isinstance(failure, TrainingError)


def test_a_stop_ends_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[Any] = []

    class Silent:
        def __init__(self, _results: object) -> None: ...
        def start(self, _name: object, _task: Task) -> None: ...
        def end(self) -> None:
            ended.append(self)

    def stop() -> None:
        raise Cancelled("enough")

    monkeypatch.setattr(attrlib.retraining.pool, "_Process", Silent)
    with pytest.raises(Cancelled):
        list(attrlib.retraining.pool.execute_all(((k, None) for k in range(5)), 2, stop))  # type: ignore[misc]
    assert len(ended) == 2


def test_a_worker_that_dies_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attrlib.retraining.pool, "_CHILD", "raise SystemExit(3)")
    with pytest.raises(TrainingError, match="a worker ended with exit code 3; what was trained is stored"):
        list(attrlib.retraining.pool.execute_all(iter([(0, real_task(0))]), 1, lambda: None))


# Methods and targets


def test_maps_are_those_of_the_prediction_or_of_the_label(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.Tensor] = []
    original = attrlib.engine.evaluator.Evaluator.explainer

    def explainer(self: Any, *arguments: Any) -> Any:
        explain = original(self, *arguments)

        def recorded(request: Any) -> Any:
            asked.append(request.targets[:, 0])
            return explain(request)

        return recorded

    monkeypatch.setattr(attrlib.engine.evaluator.Evaluator, "explainer", explainer)
    for target in ("prediction", "label"):
        asked.clear()
        planned = plan(store, target=target, limit=32, classes="order")
        images = load_images(planned, list(planned.methods)[:1], lambda _doing, _share: None)
        found = torch.cat(asked)
        full = torch.stack([MODEL.preprocess(DATA[item.images[0]]) for item in (*planned.train, *planned.test)])
        predicted = MODEL(full).argmax(1)
        assert torch.equal(found, images.labels if target == "label" else predicted)
        assert not torch.equal(images.labels, predicted)


def test_methods_that_are_not_defined_are_left_out_with_the_reason(store: Store) -> None:
    broken = MethodSpec("Planted", params=(("broken", True),))
    other = MethodSpec("Grad-CAM", target=TargetSpec.parse("channel:layer=conv:index=0"))
    result = roar(store, HIGH, other, broken, shares=[0.5], seeds=1)
    assert [str(curve.method) for curve in result.curves] == ["Planted", "Random"]
    (_, first), (_, second) = result.refused
    assert "roar judges maps by what they tell of an image's class" in first
    assert second == "160 of 160 maps have NaN or infinite values, by which pixels cannot be ranked"
    with pytest.raises(MethodError, match="NaN or infinite values"):
        roar(store, broken, shares=[0.5], seeds=1)
    with pytest.raises(ProtocolError, match="roar judges maps"):
        roar(store, other, shares=[0.5], seeds=1)


def test_random_maps_are_always_there_once(store: Store) -> None:
    assert [str(m) for m in plan(store, HIGH).methods.values()] == ["Planted", "Random"]
    assert [str(m) for m in plan(store, MethodSpec("Random"), HIGH).methods.values()] == ["Random", "Planted"]
    assert [str(m) for m in plan(store, MethodSpec("Random", "Input")).methods.values()] == ["Random@Input"]
    # Random maps of a coarse layer are not random deletion.
    assert [str(m) for m in plan(store, MethodSpec("Random", "conv")).methods.values()] == ["Random@conv", "Random"]


# Bad input


def unlabelled() -> Dataset:
    return load_dataset(np.zeros((8, SIDE, SIDE, 3), dtype=np.uint8))


def labelled(labels: list[Any], names: list[str]) -> Dataset:
    values = np.random.default_rng(0).integers(0, 256, (len(labels), SIDE, SIDE, 3), dtype=np.uint8)
    return load_dataset(values, labels=labels, class_names=names)


@pytest.mark.parametrize(
    ("error", "words", "options"),
    [
        (SpecError, "share 0 replaces nothing; leave it out", {"shares": [0, 0.5]}),
        (SpecError, "share 1 replaces every pixel", {"shares": [0.5, 1]}),
        (SpecError, "share -0.5 is not valid", {"shares": [-0.5]}),
        (SpecError, "share nan is not valid", {"shares": [math.nan]}),
        (SpecError, "'half' is not a share", {"shares": "half"}),
        (SpecError, "no share given", {"shares": []}),
        (SpecError, "0.5,0.3 are not in increasing order", {"shares": [0.5, 0.3]}),
        (SpecError, "share 0.001 of 16 x 16 pixels is none of them", {"shares": [0.001]}),
        (SpecError, "share 0.999 of 16 x 16 pixels is all of them", {"shares": [0.999]}),
        (SpecError, "seeds=0 is out of range", {"seeds": 0}),
        (SpecError, "workers=0 is not valid", {"workers": 0}),
        (SpecError, "Did you mean epochs", {"epoch": 3}),
        (SpecError, "unknown baseline 'grey'", {"baseline": "grey"}),
        (DataError, "has no labelled images, and roar trains networks on labels", {"data": unlabelled()}),
        (DataError, "are of one class (a), so that there is nothing to learn", {"data": labelled([0] * 6, ["a", "b"])}),
        (DataError, "may have several labels", {"data": labelled([[0, 1], [1], [0], [1]], ["a", "b"])}),
        (DataError, "too few images: of the 4 drawn", {"data": labelled([0, 0, 1, 2], ["a", "b", "c"])}),
    ],
)
def test_bad_input_is_one_error_before_anything_runs(
    store: Store, trained: list[int], error: type[AttrlibError], words: str, options: dict[str, Any]
) -> None:
    with pytest.raises(error) as caught:
        roar(store, **options)
    assert words in str(caught.value)
    assert not trained
    assert not store.sizes().maps


def test_a_network_that_does_not_exist_or_reads_other_images_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(ModelError, match="unknown model"):
        roar(store, net="nonsense")
    with pytest.raises(ModelError, match=r"reads 1 channel\(s\), but the images have 3"):
        roar(store, net="timm:resnet18?in_chans=1")


def test_images_that_do_not_fit_into_memory_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attrlib.retraining.plan.free_bytes", lambda _device: 1 << 20)
    with pytest.raises(SpecError, match="more than the 0 MB allowed; lower limit or size"):
        roar(store)


def test_a_class_of_one_image_is_trained_on_only(store: Store) -> None:
    planned = plan_roar(
        RoarSpec(MODEL.spec, "x", (HIGH,), **QUICK), MODEL, labelled([0, 0, 1, 1, 2], ["a", "b", "c"]), store
    )  # fmt: skip
    assert {item.labels[0] for item in planned.test} == {0, 1}
    assert {item.labels[0] for item in planned.train} == {0, 1, 2}
    assert "1 class(es) have one image each, which is trained on and not tested on" in planned.notes


def test_pictures_that_cannot_be_read_are_left_out(store: Store, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", 4, classes=2)
    (folder / "0" / "9.png").write_bytes(b"no picture")
    result = roar(store, data=folder, shares=[0.5], seeds=1)
    assert "1 item(s) skipped because they cannot be read" in " ".join(result.notes)


def test_an_estimate_counts_trainings_and_maps(store: Store) -> None:
    one, two = plan(store, seeds=1, shares=(0.5,)), plan(store, seeds=4, shares=(0.3, 0.5))
    assert (len(one.missing), len(two.missing)) == (3, 20)
    assert one.estimate().seconds > 0
    assert one.estimate().nbytes > MODEL.nbytes
