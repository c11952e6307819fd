"""Relevance propagation through every family of backbones, against the affine map that it linearises them to, NumPy and zennit."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import attrlib  # before timm: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import torchvision
from support import zoo
from support.linearised import Linearised
from support.method_nets import made, pictures
from support.numbers import SEED, close
from torch import Tensor, nn

from attrlib.errors import MethodError
from attrlib.methods import METHODS

EXACT = {
    "LibraGrad": ("LibraGrad", False),
    "CP-LRP": ("CP-LRP:epsilon=1e-9", False),
    "LRP": ("LRP:epsilon=1e-9", False),
    "AttnLRP": ("AttnLRP:epsilon=1e-9:gamma_conv=0:gamma_linear=0", True),
}
"""Methods, at parameters with which the modified gradient is the slope of an affine map, and whether softmax is expanded."""


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_relevance_is_that_of_the_linearised_network(family: str, method: str) -> None:
    model, images, targets = zoo.member(family), zoo.pictures(family, 2), [1, 3]
    text, taylor = EXACT[method]
    found = attrlib.explain(model, images, text, targets)
    module = model.module.requires_grad_(False)
    network = Linearised(module, taylor)
    whole = network.at(images)
    assert close(whole, model(images))
    # Which pixels are kept is drawn at random; relevance is what they add to the empty picture.
    empty = network.at(torch.zeros_like(images))
    for seed in range(2):
        kept = torch.randint(2, (2, 1, *images.shape[2:]), generator=torch.Generator().manual_seed(seed)).to(images)
        change = (network.at(images * kept) - empty)[range(2), targets]
        assert close((found.maps * kept).sum((1, 2, 3)), change, 1e-3, scale=(found.maps.abs().sum((1, 2, 3)).max()))
    logits = whole[range(2), targets]
    expected = ((whole - empty)[range(2), targets] - logits).abs() / logits.abs()
    (error,) = found.diagnostics.values()
    assert torch.tensor(error).tolist() == pytest.approx(expected.tolist(), rel=1e-2, abs=1e-3)


@pytest.mark.parametrize(
    "method", ["LibraGrad", "CP-LRP:epsilon=1e-9", "LRP:rule=gamma:epsilon=1e-9", "CP-LRP:epsilon=1e-9:gamma_linear=0.1"]
)
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_without_biases_relevance_sums_to_the_logit(family: str, method: str) -> None:
    module = copy.deepcopy(zoo.member(family).module)
    additive = ("bias", "bias_table", "running_mean", "pos_embed", "token", "tokens", "latent", "q_bias", "v_bias")
    with torch.no_grad():
        for name, values in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith(additive):
                values.zero_()
    found = attrlib.explain(attrlib.wrap_model(module, zoo.size(family)), zoo.pictures(family, 2), method, [1, 3])
    (error,) = found.diagnostics.values()
    assert max(error) < 0.02
    assert found.maps.abs().sum() > 0


TORCHVISION: dict[str, Callable[[], nn.Module]] = {
    "ViT": lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=4),
    "Swin": lambda: torchvision.models.SwinTransformer([2, 2], 8, [2, 2], [1, 2], [4, 4], num_classes=4),
    "SwinV2": lambda: torchvision.models.SwinTransformer(
        *([2, 2], 8, [2, 2], [1, 2], [4, 4]),
        num_classes=4,
        block=torchvision.models.swin_transformer.SwinTransformerBlockV2,
        downsample_layer=torchvision.models.swin_transformer.PatchMergingV2,
    ),
}


@pytest.mark.parametrize("method", ["LibraGrad", "CP-LRP:epsilon=1e-9", "LRP:rule=gamma:epsilon=1e-9"])
@pytest.mark.parametrize("name", TORCHVISION)
def test_without_biases_relevance_sums_to_the_logit_in_torchvision(name: str, method: str) -> None:
    module = made(TORCHVISION[name])
    with torch.no_grad():
        for key, values in module.named_parameters():
            if key.endswith(("bias", "token", "pos_embedding")):
                values.zero_()
            elif values.dim() > 1 and "table" not in key:
                values.normal_(0, values[0].numel() ** -0.5, generator=torch.Generator().manual_seed(SEED))
    found = attrlib.explain(attrlib.wrap_model(module, 32), pictures(2, 32), method, [1, 3])
    (error,) = found.diagnostics.values()
    assert max(error) < 0.02
    assert found.maps.abs().sum() > 0


def test_attention_that_hides_its_steps_is_refused() -> None:
    def masked(x: Tensor) -> Tensor:
        attention = made(nn.MultiheadAttention, 8, 2, batch_first=True)
        return attention(x, x, x, attn_mask=torch.eye(4, dtype=torch.bool), need_weights=False)[0]

    model = attrlib.wrap_model(made(Between, masked), 8)
    for method in ("LRP", "AttnLRP", "LibraGrad", "DeepLIFT"):
        with pytest.raises(MethodError, match="no rules for attention with grouped queries, nor for MultiheadAttention with masks"):
            METHODS[method]().check(model, model.layer("Input"))


# By hand ---------------------------------------------------------------------------------------------------------------------


class RMSNorm(nn.Module):
    """RMSNorm, written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Block(nn.Module):
    """LayerNorm and attention with rotary embeddings in two heads, then RMSNorm and a SwiGLU."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), RMSNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gate, self.up, self.down = nn.Linear(width, 12), nn.Linear(width, 12), nn.Linear(12, width)
        angles = torch.arange(4.0)[:, None] * torch.tensor([1.0, 0.3]).repeat_interleave(2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def turned(self, x: Tensor) -> Tensor:
        other = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
        return x * self.cos + other * self.sin

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v)
        x = x + self.proj(attended.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Tokens(nn.Module):
    """Four patches of 4 px, two blocks, and a head that reads their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.blocks, self.head = nn.Conv2d(3, 8, 4, 4), nn.Sequential(Block(), Block()), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


