"""CheferLRP through gates, rotary embeddings and convolutions, against a transcription of its rules in NumPy."""

from functools import cache

import attrlib  # before timm: it declares the operators that torchvision may lack

# isort: split
import math

import numpy as np
import pytest
import timm
import torch
from scipy.special import expit, softmax
from support.nets import pictures
from support.numpy_vit import DEPTH, HEADS, PATCH, SIZE, TOKENS, WIDTH, Net, divide, spread, through_sum
from torch import Tensor, nn

from attrlib.methods.attention.relevance import Relevance


@cache
def model(half: bool) -> attrlib.Classifier:
    """EVA02: SwiGLU and a rotary embedding of the patches, interleaved or, as in DINOv3, in halves."""
    module = timm.models.eva.Eva(
        img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, mlp_ratio=2, num_classes=3, swiglu_mlp=True,
        use_rot_pos_emb=True, global_pool="token", rope_rotate_half=half,
    )  # fmt: skip
    return attrlib.wrap_model(spread(module), SIZE)


class Rotary(Net):
    """The forward pass and the relevance of EVA02 for one image."""

    def __init__(self, module: nn.Module, half: bool):
        super().__init__(module)
        self.half = half
        embedding = module.rope.get_embed().detach().double().numpy()
        self.sin, self.cos = np.split(embedding, 2, axis=-1)

    def turned(self, x: np.ndarray) -> np.ndarray:
        """Rotate pairs of channels by 90 degrees."""
        if self.half:
            one, two = np.split(x, 2, axis=-1)
            return np.concatenate([-two, one], axis=-1)
        return np.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)

    def turned_back(self, r: np.ndarray) -> np.ndarray:
        """Move the relevance of rotated pairs of channels to those that they are from; a change of sign changes nothing."""
        if self.half:
            return np.concatenate(np.split(r, 2, axis=-1)[::-1], axis=-1)
        return np.stack([r[..., 1::2], r[..., ::2]], axis=-1).reshape(r.shape)

    def rotated(self, x: np.ndarray) -> np.ndarray:
        return np.concatenate([x[:, :1], x[:, 1:] * self.cos + self.turned(x[:, 1:]) * self.sin], axis=1)

    def rotated_back(self, x: np.ndarray, r: np.ndarray) -> np.ndarray:
        kept, turned = through_sum(x[:, 1:] * self.cos, self.turned(x[:, 1:]) * self.sin, r[:, 1:])
        return np.concatenate([r[:, :1], kept + self.turned_back(turned)], axis=1)

    def run(self, image: np.ndarray, given: dict[int, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        v: dict[str, np.ndarray] = {"x0": self.embed(image)}
        for b in range(DEPTH):
            n = f"blocks.{b}"
            v[f"n{b}"] = self.norm(v[f"x{b}"], f"{n}.norm1")
            bias = np.concatenate([self.w[f"{n}.attn.q_bias"], np.zeros(WIDTH), self.w[f"{n}.attn.v_bias"]])
            qkv = v[f"n{b}"] @ self.w[f"{n}.attn.qkv.weight"].T + bias
            v[f"q{b}"], v[f"k{b}"], v[f"v{b}"] = qkv.reshape(TOKENS, 3, HEADS, WIDTH // HEADS).transpose(1, 2, 0, 3)
            v[f"rq{b}"], v[f"rk{b}"] = self.rotated(v[f"q{b}"]), self.rotated(v[f"k{b}"])
            v[f"s{b}"] = v[f"rq{b}"] @ v[f"rk{b}"].transpose(0, 2, 1)
            v[f"a{b}"] = (given or {}).get(b, softmax(v[f"s{b}"] / math.sqrt(WIDTH // HEADS), axis=-1))
            v[f"o{b}"] = v[f"a{b}"] @ v[f"v{b}"]
            v[f"p{b}"] = v[f"o{b}"].transpose(1, 0, 2).reshape(TOKENS, WIDTH)
            v[f"r{b}"] = self.linear(v[f"p{b}"], f"{n}.attn.proj")
            v[f"y{b}"] = v[f"x{b}"] + v[f"r{b}"]
            v[f"m{b}"] = self.norm(v[f"y{b}"], f"{n}.norm2")
            gate, values = np.split(self.linear(v[f"m{b}"], f"{n}.mlp.fc1"), 2, axis=-1)
            v[f"g{b}"] = gate * expit(gate) * values
            v[f"f{b}"] = self.linear(v[f"g{b}"], f"{n}.mlp.fc2")
            v[f"x{b + 1}"] = v[f"y{b}"] + v[f"f{b}"]
        v["final"] = self.norm(v[f"x{DEPTH}"], "norm")
        v["logits"] = self.linear(v["final"][0], "head")
        return v

    def relevances(self, image: np.ndarray, target: int) -> list[np.ndarray]:
        v = self.run(image)
        r = np.zeros_like(v["final"])
        r[0] = self.through_linear(v["final"][0], "head", np.eye(3)[target])
        found: dict[int, np.ndarray] = {}
        for b in reversed(range(DEPTH)):
            n = f"blocks.{b}"
            skip, inner = through_sum(v[f"y{b}"], v[f"f{b}"], r)
            half = self.through_linear(v[f"g{b}"], f"{n}.mlp.fc2", inner) / 2
            r = skip + self.through_linear(v[f"m{b}"], f"{n}.mlp.fc1", np.concatenate([half, half], axis=-1))
            skip, inner = through_sum(v[f"x{b}"], v[f"r{b}"], r)
            inner = self.through_linear(v[f"p{b}"], f"{n}.attn.proj", inner).reshape(TOKENS, HEADS, -1).transpose(1, 0, 2)
            share = divide(inner, v[f"o{b}"])
            found[b] = v[f"a{b}"] * (share @ v[f"v{b}"].transpose(0, 2, 1)) / 2
            of_v = v[f"v{b}"] * (v[f"a{b}"].transpose(0, 2, 1) @ share) / 2
            share = divide(found[b], v[f"s{b}"])
            of_q = self.rotated_back(v[f"q{b}"], v[f"rq{b}"] * (share @ v[f"rk{b}"]) / 2)
            of_k = self.rotated_back(v[f"k{b}"], v[f"rk{b}"] * (share.transpose(0, 2, 1) @ v[f"rq{b}"]) / 2)
            qkv = np.stack([of_q, of_k, of_v]).transpose(2, 0, 1, 3).reshape(TOKENS, -1)
            r = skip + self.through_linear(v[f"n{b}"], f"{n}.attn.qkv", qkv)
        return [found[b] for b in range(DEPTH)]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("start", [0, 1])
def test_gates_and_rotary_embeddings_match_the_rules_in_numpy(half: bool, start: int) -> None:
    image, net = pictures(1, SIZE), Rotary(model(half).module, half)
    picture = image[0].double().numpy()
    with torch.no_grad():
        np.testing.assert_allclose(net.run(picture)["logits"], model(half)(image)[0].numpy(), rtol=1e-4, atol=1e-4)
    joint = np.eye(TOKENS)
    slopes, relevances = net.gradients(picture, 1), net.relevances(picture, 1)
    for b in range(start, DEPTH):
        joint = joint + np.maximum(slopes[b] * relevances[b], 0).mean(0) @ joint
    wanted = joint[0][1:].reshape(4, 4)
    found = attrlib.explain(model(half), image, "CheferLRP", 1, "patch_embed.proj", start=start).maps[0, 0].double().numpy()
    np.testing.assert_allclose(found, wanted, rtol=5e-3, atol=1e-3 * wanted.max())


class Sums(nn.Module):
    """A network whose first output is the sum of logits with weights, computed by the operations that CheferLRP has rules for."""

    def __init__(self, module: nn.Module, weights: dict[int, int]) -> None:
        super().__init__()
        self.module, self.weights = module, weights

    def forward(self, x: Tensor) -> Tensor:
        logits = self.module(x)
        total, *rest = [logits[:, k : k + 1] if sign > 0 else -logits[:, k : k + 1] for k, sign in self.weights.items()]
        for other in rest:
            total = total + other
        return torch.cat([total, logits], 1)


@pytest.mark.parametrize(
    ("target", "weights"),
    [("versus:other=1", {0: 1, 1: -1}), ("labels:classes=0+2", {0: 1, 2: 1}), ("negative", {0: -1}), ("logit", {0: 1})],
)
def test_a_sum_of_logits_has_the_relevance_of_a_network_that_computes_it(target: str, weights: dict[int, int]) -> None:
    summed = attrlib.wrap_model(Sums(model(False).module, weights), SIZE)
    images = pictures(3, SIZE)
    wanted = attrlib.explain(summed, images, "CheferLRP", 0, "module.patch_embed.proj").maps
    found = attrlib.explain(model(False), images, "CheferLRP", 0, "patch_embed.proj", method_target=target).maps
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.max()))
    alone = attrlib.explain(model(False), images[1:2], "CheferLRP", 0, "patch_embed.proj", method_target=target).maps
    torch.testing.assert_close(found[1:2], alone, rtol=1e-3, atol=1e-4 * float(wanted.max()))


# Single rules -------------------------------------------------------------------------------------------------------------------


def relevance_of(function: nn.Module, x: Tensor, relevance: Tensor) -> Tensor:
    """The relevance of the input of a function for a given relevance of its output."""
    leaf = x.clone().requires_grad_()
    with torch.enable_grad(), Relevance() as mode:
        torch.zeros(1, 2, 2, requires_grad=True).softmax(-1)
        result = function(leaf)
    assert len(mode.matrices) == 1
    return torch.autograd.grad(result, leaf, relevance)[0]


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"groups": 2, "dilation": 2}])
def test_a_convolution_has_the_rule_of_the_linear_layer_with_the_same_weights(options: dict[str, int]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, **options).double().requires_grad_(False)
    x = torch.randn(1, 4, 7, 7, dtype=torch.float64)
    relevance = torch.randn_like(layer(x))
    # Columns of the matrix of the convolution: its outputs for single pixels, without bias.
    columns = torch.eye(x.numel(), dtype=torch.float64).view(-1, 4, 7, 7)
    weight = (
        nn.functional.conv2d(columns, layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups).flatten(1).T.numpy()
    )
    values, r = x.flatten().numpy(), relevance.flatten().numpy()
    z = np.maximum(weight * values, 0)
    wanted = (z * (r / np.where(z.sum(1) == 0, 1, z.sum(1)))[:, None]).sum(0)
    np.testing.assert_allclose(relevance_of(layer, x, relevance).flatten().numpy(), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3)])
def test_a_pooling_shares_relevance_in_proportion_to_its_inputs(pool: nn.Module) -> None:
    x = torch.rand(1, 2, 6, 6, dtype=torch.float64) + 0.1
    relevance = torch.rand(1, 2, 3, 3, dtype=torch.float64)
    windows = x.view(1, 2, 3, 2, 3, 2)
    wanted = (windows / windows.sum((3, 5), keepdim=True) * relevance[:, :, :, None, :, None]).reshape(x.shape)
    assert torch.allclose(relevance_of(pool, x, relevance), wanted)


def test_quick_gelu_has_the_rule_of_an_activation() -> None:
    class Quick(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(1.702 * x)

    x, relevance = torch.randn(2, 1, 5)
    assert torch.allclose(relevance_of(Quick(), x, relevance), relevance)
