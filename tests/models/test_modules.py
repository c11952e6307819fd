"""Modules as people have them: views, types of weights, wrappers, checkpoints inside, TorchScript, quantised parts, batches and chance.

The oracles are Captum for maps, and the module itself, called directly in float32, for logits.
"""

import copy
from collections.abc import Callable
from typing import Any

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import captum.attr
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from PIL import Image
from support.nets import CLASSES, SIZE, Plain, Residual, Transformer, made, pictures
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from attrlib.errors import AttrlibError, LayerError, MethodError, ModelError
from attrlib.models import Classifier
from attrlib.models.modules.state import State

FORWARD_ONLY = ["RISE:samples=20", "LIME:samples=20", "Occlusion", "KernelSHAP:samples=20"]
GRADIENT = ["Gradient", "IxG", "IG:steps=3", "SmoothGrad:samples=2"]


def wrapped(module: nn.Module, size: int = SIZE, **options: Any) -> Classifier:
    return attrlib.wrap_model(module, size, **options)


def captum_ixg(module: nn.Module, images: Tensor, target: int, layer: nn.Module | None = None) -> Tensor:
    """Input x Gradient, (B,1,h,w), by Captum: at the input, or from the activation and the gradient of a layer."""
    if layer is None:
        return captum.attr.InputXGradient(module).attribute(images.clone().requires_grad_(), target=target).sum(1, keepdim=True).detach()
    result = captum.attr.LayerGradientXActivation(module, layer).attribute(images.clone().requires_grad_(), target=target)
    return result.sum(1, keepdim=True).detach()


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> bool:
    return torch.allclose(ours, theirs, rtol=0, atol=tolerance * float(theirs.abs().max()))


# Memory formats.


class Viewing(nn.Module):
    """The network of Captum's CIFAR tutorial, which flattens by `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool1, self.pool2 = nn.MaxPool2d(2, 2), nn.MaxPool2d(2, 2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(F.relu(self.conv1(x)))
        x = self.pool2(F.relu(self.conv2(x)))
        x = x.view(-1, 16 * 5 * 5)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class ViewingInside(nn.Module):
    """Makes its input contiguous, so that only what follows an inner layer cannot be channels_last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Linear(6 * (SIZE // 2) ** 2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x.contiguous()).relu().view(len(x), -1))


class Strided(nn.Module):
    """Reads memory as if it were contiguous, without an error if it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * SIZE * SIZE, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.as_strided(x, (len(x), x[0].numel()), (x[0].numel(), 1)))


def test_a_module_that_flattens_by_view_is_explained_as_by_captum():
    module = made(Viewing)
    model, images = wrapped(module, 32), pictures(3, 32)
    torch.testing.assert_close(model(images), module(images))
    assert close(attrlib.explain(model, images, "IxG", target=4).maps, captum_ixg(module, images, 4))
    for layer in ("pool1", "conv2", "pool2"):
        theirs = captum_ixg(module, images, 4, module.get_submodule(layer))
        assert close(attrlib.explain(model, images, f"IxG@{layer}", target=4).maps, theirs), layer


@pytest.mark.parametrize("method", attrlib.list_methods(), ids=lambda info: info.name)
def test_every_method_runs_on_a_module_that_flattens_by_view(method):
    model, images = wrapped(made(Viewing), 32), pictures(2, 32)
    spec = f"{method.name}:samples=8" if any(p.name == "samples" and int(p.default) > 8 for p in method.params) else method.name
    for layer in ("Input", "Final"):
        try:
            attribution = attrlib.explain(model, images, spec, target=1, layer=layer)
        except MethodError:
            continue
        assert torch.isfinite(attribution.maps).all()


@pytest.mark.parametrize("net", [ViewingInside, Strided])
def test_other_modules_that_need_contiguous_memory(net):
    module = made(net)
    model, images = wrapped(module), pictures(2)
    torch.testing.assert_close(model(images), module(images))
    assert close(attrlib.explain(model, images, "IxG", target=1).maps, captum_ixg(module, images, 1))


def test_an_inner_layer_whose_output_is_viewed():
    module = made(ViewingInside)
    model, images = wrapped(module), pictures(2)
    assert close(attrlib.explain(model, images, "IxG@conv", target=1).maps, captum_ixg(module, images, 1, module.conv))
    assert torch.isfinite(attrlib.explain(model, images, "RISE@conv:samples=8", target=1).maps).all()


class Pooling(nn.Module):
    """Flattens by `view` at any input size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 5, stride=8), nn.Linear(6 * 5 * 5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.conv(x).relu(), 5).view(len(x), -1))