EPS = 1e-6


def passed(a: np.ndarray, layer: nn.Linear, r: np.ndarray, gamma: float) -> np.ndarray:
    """Relevance of the inputs (..., i) of a linear layer, contribution by contribution; 0 for gamma is the epsilon rule."""
    w, b = layer.weight.detach().double().flatten(1).numpy(), layer.bias.detach().double().numpy()
    parts = a[..., None, :] * w
    z = parts.sum(-1) + b
    sign = np.where(z < 0, -1.0, 1.0)
    counted = parts + gamma * np.where(parts * sign[..., None] > 0, parts, 0)
    total = counted.sum(-1) + b + gamma * np.where(b * sign > 0, b, 0)
    return ((r / (total + EPS * sign))[..., None] * counted).sum(-2)


def through_block(block: Block, x: np.ndarray, taylor: bool) -> tuple[np.ndarray, Callable[[np.ndarray, float], np.ndarray]]:
    """Return the output of a block for tokens (4, 8), and the function that passes its relevance back, in terms of relevance alone."""

    def of(layer: nn.Linear, a: np.ndarray) -> np.ndarray:
        return a @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()

    def turned(a: np.ndarray) -> np.ndarray:
        other = np.stack([-a[..., 1::2], a[..., ::2]], -1).reshape(a.shape)
        return a * block.cos.double().numpy() + other * block.sin.double().numpy()

    def turned_back(r: np.ndarray, a: np.ndarray) -> np.ndarray:
        share = r / turned(a)
        swapped = np.stack([(share * block.sin.numpy())[..., 1::2], -(share * block.sin.numpy())[..., ::2]], -1).reshape(a.shape)
        return a * (share * block.cos.numpy() + swapped)

    w, b = block.norm1.weight.detach().double().numpy(), block.norm1.bias.detach().double().numpy()
    centred, scale = x - x.mean(-1, keepdims=True), np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    n = centred / scale * w + b
    q, k, v = of(block.qkv, n).reshape(4, 3, 2, 4).transpose(1, 2, 0, 3)
    scores = turned(q) @ turned(k).transpose(0, 2, 1) / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    heads = weights @ v
    joined = heads.transpose(1, 0, 2).reshape(4, 8)
    projected = of(block.proj, joined)
    y = x + projected
    m = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * block.norm2.weight.detach().double().numpy()
    gate, up = of(block.gate, m), of(block.up, m)
    hidden = gate / (1 + np.exp(-gate)) * up
    out = y + of(block.down, hidden)

    def back(r: np.ndarray, gamma: float) -> np.ndarray:
        r_hidden = passed(hidden, block.down, r * of(block.down, hidden) / out, gamma)
        # Half to each factor of the gate; SiLU and RMSNorm pass everything.
        r_y = r * y / out + passed(m, block.gate, r_hidden / 2, gamma) + passed(m, block.up, r_hidden / 2, gamma)
        r_heads = passed(joined, block.proj, r_y * projected / y, gamma).reshape(4, 2, 4).transpose(1, 0, 2)
        share = r_heads / heads / (2 if taylor else 1)
        r_v, r_weights = v * (weights.transpose(0, 2, 1) @ share), weights * (share @ v.transpose(0, 2, 1))
        r_q = r_k = np.zeros_like(q)
        if taylor:
            r_scores = scores * (r_weights - weights * r_weights.sum(-1, keepdims=True))
            share = r_scores / scores / 4
            r_q = turned_back(turned(q) * (share @ turned(k)), q)
            r_k = turned_back(turned(k) * (share.transpose(0, 2, 1) @ turned(q)), k)
        r_n = passed(n, block.qkv, np.stack([r_q, r_k, r_v]).transpose(2, 0, 1, 3).reshape(4, 24), gamma)
        # The norm is (x - mean x) w / scale + b: a linear layer that keeps what its bias took.
        share = r_n / n * w / scale
        return r_y * x / y + x * (share - share.mean(-1, keepdims=True))

    return out, back


