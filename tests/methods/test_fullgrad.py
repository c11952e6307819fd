"""FullGrad against its formula in NumPy with closed forms of every bias, the code of its authors in words, and pytorch-grad-cam."""

import copy
from collections.abc import Callable

import attrlib  # before timm: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import scipy.stats
import timm
import torch
import torch.nn.functional as F  # noqa: N812
from pytorch_grad_cam import FullGrad
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from support import method_nets
from support.method_nets import CLASSES, TARGETS, ChannelsLast, Rectified, made, maps, pictures
from support.numbers import close
from torch import Tensor, nn

from attrlib.errors import MethodError
from attrlib.methods import AttributionContext, fullgrad
from attrlib.models.cells import grid_view, paste
from attrlib.specs import MethodSpec


class Mixed(nn.Module):
    """A convolution, BatchNorm, ReLU, GELU on (B,C,h,w), and LayerNorm on (B,h,w,C)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.act = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), nn.GELU()
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, CLASSES)
        for values in (self.bn.running_mean, self.bn.bias, self.bn.weight, self.norm.bias, self.norm.weight):
            nn.init.normal_(values, std=0.5)
        nn.init.uniform_(self.bn.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv2(F.relu(self.bn(self.conv1(x)))))
        return self.fc(self.norm(x.permute(0, 2, 3, 1)).mean((1, 2)))


def traced(module: nn.Module, paths: list[str], images: Tensor) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Tensor]:
    """Inputs of some modules, gradients in their outputs (and in the images, under the empty path), and the logits."""
    inputs: dict[str, np.ndarray] = {}
    outputs: dict[str, Tensor] = {"": images.clone().requires_grad_()}

    def keep(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            inputs[path], outputs[path] = args[0].detach().double().numpy(), output

        return hook

    handles = [module.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    logits = module(outputs[""])
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(logits[range(len(images)), TARGETS].sum(), list(outputs.values()))
    return inputs, {path: g.double().numpy() for path, g in zip(outputs, gradients, strict=True)}, logits.detach()


def psi(term: np.ndarray, size: tuple[int, int], rescale: str) -> np.ndarray:
    """The map (h,w) of a term (C,h,w)."""
    values, total = np.abs(term), np.zeros(size)
    for channel in values:
        of = channel if rescale == "channel" else values
        part = (channel - of.min()) / (of.max() - of.min()) if of.max() > of.min() else 0 * channel
        total += F.interpolate(torch.from_numpy(part)[None, None], size, mode="bilinear", align_corners=False)[0, 0].numpy()
    return total


def number(values: Tensor) -> np.ndarray:
    return values.detach().double().numpy()


def layer_norm_bias(norm: nn.LayerNorm, a: np.ndarray) -> np.ndarray:
    """LayerNorm at a, less its derivative in the direction of a, which is what eps leaves of it."""
    variance = a.var(-1, keepdims=True)
    normalised = number(norm.weight) * (a - a.mean(-1, keepdims=True)) / np.sqrt(variance + norm.eps)
    return normalised * (1 - norm.eps / (variance + norm.eps)) + number(norm.bias)


@pytest.mark.parametrize("rescale", ["layer", "channel"])
def test_fullgrad_follows_its_formula_with_the_bias_of_every_layer_in_closed_form(rescale: str) -> None:
    module, images = made(Mixed), pictures(2, 12, 16)
    inputs, gradients, logits = traced(module, ["conv1", "bn", "act", "norm"], images)
    bn, z = module.bn, inputs["act"]
    slope = number(bn.weight) / np.sqrt(number(bn.running_var) + bn.eps)
    terms = [
        number(images) * gradients[""],
        number(module.conv1.bias)[:, None, None] * gradients["conv1"],
        (number(bn.bias) - slope * number(bn.running_mean))[:, None, None] * gradients["bn"],
        -(z**2) * scipy.stats.norm.pdf(z) * gradients["act"],
        (layer_norm_bias(module.norm, inputs["norm"]) * gradients["norm"]).transpose(0, 3, 1, 2),
    ]
    total = sum(term.sum((1, 2, 3)) for term in terms) + number(module.fc.bias)[TARGETS]
    assert close(torch.from_numpy(total), logits[range(2), TARGETS], 1e-4), "the terms of the test itself are complete"
    expected = np.stack([sum(psi(term[i], (12, 16), rescale) for term in terms) for i in range(2)])
    found = attrlib.explain(attrlib.wrap_model(module, (12, 16)), images, "FullGrad", TARGETS, rescale=rescale)
    assert close(found.maps[:, 0], torch.from_numpy(expected), 1e-3)
    assert max(found.diagnostics["convergence"]) < 1e-4


def test_at_an_inner_layer_only_what_lies_downstream_counts() -> None:
    module, images = made(Mixed), pictures(2, 12, 16)
    model = attrlib.wrap_model(module, (12, 16))
    inputs, gradients, _ = traced(module, ["conv2", "act", "norm"], images)
    gelu = -(inputs["act"] ** 2) * scipy.stats.norm.pdf(inputs["act"]) * gradients["act"]
    norm = (layer_norm_bias(module.norm, inputs["norm"]) * gradients["norm"]).transpose(0, 3, 1, 2)
    outputs = module.conv2(torch.from_numpy(inputs["conv2"]).float()).detach().double().numpy()
    terms = (outputs * gradients["conv2"], gelu, norm)
    expected = np.stack([sum(psi(term[i], (6, 8), "layer") for term in terms) for i in range(2)])
    assert close(maps(model, images, "FullGrad", "conv2")[:, 0], torch.from_numpy(expected), 1e-3)


@pytest.mark.parametrize("rescale", ["layer", "channel"])
def test_fullgrad_of_linear_layers_on_channels_last(rescale: str) -> None:
    module, images = made(ChannelsLast), pictures(2, 24)
    paths = ["patch", *(f"blocks.{i}.{part}" for i in range(3) for part in ("up", "down"))]
    _, gradients, _ = traced(module, paths, images)
    terms = [number(images) * gradients[""], number(module.patch.bias)[:, None, None] * gradients["patch"]]
    terms += [(number(module.get_submodule(path).bias) * gradients[path]).transpose(0, 3, 1, 2) for path in paths[1:]]
    expected = np.stack([sum(psi(term[i], (24, 24), rescale) for term in terms) for i in range(2)])
    found = maps(attrlib.wrap_model(module, 24), images, "FullGrad", rescale=rescale)
    assert close(found[:, 0], torch.from_numpy(expected), 1e-3)


def test_fullgrad_matches_pytorch_grad_cam() -> None:
    module, images = made(Rectified, F.relu), pictures(2, 16)
    # Gradients large beside the constant that the library adds to denominators.
    module.fc.weight.data *= 1e3
    cam = FullGrad(copy.deepcopy(module), [])
    expected = cam(images.clone(), [ClassifierOutputTarget(target) for target in TARGETS])
    found = maps(attrlib.wrap_model(module, 16), images, "FullGrad", rescale="channel")[:, 0]
    low, high = found.amin((1, 2), keepdim=True), found.amax((1, 2), keepdim=True)
    assert close((found - low) / (high - low), torch.from_numpy(expected), 1e-3)


def without_biases(module: nn.Module) -> nn.Module:
    for name, values in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(values)
    return module


def test_without_biases_the_map_of_a_relu_network_is_that_of_ixg() -> None:
    images = pictures(2, 16)
    module = without_biases(made(Rectified, F.relu))
    model = attrlib.wrap_model(module, 16)
    _, gradients, _ = traced(module, [], images)
    expected = np.stack([psi(number(images)[i] * gradients[""][i], (16, 16), "layer") for i in range(2)])
    assert close(maps(model, images, "FullGrad")[:, 0], torch.from_numpy(expected), 1e-4)


SMALL: dict[str, tuple[str, dict[str, object]]] = {
    "attention": ("vit_tiny_patch16_224", {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 64}),
    "windows": ("swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 4, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2)}),
    "token mixing": ("mixer_s32_224", {"img_size": 64}),
    "squeeze and excitation": ("efficientnet_b0", {}),
    "LayerScale": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}),
    "rotary embeddings and gates": ("eva02_tiny_patch14_224", {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 56}),
    "GroupNorm and pooling": ("poolformer_s12", {}),
    "hard swish": ("mobilenetv3_small_050", {}),
}


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("layer", ["Input", "Middle"])
def test_the_terms_add_up_to_the_logit_whatever_the_operations(kind: str, layer: str) -> None:
    name, options = SMALL[kind]
    size = int(options.get("img_size", 64))
    model = attrlib.wrap_model(made(timm.create_model, name, num_classes=CLASSES, **options), size)
    found = attrlib.explain(model, pictures(2, size), "FullGrad", TARGETS, layer)
    assert max(found.diagnostics["convergence"]) < 2e-3
    assert found.maps.isfinite().all()


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradient


def test_convergence_shows_a_bias_that_torch_does_not() -> None:
    hidden = attrlib.wrap_model(made(Rectified, Square.apply), 16)
    shown = attrlib.wrap_model(made(Rectified, torch.square), 16)
    for model, complete in ((hidden, False), (shown, True)):
        found = attrlib.explain(model, pictures(2, 16), "FullGrad", TARGETS)
        assert (max(found.diagnostics["convergence"]) < 1e-4) == complete


class Overwritten(nn.Module):
    """GELU, of a convolution or of its output, whose result is then overwritten."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 6, 3, padding=1), act, nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.conv(x)).mul_(2).mean((2, 3)))


