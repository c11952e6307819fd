"""Requirements on every registered method, on every kind of model and layer; registering a method tests it."""

import copy
import random
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import product

import attrlib  # before timm: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812
from support import method_nets
from support.method_nets import CLASSES, MODELS, SMALL, ChannelsLast, Functional, Rectified, Unread, Writes, made, pictures, snapshot
from support.nets import Transformer
from support.numbers import SEED
from support.refusals import CANCELS
from torch import Tensor, nn

from attrlib.errors import Cancelled, MethodError, SpecError
from attrlib.methods import METHODS, attribute_all, create, resolve
from attrlib.registry import Param
from attrlib.specs import MethodSpec

Model = attrlib.Classifier
INFOS = {info.name: info for info in attrlib.list_methods()}
SHOWS_WHAT_IS_MASKED = {"RISE", "RISE-U", "Extremal perturbation", "Score-CAM", "SS-CAM", "IS-CAM"}
"""Their maps are sums of masks, or of what masks were made from, whatever the logits depend on."""
LAYERS = ("Input", "Middle", "Final")
TARGETS = [1, 0, 2, 1]

everywhere = pytest.mark.parametrize(("name", "layer", "method"), list(product(MODELS, LAYERS, METHODS)))
on_every_model = pytest.mark.parametrize(("name", "method"), list(product(MODELS, METHODS)))
every_method = pytest.mark.parametrize("method", METHODS)


def images_for(name: str) -> Tensor:
    return pictures(len(TARGETS), *method_nets.model(name).input_size)


def explain(
    model: Model, images: Tensor, method: str, target: object = None, layer: str | None = None, **options: object
) -> attrlib.Attribution:
    """`attrlib.explain` with small parameters. Only a method that has needs may be refused."""
    small = {p.name: SMALL[p.name] for p in INFOS[method].params if p.name in SMALL}
    if method == "Occlusion" and layer in (None, "Input"):
        small = {"window": 24, "stride": 20}
    if "channels" in {p.name for p in INFOS[method].params} and model.layer(layer or "Input").layout.kind == "tokens":
        # The next LayerNorm ignores what is added to all channels, so the sum of the gradient over them is zero.
        small["channels"] = "abs-sum"
    try:
        return attrlib.explain(model, images, method, target, layer, **small | options)
    except MethodError:
        if INFOS[method].needs:
            pytest.skip(f"{method} needs {', '.join(INFOS[method].needs)}")
        raise


@cache
def reference(name: str, layer: str, method: str) -> attrlib.Attribution:
    return explain(method_nets.model(name), images_for(name), method, TARGETS, layer)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-4, kink: float = 0.02, cancelled: float = 0.0) -> bool:
    """Return whether maps (B,1,h,w) agree, each up to a share of its norm.

    In a minority the last bit may have put an activation on the other side of a kink, which moves a map by less than `kink`. `cancelled`
    is the magnitude of the terms that each value is the sum of: rounding leaves some 1e-6 of it where the sum is zero.
    """
    rounding = 1e-6 * cancelled * expected[0].numel() ** 0.5
    differences = ((actual - expected).flatten(1).norm(dim=1) - rounding).clamp_min(0)
    errors = differences / expected.flatten(1).norm(dim=1).clamp_min(1e-12)
    return bool(errors.max() < kink and (len(errors) < 3 or errors.median() < tolerance))


def rounding_of(name: str, layer: str, method: str) -> dict[str, float]:
    """Return the largest change of a map under another order of summation: in one of four noisy copies a kink moves up to a tenth of it."""
    return {"kink": 0.1 if INFOS[method].seeded else 0.02, "cancelled": terms(name, layer)}


@cache
def terms(name: str, layer: str) -> float:
    """Return the largest sum over channels of |activation x gradient| at a layer: what CAMs and IxG add up."""
    model, images = method_nets.model(name), images_for(name)
    if layer not in model.layers or model.layer(layer).layout.kind != "tokens":
        return 0.0
    values: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        values.append(output.detach().requires_grad_())
        return values[-1]

    handle = model.module.get_submodule(model.layer(layer).path).register_forward_hook(keep)
    try:
        logits = model(images)
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(logits[range(len(images)), TARGETS].sum(), values[-1])
    return float((values[-1].detach() * gradient).abs().sum(-1).max())


