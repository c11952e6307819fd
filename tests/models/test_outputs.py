"""What a network's numbers mean: each kind against the same network with plain logits, by every method."""

from collections.abc import Callable
from typing import Any

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from support.method_nets import SMALL, made, pictures
from torch import Tensor, nn

from attrlib.errors import AttrlibError, ModelError, ProtocolError
from attrlib.methods import METHODS
from attrlib.models.cells import grid_view
from attrlib.models.outputs import Outputs
from attrlib.registry import params_of

SIZE = 24
IMAGES = pictures(2, SIZE)
every_method = pytest.mark.parametrize("method", METHODS)


class Net(nn.Module):
    """Two convolutions, and a head, linear or a convolution, followed by any function."""

    def __init__(self, count: int, end: Callable[[Tensor], Tensor] = lambda z: z, sign: int = 1, convolution: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(8, count, 1) if convolution else nn.Linear(8, count)
        self.end, self.convolution = end, convolution
        with torch.no_grad():
            self.head.weight.mul_(4 * sign)
            self.head.bias.mul_(sign)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.end(self.head(x).mean((2, 3)) if self.convolution else self.head(x.mean((2, 3))))


def wrapped(count: int, *args: object, outputs: str = "auto", **options: object) -> attrlib.Classifier:
    return attrlib.wrap_model(made(Net, count, *args, **options), SIZE, outputs=outputs)


def maps(model: attrlib.Classifier, method: str, target: int | None, layer: str = "Input") -> Tensor | str:
    """Return maps, or why the method is not defined, without the name of the model."""
    small = {p.name: SMALL[p.name] for p in params_of(METHODS[method]) if p.name in SMALL}
    small |= {"window": 12, "stride": 6} if method == "Occlusion" and layer == "Input" else {}
    try:
        return attrlib.explain(model, IMAGES, method, target, layer, **small).maps
    except AttrlibError as error:
        return str(error)


def assert_same(found: Tensor | str, expected: Tensor | str) -> None:
    if isinstance(expected, str):
        assert found == expected
    else:
        assert isinstance(found, Tensor), found
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


# One logit of two classes.


ONE = {
    "a linear layer": dict(),
    "a convolution": dict(convolution=True),
    "squeezed": dict(end=lambda z: z.squeeze(-1)),
    "a sigmoid": dict(end=torch.sigmoid),
    "a sigmoid module, squeezed": dict(end=nn.Sequential(nn.Sigmoid(), nn.Flatten(0))),
    "halved": dict(end=lambda z: z / 2),
}


@pytest.mark.parametrize("form", ONE)
def test_one_logit_is_two_classes_and_its_sign_decides(form: str) -> None:
    model, half = wrapped(1, **ONE[form]), 2 if form == "halved" else 1
    z = made(Net, 1, convolution=form == "a convolution")(IMAGES)[:, 0] / half
    assert model.outputs.kind == "binary"
    assert model.class_names == ("class 0", "class 1")
    torch.testing.assert_close(model(IMAGES), torch.stack([-z, z], 1))
    torch.testing.assert_close(model.probabilities(model(IMAGES)), torch.stack([1 / (1 + z.exp()), 1 / (1 + (-z).exp())], 1))
    assert attrlib.explain(model, IMAGES, "IxG").target == tuple((z > 0).long().tolist())


@pytest.mark.parametrize("layer", ["Input", "Final"])
@pytest.mark.parametrize("convolution", [False, True])
@every_method
def test_class_0_of_one_logit_has_the_map_of_the_negated_head(method: str, convolution: bool, layer: str) -> None:
    model, negated = wrapped(1, convolution=convolution), wrapped(1, sign=-1, convolution=convolution)
    assert_same(maps(model, method, 0, layer), maps(negated, method, 1, layer))


@every_method
def test_one_logit_has_the_maps_of_two_rows(method: str) -> None:
    one = made(Net, 1)
    two = made(Net, 2)
    two.load_state_dict(one.state_dict() | {f"head.{n}": torch.cat([-p, p]) for n, p in one.head.named_parameters()})
    pair, single = attrlib.wrap_model(two, SIZE, outputs="sigmoid"), attrlib.wrap_model(one, SIZE)
    for target in (0, 1):
        assert_same(maps(single, method, target), maps(pair, method, target))


def test_integrated_gradients_of_class_0_are_complete_for_minus_z() -> None:
    model, net = wrapped(1), made(Net, 1)
    drop = -(net(IMAGES) - net(torch.zeros_like(IMAGES)))[:, 0]
    total = attrlib.explain(model, IMAGES, "IG", 0, steps=400).maps.sum((1, 2, 3))
    torch.testing.assert_close(total, drop, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("names", "expected"), [(["dog"], ("not dog", "dog")), (["cat", "dog"], ("cat", "dog"))])
def test_one_logit_takes_one_name_or_two(names: list[str], expected: tuple[str, ...]) -> None:
    assert attrlib.wrap_model(made(Net, 1), SIZE, class_names=names).class_names == expected
    with pytest.raises(ModelError, match="3 class names for a model with 2 outputs"):
        attrlib.wrap_model(made(Net, 1), SIZE, class_names=["a", "b", "c"])


# The last activation.


def gated(z: Tensor) -> Tensor:
    return torch.sigmoid(z * torch.sigmoid(z))


STEPPED_OVER: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "nn.Softmax": (nn.Softmax(1), "softmax"),
    "F.softmax": (lambda z: F.softmax(z, dim=-1), "softmax"),
    "Tensor.softmax": (lambda z: z.softmax(1), "softmax"),
    "nn.LogSoftmax": (nn.LogSoftmax(dim=1), "softmax"),
    "torch.log_softmax": (lambda z: torch.log_softmax(z, 1), "softmax"),
    "nn.Sigmoid": (nn.Sigmoid(), "sigmoid"),
    "torch.sigmoid": (torch.sigmoid, "sigmoid"),
    "Tensor.sigmoid_": (lambda z: z.clone().sigmoid_(), "sigmoid"),
    "nn.LogSigmoid": (nn.LogSigmoid(), "sigmoid"),
}


