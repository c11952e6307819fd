"""What a run never computes twice, and what makes it compute again."""

import functools
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
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
    alone,
    classifier,
    compare,
    named,
    net,
    passes,
    picture,
    same,
)
from support.waiting import LIMIT
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import attrlib.engine.evaluations
import attrlib.engine.keys
import attrlib.engine.plan
from attrlib import RunResult
from attrlib.data.datasets import load_dataset
from attrlib.engine.keys import ResultKeys
from attrlib.methods import resolve
from attrlib.specs import MethodSpec
from attrlib.store import Store

pytestmark = pytest.mark.usefixtures("own_cache")


class Operations(TorchDispatchMode):
    """Counts what torch computes on this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_a_second_run_computes_nothing(model: attrlib.Classifier, data: Path, store: Store, calls: Calls) -> None:
    ask = functools.partial(compare, model, f"sds,ids:steps=3,{GRID}", "IxG,Grad-CAM,Random,IG:steps=3", data, store)
    with Operations() as first:
        before = ask()
    assert (before.computed, before.cached) == (4 * (20 + 20 + 5), 0)
    # One map for each image that two protocols share, four for each grid.
    assert len(calls) == 4 * (20 + 5 * 4)
    calls.clear()
    with Operations() as second, passes() as counted:
        again = ask()
    assert (again.computed, again.cached) == (0, 180)
    assert (calls, counted.images) == ([], 0)
    assert same(before, again)
    assert not [name for name in second.names if "conv" in name or "backward" in name]
    assert second.names.total() < 0.02 * first.names.total()


def test_another_process_knows_it_too(model: attrlib.Classifier, data: Path, tmp_path: Path, calls: Calls) -> None:
    """A store that is opened anew, and a model that is built anew."""
    with closing(alone(tmp_path / "s")) as store:
        before = compare(model, f"sds,{GRID}", "IxG,Random", data, store)
    calls.clear()
    with closing(alone(tmp_path / "s")) as store:
        again = compare(classifier(), f"sds,{GRID}", "IxG,Random", data, store)
    assert (again.computed, again.cached, calls) == (0, 50, [])
    assert same(before, again)


def test_a_higher_limit_computes_only_what_is_new(model: attrlib.Classifier, data: Path, store: Store, calls: Calls) -> None:
    ask = functools.partial(compare, model, "sds", "IxG,Random", data, store)
    few, calls_few = ask(limit=8), len(calls)
    more = ask(limit=16)
    assert (few.computed, calls_few) == (16, 16)
    assert (more.computed, more.cached, len(calls)) == (16, 16, 32)
    assert max(calls.times.values()) == 1
    for key, score in named(more).items():
        assert score.values[:8].tobytes() == named(few)[key].values.tobytes()
        assert score.ids[:8] == named(few)[key].ids
    fewer = ask(limit=5)
    assert (fewer.computed, fewer.cached, len(calls)) == (0, 10, 32)


def other_size(model: attrlib.Classifier) -> attrlib.Classifier:
    return attrlib.wrap_model(model.module, (16, 12), HALF, HALF)


def other_colours(model: attrlib.Classifier) -> attrlib.Classifier:
    return attrlib.wrap_model(model.module, SIZE, (0.5, 0.5, 0.49), HALF)


def other_crop(model: attrlib.Classifier) -> attrlib.Classifier:
    return attrlib.wrap_model(model.module, SIZE, HALF, HALF, crop=0.8)


def other_weights(model: attrlib.Classifier) -> attrlib.Classifier:
    module = net()
    with torch.no_grad():
        module.fc.bias[0] += 1e-6
        module.fc.bias[0] = module.fc.bias[0].nextafter(torch.tensor(1e9))
    return attrlib.wrap_model(module, SIZE, HALF, HALF)


def other_architecture(model: attrlib.Classifier) -> attrlib.Classifier:
    module = net()
    module.act2 = nn.ReLU6()
    return attrlib.wrap_model(module, SIZE, HALF, HALF)


@pytest.mark.parametrize("change", [other_size, other_colours, other_crop, other_weights, other_architecture])
def test_another_model_or_preprocessing_misses(
    change: Callable[[attrlib.Classifier], attrlib.Classifier], model: attrlib.Classifier, data: Path, store: Store, calls: Calls
) -> None:
    compare(model, "sds", "IxG", data, store, limit=6)
    calls.clear()
    result = compare(change(model), "sds", "IxG", data, store, limit=6)
    assert (result.computed, result.cached, len(calls)) == (6, 0, 6)
    assert compare(model, "sds", "IxG", data, store, limit=6).computed == 0


@pytest.mark.parametrize(
    ("protocol", "method"),
    [
        ("sds", "IxG@act1"),
        ("sds", "IxG@act2"),
        ("sds", "Gradient"),
        ("sds", "IG:steps=4"),
        ("sds", "IG:steps=3:baseline=black"),
        ("sds:grid=2", "IG:steps=3"),
        ("sds:baseline=blur", "IG:steps=3"),
        ("sds:output=probability", "IG:steps=3"),
        ("sds:target=prediction", "IG:steps=3"),
        ("sds:sign=absolute", "IG:steps=3"),
        ("ids:steps=2", "IG:steps=3"),
    ],
)
def test_another_protocol_method_layer_or_parameter_misses(
    protocol: str, method: str, model: attrlib.Classifier, data: Path, store: Store
) -> None:
    compare(model, "sds", "IG:steps=3", data, store, limit=6)
    before = compare(model, protocol, method, data, store, limit=6)
    assert (before.computed, before.cached) == (6, 0)
    assert compare(model, protocol, method, data, store, limit=6).cached == 6
    assert compare(model, "sds", "IG:steps=3", data, store, limit=6).cached == 6


def test_another_version_of_the_numerics_misses(
    model: attrlib.Classifier, data: Path, store: Store, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(model, GRID, "IxG", data, store)
    compare(model, "sds", "IxG", data, store)
    calls.clear()
    monkeypatch.setattr(attrlib.engine.keys, "NUMERICS", attrlib.engine.keys.NUMERICS + 1)
    with passes() as counted:
        assert compare(model, GRID, "IxG", data, store).cached == 0
        assert compare(model, "sds", "IxG", data, store).cached == 0
    # Maps, the filter's predictions and the outputs without each cell.
    assert len(calls) == 20 + 20
    assert counted.images >= 20 + 17 * 20


def test_a_changed_picture_misses_alone(model: attrlib.Classifier, data: Path, store: Store, calls: Calls) -> None:
    before = named(compare(model, "sds", "IxG", data, store))["sds", "IxG"]
    calls.clear()
    image = picture(2, 3)
    image.putpixel((9, 9), (0, 0, 0))
    image.save(data / "2" / "3.png")
    result = compare(model, "sds", "IxG", data, store)
    after = named(result)["sds", "IxG"]
    assert (result.computed, result.cached, len(calls)) == (1, 19, 1)
    assert sum(a != b for a, b in zip(before.ids, after.ids, strict=True)) == 1


def test_renaming_and_moving_pictures_hits(model: attrlib.Classifier, data: Path, store: Store, calls: Calls, tmp_path: Path) -> None:
    before = compare(model, "sds", "IxG,Random", data, store)
    calls.clear()
    moved = tmp_path / "elsewhere" / "other name"
    moved.parent.mkdir()
    data.rename(moved)
    for number, file in enumerate(sorted(moved.glob("*/*.png"), reverse=True)):
        file.rename(file.with_name(f"renamed {number}.PNG"))
    for folder in sorted(moved.iterdir()):
        folder.rename(folder.with_name(f"class {folder.name}"))
    with passes() as counted:
        after = compare(model, "sds", "IxG,Random", moved, store)
    assert (after.computed, after.cached, calls, counted.images) == (0, 40, [], 0)
    for key, score in named(after).items():
        assert dict(zip(score.ids, score.values, strict=True)) == dict(zip(named(before)[key].ids, named(before)[key].values, strict=True))


def test_another_class_for_a_picture_misses(model: attrlib.Classifier, data: Path, store: Store, tmp_path: Path) -> None:
    compare(model, "sds", "IxG", data, store)
    (data / "1" / "0.png").rename(data / "2" / "was 1.png")
    result = compare(model, "sds", "IxG", data, store)
    assert (result.computed, result.cached) == (1, 19)
    with closing(alone(tmp_path / "fresh")) as fresh:
        expected = named(compare(model, "sds", "IxG", data, fresh))["sds", "IxG"]
    # Nothing is left of the other class; one image alone and sixteen at once differ in the last bits.
    assert np.allclose(named(result)["sds", "IxG"].values, expected.values, rtol=0, atol=1e-6)
    # A prediction is the same whatever the folder is called.
    compare(model, "sds:target=prediction", "IxG", data, store)
    (data / "2" / "was 1.png").rename(data / "3" / "was 1.png")
    assert compare(model, "sds:target=prediction", "IxG", data, store).cached == 20


def test_only_what_is_drawn_depends_on_the_seed(model: attrlib.Classifier, data: Path, store: Store, calls: Calls) -> None:
    ask = functools.partial(compare, model, "sds,sds:baseline=random,infidelity:samples=2", "IxG,Random,RISE:samples=4", data, store)
    ask(seed=0)
    calls.clear()
    result = ask(seed=1)
    # Of nine parts only IxG under the baseline of zeros draws nothing.
    assert (result.cached, result.computed) == (20, 160)
    assert (calls.of("IxG"), calls.of("Random"), calls.of("RISE")) == (0, 20, 20)
    assert [item for (item,) in named(result)["sds", "IxG"].items] == load_dataset(data).order(1)


def test_a_policy_that_changes_no_value_hits(model: attrlib.Classifier, data: Path, store: Store) -> None:
    compare(model, "sds", "IxG", data, store)
    assert compare(model, "sds:undefined=zero", "IxG", data, store).computed == 0
    tuned = attrlib.wrap_model(model.module, SIZE, HALF, HALF, deletion_tuned=True)
    assert compare(tuned, "idsds", "IxG", data, store).computed == 0, "one implementation, whatever the model was tuned on"


def test_another_confidence_that_lets_the_same_pictures_pass_hits(model: attrlib.Classifier, data: Path, store: Store) -> None:
    compare(model, GRID, "IxG", data, store)
    with passes() as counted:
        result = compare(model, "gridpg:confidence=0.4", "IxG", data, store)
    assert (result.computed, result.cached, counted.images) == (0, 5, 0)


def test_what_does_not_depend_on_the_method_is_computed_once(model: attrlib.Classifier, data: Path, tmp_path: Path) -> None:
    def counted(name: str, methods: str) -> int:
        with closing(alone(tmp_path / name)) as store, passes() as found:
            compare(model, "sds,robustness,infidelity:samples=3", methods, data, store)
        return found.images

    counted("warm", "Random,Sobel@Input")
    one, two = counted("one", "Random"), counted("two", "Random,Sobel@Input")
    # The whole image and 16 cells, the image and 4 rotations, the image and 3 noises; what else is looked at is one image.
    assert 20 * (17 + 5 + 4) <= one <= 20 * (17 + 5 + 4) + 2
    assert two == one


@pytest.mark.parametrize("protocol", ["sds", GRID])
def test_what_methods_have_in_common_is_computed_once(protocol: str, model: attrlib.Classifier, data: Path, tmp_path: Path) -> None:
    def counted(name: str, methods: str) -> tuple[int, RunResult]:
        with closing(Store(folder=tmp_path / name)) as store, passes() as found:
            result = compare(model, protocol, methods, data, store)
        return found.images, result

    counted("warm", "Gradient")
    one, several = counted("one", "Gradient"), counted("several", "Gradient,IxG,Gradient:channels=abs-sum")
    assert several[0] == one[0]
    for method in ("IxG", "Gradient:channels=abs-sum"):
        (key,) = (k for k in named(several[1]) if k[1] == method)
        (alone,) = named(counted(method, method)[1]).values()
        assert named(several[1])[key].values.tobytes() == alone.values.tobytes()


def test_what_does_not_depend_on_the_protocol_is_computed_once(model: attrlib.Classifier, data: Path, store: Store, calls: Calls) -> None:
    everything = "sds,sds:grid=2,ids:steps=2,ids:steps=2:mode=insertion,infidelity:samples=2,sds:target=prediction"
    result = compare(model, everything, "IxG,Grad-CAM", data, store)
    assert result.computed == 6 * 2 * 20
    # The pictures' classes are what the model predicts: the same maps serve both targets.
    assert calls.times == Counter(set(calls))
    assert len(calls) == 2 * 20
    compare(model, "ids:steps=3,sensitivity:samples=1", "IxG", data, store)
    # Sensitivity looks at one more image for each.
    assert len(calls) == 2 * 20 + 20


def test_the_filter_is_shared_by_protocols_and_methods(model: attrlib.Classifier, data: Path, store: Store) -> None:
    compare(model, "gridpg:confidence=0.4", "Random", data, store)
    with passes() as counted:
        result = compare(model, "difull:confidence=0.5,gridpg:confidence=0.3", "Random,Sobel@Input", data, store)
    assert result.computed > 0
    assert counted.images <= 2


def test_two_runs_at_once_agree(model: attrlib.Classifier, data: Path, tmp_path: Path) -> None:
    found: dict[int, RunResult] = {}

    def work(number: int) -> None:
        with closing(alone(tmp_path / "shared")) as store:
            found[number] = compare(model, f"sds,{GRID}", "IxG,Random", data, store)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert same(found[0], found[1])
    with closing(alone(tmp_path / "shared")) as store:
        assert compare(model, f"sds,{GRID}", "IxG,Random", data, store).computed == 0


def test_results_from_rounded_maps_are_not_taken_for_exact_ones(model: attrlib.Classifier, data: Path, tmp_path: Path) -> None:
    results = {}
    for dtype in ("float16", "float32"):
        with closing(Store(folder=tmp_path / "shared", dtype=dtype)) as shared, closing(Store(folder=tmp_path / dtype, dtype=dtype)) as own:
            results[dtype] = compare(model, "sds", "IxG", data, shared)
            assert results[dtype].computed == 20
            assert compare(model, "sds:grid=2", "IxG", data, shared).computed == 20
            # From maps that were just computed, and from maps that were read.
            assert same(compare(model, "sds:grid=2", "IxG", data, own), compare(model, "sds:grid=2", "IxG", data, shared))
            assert same(compare(model, "sds", "IxG", data, own), results[dtype])
    assert not same(results["float16"], results["float32"])


def test_rounding_of_stored_maps_is_no_change_between_a_picture_and_its_like(model: attrlib.Classifier, data: Path, tmp_path: Path) -> None:
    with closing(Store(folder=tmp_path / "halves", dtype="float16")) as halves:
        # A map that no picture changes, compared from the store and from perturbed pictures, which are not kept.
        (score,) = compare(model, "sensitivity:samples=2", "Gaussian", data, halves).scores.values()
    assert len(score.values) == 20
    assert (score.values == 0).all()


def test_a_parameter_that_was_added_later_changes_no_key_at_its_default() -> None:
    tiny = attrlib.wrap_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval(), 8)
    keys = ResultKeys(tiny, "0", 0, "float32")
    spec = resolve(MethodSpec("LRP"))
    before = replace(spec, params=tuple((k, v) for k, v in spec.params if not k.startswith("gamma")))
    assert len(before.params) == 4
    assert keys.maps(spec, tiny) == keys.maps(before, tiny)
    assert keys.maps(resolve(MethodSpec("LRP", params=(("gamma", 0.5),))), tiny) != keys.maps(before, tiny)
    assert keys.maps(resolve(MethodSpec("LRP", params=(("epsilon", 0.5),))), tiny) != keys.maps(before, tiny)