@everywhere
def test_maps_are_finite_floats_at_the_layers_resolution(name: str, layer: str, method: str) -> None:
    found = reference(name, layer, method)
    assert found.maps.shape == (4, 1, *method_nets.model(name).layer(layer).shape[1:])
    assert found.maps.dtype == torch.float32
    assert found.maps.device.type == "cpu"
    assert found.maps.is_contiguous()
    assert not found.maps.requires_grad
    assert found.maps.isfinite().all()
    # Before a linear head the gradient is the same everywhere.
    assert SEED or found.maps.abs().sum() > 0 or (method, layer) == ("VarGrad", "Final")
    assert INFOS[method].signed or found.maps.min() >= 0
    assert found.target == (1, 0, 2, 1)
    assert (found.spec.name, found.spec.layer) == (method, layer)
    assert all(len(values) == 4 for values in found.diagnostics.values())


@everywhere
@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_changes_nothing(name: str, layer: str, method: str, batch_size: int) -> None:
    # One by one, two images of the four save time, and one of a large model.
    some = slice(0, 4 if batch_size > 1 else 1 if name in ("resnet18", "efficientnet_lite0") else 2)
    expected = reference(name, layer, method)
    found = explain(method_nets.model(name), images_for(name)[some], method, TARGETS[some], layer, batch_size=batch_size)
    # Where activations have both signs, the denominator of Grad-CAM++ comes near zero, and the last bit counts.
    assert close(found.maps, expected.maps[some], 0.02 if "++" in method else 1e-4, **rounding_of(name, layer, method))
    assert found.target == expected.target[some]
    assert found.diagnostics.keys() == expected.diagnostics.keys()


@everywhere
def test_an_image_has_the_same_map_alone_and_in_a_batch(name: str, layer: str, method: str) -> None:
    found = explain(method_nets.model(name), images_for(name)[2:3], method, TARGETS[2], layer)
    assert close(found.maps, reference(name, layer, method).maps[2:3], **rounding_of(name, layer, method))


@everywhere
def test_the_same_seed_gives_the_same_bits_in_training_mode_too(name: str, layer: str, method: str) -> None:
    model = method_nets.model(name)
    model.module.train()
    try:
        found = explain(model, images_for(name), method, TARGETS, layer)
    finally:
        model.module.eval()
    assert torch.equal(found.maps, reference(name, layer, method).maps)


@pytest.mark.parametrize(("name", "layer", "method"), list(product(["functional", "vit_tiny"], LAYERS, METHODS)))
def test_another_seed_changes_only_seeded_methods(name: str, layer: str, method: str) -> None:
    expected = reference(name, layer, method).maps
    found = explain(method_nets.model(name), images_for(name), method, TARGETS, layer, seed=7).maps
    assert torch.equal(found, expected) != INFOS[method].seeded
    # With logits as close as here, the softmax over channels removes almost all noise of the masks, and probabilities hardly depend on it.
    if INFOS[method].seeded and method not in ("SS-CAM", "TIS", "ViT-CX"):
        assert any(not close(one, other) for one, other in zip(found, expected, strict=True))


@every_method
def test_without_a_target_the_predicted_class_is_explained(method: str) -> None:
    model, images = method_nets.model("functional"), images_for("functional")
    predicted = model(images).argmax(1).tolist()
    found = explain(model, images, method, batch_size=3)
    assert found.target == tuple(predicted)
    assert close(found.maps, explain(model, images, method, predicted).maps)


@every_method
def test_targets_are_one_for_all_or_one_per_image_by_index_or_name(method: str) -> None:
    model = attrlib.wrap_model(method_nets.model("functional").module, 64, class_names=["ant", "bee", "cat, tabby", "dog", "elk"])
    images = images_for("functional")
    for one in (2, "2", "cat, tabby", "Tabby"):
        found = explain(model, images, method, one)
        assert found.target == (2, 2, 2, 2)
        assert torch.equal(found.maps, explain(model, images, method, [2, 2, 2, 2]).maps)
    assert torch.equal(explain(model, images, method, ["bee", 0, "2", "ANT"]).maps[:3], explain(model, images, method, TARGETS).maps[:3])


