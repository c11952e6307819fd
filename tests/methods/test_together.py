"""Several methods requested together: the same bits as alone, with shared values computed once and then freed."""

import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count, product
from typing import Any

import attrlib  # before timm: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
from support import method_nets
from support.method_nets import Functional, made, pictures, small
from torch import Tensor, nn

from attrlib.errors import AttrlibError, Cancelled, LayerError, MethodError, SpecError
from attrlib.methods import METHODS, Attribution, AttributionContext, AttributionOptions, attribute, attribute_all, attribute_each, resolve
from attrlib.models.modules.preserve import has_bfloat16, reduced
from attrlib.specs import MethodSpec

RISE = MethodSpec.parse("RISE:samples=8:cells=3:p=0.5")
LAYERS = ("Input", "Middle", "Final")
TARGETS = (1, 0, 2, 1)
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="no bfloat16 here")


SPECS = [small(method, layer) for method, layer in product(METHODS, ("Input", "Middle"))]


@cache
def tiny() -> attrlib.Classifier:
    return attrlib.wrap_model(made(Functional), 16)


def images_for(name: str) -> Tensor:
    return pictures(len(TARGETS), *method_nets.model(name).input_size)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every pass downstream of the layer."""
    found: list[int] = []
    own = AttributionContext._logits

    def counted(context: AttributionContext, inputs: Tensor, owners: Tensor) -> Tensor:
        found.append(len(owners))
        return own(context, inputs, owners)

    monkeypatch.setattr(AttributionContext, "_logits", counted)
    return found


@pytest.mark.parametrize(
    "arguments",
    [{"options": AttributionOptions(batch_size=3)}, {"targets": (0, 2, 1, 1, 4), "owners": (0, 0, 1, 3, 3)}],
    ids=["images", "items"],
)
def test_maps_computed_together_and_alone_are_identical(arguments: dict[str, Any]) -> None:
    images = pictures(len(TARGETS), 16)
    together = attribute_each(tiny(), SPECS[::-1], images, **arguments)[::-1]
    for spec, found in zip(SPECS, together, strict=True):
        if isinstance(found, AttrlibError):
            with pytest.raises(type(found), match=re.escape(str(found))):
                attribute(tiny(), spec, images, **arguments)
            continue
        expected = attribute(tiny(), spec, images, **arguments)
        assert torch.equal(found.maps, expected.maps), str(spec)
        assert (found.target, found.spec, found.diagnostics) == (expected.target, expected.spec, expected.diagnostics)


def test_methods_share_one_gradient(passes: list[int]) -> None:
    specs = [MethodSpec(m, "Middle") for m in ("Gradient", "IxG", "Grad-CAM", "Layer-CAM")]
    attribute_all(method_nets.model("functional"), specs, images_for("functional"), options=AttributionOptions(batch_size=2))
    assert passes == [2, 2]


def test_methods_with_the_same_noise_share_the_noisy_passes(passes: list[int]) -> None:
    specs = [MethodSpec.parse(f"SmoothGrad:samples={n}:channels={c}") for n in (3, 4) for c in ("sum", "abs-sum")]
    attribute_all(method_nets.model("functional"), specs, images_for("functional"), options=AttributionOptions(batch_size=16))
    assert sum(passes) == 4 * (3 + 4)


def test_clean_scores_are_computed_once_for_an_image(passes: list[int]) -> None:
    specs = [MethodSpec.parse("IG:steps=1"), MethodSpec.parse("Occlusion:window=64:stride=64")]
    attribute_all(method_nets.model("functional"), specs, images_for("functional"), [0, 1, 2, 3], owners=[0, 0, 1, 2])
    # IG's gradients of four items and its baseline, which is one; Occlusion's one window on three images; the three images as they are.
    assert sorted(passes) == [1, 3, 3, 4]


def test_the_first_method_that_is_not_defined_raises_before_anything_is_computed(passes: list[int]) -> None:
    specs = [MethodSpec("Gradient"), MethodSpec("BagNet")]
    with pytest.raises(MethodError, match="built-in explanation"):
        attribute_all(method_nets.model("functional"), specs, images_for("functional"))
    with pytest.raises(SpecError, match="targets"):
        attribute_each(method_nets.model("functional"), specs, images_for("functional"), [0])
    assert not passes


def test_a_method_that_raises_does_not_affect_the_others() -> None:
    specs = [MethodSpec("BagNet"), MethodSpec("Guided Backprop"), MethodSpec("Gradient"), MethodSpec("IxG", "nowhere"), MethodSpec("Sobel")]
    model, images = method_nets.model("vit_tiny"), images_for("vit_tiny")
    found = attribute_each(model, specs, images, options=AttributionOptions(batch_size=2))
    assert [type(one) for one in found] == [MethodError, MethodError, Attribution, LayerError, Attribution]
    assert all(one.__traceback__ is None for one in found[:2])  # type: ignore[union-attr]
    assert torch.equal(found[2].maps, attribute(model, specs[2], images, options=AttributionOptions(batch_size=2)).maps)  # type: ignore[union-attr]


def test_cancelling_is_not_an_error_of_a_method() -> None:
    def cancel(_done: int, _total: int) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        attribute_each(
            method_nets.model("functional"),
            [MethodSpec("Gradient"), MethodSpec("IxG")],
            images_for("functional"),
            options=AttributionOptions(on_progress=cancel),
        )


def test_shared_values_are_freed_after_their_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Tensor]] = []
    own = AttributionContext.gradient

    def watched(context: AttributionContext, *args: object) -> Tensor:
        assert not any(ref() is not None for ref in alive), "the gradient of the batch before"
        value = own(context, *args)  # type: ignore[arg-type]
        alive.append(weakref.ref(value))
        return value

    monkeypatch.setattr(AttributionContext, "gradient", watched)
    specs = [MethodSpec("Gradient", layer) for layer in LAYERS]
    found = attribute_all(method_nets.model("functional"), specs, images_for("functional"), options=AttributionOptions(batch_size=1))
    assert len(found) == 3
    assert len(alive) == 12
    assert not any(ref() is not None for ref in alive)


def test_shared_seconds_count_in_full_for_each_that_uses_them() -> None:
    model = method_nets.model("functional")
    ticks = count()
    with model.session():
        context = AttributionContext(
            model, model.layer("Input"), images_for("functional"), torch.tensor(TARGETS), clock=lambda: float(next(ticks))
        )
        inner = lambda: context.shared("inner", lambda: 1)  # noqa: E731
        assert context.shared("outer", lambda: inner() + 1) == 2  # inner takes one tick, outer three
        assert context.shared_seconds == 0
        assert inner() == 1
        assert context.shared_seconds == 1
        assert context.shared("other", inner) == 1  # itself one tick, and the one that inner had taken
        assert context.shared_seconds == 2
        context.shared_seconds = 0
        assert context.shared("outer", lambda: 0) == 2
        assert context.shared_seconds == 3
        assert context.shared("other", lambda: 0) == 1
        assert context.shared_seconds == 5


@needs_bfloat16
def test_exact_computations_between_the_chunks_of_fast_ones_are_exact() -> None:
    model, images = tiny(), pictures(2, 16)
    expected = [
        attribute(model, MethodSpec("IxG"), images, (0, 1)).maps,
        attribute(model, RISE, images, (0, 1), options=AttributionOptions(fast=True)).maps,
    ]
    slipped: list[Tensor] = []

    def slip(_done: int, _total: int) -> None:
        slipped.append(attribute(model, MethodSpec("IxG"), images, (0, 1)).maps)

    found = attribute(model, RISE, images, (0, 1), options=AttributionOptions(batch_size=4, on_progress=slip, fast=True)).maps
    assert len(slipped) > 2
    assert all(torch.equal(maps, expected[0]) for maps in slipped)
    assert torch.allclose(found, expected[1], rtol=1e-2, atol=1e-4)
    assert not torch.equal(found, attribute(model, RISE, images, (0, 1)).maps), "fast is what it was"


class Overwriting(nn.Module):
    """A network that PyTorch cannot differentiate: it adds in place to the saved output of a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        values = self.convolution(images).relu()
        values += 0.1
        return self.head(values.mean((2, 3)))