@pytest.mark.parametrize("form", STEPPED_OVER)
def test_an_activation_at_the_end_is_stepped_over_and_said(form: str) -> None:
    end, kind = STEPPED_OVER[form]
    model, z = wrapped(3, end), made(Net, 3)(IMAGES)
    assert model.outputs.kind == kind
    assert [note for note in model.notes if "maps explain the logits before it" in note]
    torch.testing.assert_close(model(IMAGES), z)
    torch.testing.assert_close(model.probabilities(model(IMAGES)), z.softmax(1) if kind == "softmax" else z.sigmoid())


@pytest.mark.parametrize("form", ["F.softmax", "nn.Sigmoid"])
@every_method
def test_maps_are_those_of_the_network_without_its_activation(method: str, form: str) -> None:
    end, kind = STEPPED_OVER[form]
    for layer in ("Input", "Final"):
        assert_same(maps(wrapped(3, end), method, 1, layer), maps(wrapped(3, outputs=kind), method, 1, layer))


OPAQUE: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "a softmax by hand": (lambda z: z.exp() / z.exp().sum(1, keepdim=True), True),
    "a sigmoid by hand": (lambda z: 1 / (1 + (-z).exp()), False),
    "an activation of the same kind before it": (gated, False),
    "half a sigmoid": (lambda z: z.sigmoid() / 2, False),
}


@pytest.mark.parametrize("form", OPAQUE)
def test_probabilities_that_cannot_be_stepped_over_are_explained_as_such_and_named(form: str) -> None:
    end, exclusive = OPAQUE[form]
    model, p = wrapped(3, end), made(Net, 3, end)(IMAGES)
    assert model.outputs == Outputs("probabilities", exclusive)
    assert any("take the last activation off" in note for note in model.notes)
    torch.testing.assert_close(model(IMAGES), p)
    torch.testing.assert_close(model.probabilities(model(IMAGES)), p)


def test_one_probability_is_that_of_the_second_class() -> None:
    model = wrapped(1, lambda z: 1 / (1 + (-z).exp()))
    p = made(Net, 1)(IMAGES).sigmoid()
    torch.testing.assert_close(model(IMAGES), torch.cat([1 - p, p], 1))
    assert_same(-maps(model, "IxG", 0), maps(model, "IxG", 1))  # type: ignore[operator]


def test_a_softmax_over_the_images_of_a_batch_is_not_stepped_over() -> None:
    assert not wrapped(3, lambda z: z.softmax(0)).outputs.activation