@pytest.mark.parametrize("method", [name for name, info in INFOS.items() if info.class_specific])
@pytest.mark.parametrize("name", ["functional", "channels_last"])
def test_a_map_explains_its_target(name: str, method: str) -> None:
    model, images = method_nets.model(name), images_for(name)
    by_class = torch.stack([explain(model, images, method, t).maps for t in range(CLASSES)])
    mixed = explain(model, images, method, TARGETS).maps
    assert close(mixed, by_class[TARGETS, range(4)])
    assert not close(mixed, by_class[[t + 1 for t in TARGETS], range(4)])


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("method", "refused"),
    [
        ("Guided Backprop", {"vit_tiny": "gelu"}),
        ("Deconvolution", {"vit_tiny": "gelu"}),
        ("DeepLIFT", {"bcos": "abs"}),
        ("LRP", {"bcos": "abs"}),
        ("AttnLRP", {"bcos": "abs"}),
        ("LibraGrad", {"bcos": "abs"}),
    ],
)
def test_rules_of_the_gradient_family_are_refused_exactly_where_they_are_not_defined(
    method: str, refused: dict[str, str], layer: str
) -> None:
    for name in MODELS:
        images = images_for(name)[:1]
        if name in refused:
            with pytest.raises(MethodError, match=f"(?i){method} is (not )?defined for .*{refused[name]}"):
                attrlib.explain(method_nets.model(name), images, method, 0, layer)
        else:
            attrlib.explain(method_nets.model(name), images, method, 0, layer)


REFUSING: dict[str, Callable[[], nn.Module]] = {
    "leaky": lambda: made(Rectified, F.leaky_relu),
    "hardswish": lambda: made(Rectified, F.hardswish),
    "silu": lambda: made(Rectified, F.silu),
    "gelu": lambda: made(Rectified, F.gelu, torch.relu),
    "without a class token": lambda: made(Transformer, 0, 2),
    "windows": lambda: made(
        timm.create_model,
        "swin_tiny_patch4_window7_224",
        img_size=32,
        window_size=4,
        embed_dim=8,
        depths=(2, 2),
        num_heads=(1, 2),
        num_classes=CLASSES,
    ),
}
"""Networks that several methods are not defined for, or not at every layer."""


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", [*REFUSING, *(name for name in MODELS if name not in ("resnet18", "efficientnet_lite0"))])
def test_check_accepts_exactly_the_layers_at_which_a_method_runs(name: str, layer: str) -> None:
    model = attrlib.wrap_model(REFUSING[name](), 32) if name in REFUSING else method_nets.model(name)
    images, place, runs = pictures(1, *model.input_size), model.layer(layer), list[int]()
    companion = resolve(MethodSpec("Grad-CAM", layer))
    attribute_all(model, [companion], images, [0])
    counter = model.module.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        for method, info in INFOS.items():
            small = tuple((p.name, SMALL[p.name]) for p in info.params if p.name in SMALL)
            spec = resolve(MethodSpec(method, layer, small))
            reason = ""
            try:
                create(spec).check(model, place)
            except MethodError as error:
                reason = str(error)
            if not reason:
                assert attribute_all(model, [spec], images, [0])[0].maps.isfinite().all()
                continue
            assert info.needs or re.search(CANCELS, reason)
            assert len(reason.split()) > 8
            runs.clear()
            with pytest.raises(MethodError, match=re.escape(reason)):
                attribute_all(model, [companion, spec], images, [0])
            assert not runs
    finally:
        counter.remove()