@pytest.mark.parametrize("act", [F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid])
def test_the_bias_of_an_activation_is_right_if_its_output_is_overwritten(act: Callable[[Tensor], Tensor]) -> None:
    module, images = made(Overwritten, act), pictures(2, 12)
    _, gradients, _ = traced(module, ["conv"], images)
    z = module.conv(images).detach().double().requires_grad_()
    slope = torch.autograd.grad(act(z).sum(), z)[0]
    bias = 2 * number((act(z) - z * slope) * module.fc.weight[TARGETS].double()[:, :, None, None] / z[0, 0].numel())
    terms = [number(images) * gradients[""], number(module.conv.bias)[:, None, None] * gradients["conv"], bias]
    expected = np.stack([sum(psi(term[i], (12, 12), "layer") for term in terms) for i in range(2)])
    found = attrlib.explain(attrlib.wrap_model(module, 12), images, "FullGrad", TARGETS)
    assert close(found.maps[:, 0], torch.from_numpy(expected), 1e-3)
    assert max(found.diagnostics["convergence"]) < 1e-4


@pytest.mark.parametrize("scaled", [False, True])
def test_the_bias_of_attention_completes_the_sum(scaled: bool) -> None:
    class Attending(nn.Module):
        """Attention with fewer queries than keys."""

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.fc = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.embed(x).flatten(2).mT.unflatten(2, (2, 4)).transpose(1, 2)
            mask = torch.zeros(4, tokens.shape[2]).index_fill(1, torch.tensor([0]), -2.0) if scaled else None
            found = F.scaled_dot_product_attention(5 * tokens[:, :, :4], tokens, 3 * tokens, mask)
            return self.fc(found.transpose(1, 2).flatten(2).mean(1))

    model = attrlib.wrap_model(made(Attending), 16)
    found = attrlib.explain(model, pictures(2, 16), "FullGrad", TARGETS)
    assert max(found.diagnostics["convergence"]) < 1e-4


