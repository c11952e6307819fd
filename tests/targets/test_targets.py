"""Targets: closed forms on linear networks, completeness on others, and what is refused."""

import copy
import dataclasses
import shutil
from pathlib import Path
from urllib.parse import parse_qsl

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from PIL import Image
from support import method_nets
from support.numbers import close as close_tensors
from torch import Tensor, nn

from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluator import Evaluator
from attrlib.errors import MethodError, ProtocolError, SpecError, TargetError
from attrlib.methods import METHODS, attribute_all, resolve
from attrlib.protocols import create as create_protocol
from attrlib.registry import params_of
from attrlib.specs import LOGIT, ExplainSpec, MethodSpec, ModelSpec, ProtocolSpec, RunSpec, TargetSpec, parse_methods
from attrlib.targets import TARGETS, create, short

SIDE, CLASSES = 8, 5
ITEMS = [0, 3]
"""Classes of the two pictures."""


def close(actual: Tensor | np.ndarray, expected: Tensor | np.ndarray, tolerance: float = 1e-4) -> bool:
    return close_tensors(torch.as_tensor(actual), torch.as_tensor(expected), tolerance)


class Affine(nn.Module):
    """Logits W x + b of the pixels x, by one linear layer."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * SIDE * SIDE, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


class Curved(nn.Module):
    """Two convolutions with a smooth activation and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv1(x))
        return self.fc(torch.tanh(self.conv2(x)).mean((2, 3)))


def wrapped(net: type[nn.Module], *args: object, **options: object) -> attrlib.Classifier:
    return attrlib.wrap_model(method_nets.made(net, *args), SIDE, **options)


def pictures(count: int = 2) -> Tensor:
    return method_nets.pictures(count, SIDE)


def gradient(model: attrlib.Classifier, target: str, classes: list[int] | None = None) -> np.ndarray:
    """The gradient map (B,H,W) of a target, summed over channels."""
    return attrlib.explain(model, pictures(), f"Gradient:target={target}", classes or ITEMS).maps[:, 0].numpy()


def rows(model: attrlib.Classifier) -> np.ndarray:
    """The weights of the classes (C,H,W), summed over channels."""
    return model.module.fc.weight.detach().numpy().reshape(-1, 3, SIDE, SIDE).sum(1)


# Functions of the logits, in closed form


def test_the_gradient_of_each_linear_target_is_the_sum_of_its_weights():
    model = wrapped(Affine)
    w = rows(model)
    assert close(gradient(model, "logit"), w[ITEMS])
    assert close(gradient(model, "negative"), -w[ITEMS])
    assert close(gradient(model, "versus:other=1"), w[ITEMS] - w[1])
    assert close(gradient(model, "versus:other=class 4"), w[ITEMS] - w[4])
    assert close(gradient(model, "labels:classes=1+4"), np.stack([w[1] + w[4]] * 2))


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_contrast_subtracts_the_mean_of_the_k_classes_with_the_most_similar_weights(k, strength):
    model = wrapped(Affine)
    weight, w = model.module.fc.weight.detach().double().numpy(), rows(model)
    for item, which in zip(gradient(model, f"contrast:k={k}:strength={strength}"), ITEMS, strict=True):
        cosines = weight @ weight[which] / np.linalg.norm(weight, axis=1)
        similar = [c for c in np.argsort(-cosines) if c != which][:k]
        assert close(item, w[which] - strength * w[similar].mean(0))


def test_a_contrast_by_logits_compares_with_the_classes_that_come_closest_on_each_picture():
    model = wrapped(Affine)
    logits, w = model(pictures()).detach().numpy(), rows(model)
    for item, which, values in zip(gradient(model, "contrast:k=2:by=logits"), ITEMS, logits, strict=True):
        similar = [c for c in np.argsort(np.abs(values - values[which])) if c != which][:2]
        assert close(item, w[which] - w[similar].mean(0))


