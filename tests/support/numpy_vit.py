"""A vision transformer of two blocks in NumPy: its values, the slopes of its attention, and Chefer's relevance."""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.special import erf, softmax
from torch import nn

SIZE, PATCH, WIDTH, HEADS, DEPTH, TOKENS = 32, 8, 8, 2, 2, 17


def spread(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that are large enough for attention to differ, and a head that reads."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.normal_(1.0 if "norm" in name and "weight" in name else 0.0, 0.35, generator=generator)
    return module.eval()


class Net:
    """The forward pass of timm's ViT for one image, with the attention of some blocks given."""

    def __init__(self, module: nn.Module):
        self.w = {k: v.double().numpy() for k, v in module.state_dict().items()}

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def embed(self, image: np.ndarray) -> np.ndarray:
        side = SIZE // PATCH
        patches = image.reshape(3, side, PATCH, side, PATCH).transpose(1, 3, 0, 2, 4).reshape(side * side, -1)
        tokens = patches @ self.w["patch_embed.proj.weight"].reshape(WIDTH, -1).T + self.w["patch_embed.proj.bias"]
        return np.concatenate([self.w["cls_token"][0], tokens]) + self.w["pos_embed"][0]

    def run(self, image: np.ndarray, given: dict[int, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Every value of the pass by name; `logits` last."""
        v: dict[str, np.ndarray] = {"x0": self.embed(image)}
        for b in range(DEPTH):
            n = f"blocks.{b}"
            v[f"n{b}"] = self.norm(v[f"x{b}"], f"{n}.norm1")
            qkv = self.linear(v[f"n{b}"], f"{n}.attn.qkv").reshape(TOKENS, 3, HEADS, WIDTH // HEADS).transpose(1, 2, 0, 3)
            v[f"q{b}"], v[f"k{b}"], v[f"v{b}"] = qkv
            v[f"s{b}"] = qkv[0] @ qkv[1].transpose(0, 2, 1)
            v[f"a{b}"] = (given or {}).get(b, softmax(v[f"s{b}"] / math.sqrt(WIDTH // HEADS), axis=-1))
            v[f"o{b}"] = v[f"a{b}"] @ qkv[2]
            v[f"p{b}"] = v[f"o{b}"].transpose(1, 0, 2).reshape(TOKENS, WIDTH)
            v[f"r{b}"] = self.linear(v[f"p{b}"], f"{n}.attn.proj")
            v[f"y{b}"] = v[f"x{b}"] + v[f"r{b}"]
            v[f"m{b}"] = self.norm(v[f"y{b}"], f"{n}.norm2")
            v[f"h{b}"] = self.linear(v[f"m{b}"], f"{n}.mlp.fc1")
            v[f"g{b}"] = v[f"h{b}"] * (1 + erf(v[f"h{b}"] / math.sqrt(2))) / 2
            v[f"f{b}"] = self.linear(v[f"g{b}"], f"{n}.mlp.fc2")
            v[f"x{b + 1}"] = v[f"y{b}"] + v[f"f{b}"]
        v["final"] = self.norm(v[f"x{DEPTH}"], "norm")
        v["logits"] = self.linear(v["final"][0], "head")
        return v

    def gradients(self, image: np.ndarray, target: int) -> list[np.ndarray]:
        """The logit's slope in every attention weight."""
        return [self.slope(image, b, lambda v: v["logits"][target]) for b in range(DEPTH)]

    def slopes_by_block(self, image: np.ndarray, target: int) -> list[np.ndarray]:
        """The slope, in every attention weight of a block, of the logit of the mean of all tokens after this block."""

        def logit(v: dict[str, np.ndarray], b: int) -> float:
            return float(self.linear(self.norm(v[f"x{b + 1}"].mean(0), "norm"), "head")[target])

        return [self.slope(image, b, lambda v, b=b: logit(v, b)) for b in range(DEPTH)]  # type: ignore[misc]

    def slope(self, image: np.ndarray, block: int, value: Callable[[dict[str, np.ndarray]], float]) -> np.ndarray:
        """The slope of a value in every attention weight of a block, by central differences."""
        attention, step = self.run(image)[f"a{block}"], 1e-5
        slope = np.zeros_like(attention)
        for where in np.ndindex(slope.shape):
            ends = []
            for sign in (1, -1):
                moved = attention.copy()
                moved[where] += sign * step
                ends.append(value(self.run(image, {block: moved})))
            slope[where] = (ends[0] - ends[1]) / (2 * step)
        return slope

    def relevances(self, image: np.ndarray, target: int) -> list[np.ndarray]:
        """The relevance of every attention weight: the rules of Chefer et al. 2021 with alpha 1, block by block from the end."""
        v = self.run(image)
        one = np.eye(3)[target]
        r = np.zeros_like(v["final"])
        r[0] = self.through_linear(v["final"][0], "head", one)
        found: dict[int, np.ndarray] = {}
        for b in reversed(range(DEPTH)):
            n = f"blocks.{b}"
            skip, inner = through_sum(v[f"y{b}"], v[f"f{b}"], r)
            inner = self.through_linear(v[f"g{b}"], f"{n}.mlp.fc2", inner)
            r = skip + self.through_linear(v[f"m{b}"], f"{n}.mlp.fc1", inner)
            skip, inner = through_sum(v[f"x{b}"], v[f"r{b}"], r)
            inner = self.through_linear(v[f"p{b}"], f"{n}.attn.proj", inner)
            inner = inner.reshape(TOKENS, HEADS, -1).transpose(1, 0, 2)
            share = divide(inner, v[f"o{b}"])
            found[b] = v[f"a{b}"] * (share @ v[f"v{b}"].transpose(0, 2, 1)) / 2
            of_v = v[f"v{b}"] * (v[f"a{b}"].transpose(0, 2, 1) @ share) / 2
            share = divide(found[b], v[f"s{b}"])
            of_q = v[f"q{b}"] * (share @ v[f"k{b}"]) / 2
            of_k = v[f"k{b}"] * (share.transpose(0, 2, 1) @ v[f"q{b}"]) / 2
            qkv = np.stack([of_q, of_k, of_v]).transpose(2, 0, 1, 3).reshape(TOKENS, -1)
            r = skip + self.through_linear(v[f"n{b}"], f"{n}.attn.qkv", qkv)
        return [found[b] for b in range(DEPTH)]

    def through_linear(self, x: np.ndarray, name: str, r: np.ndarray) -> np.ndarray:
        w = self.w[f"{name}.weight"]
        up, down, w_up, w_down = np.maximum(x, 0), np.minimum(x, 0), np.maximum(w, 0), np.minimum(w, 0)
        share = divide(r, up @ w_up.T + down @ w_down.T)
        return up * (share @ w_up) + down * (share @ w_down)


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(b == 0, 0, a / np.where(b == 0, 1, b + np.where(b < 0, -1e-9, 1e-9)))


def through_sum(a: np.ndarray, b: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not r.any():
        return r, r
    share = divide(r, a + b)
    a, b = a * share, b * share
    magnitude = abs(a.sum()) + abs(b.sum())
    return a * abs(a.sum()) / magnitude * r.sum() / a.sum(), b * abs(b.sum()) / magnitude * r.sum() / b.sum()