@pytest.mark.parametrize("gamma", [0.0, 0.1])
@pytest.mark.parametrize("method", ["AttnLRP", "CP-LRP", "LRP"])
def test_relevance_of_two_blocks_is_that_of_numpy(method: str, gamma: float) -> None:
    module = made(Tokens)
    images, targets = pictures(2, 8), [1, 4]
    model = attrlib.wrap_model(module, 8)
    expected = []
    for image, target in zip(images, targets, strict=True):
        patches = image.unfold(1, 4, 4).unfold(2, 4, 4).permute(1, 2, 0, 3, 4).reshape(4, 48).double().numpy()
        x = patches @ module.patch.weight.detach().double().flatten(1).numpy().T + module.patch.bias.detach().double().numpy()
        outputs, backs = [x], []
        for block in module.blocks:
            out, back = through_block(block, outputs[-1], method == "AttnLRP")
            outputs.append(out)
            backs.append(back)
        mean = outputs[-1].mean(0)
        logits = mean @ module.head.weight.detach().double().numpy().T + module.head.bias.detach().double().numpy()
        r = np.zeros(5)
        r[target] = logits[target]
        r = outputs[-1] / 4 * (passed(mean, module.head, r, gamma) / mean)
        for back in reversed(backs):
            r = back(r, gamma)
        r = passed(patches, module.patch, r, 2 * gamma).reshape(2, 2, 3, 4, 4)
        expected.append(torch.from_numpy(r).permute(2, 0, 3, 1, 4).reshape(3, 8, 8).sum(0, keepdim=True))
    rule = f"LRP:rule=gamma:gamma={2 * gamma}:gamma_linear={gamma}"
    text = rule if method == "LRP" else f"{method}:gamma_conv={2 * gamma}:gamma_linear={gamma}"
    found = attrlib.explain(model, images, text, targets).maps
    assert close(found, torch.stack(expected), 2e-3)
    other = "CP-LRP" if method == "AttnLRP" else "AttnLRP"
    plain = attrlib.explain(model, images, f"{other}:gamma_conv={2 * gamma}:gamma_linear={gamma}", targets).maps
    assert not close(plain, torch.stack(expected), 0.05)