@pytest.mark.parametrize("weights", ["none", "averaged", "by head"])
@pytest.mark.parametrize("of", ["itself", "another", "keys that are constant"])
def test_the_bias_of_multi_head_attention_completes_the_sum(of: str, weights: str) -> None:
    class Attending(nn.Module):
        """MultiheadAttention whose result is overwritten, and whose weights count too."""

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.attention, self.fc = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2), nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.embed(x).flatten(2).permute(2, 0, 1)
            queries = 3 * tokens[:5] if of != "itself" else tokens
            keys = torch.ones_like(tokens).cumsum(0) / 5 if of == "keys that are constant" else tokens
            result, shares = self.attention(
                queries, keys, tokens, need_weights=weights != "none", average_attn_weights=weights == "averaged"
            )
            pooled = result.mul_(2).sin().mean(0)
            return self.fc(pooled + (0 if shares is None else shares.flatten(1)[:, :8].square()))

    model = attrlib.wrap_model(made(Attending), 16)
    found = attrlib.explain(model, pictures(2, 16), "FullGrad", TARGETS)
    alone = attrlib.explain(model, pictures(2, 16)[1:], "FullGrad", TARGETS[1:])
    assert max(found.diagnostics["convergence"]) < 1e-4
    assert close(found.maps[1:], alone.maps, 1e-5)