@pytest.mark.parametrize("method", ["Guided Backprop", "Deconvolution", "Guided Grad-CAM", "LRP", "DeepLIFT"])
def test_a_network_with_silu_has_deeplift_and_lrp_but_none_of_the_rules_for_rectifiers(method: str) -> None:
    model = attrlib.wrap_model(made(Rectified, F.silu), 16)
    check = create(MethodSpec(method)).check
    if method in ("LRP", "DeepLIFT"):
        check(model, model.layer("Input"))
    else:
        with pytest.raises(MethodError, match="defined for ReLU networks, but wrapped:Rectified has SiLU downstream of Input"):
            check(model, model.layer("Input"))


def test_windows_of_occlusion_with_gaps_between_them_are_refused_before_anything_runs(tiny: Model) -> None:
    with pytest.raises(MethodError, match="stride=8 leaves gaps between windows of 4"):
        create(MethodSpec("Occlusion", params=(("window", 4), ("stride", 8)))).check(tiny, tiny.layer("Input"))


# Side effects ----------------------------------------------------------------------------------------------------------------


class Fuse:
    """A custom forward hook that, once armed, raises at a given call."""

    left = 0

    def __call__(self, _module: nn.Module, _args: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise ArithmeticError("blown")


@cache
def touched(name: str) -> tuple[Model, Fuse, dict[str, object]]:
    """A copy whose modules train or not, and whose parameters ask for gradients and have them or not, turn by turn; its state."""
    original = method_nets.model(name)
    module, fuse, p = copy.deepcopy(original.module), Fuse(), original.preprocessing
    [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1].register_forward_pre_hook(fuse)
    for i, m in enumerate(module.modules()):
        m.training = i % 2 == 0
    for i, parameter in enumerate(module.parameters()):
        parameter.requires_grad_(i % 3 != 0)
        parameter.grad = torch.full_like(parameter, float(i)) if i % 2 else None
    before = snapshot(module)
    model = attrlib.wrap_model(module, p.size, p.mean, p.std)
    with model.session():
        model.split(model.layer("Middle"))
    return model, fuse, before


@on_every_model
def test_a_method_leaves_the_module_unchanged(name: str, method: str) -> None:
    model, _, before = touched(name)
    found = explain(model, images_for(name), method, TARGETS, "Middle")
    assert snapshot(model.module) == before
    assert not any("forward" in vars(m) for m in model.module.modules())
    assert close(found.maps, reference(name, "Middle", method).maps)


def test_a_refused_method_leaves_the_module_unchanged() -> None:
    model, _, before = touched("vit_tiny")
    with pytest.raises(MethodError):
        attrlib.explain(model, images_for("vit_tiny"), "Guided Backprop", 0, "Middle")
    assert snapshot(model.module) == before


@on_every_model
@pytest.mark.parametrize("call", [1, 2])
def test_a_model_that_raises_is_left_unchanged(name: str, method: str, call: int) -> None:
    if call == 2 and not INFOS[method].class_specific:
        pytest.skip("runs the whole model for the predicted class alone")
    model, fuse, before = touched(name)
    # The first call finds the predicted class, the second is that of the method.
    fuse.left = call
    try:
        with pytest.raises(ArithmeticError, match="blown"):
            explain(model, images_for(name)[:1], method, None, "Middle")
    finally:
        fuse.left = 0
    assert snapshot(model.module) == before


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", [name for name, info in INFOS.items() if not info.fast])
def test_a_cancelled_method_leaves_the_module_unchanged(name: str, method: str) -> None:
    model, _, before = touched(name)
    reports: list[tuple[int, int]] = []

    def cancel(done: int, total: int) -> None:
        reports.append((done, total))
        if len(reports) == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        explain(model, images_for(name)[:2], method, None, "Middle", batch_size=2, on_progress=cancel)
    assert len(reports) == 2
    assert snapshot(model.module) == before


@pytest.mark.parametrize("method", [name for name, info in INFOS.items() if not info.fast])
def test_progress_counts_up_to_the_total_for_every_batch(method: str) -> None:
    reports: list[tuple[int, int]] = []
    explain(method_nets.model("functional"), images_for("functional"), method, 0, batch_size=2, on_progress=lambda *r: reports.append(r))
    halves = reports[: len(reports) // 2], reports[len(reports) // 2 :]
    assert halves[0] == halves[1]
    done = [d for d, _ in halves[0]]
    assert done == sorted(set(done))
    assert done[0] == 0
    assert halves[0][-1] == (done[-1], done[-1])
    assert len({total for _, total in reports}) == 1


@every_method
@pytest.mark.parametrize("name", ["functional", "not_square"])
@pytest.mark.parametrize("layer", LAYERS)
def test_random_states_and_the_tensor_of_the_caller_are_unchanged(name: str, method: str, layer: str) -> None:
    images = images_for(name).contiguous(memory_format=torch.channels_last).requires_grad_()
    before = images.detach().clone()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    explain(method_nets.model(name), images, method, None, layer)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tobytes() == states[2]
    assert torch.equal(images.detach(), before)
    assert images.grad is None
    assert torch.is_grad_enabled()


@every_method
def test_a_method_works_without_gradients_around_it(method: str) -> None:
    with torch.no_grad():
        found = explain(method_nets.model("functional"), images_for("functional"), method, TARGETS, "Middle")
    assert torch.equal(found.maps, reference("functional", "Middle", method).maps)


@every_method
def test_a_method_works_in_inference_mode(method: str) -> None:
    with torch.inference_mode():
        found = explain(method_nets.model("functional"), images_for("functional"), method, TARGETS, "Middle")
    assert close(found.maps, reference("functional", "Middle", method).maps)


@every_method
@pytest.mark.parametrize("target", [None, 0])
def test_a_module_that_writes_into_its_input_changes_neither_the_callers_tensor_nor_the_maps(method: str, target: int | None) -> None:
    class Copies(Writes):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clone())

    images = pictures(2, 32).contiguous(memory_format=torch.channels_last)
    before = images.clone()
    for layer in ("Input", "conv2"):
        expected = explain(attrlib.wrap_model(made(Copies), 32), before, method, target, layer)
        found = explain(attrlib.wrap_model(made(Writes), 32), images, method, target, layer)
        assert torch.equal(images, before)
        assert close(found.maps, expected.maps)


@pytest.mark.parametrize("method", [name for name, info in INFOS.items() if info.class_specific])
def test_at_a_layer_that_the_logits_do_not_depend_on_maps_are_zero(method: str) -> None:
    found = explain(attrlib.wrap_model(made(Unread), 16), pictures(2, 16), method, 0, "auxiliary")
    assert found.maps.shape == (2, 1, 8, 8)
    assert method in SHOWS_WHAT_IS_MASKED or (found.maps == 0).all()


@pytest.mark.parametrize("net", [Writes, Unread])
def test_layers_are_found_where_all_have_one_size_and_a_module_is_unusual(net: type[nn.Module]) -> None:
    assert "Final" in attrlib.wrap_model(made(net, 1), 16).layers


def test_a_channels_last_layer_is_read_as_such_where_its_channels_look_like_a_width() -> None:
    model = attrlib.wrap_model(made(ChannelsLast), (16, 24))
    assert attrlib.explain(model, pictures(1, 16, 24), "Gradient", 0, "blocks.1").maps.shape == (1, 1, 4, 6)


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(attrlib.AttrlibError, match="batch_size"):
        attrlib.explain(attrlib.wrap_model(made(Functional), 16), pictures(1, 16), "Gradient", 0, batch_size=0)


# Parameters --------------------------------------------------------------------------------------------------------------

PARAMS = [(method, p) for method, info in INFOS.items() for p in info.params]
EXTREMES = [(m, p, v) for m, p in PARAMS for v in p.choices or (p.low, p.high, *([None] if p.auto else []))]


NEEDS_TOKENS = [name for name, info in INFOS.items() if info.family == "transformer" or any("tokens" in need for need in info.needs)]


def named(value: object) -> str | None:
    return value.name if isinstance(value, Param) else None


@pytest.fixture(scope="module")
def tiny() -> Model:
    return attrlib.wrap_model(made(Rectified, torch.relu), (8, 12))


@pytest.fixture(scope="module")
def transformer() -> Model:
    return attrlib.wrap_model(made(Transformer, 1, 3), (8, 12))


def others(method: str, param: Param) -> dict[str, object]:
    """Small values for the other parameters; a window that is as wide as any step."""
    small = SMALL | ({"window": 1024} if param.name == "stride" else {})
    return {p.name: small[p.name] for p in INFOS[method].params if p.name in small and p != param}


@pytest.mark.parametrize(("method", "param", "value"), EXTREMES, ids=named)
@pytest.mark.parametrize("layer", ["Input", "conv2"])
def test_every_extreme_of_every_parameter_gives_valid_maps(
    tiny: Model, transformer: Model, method: str, param: Param, value: object, layer: str
) -> None:
    model = tiny
    if method in NEEDS_TOKENS:
        model, layer = transformer, layer.replace("conv2", "blocks.0").replace("Input", "blocks.1" if method == "ViT-CX" else "Input")
        if param.name == "block" and (layer == "blocks.0" or value == param.high) and value is not None:
            pytest.skip("a block that is not downstream of the layer")
        if value == param.high and INFOS[method].family == "transformer":
            pytest.skip("more blocks than the model has")
    found = attrlib.explain(model, pictures(2, 8, 12), method, [0, 3], layer, batch_size=400, **others(method, param) | {param.name: value})
    assert found.maps.shape == (2, 1, *model.layer(layer).shape[1:])
    assert found.maps.isfinite().all()


@pytest.mark.parametrize("window", [1, 2, 4, 7, 8, 9, 40])
@pytest.mark.parametrize("layer", ["Input", "conv1"])
def test_occlusion_with_a_window_and_no_stride_covers_every_position(window: int, layer: str) -> None:
    model = attrlib.wrap_model(made(Rectified, torch.tanh), (32, 28))
    maps = attrlib.explain(model, pictures(1, 32, 28), "Occlusion", 0, layer, window=window).maps
    assert maps.isfinite().all()
    assert (maps != 0).all()


@pytest.mark.parametrize(("window", "stride"), [(2, 7), (2, 8), (2, 9), (16, 64), (16, 1024)])
def test_occlusion_windows_further_apart_than_they_are_wide_are_refused_or_leave_gaps_but_no_nan(
    tiny: Model, window: int, stride: int
) -> None:
    model = attrlib.wrap_model(tiny.module, 64)
    with suppress(MethodError, SpecError):
        assert attrlib.explain(model, pictures(1, 64), "Occlusion", 0, window=window, stride=stride).maps.isfinite().all()


def refused_values(param: Param) -> list[object]:
    if param.choices:
        return ["nonsense", "", param.choices[0].upper() + "!"]
    beyond = [param.low - 1e-3, param.high + 1e-3] if param.kind is float else [param.low - 1, param.high + 1, param.low + 0.5, "1.5"]
    return [*beyond, "many", "", "nan", "inf", float("nan"), float("-inf"), True, [1], *([] if param.auto else [None, "auto"])]


@pytest.mark.parametrize(("method", "param", "value"), [(m, p, v) for m, p in PARAMS for v in refused_values(p)], ids=named)
def test_every_value_out_of_range_is_refused_with_the_names_of_method_and_parameter(
    tiny: Model, method: str, param: Param, value: object
) -> None:
    with pytest.raises(SpecError, match=f"^{re.escape(method)}: .*{param.name}"):
        attrlib.explain(tiny, pictures(1, 8, 12), method, 0, **{param.name: value})


@pytest.mark.parametrize(("method", "param"), PARAMS, ids=named)
def test_a_parameter_has_the_same_effect_as_text_and_as_an_object(tiny: Model, transformer: Model, method: str, param: Param) -> None:
    value = param.choices[-1] if param.choices else param.high if param.auto else param.low
    if method in NEEDS_TOKENS:
        tiny, value = transformer, param.low
    images = pictures(1, 8, 12)
    one = attrlib.explain(tiny, images, method, 0, **others(method, param) | {param.name: value})
    text = "".join(f":{k}={v}" for k, v in others(method, param).items())
    other = attrlib.explain(tiny, images, f"{method}:{param.name}={param.format(value)}{text}", 0)
    assert one.spec == other.spec
    assert torch.equal(one.maps, other.maps)