# Written out, or as one function --------------------------------------------------------------------------------------------------


def geglu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3))))


def standard(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)


def deviation(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5) ** 0.5


def in_place(x: Tensor) -> Tensor:
    return x.clone().mul_(x.sigmoid())


def gated_in_place(x: Tensor) -> Tensor:
    gate = 1.0 * x.flip(-1).sigmoid()
    gate.mul_(x)
    return gate


FORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "GELU": (geglu, F.gelu),
    "GELU by tanh": (gelu_tanh, partial(F.gelu, approximate="tanh")),
    "SiLU": (lambda x: x * torch.sigmoid(x), F.silu),
    "SiLU in place": (in_place, F.silu),
    "Hardswish": (lambda x: x * F.hardsigmoid(x), F.hardswish),
    "LayerNorm": (standard, lambda x: F.layer_norm(x, x.shape[-1:])),
    "LayerNorm by variance": (deviation, lambda x: F.layer_norm(x, x.shape[-1:])),
    "RMSNorm": (lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6), lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-6)),
    "RMSNorm by product": (lambda x: x / ((x * x).mean(-1, keepdim=True) + 1e-6).sqrt(), lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-6)),
    "L2": (lambda x: x / x.norm(dim=-1, keepdim=True), lambda x: F.normalize(x, dim=-1)),
    "L2 clamped": (lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12), lambda x: F.normalize(x, dim=-1)),
    "InstanceNorm": (
        lambda x: F.instance_norm(x.transpose(1, 2)).transpose(1, 2),
        lambda x: F.group_norm(x.transpose(1, 2), 8).transpose(1, 2),
    ),
    "GLU": (lambda x: F.glu(torch.cat([x, x.flip(-1)], -1)), lambda x: x * x.flip(-1).sigmoid()),
    "product in place": (lambda x: x.clone().mul_(x.flip(-1)), lambda x: x * x.flip(-1)),
    "gate in place": (gated_in_place, lambda x: x * x.flip(-1).sigmoid()),
    "attention by einsum": (
        lambda x: torch.einsum("bqk,bkc->bqc", torch.einsum("bqc,bkc->bqk", x, x).softmax(-1), x),
        lambda x: F.scaled_dot_product_attention(x, x, x, scale=1.0),
    ),
    "attention by bmm": (
        lambda x: torch.bmm(F.softmax(torch.bmm(x, x.mT), -1), x),
        lambda x: F.scaled_dot_product_attention(x, x, x, scale=1.0),
    ),
}


class Between(nn.Module):
    """An operation between two linear layers, on tokens of 8 channels."""

    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation
        self.patch, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.operation(self.patch(x).flatten(2).transpose(1, 2)).flatten(1))


@pytest.mark.parametrize("method", ["AttnLRP", "CP-LRP", "LRP", "LibraGrad"])
@pytest.mark.parametrize("form", FORMS)
def test_an_operation_that_is_written_out_has_the_rule_of_its_function(form: str, method: str) -> None:
    written, function = (attrlib.wrap_model(made(Between, f), 8) for f in FORMS[form])
    images = pictures(2, 8)
    assert close(written(images), function(images), 1e-5)
    expected = attrlib.explain(function, images, method, [0, 3]).maps
    assert close(attrlib.explain(written, images, method, [0, 3]).maps, expected, 1e-4)


APART = (
    "LayerNorm",
    "RMSNorm",
    "RMSNorm by product",
    "InstanceNorm",
    "GLU",
    "product in place",
    "gate in place",
    "attention by einsum",
    "attention by bmm",
    "softmax",
)
"""Operations that DeepLIFT takes apart as they are written out."""
SOFTMAX = (lambda x: x.exp() / x.exp().sum(-1, keepdim=True), lambda x: x.softmax(-1))