def test_a_contrast_by_logits_keeps_its_classes_on_perturbed_copies():
    model = wrapped(Affine)
    plain = gradient(model, "contrast:k=1:by=logits")
    noisy = attrlib.explain(model, pictures(), "SmoothGrad:samples=3:noise=5:unit=absolute:target=contrast:k=1:by=logits", ITEMS).maps
    assert close(noisy[:, 0].numpy(), plain)


def test_by_default_a_contrast_takes_three_classes_or_all_others():
    assert np.array_equal(gradient(wrapped(Affine), "contrast"), gradient(wrapped(Affine), "contrast:k=3"))
    two = wrapped(Affine, 2)
    assert close(gradient(two, "contrast", [0, 1]), gradient(two, "versus:other=1", [0, 0]) * np.array([1, -1])[:, None, None])


@pytest.mark.parametrize("outputs", ["softmax", "sigmoid"])
def test_the_gradient_of_the_probability_is_that_of_softmax_or_sigmoid(outputs):
    model = wrapped(Affine, outputs=outputs)
    z, w = model(pictures()).detach().double(), torch.from_numpy(rows(model)).double()
    for item, which, values in zip(gradient(model, "probability"), ITEMS, z, strict=True):
        p = values.softmax(0) if outputs == "softmax" else values.sigmoid()
        slope = p[which] * (torch.eye(CLASSES)[which] - p) if outputs == "softmax" else torch.eye(CLASSES)[which] * p * (1 - p)
        assert close(item, torch.einsum("c,chw->hw", slope.double(), w).numpy())


def test_one_logit_of_two_classes_has_a_contrast_of_twice_the_logit():
    model = wrapped(Affine, 1)
    weight = rows(model)[0]
    assert close(gradient(model, "contrast", [1, 0]), np.stack([2 * weight, -2 * weight]))


# Targets at inner layers


