"""If memory runs out, the number of rows per pass is halved, down to one, and maps do not change."""

import math
from itertools import product

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
from support import nets
from support.method_nets import small
from torch import Tensor, nn

from attrlib.engine.peak import peak_memory
from attrlib.errors import OutOfMemory
from attrlib.methods import METHODS, Attribution, AttributionContext, AttributionOptions, attribute, attribute_all, attribute_each
from attrlib.methods.differentiable import unreachable
from attrlib.models.chunks import in_chunks, out_of_memory
from attrlib.specs import MethodSpec

LAYERS = ("Input", "Middle", "Final")
TARGETS = (1, 0, 2, 1, 3)
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
    ),
    RuntimeError("not enough memory: you tried to allocate 9 bytes."),
    RuntimeError("MPS backend out of memory"),
    MemoryError(),
]


NETS = {"cut": nets.Plain, "no cut": nets.SkipAround}


class Small(nn.Module):
    """A network on a machine with memory for `room` rows; it counts the passes that were too large, and the rows of the others."""

    def __init__(self, inner: nn.Module, error: Exception = ERRORS[0]) -> None:
        super().__init__()
        self.inner, self.error, self.room = inner, error, 1 << 30
        self.unreadable: list[int] = []
        self.passed: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.room:
            self.unreadable.append(len(x))
            raise self.error
        self.passed.append(len(x))
        return self.inner(x)


def cramped(name: str, error: Exception = ERRORS[0]) -> tuple[attrlib.Classifier, Small]:
    """One of the networks on such a machine, with its layers found."""
    module = Small(nets.made(NETS[name]), error)
    model = attrlib.wrap_model(module, nets.SIZE)
    with model.session():
        for layer in LAYERS:
            model.split(model.layer(layer))
            unreachable(model, model.layer(layer))
    module.unreadable, module.passed = [], []
    return model, module


def close(found: Tensor, expected: Tensor) -> bool:
    return bool(((found - expected).flatten(1).norm(dim=1) <= 2e-3 * expected.flatten(1).norm(dim=1) + 1e-9).all())


@pytest.mark.parametrize("name", NETS)
def test_every_method_continues_with_fewer_rows(name: str) -> None:
    model, module = cramped(name)
    with model.session():
        assert model.split(model.layer("Middle")).cut == (name == "cut")
    images = nets.pictures(len(TARGETS))
    specs = [small(method, layer) for method, layer in product(METHODS, LAYERS[:2])]
    expected = attribute_each(model, specs, images, TARGETS, AttributionOptions(batch_size=5))
    for module.room, options in ((1, {}), (2, {"owners": range(5)})):
        found = attribute_each(model, specs, images, TARGETS, AttributionOptions(batch_size=5), **options)
        assert max(module.unreadable) == 5
        for spec, one, other in zip(specs, found, expected, strict=True):
            assert type(one) is type(other), f"{spec}: {one}"
            if isinstance(one, Attribution) and isinstance(other, Attribution):
                assert close(one.maps, other.maps), str(spec)
                assert one.target == other.target


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: f"{type(e).__name__} {str(e)[:12]}")
def test_the_chunk_is_halved_until_it_fits_and_stays_so(error: Exception) -> None:
    model, module = cramped("cut", error)
    module.room = 2
    images = nets.pictures(4)
    (found,) = attribute_all(model, [MethodSpec.parse("SmoothGrad:samples=8")], images, (1, 0, 2, 1), AttributionOptions(batch_size=8))
    assert module.unreadable == [8, 4]
    assert module.passed == [2] * 16
    module.room = 1 << 30
    assert close(found.maps, attribute(model, found.spec, images, (1, 0, 2, 1)).maps)


def test_the_number_of_rows_keeps_the_largest_output_small(monkeypatch: pytest.MonkeyPatch) -> None:
    model, module = cramped("cut")
    images, spec = nets.pictures(4), MethodSpec.parse("SmoothGrad:samples=8")
    largest = max(math.prod(layer.shape) for layer in model.layers.values())
    expected = attribute(model, spec, images, (1, 0, 2, 1))
    assert module.passed == [16, 16]
    module.passed.clear()
    # Of float32, two rows and a half.
    monkeypatch.setattr("attrlib.methods.attribution.MAX_LAYER_BYTES", 10 * largest)
    assert close(attribute(model, spec, images, (1, 0, 2, 1)).maps, expected.maps)
    assert module.passed == [2] * 16