def test_attention_is_not_taken_for_the_last_activation() -> None:
    class Mixing(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            return self.head((x.flatten(2).mean(1).softmax(1)[:, None] * x.flatten(2)).sum(2))

    model, module = attrlib.wrap_model(made(Mixing, 3), SIZE), made(Mixing, 3)
    assert model.outputs == Outputs()
    torch.testing.assert_close(model(IMAGES), module(IMAGES))


# Labels, numbers, and the user's choice.


def test_the_logits_of_labels_have_independent_probabilities() -> None:
    model = wrapped(3, outputs="sigmoid")
    z = made(Net, 3)(IMAGES)
    torch.testing.assert_close(model.probabilities(model(IMAGES)), 1 / (1 + (-z).exp()))
    present = z > 0
    assert model.outputs.correct(z, present).all()
    present[0, 0] = ~present[0, 0]
    assert model.outputs.correct(z, present).tolist() == [False, True]


@pytest.mark.parametrize("count", [1, 3])
def test_numbers_are_explained_as_they_are(count: int) -> None:
    model, z = wrapped(count, outputs="scalar"), made(Net, count)(IMAGES)
    assert model.class_names == (("value",) if count == 1 else ("value 0", "value 1", "value 2"))
    torch.testing.assert_close(model(IMAGES), z)
    torch.testing.assert_close(model.outputs.readings(z), z)
    assert attrlib.explain(model, IMAGES, "IxG").target == (0, 0)
    assert_same(maps(model, "IG", 0), maps(wrapped(count, outputs="sigmoid" if count > 1 else "binary"), "IG", 0 if count > 1 else 1))
    with pytest.raises(ProtocolError, match="predicts a number"):
        model.probabilities(z)


def test_a_bounded_number_keeps_its_sigmoid() -> None:
    model = wrapped(1, torch.sigmoid, outputs="scalar")
    torch.testing.assert_close(model(IMAGES), made(Net, 1)(IMAGES).sigmoid())


def test_probabilities_that_are_asked_for_keep_their_activation() -> None:
    model = wrapped(3, nn.Softmax(1), outputs="probabilities")
    assert model.outputs == Outputs("probabilities", True)
    torch.testing.assert_close(model(IMAGES), made(Net, 3)(IMAGES).softmax(1))


@pytest.mark.parametrize(
    ("count", "end", "outputs", "message"),
    [
        (3, nn.Identity(), "binary", "needs a model with one output, but wrapped:Net has 3"),
        (1, nn.Identity(), "softmax", "needs two outputs or more, but wrapped:Net has one"),
        (3, nn.Sigmoid(), "softmax", "contradicts wrapped:Net, which ends with a sigmoid"),
        (3, nn.LogSoftmax(dim=1), "sigmoid", "contradicts wrapped:Net, which ends with a softmax"),
        (1, nn.Softmax(1), "auto", "softmax over one output, which is always 1"),
        (3, nn.Identity(), "logits", "unknown kind of outputs"),
    ],
)
def test_a_meaning_that_contradicts_the_network_is_refused(count: int, end: nn.Module, outputs: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        wrapped(count, end, outputs=outputs)


# What stays as it was.


@pytest.mark.parametrize("options", [dict(count=1), dict(count=1, end=torch.sigmoid), dict(count=3, end=nn.Softmax(1))])
def test_the_module_is_left_as_it_was_also_after_an_error(options: dict[str, Any]) -> None:
    module = made(Net, **options)
    before, attributes = module(IMAGES), {name: dict(vars(m)) for name, m in module.named_modules()}
    model = attrlib.wrap_model(module, SIZE)
    with pytest.raises(RuntimeError, match="size"), model.session():
        module(IMAGES[:, :2])
    maps(model, "IG", 0)
    assert torch.equal(module(IMAGES), before)
    assert {name: vars(m) for name, m in module.named_modules()} == attributes


def test_the_meaning_is_part_of_the_digest_except_for_logits_of_exclusive_classes() -> None:
    logits, labels, numbers = (wrapped(3, outputs=kind).digest for kind in ("softmax", "sigmoid", "scalar"))
    assert logits == wrapped(3).digest
    assert len({logits, labels, numbers}) == 3


def test_a_view_on_grids_has_the_same_meaning() -> None:
    for kind, count in (("binary", 1), ("sigmoid", 3)):
        model = wrapped(count, outputs=kind)
        grid = torch.cat([torch.cat([IMAGES[:1], IMAGES[1:]], 3), torch.cat([IMAGES[1:], IMAGES[:1]], 3)], 2)
        torch.testing.assert_close(grid_view(model, "difull", 2, 0)(grid), model(IMAGES[:1]))
        torch.testing.assert_close(grid_view(model, "difull", 2, 1)(grid), model(IMAGES[1:]))
