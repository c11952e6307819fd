"""Requirements on every registered protocol, with several methods, through the evaluator; registering a protocol tests it."""

import copy
import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from support.engine import evaluate_items
from support.method_nets import CLASSES, Functional, made, pictures
from torch import Tensor, nn

from attrlib.data.birds import CODE
from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluator import Evaluator
from attrlib.engine.items import EvalItem
from attrlib.errors import Cancelled, ProtocolError, SpecError
from attrlib.methods import METHODS
from attrlib.methods import resolve as resolve_method
from attrlib.models import Layer
from attrlib.protocols import PROTOCOLS, Batch, EvalBatch, ExplanationRequest, Protocol, create, list_protocols, resolve
from attrlib.protocols.scenes import VISIBLE_OBJECTS
from attrlib.registry import Param
from attrlib.specs import MethodSpec, ProtocolSpec, digest
from attrlib.store import Record

Model = attrlib.Classifier
SIZE = (32, 48)
ITEMS = 6
INFOS = {info.name: info for info in list_protocols()}
SMALL: dict[str, dict[str, object]] = {
    "ids": {"steps": 5},
    "srg": {"steps": 5},
    "deletion": {"steps": 4},
    "insertion": {"steps": 4},
    "irof": {"segments": 12, "steps": 5},
    "saco": {"groups": 5},
    "infidelity": {"samples": 3, "noise": 0.5},
    "sensitivity": {"samples": 2},
    "robustness": {"tolerance": 1},
    "randomisation": {"stages": 2},
    "smooth-randomisation": {"stages": 2, "samples": 2},
    "faithfulness": {"samples": 6, "grid": 4},
    "mufidelity": {"samples": 6, "grid": 4},
    "sensitivity-n": {"samples": 4, "grid": 4},
}
VARIANTS = [
    "sds:baseline=random",
    "sds:baseline=linear",
    "ids:steps=4:baseline=border",
    "saco:groups=3:baseline=inpainting",
    "ids:steps=4:baseline=random:update=true",
    "robustness:tolerance=1:change=contrast",
]
METHODS_USED = ("Gradient", "Grad-CAM", "SmoothGrad:samples=2", "Random")


CODES = [CODE[word] for word in (0, 1, 5, 7, 13)]
"""The parts of the classes."""


def spec_of(name: str, **changed: object) -> ProtocolSpec:
    """The protocol with small parameters."""
    return ProtocolSpec(name, tuple((SMALL.get(name, {}) | changed).items()))  # type: ignore[arg-type]


SPECS = [spec_of(name) for name in PROTOCOLS] + [ProtocolSpec.parse(text) for text in VARIANTS]
every_protocol = pytest.mark.parametrize("spec", SPECS, ids=str)
every_pair = pytest.mark.parametrize(("spec", "method"), list(product(SPECS, METHODS_USED)), ids=str)


@cache
def model() -> Model:
    return attrlib.wrap_model(made(Functional), SIZE, deletion_tuned=True)