def test_in_difull_the_map_is_that_of_the_cell_alone() -> None:
    model, grids = attrlib.wrap_model(made(Mixed), 16), pictures(2, 32)
    view = grid_view(model, "difull", 2, 1)
    alone = maps(model, grids[:, :, :16, 16:], "FullGrad")
    # The smallest |x * dy/dx| of the grid is zero, that of the cell nearly.
    assert close(maps(view, grids, "FullGrad"), paste(alone, 2, 1), 1e-3)


def test_in_dipart_what_lies_downstream_of_final_is_in_the_cell() -> None:
    module = made(nn.Sequential, nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    module = nn.Sequential(*module, nn.Flatten(), made(nn.Linear, 4, CLASSES)).eval()
    model = attrlib.wrap_model(module, 16, layers={"Middle": "1", "Final": "1"})
    view, grids = grid_view(model, "dipart", 2, 3), pictures(1, 32)
    found = maps(view, grids, "FullGrad", targets=[0])
    module[0].bias.data.zero_()
    upstream = maps(view, grids, "FullGrad", targets=[0])
    assert (upstream[:, :, :15] == 0).all(), "only the cell has relevance, and its border the receptive field"
    assert found[:, :, 16:, 16:].abs().sum() > 0


def test_ixg_and_fullgrad_share_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, rows = method_nets.model("functional"), pictures(3, 64), list[int]()
    maps(model, images[:1], "FullGrad", targets=[0])
    own = AttributionContext._logits
    monkeypatch.setattr(AttributionContext, "_logits", lambda c, inputs, owners: rows.append(len(owners)) or own(c, inputs, owners))
    specs = [MethodSpec("FullGrad"), MethodSpec("IxG"), MethodSpec("Gradient")]
    attrlib.methods.attribute_all(model, specs, images, [0, 1, 2])
    assert rows == [3]


def test_a_model_whose_operations_depend_on_the_number_of_images_is_refused() -> None:
    class Grows(Rectified):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward((x + 1) - 1 if len(x) > 1 else x)

    module = made(Grows, F.relu)
    model = attrlib.wrap_model(made(Rectified, F.relu), 16)
    model = model.with_module(module)
    with pytest.raises(MethodError, match="operations depend on the number of images"):
        maps(model, pictures(2, 16), "FullGrad")


def test_places_are_found_once() -> None:
    model = attrlib.wrap_model(made(Mixed), 16)
    maps(model, pictures(2, 16), "FullGrad")
    (first,) = fullgrad._cache[model].values()
    maps(model, pictures(2, 16, seed=2), "FullGrad", targets=[1, 1])
    assert list(fullgrad._cache[model].values()) == [first]


@pytest.mark.parametrize("method", ["FullGrad", "ShapleyCAM", "RefineCAM", "Guided IG:steps=4", "Blur IG:steps=4"])
def test_both_classes_of_one_logit_are_explained(method: str) -> None:
    module = made(Mixed)
    module.fc = made(nn.Linear, 8, 1)
    model = attrlib.wrap_model(module, 16)
    layer = "act" if method in ("ShapleyCAM", "RefineCAM") else "Input"
    images = pictures(2, 16)
    no, yes = (attrlib.explain(model, images, method, [target, target], layer) for target in (0, 1))
    assert no.maps.isfinite().all()
    assert yes.maps.isfinite().all()
    if method == "FullGrad":
        assert close(no.maps, yes.maps), "magnitudes are the same for the opposite logit"
    elif "IG" in method:
        assert close(no.maps, -yes.maps)
    else:
        assert not close(no.maps + yes.maps, 2 * yes.maps)