def test_an_architecture_that_flattens_by_view_keeps_contiguous_weights(monkeypatch):
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: made(Pooling))
    model, images = attrlib.load_model("torchvision:resnet18", device="cpu", pretrained=False), pictures(2, 224)
    torch.testing.assert_close(model(images), made(Pooling)(images))
    assert close(attrlib.explain(model, images, "IxG@conv", target=1).maps, captum_ixg(model.module, images, 1, model.module.conv))


def test_networks_that_accept_it_get_channels_last_images():
    assert wrapped(made(Plain)).memory_format == torch.channels_last
    assert wrapped(made(Viewing), 32).memory_format == torch.contiguous_format


# Types of weights.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("net", [Plain, Residual, Viewing])
def test_weights_of_other_types_are_explained_in_float32(net, dtype):
    size = 32 if net is Viewing else SIZE
    module = made(net).to(dtype)
    before = copy.deepcopy(module.state_dict())
    reference = copy.deepcopy(module).float()
    model, images = wrapped(module, size), pictures(2, size)
    torch.testing.assert_close(model(images), reference(images))
    assert close(attrlib.explain(model, images, "IxG", target=1).maps, captum_ixg(reference, images, 1))
    assert attrlib.explain(model, images, "Grad-CAM", target=1).maps.dtype == torch.float32
    assert any(str(dtype).removeprefix("torch.") in note for note in model.notes)
    assert all(torch.equal(value, before[key]) and value.dtype == before[key].dtype for key, value in module.state_dict().items())


def test_a_module_that_cannot_be_copied_is_named():
    class Single(Plain):
        def __deepcopy__(self, _memo: Any) -> "Single":
            raise TypeError("there is only one")

    with pytest.raises(ModelError, match=r"float64, and the module cannot be copied to float32 \(there is only one\).*module.float\(\)"):
        wrapped(made(Single).double())


# Wrappers.


def averaged(module: nn.Module) -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(module)


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")


def compiled_in_place(module: nn.Module) -> nn.Module:
    module.compile(backend="eager")
    return module


@pytest.mark.parametrize("wrapper", [nn.DataParallel, averaged, compiled, compiled_in_place, lambda m: compiled(nn.DataParallel(m))])
def test_wrappers_are_left_out(wrapper: Callable[[nn.Module], nn.Module]):
    module = made(Residual)
    expected = wrapped(module)
    outer = wrapper(copy.deepcopy(module)).eval()
    model, images = wrapped(outer), pictures(2)
    assert list(model.layers) == list(expected.layers)
    assert model.name == "wrapped:Residual"
    for method in ("IxG", "IxG@stem", "Grad-CAM", "LRP", "RISE:samples=8"):
        ours, theirs = (attrlib.explain(each, images, method, target=2).maps for each in (model, expected))
        assert torch.equal(ours, theirs), method
    assert model.digest == expected.digest


def test_a_compiled_module_stays_compiled():
    calls = []

    def backend(graph: Any, _inputs: Any) -> Any:
        calls.append(graph)
        return graph.forward

    module = made(Plain)
    module.compile(backend=backend)
    call = module._compiled_call_impl
    model = wrapped(module)
    attrlib.explain(model, pictures(2), "Grad-CAM", target=0)
    assert not calls
    assert module._compiled_call_impl is call
    module(pictures(2))
    assert calls


class CompiledInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(Plain(), backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_layers_inside_a_part_that_is_compiled():
    module = made(CompiledInside)
    model, images = wrapped(module), pictures(2)
    module.net(images)  # compiles it
    expected = attrlib.explain(wrapped(module.net._orig_mod), images, "Grad-CAM", target=1).maps
    assert torch.equal(attrlib.explain(model, images, "Grad-CAM", target=1).maps, expected)


def test_a_sharded_module_is_refused():
    class FSDPModule:
        pass

    class Sharded(FSDPModule, Plain):
        pass

    with pytest.raises(ModelError, match="sharded over processes"):
        wrapped(made(Sharded))


@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_reparametrised_weights(norm: Callable[[nn.Module], nn.Module]):
    module = made(Plain)
    norm(module.features[2])
    norm(module.fc)
    module.eval()
    images = pictures(2)
    logits = module(images).detach()
    theirs = captum_ixg(module, images, 1)
    state, weights = State(module), [vars(m).get("weight") for m in module.modules()]
    model = wrapped(module)
    assert close(attrlib.explain(model, images, "IxG", target=1).maps, theirs)
    for method in ("Grad-CAM", "LRP", "Guided Backprop", "RISE:samples=8"):
        attrlib.explain(model, images, method, target=1)
    assert state.changes() == []
    assert all(after is before for after, before in zip((vars(m).get("weight") for m in module.modules()), weights, strict=True))
    assert torch.equal(module(images), logits)


# Gradient checkpointing.


class Checkpointed(Residual):
    def __init__(self, run: Callable[..., Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.run(self.blocks, self.stem(x)).mean((2, 3)))


RUNS: dict[str, Callable[..., Tensor]] = {
    "reentrant": lambda blocks, x: checkpoint(blocks, x, use_reentrant=True),
    "not reentrant": lambda blocks, x: checkpoint(blocks, x, use_reentrant=False),
    "sequential reentrant": lambda blocks, x: checkpoint_sequential(blocks, 2, x, use_reentrant=True),
    "sequential": lambda blocks, x: checkpoint_sequential(blocks, 2, x, use_reentrant=False),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_checkpoints_run_as_if_they_were_off(run):
    module = made(Checkpointed, run)
    plain = made(Checkpointed, lambda blocks, x: blocks(x))
    model, expected, images = wrapped(module), wrapped(plain), pictures(2)
    for method in ("IxG", "Grad-CAM@blocks.1", "IxG@blocks.0", "IG@stem:steps=3", "LRP"):
        ours, theirs = (attrlib.explain(each, images, method, target=2).maps for each in (model, expected))
        assert torch.equal(ours, theirs), method
        assert ours.any()


def test_checkpointing_is_back_after_a_session():
    blocks, calls = made(Residual).blocks, []
    blocks[0].register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(1, 6, 4, 4, requires_grad=True)
    for reentrant in (True, False):
        calls.clear()
        with wrapped(made(Plain)).session():
            checkpoint(blocks, x, use_reentrant=reentrant).sum().backward()
        assert len(calls) == 1
        checkpoint(blocks, x, use_reentrant=reentrant).sum().backward()
        assert len(calls) == 3


def test_timm_checkpointing_is_off_in_a_session():
    module = made(timm.create_model, "test_vit")
    nn.init.normal_(module.head.weight, std=0.1)
    images, model = pictures(2, 160), wrapped(module, 160)
    expected = {spec: attrlib.explain(model, images, spec, target=1).maps for spec in ("IxG", "Grad-CAM", "Chefer", "IxG@blocks.1")}
    module.set_grad_checkpointing(True)
    for spec, maps in expected.items():
        assert torch.equal(attrlib.explain(wrapped(module, 160), images, spec, target=1).maps, maps)
    assert module.grad_checkpointing


# TorchScript.

SCRIPTED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "script": torch.jit.script,
    "trace": lambda m: torch.jit.trace(m, pictures(2)),
    "frozen": lambda m: torch.jit.freeze(torch.jit.script(m)),
}


@pytest.mark.parametrize("make", SCRIPTED.values(), ids=SCRIPTED)
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_explained_at_input_and_refused_inside(make):
    module = made(Residual)
    model, images = wrapped(make(module)), pictures(2)
    expected = wrapped(module)
    assert list(model.layers) == ["Input"]
    torch.testing.assert_close(model(images), module(images))
    for method in (*FORWARD_ONLY, *GRADIENT):
        ours, theirs = (attrlib.explain(each, images, method, target=2).maps for each in (model, expected))
        assert close(ours, theirs, 1e-3), method
    for layer in ("Final", "Middle", "stem", "blocks.0"):
        with pytest.raises(LayerError, match="TorchScript"):
            attrlib.explain(model, images, "IxG", target=2, layer=layer)


@pytest.mark.parametrize(
    "name", ["LRP", "DeepLIFT", "Guided Backprop", "Deconvolution", "Raw attention", "Rollout", "Chefer", "Guided Grad-CAM"]
)
@pytest.mark.parametrize("make", SCRIPTED.values(), ids=SCRIPTED)
@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_methods_that_change_operations_are_refused_on_torchscript(make, name):
    with pytest.raises(MethodError, match="TorchScript"):
        attrlib.explain(wrapped(make(made(Plain))), pictures(1), f"{name}@Input", target=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_frozen_modules_with_other_constants_have_other_digests():
    one, two = (wrapped(torch.jit.freeze(torch.jit.script(made(Plain, seed=seed)))) for seed in (0, 1))
    assert one.digest != two.digest
    assert one.digest == wrapped(torch.jit.freeze(torch.jit.script(made(Plain, seed=0)))).digest


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_scripted_part_is_one_layer_less():
    module = made(Residual)
    expected = attrlib.explain(wrapped(module), pictures(2), "IxG@stem", target=1).maps
    module.blocks = torch.jit.script(module.blocks)
    model = wrapped(module)
    assert close(attrlib.explain(model, pictures(2), "IxG@stem", target=1).maps, expected)
    with pytest.raises(LayerError, match="blocks is a TorchScript module"):
        model.layer("blocks.0")


def test_a_graph_module_is_explained_at_every_layer():
    module = made(Residual)
    graph = torch.fx.symbolic_trace(module)
    model, expected, images = wrapped(graph), wrapped(module), pictures(2)
    for method in ("IxG", "IxG@stem", "LRP"):
        assert torch.equal(*(attrlib.explain(each, images, method, target=1).maps for each in (model, expected)))
    assert wrapped(torch.fx.symbolic_trace(made(Plain))).digest != model.digest


def test_an_exported_program_is_explained_by_its_module():
    program = torch.export.export(made(Plain), (pictures(2),), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    with pytest.raises(ModelError, match=r"ExportedProgram; give its module, program.module\(\)"):
        wrapped(program)  # type: ignore[arg-type]
    ours = attrlib.explain(wrapped(program.module()), pictures(2), "IxG", target=1).maps
    assert close(ours, captum_ixg(made(Plain), pictures(2), 1))


# Gradients that do not reach the layer.


@pytest.fixture(scope="module")
def quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(made(Residual), {nn.Linear})


class Cut(nn.Module):
    """A plain network with a function between its features and its head."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.function = Plain(), function

    def forward(self, x: Tensor) -> Tensor:
        return self.net.fc(self.function(self.net.features(x)).mean((2, 3)))


class NoGrad(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x * 2


CUTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "detach": (lambda x: x.detach(), "outside of its modules"),
    "no_grad in a module": (NoGrad(), r"does not pass through function \(NoGrad\)"),
    "round": (lambda x: (10 * x).round(), "outside of its modules"),
    "numpy": (lambda x: torch.from_numpy(x.detach().numpy()), "outside of its modules"),
    "numpy with gradients": (lambda x: torch.from_numpy(x.numpy()), "fails while a gradient is recorded"),
    "argmax": (lambda x: F.one_hot(x.argmax(1), 8).permute(0, 3, 1, 2).float(), "outside of its modules"),
}


@pytest.mark.filterwarnings("ignore")
def test_gradient_methods_are_refused_on_quantised_modules(quantised):
    model, images = wrapped(quantised), pictures(2)
    for method in ("IxG", "IG", "Grad-CAM", "LRP", "DeepLIFT", "Guided Backprop"):
        with pytest.raises(MethodError, match=rf"{method} needs gradients, but .*does not pass through fc \(DynamicQuantizedLinear\)"):
            attrlib.explain(model, images, method, target=1)
    # A plain loop: the logit of the image without each patch.
    maps = attrlib.explain(model, images, "Occlusion:window=4:stride=4", target=1).maps
    assert maps.any()
    assert {f.state for f in attrlib.doctor(model, ["IxG", "Grad-CAM"], layers=["Input", "Final"]).findings} == {"refused"}


@pytest.mark.filterwarnings("ignore")
def test_quantised_weights_are_part_of_the_digest():
    one, two = (wrapped(torch.ao.quantization.quantize_dynamic(made(Flat, seed=seed), {nn.Linear})) for seed in (0, 1))
    assert one.digest != two.digest


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * SIZE * SIZE, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


@pytest.mark.filterwarnings("ignore")
def test_layers_downstream_of_a_quantised_part_have_gradients():
    class Stem(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    module = made(Stem)
    module.mix = torch.ao.quantization.quantize_dynamic(nn.Sequential(module.mix), {nn.Linear})
    model, images = wrapped(module), pictures(2)
    with pytest.raises(MethodError, match=r"does not pass through mix.0 \(DynamicQuantizedLinear\)"):
        attrlib.explain(model, images, "IxG", target=1)
    assert close(attrlib.explain(model, images, "IxG@Final", target=1).maps, captum_ixg(module, images, 1, module.features))


@pytest.mark.parametrize(("function", "reason"), CUTS.values(), ids=CUTS)
def test_gradients_that_are_cut_are_found_out(function, reason):
    module = made(Cut, function)
    model, images = wrapped(module), pictures(2)
    for method in ("IxG", "IG:steps=2", "IxG@net.features.0"):
        with pytest.raises(MethodError, match=reason):
            attrlib.explain(model, images, method, target=1)
    assert torch.isfinite(attrlib.explain(model, images, "RISE:samples=8", target=1).maps).all()


def test_a_module_that_runs_in_inference_mode_is_explained_by_forward_passes():
    plain = made(Plain)
    module = copy.deepcopy(plain)
    module.forward = torch.inference_mode()(module.forward)
    images = pictures(2)
    assert list(wrapped(module).layers) == list(wrapped(plain).layers)
    with pytest.raises(MethodError, match="needs gradients"):
        attrlib.explain(wrapped(module), images, "IxG", target=1)
    found, expected = (attrlib.explain(wrapped(each), images, "RISE:samples=8", target=1).maps for each in (module, plain))
    assert torch.equal(found, expected)


class Stem(Plain):
    """Computes its features without a graph, as a frozen backbone does."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            features = self.features(x)
        return self.fc(features.mean((2, 3)))


class Inference(Plain):
    """Computes everything without a graph."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@pytest.mark.parametrize("net", [Stem, Inference])
def test_a_network_without_a_graph_has_layers_and_maps_of_forward_passes(net):
    module = made(net)
    model, images = wrapped(module), pictures(2)
    assert model.layers["Final"].path == wrapped(made(Plain)).layers["Final"].path
    with pytest.raises(MethodError, match="needs gradients, but"):
        attrlib.explain(model, images, "IxG", target=1)
    maps = attrlib.explain(model, images, "Occlusion:window=4:stride=4", target=1).maps
    torch.testing.assert_close(maps, attrlib.explain(wrapped(plain := made(Plain)), images, "Occlusion:window=4:stride=4", target=1).maps)
    assert torch.equal(module.fc.weight, plain.fc.weight)


def test_a_model_that_reads_nothing_is_not_taken_for_one_without_gradients():
    module = made(Plain)
    nn.init.zeros_(module.fc.weight)
    assert not attrlib.explain(wrapped(module), pictures(1), "IxG", target=1).maps.any()


# Batches and chance.


def without_statistics() -> nn.Module:
    module = Plain()
    module.features[3] = nn.BatchNorm2d(6, track_running_stats=False)
    return module


class Centred(nn.Module):
    """Subtracts the mean over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Plain()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x - 0.5 * x.mean(0, keepdim=True))


class FirstOnly(nn.Module):
    """Works on one image at a time: the shape of the batch is part of the code."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Plain()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.view(1, 3, SIZE, SIZE))


@pytest.mark.parametrize("net", [without_statistics, Centred, FirstOnly])
@pytest.mark.parametrize("method", ["IxG", "IG:steps=4", "SmoothGrad:samples=3", "RISE:samples=8", "Occlusion", "DeepLIFT"])
def test_maps_do_not_depend_on_the_batch_where_outputs_do(net, method):
    model, images = wrapped(made(net)), pictures(3)
    together = attrlib.explain(model, images, method, target=1)
    alone = [attrlib.explain(model, image, method, target=1).maps for image in images]
    assert torch.equal(together.maps, torch.cat(alone))
    assert torch.equal(model(images), torch.cat([model(image[None]) for image in images]))
    assert any("batch" in note or "one image" in note for note in together.notes)


def test_a_map_of_a_model_that_depends_on_the_batch_is_captums_of_the_image_alone():
    module = made(without_statistics)
    model, images = wrapped(module), pictures(2)
    theirs = torch.cat([captum_ixg(module, image[None], 1) for image in images])
    assert close(attrlib.explain(model, images, "IxG", target=1).maps, theirs)
    assert close(
        attrlib.explain(model, images, "IxG@features.2", target=1).maps,
        torch.cat([captum_ixg(module, i[None], 1, module.features[2]) for i in images]),
    )
    assert "features.3 is a BatchNorm without running statistics" in model.findings[0]


class Dropping(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.net, self.p = Plain(), p

    def forward(self, x: Tensor) -> Tensor:
        return self.net.fc(F.dropout(self.net.features(x).mean((2, 3)), self.p, training=True))


class Noisy(Dropping):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + self.p * torch.rand(1)


@pytest.mark.parametrize("net", [Dropping, Noisy])
def test_chance_is_found_out(net):
    model = wrapped(made(net, 0.1))
    before = torch.get_rng_state()
    assert ["two calls on the same image" in finding for finding in model.findings] == [True]
    assert torch.equal(torch.get_rng_state(), before)
    assert "two calls on the same image" in attrlib.explain(model, pictures(1), "IxG", target=0).notes[0]
    assert not wrapped(made(net, 0.0)).findings


@pytest.mark.parametrize("net", [Plain, Residual, (Transformer, 1, 3), Viewing])
@pytest.mark.parametrize("seed", range(3))
def test_rounding_is_not_reported(net, seed):
    net, *args = net if isinstance(net, tuple) else (net,)
    model = wrapped(made(net, *args, seed=seed), 32 if net is Viewing else SIZE)
    assert model.findings == ()
    assert not model.behaviour.one_by_one


# Inputs and outputs.


class WithMeta(Plain):
    def forward(self, x: Tensor, meta: Tensor) -> Tensor:
        return super().forward(x) + meta


class WithKeyword(Plain):
    def forward(self, x: Tensor, *, scale: float, offset: float) -> Tensor:
        return super().forward(x) * scale + offset


class OnlyKeyword(Plain):
    def forward(self, *, pixel_values: Tensor) -> Tensor:
        return super().forward(pixel_values)


class FixedBatch(nn.Module):
    """Flattens with the batch size of its training, so that an image of twice the side passes, as four rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 4, 4), nn.Linear(SIZE**2 // 4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).view(4, -1))


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


class Grey(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


class Broken(Plain):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("table")


class Tiny(nn.Module):
    """A BatchNorm that sees one value for each channel of one image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, SIZE), nn.BatchNorm2d(4, track_running_stats=False), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).flatten(1))


CAUSES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a second input": (WithMeta, r"needs a second argument 'meta'; .*self.net\(image, meta=...\)"),
    "keywords": (WithKeyword, "needs the further arguments 'scale' and 'offset'"),
    "only a keyword": (OnlyKeyword, r"takes the image by keyword only; .*self.net\(pixel_values=image\)"),
    "a fixed batch": (FixedBatch, "and on other sizes .*; correct its forward"),
    "lazy": (Lazy, r"lazy parameters without a shape \(fc.weight\)"),
    "grey": (Grey, "reads images of 1 channel, not 3"),
    "broken": (Broken, r"and on other sizes \(KeyError: 'table'\); correct its forward"),
    "no forward": (nn.Module, "has no forward"),
    "one value per channel": (Tiny, "BatchNorm without running statistics, which cannot process a single image"),
}


@pytest.mark.parametrize(("net", "cause"), CAUSES.values(), ids=CAUSES)
def test_the_true_cause_of_a_failure_is_named(net, cause):
    with pytest.raises(ModelError, match=cause) as caught:
        wrapped(made(net), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert "input_size" not in str(caught.value)
    assert "\n" not in str(caught.value)


class Answer:
    def __init__(self, logits: Tensor) -> None:
        self.logits, self.hidden = logits, None


class Returning(Residual):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(super().forward(x))


@pytest.mark.parametrize(
    "wrap", [lambda y: {"logits": y, "features": y * 0}, Answer, lambda y: (y,), lambda y: [y]], ids=["dict", "object", "tuple", "list"]
)
def test_logits_are_read_from_what_the_module_returns(wrap):
    module, images = made(Returning, wrap), pictures(2)
    state = State(module)
    model, expected = wrapped(module), wrapped(made(Residual))
    assert torch.equal(model(images), expected(images))
    for method in ("IxG", "IxG@stem", "Grad-CAM", "LRP", "RISE:samples=8"):
        assert torch.equal(*(attrlib.explain(each, images, method, target=1).maps for each in (model, expected))), method
    assert state.changes() == []
    assert not isinstance(module(images), Tensor)


class Overwriting(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2).add_(1))


def test_a_module_that_writes_into_its_input_leaves_the_images_alone():
    model, images = wrapped(made(Overwriting)), pictures(2).contiguous(memory_format=torch.channels_last)
    before = images.clone()
    logits = model(images)
    attrlib.explain(model, images, "IxG", target=1)
    assert torch.equal(images, before)
    torch.testing.assert_close(logits, made(Overwriting)(images.clone()))


def test_a_module_in_training_mode_is_explained_in_evaluation_mode_and_left_training():
    module = made(Residual).train()
    state = State(module)
    expected = wrapped(made(Residual))
    assert torch.equal(wrapped(module)(pictures(1)), expected(pictures(1)))
    assert state.changes() == []
    assert all(m.training for m in module.modules())


@pytest.mark.parametrize(
    "call", [lambda m: attrlib.explain(m, pictures(1), "IxG@nowhere"), lambda m: attrlib.explain(m, pictures(1, 3), "IxG", target=99)]
)
def test_failed_calls_leave_the_module_alone(call):
    module = made(Checkpointed, RUNS["reentrant"])
    state = State(module)
    with pytest.raises(AttrlibError):
        call(wrapped(module))
    assert state.changes() == []


def test_the_doctor_lists_what_it_found_about_the_model():
    module = made(Cut, NoGrad())
    model = wrapped(module.double())
    texts = " / ".join(attrlib.doctor(model, ["IxG"], layers=["Input"]).model_findings)
    assert "float64" in texts
    assert "no gradient passes through function (NoGrad)" in texts
    viewing = attrlib.doctor(wrapped(made(Viewing), 32), ["IxG"], layers=["Input"])
    assert "contiguous memory" in viewing.model_findings[0]
    assert viewing.json()["model_findings"] == viewing.model_findings
    assert attrlib.doctor(wrapped(made(Plain)), ["IxG"], layers=["Input"]).model_findings == ()


def test_findings_are_notes_of_a_run(tmp_path, own_cache):
    for label in range(2):
        (tmp_path / "data" / str(label)).mkdir(parents=True)
        Image.fromarray(np.full((SIZE, SIZE, 3), 90 * (label + 1), np.uint8)).save(tmp_path / "data" / str(label) / "a.png")
    model = wrapped(made(without_statistics))
    result = attrlib.compare(["sds"], model, ["IxG"], tmp_path / "data", classes="index")
    assert any("depend on the other images of its batch" in note for note in result.notes)