def items(protocol: Protocol, which: Sequence[int] = range(ITEMS)) -> tuple[list[EvalItem], Batch]:
    """Return some of a few images or grids, with labels and, for images, masks."""
    n = protocol.grid if protocol.items == "grids" else 1
    images = pictures(ITEMS, n * SIZE[0], n * SIZE[1])[list(which)]
    labels = [tuple((3 * i + k + i // 2) % CLASSES for k in range(n * n)) for i in which]
    units = [EvalItem(f"{protocol.items} {i}", (i,) * n * n, own) for i, own in zip(which, labels, strict=True)]
    masks = None if n > 1 else pictures(ITEMS, *SIZE, seed=2)[list(which), 0] > 0.5
    if masks is not None:
        # The box around the object must not be the whole picture.
        masks[:, :4] = False
    tensor = torch.tensor(labels)
    ids = tuple(u.id for u in units)
    if n > 1:
        return units, Batch(ids, images, tensor)
    # Six parts and thirteen objects, each a band of the picture, and pictures without it.
    parts, objects = (
        (torch.arange(SIZE[k])[:, None] * count // SIZE[k] == torch.arange(count)).T.unsqueeze(2 - k).expand(-1, *SIZE)
        for k, count in ((0, 6), (1, VISIBLE_OBJECTS))
    )
    both = torch.cat([parts, objects])
    redraw = tuple(partial(lambda image, without: image * ~both[list(without)].any(0), image) for image in images)
    parts, objects = (bands.expand(len(images), -1, -1, -1) for bands in (parts, objects))
    without = images[:, None] * ~parts[:, :, None]
    return units, Batch(ids, images, tensor[:, 0], masks, parts, without, dict(enumerate(CODES)), objects, redraw)


def perform(
    spec: ProtocolSpec, method: str, which: Sequence[int] = range(ITEMS), bench: Evaluator | None = None, seed: int = 0, rows: int = 16
) -> list[Record]:
    protocol = create(spec)
    units, batch = items(protocol, which)
    bench = bench or Evaluator(model(), InMemoryCache(), seed, rows=rows)
    protocol.check(bench.model, ("masks", "parts", "scenes") if protocol.items == "images" else ())
    found = evaluate_items(bench, protocol, resolve_method(MethodSpec.parse(method)), units, batch)
    assert list(found) == [unit.key(protocol.target_choice) for unit in units]
    return list(found.values())


@cache
def reference(spec: ProtocolSpec, method: str) -> list[Record]:
    return perform(spec, method)


def close(found: Sequence[Record], expected: Sequence[Record], tolerance: float = 1e-5, of: float = 1.0) -> bool:
    """Return whether values and details agree, up to a share of each and of the magnitude `of`: most are of maps with norm 1."""

    def numbers(records: Sequence[Record]) -> np.ndarray:
        return np.array([[r.value, *(number for name in sorted(r.details) for number in r.details[name])] for r in records])  # type: ignore[union-attr]

    one, other = numbers(found), numbers(expected)
    return one.shape == other.shape and np.allclose(one, other, rtol=tolerance, atol=tolerance * of, equal_nan=True)


# Values ----------------------------------------------------------------------------------------------------------------


@every_pair
def test_values_are_within_bounds_and_details_are_lists_of_finite_numbers(spec: ProtocolSpec, method: str) -> None:
    protocol, found = create(spec), reference(spec, method)
    low, high = protocol.bounds
    assert low < high
    values = np.array([record.value for record in found])
    # The small net is sure of none of the pictures, which these need.
    assert np.isfinite(values).any() or spec.name in ("sic", "aic")
    assert ((values >= low - 1e-9) & (values <= high + 1e-9))[np.isfinite(values)].all()
    for record in found:
        assert isinstance(record.value, float)
        for name, numbers in record.details.items():
            assert isinstance(name, str)
            assert isinstance(numbers, list)
            assert numbers
            if math.isfinite(record.value):
                assert all(isinstance(number, float) and math.isfinite(number) for number in numbers)
        json.dumps(dict(record.details))
    assert len({(*sorted(record.details),) for record in found}) == 1
    assert len({tuple(map(len, record.details.values())) for record in found}) == 1


@every_pair
def test_batch_order_and_rows_change_nothing(spec: ProtocolSpec, method: str) -> None:
    expected = reference(spec, method)
    bench = Evaluator(model(), InMemoryCache(), rows=1)
    # Pixels between which a magnified map rises by less than rounding may change places: each moves an output of the model, or the share
    # of the pixels inside the object, by some 1e-4.
    tolerance = 1e-3 if spec.name in ("ids", "srg", "deletion", "insertion", "irof", "saco", "rank") else 1e-5
    if spec.name in ("sic", "aic"):
        # A pixel more or less changes the size of the compressed picture.
        tolerance = 0.05
    for which in ([4, 0, 5], [2]):
        assert close(perform(spec, method, which, bench), [expected[i] for i in which], tolerance)
    assert close(perform(spec, method, range(ITEMS)[::-1], rows=3), expected[::-1], tolerance)


@every_protocol
def test_cached_results_change_nothing_and_are_not_computed_again(spec: ProtocolSpec) -> None:
    bench = Evaluator(model(), InMemoryCache())
    perform(spec, "Gradient", [1, 4], bench)
    assert close(perform(spec, "Gradient", bench=bench), reference(spec, "Gradient"))
    counter = Counter()
    handle = model().module.register_forward_pre_hook(counter)
    try:
        again = perform(spec, "Gradient", bench=bench)
    finally:
        handle.remove()
    assert close(again, reference(spec, "Gradient"))
    cost = create(spec).cost
    # Maps of the unchanged images and measurements are cached, and nothing else.
    if cost.forwards == 0 and spec.name not in ("sensitivity", "robustness", "smooth-randomisation"):
        assert counter.rows == 0


@every_pair
def test_another_seed_changes_only_seeded_values(spec: ProtocolSpec, method: str) -> None:
    own, of_method = create(spec).seeded, METHODS[method.partition(":")[0]].seeded
    found, expected = perform(spec, method, seed=7), reference(spec, method)
    if not own and not of_method:
        assert close(found, expected, 0)
    # The pointing game's are zeros and ones; shuffled weights mean nothing to a method that ignores them.
    elif (own or spec.name != "pointing") and not (spec.name in ("randomisation", "smooth-randomisation") and method == "Random"):
        # Infidelity, a mean of squares, is far below 1: what changes is a share of the values themselves.
        assert not close(found, expected, 1e-3, of=0)


@every_protocol
def test_results_of_different_seeds_and_models_do_not_mix_in_one_cache(spec: ProtocolSpec) -> None:
    shelf, other = InMemoryCache(), attrlib.wrap_model(made(Functional, seed=3), SIZE, deletion_tuned=True)
    for bench in (Evaluator(model(), shelf, 7), Evaluator(other, shelf), Evaluator(model(), shelf)):
        found = perform(spec, "SmoothGrad:samples=2", bench=bench)
        assert close(found, perform(spec, "SmoothGrad:samples=2", bench=Evaluator(bench.model, InMemoryCache(), bench.context.seed)))
    assert close(found, reference(spec, "SmoothGrad:samples=2"))


@every_protocol
def test_the_description_contains_the_seed_only_if_it_matters(spec: ProtocolSpec) -> None:
    protocol = create(spec)
    for method in METHODS_USED:
        own = resolve_method(MethodSpec.parse(method))
        keys = [digest(Evaluator(model(), InMemoryCache(), seed).keys.score(protocol, own)) for seed in (0, 7)]
        assert (len(set(keys)) == 2) == (protocol.seeded or METHODS[own.name].seeded)


@every_protocol
def test_costs_match_the_passes_that_are_run(spec: ProtocolSpec) -> None:
    protocol = create(spec)
    bench, requests, counter = Evaluator(model(), InMemoryCache()), [], Counter()
    _, batch = items(protocol)
    targets = batch.labels
    inner = bench.explainer(resolve_method(MethodSpec("Sobel" if protocol.items == "images" else "Gradient")))

    def explain(request: ExplanationRequest) -> tuple[Tensor, Layer]:
        requests.append(request)
        with_hook, counter.silent = counter.silent, True
        found = inner(request)
        counter.silent = with_hook
        return found

    handle = model().module.register_forward_pre_hook(counter)
    try:
        measured = {}
        for measurement in protocol.measurements:
            counter.rows = 0
            measured[measurement] = measurement.measure(bench.context, batch, targets)
            assert counter.rows == ITEMS * measurement.forwards()
            assert all(len(values) == ITEMS for values in measured[measurement].values())
        counter.rows = 0
        protocol.evaluate(EvalBatch(bench.context, batch, targets, measured, explain))
    finally:
        handle.remove()
    assert counter.rows == ITEMS * protocol.cost.forwards
    assert len(requests) == protocol.cost.inputs
    assert {request.targets.shape for request in requests} <= {(ITEMS, protocol.cost.targets)}
    assert all(len(request.images) == ITEMS for request in requests)


class Counter:
    """A hook that counts the rows that go through a model."""

    def __init__(self) -> None:
        self.rows, self.silent = 0, False

    def __call__(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.rows += 0 if self.silent else len(args[0])


# Side effects --------------------------------------------------------------------------------------------------------------


class Fuse:
    """A custom forward hook that counts calls and, once armed, raises at one of them."""

    def __init__(self) -> None:
        self.calls, self.blows_at = 0, -1

    def __call__(self, _module: nn.Module, _args: object) -> None:
        self.calls += 1
        if self.calls == self.blows_at:
            raise ArithmeticError("blown")


def snapshot(module: nn.Module) -> dict[str, object]:
    """Everything of a module that a computation might change, as bytes and plain values."""
    state: dict[str, object] = {k: (v.data_ptr(), v.numpy().tobytes()) for k, v in module.state_dict().items()}
    for path, p in module.named_parameters():
        state[f"{path} grad"] = (p.requires_grad, None if p.grad is None else (p.grad.data_ptr(), p.grad.numpy().tobytes()))
    for path, m in module.named_modules():
        hooks = {k: [id(h) for h in v.values()] for k, v in vars(m).items() if "hooks" in k and isinstance(v, dict)}
        state[f"{path} module"] = (m.training, sorted(vars(m)), hooks)
    return state


@cache
def touched() -> tuple[Model, Fuse, dict[str, object]]:
    """A copy whose modules train or not, and whose parameters ask for gradients and have them or not, turn by turn; its state."""
    module, fuse = copy.deepcopy(model().module), Fuse()
    module.fc.register_forward_pre_hook(fuse)
    for i, m in enumerate(module.modules()):
        m.training = i % 2 == 0
    for i, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(i % 3 != 0)
        parameter.grad = torch.full_like(parameter, float(i)) if i % 2 else None
    before = snapshot(module)
    return attrlib.wrap_model(module, SIZE, deletion_tuned=True), fuse, before


@every_protocol
@pytest.mark.parametrize("method", ["Gradient", "Grad-CAM"])
def test_the_model_is_unchanged_after_a_failure_and_the_run_can_continue(spec: ProtocolSpec, method: str) -> None:
    original, fuse, before = touched()
    fuse.blows_at = -1
    assert close(perform(spec, method, bench=Evaluator(original, InMemoryCache())), reference(spec, method))
    assert snapshot(original.module) == before
    # What is found out of the model once, its layers among it, is known by now.
    fuse.calls = 0
    perform(spec, method, bench=Evaluator(original, InMemoryCache()))
    total = fuse.calls
    assert total >= 1
    for blows_at in {1, (total + 1) // 2, total}:
        bench = Evaluator(original, InMemoryCache())
        fuse.calls, fuse.blows_at = 0, blows_at
        with pytest.raises(ArithmeticError, match="blown"):
            perform(spec, method, bench=bench)
        assert snapshot(original.module) == before
        fuse.blows_at = -1
        assert close(perform(spec, method, bench=bench), reference(spec, method))


@every_protocol
def test_the_model_is_unchanged_after_a_cancelled_run(spec: ProtocolSpec) -> None:
    original, fuse, before = touched()
    fuse.blows_at = -1
    left = [3]

    def cancel(_done: int, _total: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        perform(spec, "RISE:samples=20:cells=4", [0, 1], Evaluator(original, InMemoryCache(), rows=2, on_progress=cancel))
    assert snapshot(original.module) == before


@every_protocol
@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_random_states_images_and_labels_are_unchanged_with_or_without_gradients(spec: ProtocolSpec, around: type) -> None:
    protocol = create(spec)
    units, batch = items(protocol)
    kept = batch.images.clone(), batch.labels.clone(), None if batch.masks is None else batch.masks.clone()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    with around():
        found = evaluate_items(Evaluator(model(), InMemoryCache()), protocol, resolve_method(MethodSpec("Gradient")), units, batch)
    assert close(list(found.values()), reference(spec, "Gradient"))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tobytes() == states[2]
    assert torch.equal(batch.images, kept[0])
    assert torch.equal(batch.labels, kept[1])
    assert batch.masks is None or torch.equal(batch.masks, kept[2])


# Parameters ------------------------------------------------------------------------------------------------------------

PARAMS = [(info.name, param) for info in INFOS.values() for param in info.params]
every_param = pytest.mark.parametrize(("name", "param"), PARAMS, ids=lambda x: x.name if isinstance(x, Param) else x)
OTHER: dict[str, object] = {"tolerance": 1e-4, "smoothing": 3, "amount": 9.5, "segments": 40, "confidence": 0.5, "threshold": 0.2}
NO_VALUE = ("undefined", "confidence")
"""Parameters that say which items are used, and how they are averaged."""


def other_values(name: str, param: Param) -> list[object]:
    """Values that a parameter does not have in the small protocol."""
    own = resolve(spec_of(name)).values[param.name]
    if param.choices or param.kind is bool:
        return [value for value in (param.choices or (False, True)) if value != own]
    if param.name == "grid":
        return [own // 2 if own > 2 else 3]  # type: ignore[operator]
    if param.name in OTHER:
        return [OTHER[param.name]]
    return [own + 1 if isinstance(own, int) else 1.5 * own]  # type: ignore[operator]


@every_param
def test_protocols_with_equal_keys_have_equal_values_and_others_share_no_differing_results(name: str, param: Param) -> None:
    bench, method = Evaluator(model(), InMemoryCache()), resolve_method(MethodSpec("Gradient"))
    plain = spec_of(name)
    perform(plain, "Gradient", bench=bench)
    for value in other_values(name, param):
        changed = spec_of(name, **{param.name: value})
        first, second = create(plain), create(changed)
        keys = [digest(bench.keys.score(protocol, method)) for protocol in (first, second)]
        # Classes are part of the names of results, and the prediction is not a label.
        names = [[unit.key(p.target_choice) for unit in items(p)[0]] for p in (first, second)]
        found = perform(changed, "Gradient")
        same = close(found, reference(plain, "Gradient"), 1e-9)
        assert same or keys[0] != keys[1] or names[0] != names[1]
        assert same == (param.name in NO_VALUE), f"{param.name}={value} should change the values"
        if param.name == "undefined":
            assert keys[0] == keys[1]
        if create(plain).items == "images" or param.name != "grid":
            assert close(perform(changed, "Gradient", bench=bench), found), "something stale was read"


def texts(param: Param) -> list[str]:
    if param.choices:
        return list(param.choices)
    if param.kind is bool:
        return ["true", "false"]
    ends = [param.low, param.high] if param.name != "smoothing" else [0, 257]
    return [str(param.kind(end)) for end in ends] + (["auto"] if param.auto else [])


@every_param
def test_a_parameter_survives_a_round_trip_through_text(name: str, param: Param) -> None:
    for text in texts(param):
        protocol = create(ProtocolSpec.parse(f"{name}:{param.name}={text}"))
        value = getattr(protocol, param.name)
        assert value is None or isinstance(value, param.kind)
        assert param.parse(param.format(value)) == value
        spec = resolve(ProtocolSpec(name, ((param.name, value),)))
        assert resolve(ProtocolSpec.parse(str(spec))) == spec == resolve(spec)
        assert create(spec) == protocol
        assert [key for key, _ in spec.params] == [p.name for p in INFOS[name].params]
    assert getattr(create(ProtocolSpec(name)), param.name) == param.default


def refused(param: Param) -> list[object]:
    if param.kind is bool:
        return ["nonsense", "", 2, None]
    if param.choices:
        return ["nonsense", "", param.choices[0].upper() + "!", None]
    beyond = [param.low - 1, param.high + 1] if param.kind is float else [param.low - 1, param.high + 1, "1.5"]
    return [*beyond, "many", "", "nan", "inf", float("nan"), True, [1], *([] if param.auto else [None, "auto"])]


@every_param
def test_every_value_out_of_range_is_refused_with_the_names_of_protocol_and_parameter(name: str, param: Param) -> None:
    for value in refused(param):
        with pytest.raises(SpecError, match=f"^{name}: .*{param.name}"):
            create(ProtocolSpec(name, ((param.name, value),)))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [info.name for info in INFOS.values() if "smoothing" in {p.name for p in info.params}])
def test_an_even_kernel_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match=f"^{name}: smoothing=4 is even"):
        create(ProtocolSpec.parse(f"{name}:smoothing=4"))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_unknown_names_are_refused_with_the_nearest(name: str) -> None:
    with pytest.raises(SpecError, match=f"unknown parameter of {name} 'tarmac'"):
        create(ProtocolSpec.parse(f"{name}:tarmac=1"))
    with pytest.raises(ProtocolError, match=f"unknown protocol '{name}x'. Did you mean .*{name}"):
        resolve(ProtocolSpec(f"{name}x"))


# What is said of it ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_has_a_summary_a_reading_and_a_paper(name: str) -> None:
    info, cls, default = INFOS[name], PROTOCOLS[name], create(ProtocolSpec(name))
    assert info.name == cls.name == name == name.lower()
    assert info.title[:1].isupper()
    assert len(info.summary) > 30
    assert info.summary[-1] in ".;,:-" or info.summary[-1].isalnum()
    assert info.summary == (cls.__doc__ or "").strip().splitlines()[0]
    assert not (cls.__doc__ or "").startswith(f"{cls.__name__}("), "made up by dataclass"
    assert info.paper.url.startswith("https://")
    assert all((info.paper.authors, info.paper.title))
    assert len(info.reading) > 30
    assert info.reading.endswith(".")
    assert any(str(end) in info.reading for end in (0, 1)) or "low" in info.reading
    assert info.items in ("images", "grids")
    assert info.higher_is_better is default.higher_is_better
    assert info.chance == default.chance_level
    low, high = info.bounds
    assert info.chance is None or low <= info.chance <= high
    assert math.isnan(default.undefined_value) or low <= default.undefined_value <= high
    assert default.target_choice in ("label", "prediction")
    assert all(param.help[:1].isupper() and not param.help.endswith(".") for param in info.params)
    assert replace(default) == default
    assert hash(default) == hash(create(ProtocolSpec(name)))
    json.dumps(default.key())


def test_titles_and_names_are_unique() -> None:
    assert len({info.title for info in INFOS.values()}) == len(INFOS) == len(PROTOCOLS) >= 13
    assert len({info.summary for info in INFOS.values()}) == len(INFOS)