def test_a_model_that_autograd_cannot_differentiate_is_refused_with_advice() -> None:
    model = attrlib.wrap_model(Overwriting().eval(), 32, layers={"Middle": "convolution", "Final": "convolution"})
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name in ("Gradient", "IG", "Guided Backprop"):
        with pytest.raises(MethodError, match=f"{name} needs gradients, but an in-place operation .* such as RISE"):
            attribute(model, resolve(MethodSpec(name)), images, [0, 1])
    assert attribute(model, resolve(MethodSpec("RISE", "", (("samples", 4),))), images, [0, 1]).maps.isfinite().all()


@needs_bfloat16
def test_the_precision_is_reduced_once(monkeypatch):
    entered: list[int] = []

    @contextmanager
    def counted(*arguments: object) -> Iterator[None]:
        entered.append(1)
        with reduced(*arguments):
            yield

    monkeypatch.setattr("attrlib.models.classifier.reduced", counted)
    attribute_all(method_nets.model("functional"), [RISE], pictures(2, 64), [0, 1], AttributionOptions(fast=True))
    assert len(entered) == 1


@needs_bfloat16
def test_the_precision_stays_reduced_after_the_head_in_a_context_inside_another():
    module, device = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.device("cpu")
    with reduced(module, device), reduced(module, device):
        for _ in range(2):
            assert module(torch.ones(1, 4)).dtype == torch.float32
            assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")