def test_a_channel_is_its_mean_activation_and_a_neuron_one_of_its_values():
    model, x = wrapped(Curved), pictures().requires_grad_()
    channel = model.module.conv2(torch.tanh(model.module.conv1(x)))[:, 2]
    for target, value in [("channel", channel.mean((1, 2))), ("neuron:row=1:column=4", channel[:, 1, 4])]:
        (expected,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
        assert close(gradient(model, f"{target}:layer=conv2:index=2"), expected.sum(1).numpy())


@pytest.mark.parametrize("layer", ["Input", "conv1"])
def test_integrated_gradients_of_a_channel_sum_to_its_change(layer):
    model = wrapped(Curved)
    result = attrlib.explain(model, pictures(), f"IG@{layer}:steps=30:target=channel:layer=conv2:index=5", ITEMS)
    with torch.no_grad():
        inner = pictures() if layer == "Input" else model.module.conv1(pictures())
        later = nn.Sequential(*([model.module.conv1] if layer == "Input" else []), nn.Tanh(), model.module.conv2)
        change = (later(inner) - later(torch.zeros_like(inner)))[:, 5].mean((1, 2))
    assert close(result.maps.sum((1, 2, 3)), change, 1e-4)
    assert max(result.diagnostics["convergence"]) < 1e-4


def test_an_inner_target_of_tokens_reads_the_position_without_the_class_token():
    model = method_nets.model("vit_tiny")
    path = model.layer("Final").path
    seen: list[Tensor] = []
    x = method_nets.pictures(1, *model.input_size).requires_grad_()
    handle = model.module.get_submodule(path).register_forward_hook(lambda _m, _a, output: seen.append(output))
    model.module(x)
    handle.remove()
    layout = model.layer("Final").layout
    token = layout.prefix + 1 * layout.width + 2 if layout.width > 2 else layout.prefix + layout.width
    row, column = divmod(token - layout.prefix, layout.width)
    (expected,) = torch.autograd.grad(seen[0][0, token, 3], x)
    found = attrlib.explain(model, x.detach(), f"Gradient:target=neuron:layer=Final:index=3:row={row}:column={column}", 0).maps
    assert close(found[0, 0], expected[0].sum(0))


def test_an_inner_target_does_not_run_what_comes_after_it():
    model = wrapped(Curved)
    attrlib.explain(model, pictures(), "Gradient:target=channel:layer=conv1:index=0", ITEMS)
    calls: list[int] = []
    handle = model.module.fc.register_forward_hook(lambda *_: calls.append(1))
    attrlib.explain(model, pictures(), "Gradient:target=channel:layer=conv1:index=0", ITEMS)
    handle.remove()
    assert not calls


# Similarity


def features(model: attrlib.Classifier, x: Tensor) -> Tensor:
    return torch.tanh(model.module.conv2(torch.tanh(model.module.conv1(x))))


def other(model: attrlib.Classifier, tmp_path: Path) -> tuple[str, Tensor]:
    """A picture in a file, and the network's input of it."""
    pixels = torch.randint(0, 256, (SIDE, SIDE, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "other.png")
    return str(tmp_path / "other.png"), model.preprocess(Image.fromarray(pixels.numpy()))[None]


class Backbone(Curved):
    """The network without its head."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv2(torch.tanh(self.conv1(x)))).mean((2, 3))


@pytest.mark.parametrize("layer", ["Input", "conv1"])
@pytest.mark.parametrize("net", [Curved, Backbone])
def test_similarity_is_the_cosine_of_the_features_with_and_without_a_head(net, layer, tmp_path):
    model = wrapped(net, outputs="features" if net is Backbone else "auto")
    path, reference = other(model, tmp_path)
    start = pictures() if layer == "Input" else model.module.conv1(pictures()).detach()
    x = start.clone().requires_grad_()
    inner = model.module.conv1(x) if layer == "Input" else x
    pooled = torch.tanh(model.module.conv2(torch.tanh(inner))).mean((2, 3))
    there = features(model, reference).mean((2, 3)).detach()
    cosines = (pooled * there).sum(1) / pooled.norm(dim=1) / there.norm()
    (expected,) = torch.autograd.grad(cosines.sum(), x)
    found = attrlib.explain(model, pictures(), f"Gradient@{layer}:target=similarity:to={path}", [0, 3]).maps
    assert close(found[:, 0], expected.sum(1))


def test_similarity_to_a_patch_takes_the_last_layer_as_wide_as_the_features(tmp_path):
    model = wrapped(Curved)
    path, reference = other(model, tmp_path)
    x = pictures().requires_grad_()
    pooled, there = features(model, x).mean((2, 3)), model.module.conv2(torch.tanh(model.module.conv1(reference)))[:, :, 2, 4].detach()
    (expected,) = torch.autograd.grad(((pooled * there).sum(1) / pooled.norm(dim=1) / there.norm()).sum(), x)
    assert close(gradient(model, f"similarity:to={path}:row=2:column=4"), expected.sum(1))
    assert not close(gradient(model, f"similarity:to={path}:row=2:column=4"), gradient(model, f"similarity:to={path}"))


def test_a_picture_is_more_similar_to_itself_than_to_another_and_its_key_is_its_content(tmp_path):
    model = wrapped(Curved)
    path, reference = other(model, tmp_path)
    maps = attrlib.explain(model, reference, f"Gradient:target=similarity:to={path}", 0).maps
    assert float(maps.abs().max()) < 1e-5, "the cosine has its maximum there"
    keys = Evaluator(model, InMemoryCache()).keys
    before = keys.maps(resolve(MethodSpec.parse(f"IxG:target=similarity:to={path}")), model)
    shutil.copy(path, tmp_path / "copy.png")
    assert keys.maps(resolve(MethodSpec.parse(f"IxG:target=similarity:to={tmp_path / 'copy.png'}")), model) == before
    Image.new("RGB", (SIDE, SIDE), "red").save(path)
    assert keys.maps(resolve(MethodSpec.parse(f"IxG:target=similarity:to={path}")), model) != before


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("", "write similarity:to=PICTURE or similarity:text=TEXT"),
        (":to=sample:cat:text=a cat", "write similarity:to=PICTURE or similarity:text=TEXT"),
        (":to=sample:nobody", "nobody"),
        (":to=/nowhere/at/all.png", "/nowhere/at/all.png"),
        (":text=a cat", "has no text side"),
        (":to=sample:cat:row=2", "needs a row and a column"),
        (":to=sample:cat:row=2:column=9", "has 8 x 8 patches"),
    ],
)
def test_a_similarity_that_cannot_be_computed_is_refused(parameters, message):
    with pytest.raises(TargetError) as caught:
        gradient(wrapped(Curved), f"similarity{parameters}")
    assert message in str(caught.value)


# Every method


def of(method: str, target: str) -> MethodSpec:
    return dataclasses.replace(method_nets.small(method, ""), target=TargetSpec.parse(target))


CLASSWISE = [
    "probability",
    "contrast:k=2",
    "versus:other=1",
    "labels:classes=1+2",
    "negative",
    "channel:layer=Final:index=1",
    "similarity:to=sample:cat",
]


@pytest.mark.parametrize("target", CLASSWISE)
@pytest.mark.parametrize("method", [name for name in METHODS if not METHODS[name].code])
def test_every_method_has_finite_maps_of_every_target_or_says_why_not(method, target):
    for name in ("resnet18", "vit_tiny"):
        model = method_nets.model(name)
        images = method_nets.pictures(2, *model.input_size)
        try:
            (plain,) = attribute_all(model, [of(method, "logit")], images, [0, 3])
        except MethodError:
            continue
        refused = METHODS[method].linear and not TARGETS[target.partition(":")[0]].linear
        if refused:
            with pytest.raises(MethodError, match="linear in the logits"):
                attribute_all(model, [of(method, target)], images, [0, 3])
            continue
        try:
            together = attribute_all(model, [of(method, target), of(method, "logit")], images, [0, 3])
        except (TargetError, MethodError) as error:
            reason = str(error)
            of_layer = target.startswith("channel") and (METHODS[method].family == "transformer" or method == "TIS")
            if of_layer or (target.startswith("channel") and "not upstream of" in reason):
                continue
            raise
        assert together[0].maps.isfinite().all()
        assert torch.equal(together[1].maps, plain.maps), "the logit is explained as before"
        if not METHODS[method].class_specific and not target.startswith("channel"):
            assert torch.equal(together[0].maps, plain.maps)


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].signed and METHODS[name].fast and not METHODS[name].code])
def test_maps_of_signed_linear_methods_add_up_over_classes(method):
    model = method_nets.model("resnet18")
    images = method_nets.pictures(2, *model.input_size)
    try:
        maps = [attribute_all(model, [of(method, t)], images, [0, 3])[0].maps for t in ("logit", "negative")]
    except MethodError:
        return
    additive = {"Gradient", "IxG", "LRP", "DeepLIFT"}
    if method in additive:
        other = attribute_all(model, [of(method, "logit")], images, [1, 1])[0].maps
        versus = attribute_all(model, [of(method, "versus:other=1")], images, [0, 3])[0].maps
        assert close(versus, maps[0] - other, 1e-4)
        assert close(maps[1], -maps[0], 1e-5)


# Keys


def test_results_of_a_target_have_keys_of_their_own_and_those_of_the_logit_stay():
    model = method_nets.model("functional")
    keys = Evaluator(model, InMemoryCache()).keys
    protocol = create_protocol(ProtocolSpec("sds"))
    texts = ["IxG", "IxG:target=probability", "IxG:target=contrast", "IxG:target=contrast:k=1", "IxG:target=versus:other=1"]
    fields = [keys.score(protocol, resolve(MethodSpec.parse(text))) for text in texts]
    assert len({str(each) for each in fields}) == len(texts)
    assert "target" not in fields[0]
    named = [keys.maps(resolve(MethodSpec.parse(f"IxG:target=versus:other={name}")), model) for name in ("1", model.class_names[1])]
    assert named[0] == named[1]


@pytest.mark.parametrize("name", list(TARGETS))
def test_the_text_form_of_a_target_is_read_back(name):
    values = tuple((p.name, p.default) for p in params_of(TARGETS[name]))
    spec = TargetSpec(name, values)
    assert create(TargetSpec.parse(str(spec))) == create(spec)
    assert short(spec) == TargetSpec(name)


class CosineHead(nn.Module):
    """A head that returns the cosine of features with those of a reference, and a constant."""

    def __init__(self, reference: Tensor) -> None:
        super().__init__()
        self.register_buffer("reference", reference)

    def forward(self, features: Tensor) -> Tensor:
        cosine = torch.cosine_similarity(features, self.reference)
        return torch.stack([cosine, torch.full_like(cosine, 0.5)], 1)


@pytest.mark.parametrize("method", ["TIS:samples=16", "ViT-CX", "RISE:samples=10"])
def test_similarity_under_masks_is_the_output_of_a_network_that_computes_it(method):
    model = method_nets.model("vit_tiny")
    module = copy.deepcopy(model.module)
    with torch.no_grad():
        picture = model.preprocess(attrlib.open_image("sample:cat"))[None]
        module.head = CosineHead(module.forward_head(module.forward_features(picture), pre_logits=True))
    images = method_nets.pictures(2, *model.input_size)
    computed = attrlib.wrap_model(module, model.input_size, model.preprocessing.mean, model.preprocessing.std, outputs="scalar")
    found = attrlib.explain(model, images, method, 0, method_target="similarity:to=sample:cat").maps
    assert close(found, attrlib.explain(computed, images, method, 0).maps)


@pytest.mark.parametrize("value", ["tabby, tabby cat", "x:other=3", "50%", "50%2C", "a%25b", "C:\\p,q.png", "a,b%2c:k=2", ":k="])
def test_any_value_survives_a_list_of_methods(value):
    target = TargetSpec("versus", (("other", value),))
    methods = (MethodSpec("Grad-CAM", "Final", (), target), MethodSpec("IG"))
    assert TargetSpec.parse(str(target)) == target
    assert parse_methods(",".join(map(str, methods))) == methods
    spec = ExplainSpec.read({"model": "birds_resnet10", "image": "sample:cat", "methods": ",".join(map(str, methods))})
    assert ExplainSpec.read_link(dict(parse_qsl(spec.link()[1:])), spec) == (spec, [])
    assert spec.methods == methods


def test_a_value_is_read_as_it_is_typed():
    assert TargetSpec.parse("similarity:text=50% cats, 3:4 a%20b").values == {"text": "50% cats, 3:4 a%20b"}


# What is refused


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nothing", "unknown target 'nothing'"),
        ("contrast:k=0", "k=0 is out of range"),
        ("contrast:k=5", "needs 5 other classes, but wrapped:Curved has 4"),
        ("contrast:K=1", "parameter of contrast"),
        ("versus", "write versus:other=CLASS"),
        ("versus:other=7", "versus:other=7: 7 is not a class of wrapped:Curved: it has classes 0 to 4"),
        ("versus:other=nobody", "versus:other=nobody: unknown class of wrapped:Curved 'nobody'"),
        ("versus:other=0", "with itself"),
        ("labels", "write labels:classes=CLASS"),
        ("labels:classes=1+1", "names a class twice"),
        ("labels:classes=1+9", "9 is not a class"),
        ("channel", "write channel:layer=LAYER"),
        ("channel:layer=Input", "is the image itself"),
        ("channel:layer=nowhere", "nowhere"),
        ("channel:layer=conv2:index=8", "has 8 channels, counted from 0"),
        ("neuron:layer=conv2:row=8", "has 8 rows"),
        ("neuron:layer=conv2:column=8", "has 8 columns"),
    ],
)
def test_a_target_that_the_model_cannot_have_is_refused_before_anything_is_computed(target, message):
    model = wrapped(Curved)
    _ = model.behaviour, model.layers
    passes: list[int] = []
    attrlib.explain(model, pictures(), "IG", [0, 3])
    handle = model.module.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises((SpecError, TargetError, attrlib.LayerError)) as caught:
        attrlib.explain(model, pictures(), f"IG:target={target}", [0, 3])
    handle.remove()
    assert message in str(caught.value)
    assert len(passes) <= 1, "at most a probe of the last layer"


@pytest.mark.parametrize(("name", "method"), [("bagnet", "BagNet"), ("bcos", "B-cos")])
def test_the_built_in_explanation_of_logits_is_not_one_of_a_channel(name, method):
    model = method_nets.model(name)
    images = torch.rand(1, 3, *model.input_size)
    path = list(model.layers)[-1]
    with pytest.raises(MethodError, match="explains the logits, not an inner layer"):
        attrlib.explain(model, images, f"{method}:target=channel:layer={path}", 0)


def test_a_contrast_needs_the_weights_of_classes_or_their_logits():
    model = attrlib.wrap_model(method_nets.made(method_nets.Linear, SIDE, SIDE), SIDE)
    images = method_nets.pictures(1, *model.input_size)
    with pytest.raises(TargetError, match="choose contrast:by=logits"):
        attrlib.explain(model, images, "Gradient:target=contrast", 0)
    assert attrlib.explain(model, images, "Gradient:target=contrast:by=logits", 0).maps.any()


def test_numbers_have_no_probability_and_no_contrast():
    model = wrapped(Affine, 1, outputs="scalar")
    for target in ("probability", "contrast"):
        with pytest.raises(TargetError, match="target=logit"):
            gradient(model, target, [0, 0])


@pytest.mark.parametrize("target", ["versus:other=1", "labels:classes=1", "negative", "channel:layer=Middle", "similarity:to=sample:cat"])
def test_protocols_of_the_class_refuse_targets_that_are_not_about_it(target):
    model = attrlib.load_model("birds_resnet10", device="cpu")
    with pytest.raises(ProtocolError, match="judges maps by the logit or the probability of the item's class"):
        attrlib.score("sds", model, f"IxG:target={target}", "birds", limit=2)


def test_protocols_judge_a_contrast_by_the_class_and_say_so():
    model = attrlib.load_model("birds_resnet10", device="cpu")
    result = attrlib.compare(["sds"], model, ["Grad-CAM", "Grad-CAM:target=contrast"], "birds", limit=2)
    plain, contrast = result.scores.values()
    assert list(plain.values) != list(contrast.values)
    assert any("contrast" in note and "sds" in note for note in result.notes)


def test_a_run_with_targets_is_read_back_from_its_link_and_command():
    spec = RunSpec(
        ModelSpec("birds_resnet10"), "birds", (ProtocolSpec("sds"),), (MethodSpec.parse("Grad-CAM:target=contrast:k=2"), MethodSpec("IxG"))
    )
    fields = dict(parse_qsl(spec.link()[1:]))
    assert RunSpec.read(fields) == spec
    assert "Grad-CAM:target=contrast:k=2,IxG" in spec.cli()
    assert str(MethodSpec("IxG")) == "IxG"
    assert MethodSpec("IxG").target.name == LOGIT


def test_a_class_whose_name_contains_the_separator_is_given_by_its_index():
    model = attrlib.wrap_model(Affine(3), SIDE, class_names=["a", "b", "a+b"])
    with pytest.raises(TargetError, match=r"'c'.* Give a class whose name contains \+ by its index"):
        attrlib.explain(model, torch.zeros(1, 3, SIDE, SIDE), "IxG", 0, method_target="labels:classes=a+c")


@pytest.mark.parametrize(
    ("outputs", "target", "reason"),
    [
        ("binary", "labels:classes=0+1", "has one logit for two classes, whose sum is zero for every image"),
        ("scalar", "contrast", "contrast compares classes, but the outputs of wrapped:Affine are numbers"),
    ],
)
def test_a_target_that_the_outputs_cannot_have_is_refused(outputs, target, reason):
    model = attrlib.wrap_model(Affine(1 if outputs == "binary" else 3), SIDE, outputs=outputs)
    with pytest.raises(TargetError, match=reason):
        attrlib.explain(model, torch.zeros(1, 3, SIDE, SIDE), "IxG", 0, method_target=target)