def test_deeplift_is_refused_where_multipliers_overflow() -> None:
    norms = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8, bias=False), nn.LayerNorm(8, eps=1e-12)) for _ in range(9)))
    module = made(Between, made(lambda: norms))
    module.patch.bias.data.zero_()
    model = attrlib.wrap_model(module, 8)
    with pytest.raises(MethodError, match="from baseline=zeros, the multipliers of wrapped:Between overflow"):
        METHODS["DeepLIFT"]().check(model, model.layer("Input"))
    assert attrlib.explain(model, pictures(2, 8), "DeepLIFT", [0, 3], baseline="uniform").maps.isfinite().all()


@pytest.mark.parametrize("baseline", ["zeros", "uniform"])
@pytest.mark.parametrize("form", APART)
def test_deeplift_takes_an_operation_apart_as_it_is_written_out(form: str, baseline: str) -> None:
    forms = SOFTMAX if form == "softmax" else FORMS[form]
    written, function = (attrlib.wrap_model(made(Between, f), 8) for f in forms)
    images = 2 * pictures(2, 8)
    expected = attrlib.explain(function, images, "DeepLIFT", [0, 3], baseline=baseline).maps
    assert close(attrlib.explain(written, images, "DeepLIFT", [0, 3], baseline=baseline).maps, expected, 1e-3)


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (lambda x: x.softmax(-1), "softmax"),
        (lambda x: x.sigmoid(), "sigmoid"),
        (lambda x: x.norm(dim=-1, keepdim=True) + x, "vector norms"),
        (lambda x: x / (1 + x.flip(1).relu()), "quotients of activations"),
        (lambda x: x * (x.flip(1) + 9).relu().sqrt(), "sqrt"),
    ],
)
def test_what_weights_or_scales_nothing_is_named(operation: Callable[[Tensor], Tensor], said: str) -> None:
    model = attrlib.wrap_model(made(Between, operation), 8)
    for method in ("LRP", "CP-LRP", "LibraGrad"):
        with pytest.raises(MethodError, match=f"^{method} is not defined for {said}, which wrapped:Between has downstream of Input"):
            METHODS[method]().check(model, model.layer("Input"))
    if said in ("softmax", "sigmoid"):
        METHODS["AttnLRP"]().check(model, model.layer("Input"))


class Square(torch.autograd.Function):
    """A function of the user, whose operations torch records as one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return 2 * ctx.saved_tensors[0] * gradients[0]


@pytest.mark.parametrize("method", ["LRP", "AttnLRP", "CP-LRP", "LibraGrad", "DeepLIFT"])
def test_an_autograd_function_of_the_user_is_named(method: str) -> None:
    model = attrlib.wrap_model(made(Between, Square.apply), 8)
    with pytest.raises(MethodError, match=f"^{method} is not defined for square, which wrapped:Between has downstream of Input"):
        METHODS[method]().check(model, model.layer("Input"))


@pytest.mark.parametrize("method", ["LRP", "AttnLRP", "CP-LRP", "LibraGrad"])
def test_what_is_computed_without_gradient_is_a_constant(method: str) -> None:
    def scaled(x: Tensor) -> Tensor:
        with torch.no_grad():
            factor = x * x
        return x * factor

    model = attrlib.wrap_model(made(Between, scaled), 8)
    expected = attrlib.wrap_model(made(Between, lambda x: x * (x * x).detach()), 8)
    assert close(attrlib.explain(model, pictures(2, 8), method).maps, attrlib.explain(expected, pictures(2, 8), method).maps)


# DeepLIFT ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", ["zeros", "blur"])
@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_deeplift_sums_to_the_change_of_the_logit(family: str, baseline: str) -> None:
    model, images = zoo.member(family), zoo.pictures(family, 2)
    found = attrlib.explain(model, images, "DeepLIFT", [1, 3], baseline=baseline)
    assert max(found.diagnostics["convergence"]) < 1e-3