def test_the_next_batch_starts_with_the_chunk_that_fitted() -> None:
    model, module = cramped("cut")
    module.room = 1
    attribute(model, MethodSpec("Gradient"), nets.pictures(8), [0] * 8, AttributionOptions(batch_size=4))
    assert module.unreadable == [4, 2]


def test_the_predicted_class_is_found_in_fewer_rows() -> None:
    model, module = cramped("cut")
    images = nets.pictures(5)
    predicted = model(images).argmax(1)
    module.room = 1
    assert attribute(model, MethodSpec("Sobel"), images).target == tuple(predicted.tolist())


def test_a_method_that_takes_all_items_at_once_is_given_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def at_once(_method: object, context: AttributionContext) -> Tensor:
        taken.append(len(context))
        if len(context) > 2:
            raise ERRORS[1]
        return context.reduce(context.inputs)

    model, images = cramped("cut")[0], nets.pictures(5)
    monkeypatch.setattr(METHODS["Gradient"], "attribute", at_once)
    for options in ({}, {"owners": (0, 1, 2, 3, 4)}, {"owners": (2, 2, 2, 0, 1)}):
        taken.clear()
        gradient, ixg = attribute_all(model, [MethodSpec("Gradient"), MethodSpec("IxG")], images, TARGETS, **options)  # type: ignore[arg-type]
        assert taken == [5, 3, 2, 1, 2]
        which = list(options.get("owners", range(5)))
        assert torch.equal(gradient.maps, images[which].sum(1, keepdim=True))
        assert close(ixg.maps, attribute(model, MethodSpec("IxG"), images, TARGETS, **options).maps)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["Gradient", "IG", "Occlusion", "Grad-CAM"])
def test_an_error_is_raised_if_one_row_does_not_fit(method: str) -> None:
    model, module = cramped("cut")
    module.room = 0
    spec = small(method, "Middle")
    with pytest.raises(OutOfMemory, match="not enough memory for a single image; use a smaller model"):
        attribute(model, spec, nets.pictures(3), [0, 1, 2])
    assert module.unreadable[-1] == 1
    failed, fine = attribute_each(model, [spec, MethodSpec("Random")], nets.pictures(3), [0, 1, 2])
    assert isinstance(failed, OutOfMemory)
    assert isinstance(fine, Attribution)
    assert not any("forward" in vars(m) for m in model.module.modules())


def test_other_errors_are_not_mistaken_for_a_lack_of_memory() -> None:
    model, module = cramped("cut", RuntimeError("size mismatch"))
    module.room = 1
    with pytest.raises(RuntimeError, match="size mismatch"):
        attribute(model, MethodSpec("Gradient"), nets.pictures(2), [0, 1])
    assert module.unreadable == [2]
    assert not out_of_memory(ValueError("not enough memory"))


def test_rows_are_concatenated_in_order() -> None:
    def double(values: Tensor, others: Tensor) -> Tensor:
        if len(values) > 3:
            raise MemoryError
        return values * others

    values = torch.arange(10)
    found, size = in_chunks(7, double, values, values)
    assert found.tolist() == [k * k for k in range(10)]
    assert size == 3
    assert in_chunks(4, lambda v: v, values)[1] == 4
    assert in_chunks(4, lambda v: v, values[:0])[0].shape == (0,)


def test_memory_does_not_grow_over_a_thousand_images_except_for_the_maps() -> None:
    model = attrlib.wrap_model(nets.made(nets.Plain), nets.SIZE)
    specs = [
        MethodSpec("IxG"),
        MethodSpec("Grad-CAM"),
        MethodSpec("IG", params=(("steps", 3),)),
        MethodSpec("RISE", params=(("samples", 4),)),
    ]
    attribute_all(model, specs, nets.pictures(2))

    def beyond_maps(count: int) -> int:
        images = nets.pictures(count)
        with peak_memory(torch.device("cpu")) as peak:
            found = attribute_all(model, specs, images)
        # They are held batch by batch, and concatenated one method after the other.
        return peak.nbytes - sum(one.nbytes for one in found) - max(one.nbytes for one in found)

    few, many = beyond_maps(64), beyond_maps(1000)
    assert many <= few < nets.pictures(1000).nbytes / 4
