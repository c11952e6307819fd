"""Attention methods where tokens change between blocks, against matrices among all tokens that are written out here.

The reference places the attention of windows, class attention and pooling into dense matrices by the coordinates of the architectures'
papers, merges patches by explicit averages, and takes attention and gradients from modules by hooks.
"""

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import timm
import torch
import torchvision
from support.nets import made, pictures
from torch import Tensor, nn

from attrlib.errors import MethodError
from attrlib.methods import METHODS
from attrlib.methods.attention.probe import find_blocks
from attrlib.methods.attention.provenance import slots_of
from attrlib.methods.attention.steps import Step, flow

CLASSES = 3
CHEFER = ("Chefer", "Rollout", "Raw attention", "Attention Grad-CAM")


def spread(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that are large enough for attention to differ, and attention that is computed step by step."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.normal_(1.0 if "norm" in name and "weight" in name else 0.0, 0.35, generator=generator)
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False
    return module.eval()


def attention_and_slopes(module: nn.Module, places: list[nn.Module], image: Tensor, target: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The attention that enters some modules, (windows,heads,queries,keys), and the target logit's gradient in it."""
    seen: list[Tensor] = []
    hooks = [place.register_forward_pre_hook(lambda _m, args: seen.append(args[0])) for place in places]
    for p in module.parameters():
        p.requires_grad_(False)
    logits = module(image[None].requires_grad_())
    for hook in hooks:
        hook.remove()
    slopes = torch.autograd.grad(logits[0, target], seen)
    return [(a.detach().double().numpy(), g.double().numpy()) for a, g in zip(seen, slopes, strict=True)]


# Swin -------------------------------------------------------------------------------------------------------------------------

GRID, WINDOW = 8, 4


@cache
def swin(second: bool = False) -> nn.Module:
    sizes = dict(img_size=32, patch_size=4, window_size=WINDOW, embed_dim=8, depths=(2, 2), num_heads=(2, 2), num_classes=CLASSES)
    cls = timm.models.swin_transformer_v2.SwinTransformerV2 if second else timm.models.swin_transformer.SwinTransformer
    return spread(cls(**sizes))


def dense(windows: np.ndarray, side: int, shift: int) -> np.ndarray:
    """Values (windows,...,T,T) of windows as a matrix among all side x side tokens, zero outside of the windows."""
    across = side // WINDOW
    whole = np.zeros((*windows.shape[1:-2], side * side, side * side))
    for w in range(across**2):
        top, left = w // across * WINDOW, w % across * WINDOW
        tokens = [
            (top + i // WINDOW + shift) % side * side + (left + i % WINDOW + shift) % side for i in range(WINDOW**2)
        ]  # fmt: skip
        for i, token in enumerate(tokens):
            whole[..., token, tokens] = windows[w, ..., i, :]
    return whole


def merging(side: int) -> np.ndarray:
    """The mean of 2 x 2 tokens."""
    whole = np.zeros((side * side // 4, side * side))
    for y in range(side):
        for x in range(side):
            whole[y // 2 * (side // 2) + x // 2, y * side + x] = 0.25
    return whole


def swin_matrices(module: nn.Module, image: Tensor, target: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Dense attention and slopes (heads,T,T) of all blocks."""
    blocks = [block for stage in module.layers for block in stage.blocks]
    found = attention_and_slopes(module, [block.attn.attn_drop for block in blocks], image, target)
    shapes = [(GRID, 0), (GRID, WINDOW // 2), (GRID // 2, 0), (GRID // 2, 0)]
    return [tuple(dense(v, *shape) for v in pair) for pair, shape in zip(found, shapes, strict=True)]  # type: ignore[misc]


def swin_map(method: str, module: nn.Module, image: Tensor, target: int) -> np.ndarray:
    blocks = swin_matrices(module, image, target)
    if method == "Raw attention":
        return blocks[-1][0].mean(0).mean(0).reshape(4, 4)
    if method == "Attention Grad-CAM":
        a, g = blocks[-1]
        return np.maximum((a * g.mean(-1, keepdims=True)).mean((0, 1)), 0).reshape(4, 4)
    rows = np.full((1, 16), 1 / 16)
    for k in (3, 2, 1, 0):
        a, g = blocks[k]
        rows = rows @ (a.mean(0) / 2 + np.eye(len(a[0])) / 2 if method == "Rollout" else np.eye(len(a[0])) + np.maximum(a * g, 0).mean(0))
        rows = rows @ merging(GRID) if k == 2 else rows
    return rows.reshape(GRID, GRID)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("method", CHEFER)
def test_swins_windows_and_merged_patches_compose_as_dense_matrices(method: str, second: bool) -> None:
    model, images = attrlib.wrap_model(swin(second), 32), pictures(2, 32)
    options = {"start": 0} if method == "Rollout" else {}
    found = attrlib.explain(model, images, method, [0, 2], **options).maps[:, 0].double().numpy()
    for image, target, one in zip(images, (0, 2), found, strict=True):
        wanted = swin_map(method, swin(second), image, target)
        step = 32 // len(wanted)
        np.testing.assert_allclose(one[::step, ::step], wanted, rtol=1e-3, atol=1e-4 * wanted.max())
        assert (one == np.kron(one[::step, ::step], np.ones((step, step)))).all()


def test_raw_attention_of_a_shifted_block_is_the_mean_over_its_queries() -> None:
    image = pictures(1, 32)
    found = attrlib.explain(attrlib.wrap_model(swin(), 32), image, "Raw attention", 0, block=1).maps[0, 0, ::4, ::4].double().numpy()
    np.testing.assert_allclose(found, swin_matrices(swin(), image[0], 0)[1][0].mean((0, 1)).reshape(GRID, GRID), rtol=1e-4)


def torchvision_swin() -> nn.Module:
    return spread(torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [WINDOW, WINDOW], num_classes=CLASSES))


@pytest.mark.parametrize("net", [swin, torchvision_swin])
def test_tokens_of_one_window_get_nothing_from_another(net: Callable[[], nn.Module]) -> None:
    model = attrlib.wrap_model(net(), 32)
    with model.session():
        blocks = find_blocks(model, model.layer("Input"), (32, 32))
    straight, shifted = blocks.steps[:2]
    ones = torch.ones(4, 1, WINDOW**2, WINDOW**2)
    for step, offset in ((straight, 0), (shifted, 2)):
        for token in range(GRID**2):
            seen = step.rows(ones, [token])[0, 0, 0].view(GRID, GRID)
            y, x = (token // GRID - offset) % GRID // WINDOW, (token % GRID - offset) % GRID // WINDOW
            wanted = torch.zeros(GRID, GRID)
            wanted[WINDOW * y : WINDOW * (y + 1), WINDOW * x : WINDOW * (x + 1)] = 1
            assert torch.equal(seen, wanted.roll((offset, offset), (0, 1)))


@pytest.mark.parametrize("net", ["swin", "siglip", "torchvision"])
def test_rows_of_rollout_sum_to_one(net: str) -> None:
    module = {"swin": swin, "siglip": siglip, "torchvision": torchvision_swin}[net]()
    maps = attrlib.explain(attrlib.wrap_model(module, 32), pictures(3, 32), "Rollout", 0, start=0).maps
    size = 8 if net == "siglip" else 4
    assert torch.allclose(maps[..., ::size, ::size].sum((1, 2, 3)), torch.ones(3), atol=1e-5)


def test_attention_that_goes_to_padding_is_left_out() -> None:
    sizes = dict(img_size=24, patch_size=4, window_size=4, embed_dim=8, depths=(2,), num_heads=(2,), num_classes=CLASSES)
    module = spread(timm.models.swin_transformer.SwinTransformer(**sizes))
    seen: list[Tensor] = []
    hook = module.layers[0].blocks[0].attn.attn_drop.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    image = pictures(1, 24)
    with torch.no_grad():
        module(image)
    hook.remove()
    padded = np.zeros((8, 8))
    for query in range(16):
        for w in range(4):
            y, x = w // 2 * 4 + query // 4, w % 2 * 4 + query % 4
            if y < 6 and x < 6:
                padded[w // 2 * 4 : w // 2 * 4 + 4, w % 2 * 4 : w % 2 * 4 + 4] += seen[0][w].mean(0)[query].view(4, 4).numpy()
    found = attrlib.explain(attrlib.wrap_model(module, 24), image, "Raw attention", 0, block=0).maps[0, 0, ::4, ::4]
    np.testing.assert_allclose(found.numpy(), padded[:6, :6] / 36, rtol=1e-4)
    assert found.sum() < 0.95


# Attention pooling (SigLIP) ------------------------------------------------------------------------------------------------------


@cache
def siglip() -> nn.Module:
    sizes = dict(img_size=32, patch_size=8, embed_dim=8, depth=2, num_heads=2, mlp_ratio=2, num_classes=CLASSES, class_token=False)
    return spread(timm.models.vision_transformer.VisionTransformer(**sizes, global_pool="map"))


def pooled(module: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of tokens after the last block, and the attention (1,heads,1,T) of the learned query."""
    pool = module.attn_pool
    x = module.norm(tokens)
    k, v = pool.kv(x).view(1, -1, 2, pool.num_heads, pool.head_dim).permute(2, 0, 3, 1, 4)
    q = pool.q(pool.latent).view(1, 1, pool.num_heads, pool.head_dim).transpose(1, 2)
    attention = (q @ k.transpose(-2, -1) / math.sqrt(pool.head_dim)).softmax(-1)
    y = pool.proj((attention @ v).transpose(1, 2).reshape(1, 1, -1))
    return module.head(module.fc_norm((y + pool.mlp(pool.norm(y)))[:, 0])), attention


def siglip_values(image: Tensor, target: int) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[np.ndarray]]:
    """Attention and slopes of both blocks and the pooling, and the slopes in the pooling of the tokens after each block."""
    module = siglip()
    found = attention_and_slopes(module, [block.attn.attn_drop for block in module.blocks], image, target)
    tokens = module.pos_drop(module.patch_embed(image[None]) + module.pos_embed)
    slopes = []
    for block in module.blocks:
        tokens = block(tokens)
        logits, attention = pooled(module, tokens.detach().requires_grad_())
        slopes.append(torch.autograd.grad(logits[0, target], attention)[0][0].double().numpy())
    assert torch.allclose(logits, module(image[None]), atol=1e-5)
    last = attention[0].detach().double().numpy()
    return [*((a[0], g[0]) for a, g in found), (last, slopes[-1])], slopes


@pytest.mark.parametrize("method", [*CHEFER, "LeGrad"])
def test_the_query_of_an_attention_pooling_is_the_last_step(method: str) -> None:
    image = pictures(1, 32, seed=5)
    options = {"start": 0} if method == "Rollout" else {}
    found = attrlib.explain(attrlib.wrap_model(siglip(), 32), image, method, 1, **options).maps[0, 0, ::8, ::8].double().numpy()
    (*blocks, (a, g)), slopes = siglip_values(image[0], 1)
    if method == "LeGrad":
        row = np.mean([np.maximum(s, 0).mean(0)[0] for s in slopes], axis=0)
    elif method == "Raw attention":
        row = a.mean(0)[0]
    elif method == "Attention Grad-CAM":
        row = np.maximum((a * g.mean(-1, keepdims=True)).mean(0)[0], 0)
    else:
        row = a.mean(0)[0] if method == "Rollout" else np.maximum(a * g, 0).mean(0)[0]
        for x, y in reversed(blocks):
            row = row @ ((x.mean(0) + np.eye(16)) / 2 if method == "Rollout" else np.eye(16) + np.maximum(x * y, 0).mean(0))
    assert row.max() > 0
    np.testing.assert_allclose(found, row.reshape(4, 4), rtol=1e-3, atol=1e-4 * row.max())


def test_a_block_before_an_attention_pooling_is_read_by_all_its_queries() -> None:
    image = pictures(1, 32)
    found = attrlib.explain(attrlib.wrap_model(siglip(), 32), image, "Raw attention", 1, block=0).maps[0, 0, ::8, ::8].double().numpy()
    np.testing.assert_allclose(found, siglip_values(image[0], 1)[0][0][0].mean((0, 1)).reshape(4, 4), rtol=1e-4)


# Class attention (CaiT) ---------------------------------------------------------------------------------------------------------


@cache
def cait() -> nn.Module:
    sizes = dict(img_size=32, patch_size=8, embed_dim=8, depth=2, num_heads=2, mlp_ratio=2, num_classes=CLASSES, init_values=1.0)
    return spread(timm.models.cait.Cait(**sizes))


@pytest.mark.parametrize("method", CHEFER)
def test_class_attention_is_a_step_of_the_class_token_alone(method: str) -> None:
    image, module = pictures(1, 32), cait()
    options = {"start": 0} if method == "Rollout" else {}
    found = attrlib.explain(attrlib.wrap_model(module, 32), image, method, 1, **options).maps[0, 0, ::8, ::8].double().numpy()
    # The softmax of a patch block enters the mixing of heads as (1,T,T,heads).
    places = [block.attn.proj_w for block in module.blocks] + [block.attn.attn_drop for block in module.blocks_token_only]
    values = attention_and_slopes(module, places, image[0], 1)
    patches = [tuple(v[0].transpose(2, 0, 1) for v in pair) for pair in values[:2]]
    tokens = [tuple(v[0] for v in pair) for pair in values[2:]]
    a, g = tokens[-1]
    if method == "Raw attention":
        row = a.mean(0)[0]
    elif method == "Attention Grad-CAM":
        row = np.maximum((a * g[..., 1:].mean(-1, keepdims=True)).mean(0)[0], 0)
    else:
        row = np.eye(17)[0]
        for x, y in reversed(tokens):
            matrix = np.eye(17)
            if method == "Rollout":
                matrix[0] = (x.mean(0)[0] + np.eye(17)[0]) / 2
            else:
                matrix[0] += np.maximum(x * y, 0).mean(0)[0]
            row = row @ matrix
        for x, y in reversed(patches):
            row[1:] = row[1:] @ ((x.mean(0) + np.eye(16)) / 2 if method == "Rollout" else np.eye(16) + np.maximum(x * y, 0).mean(0))
    assert row[1:].max() > 0
    np.testing.assert_allclose(found, row[1:].reshape(4, 4), rtol=1e-3, atol=1e-4 * row[1:].max())


# All of them ----------------------------------------------------------------------------------------------------------------------

NETS: dict[str, Callable[[], nn.Module]] = {"swin": swin, "swin v2": lambda: swin(True), "siglip": siglip, "cait": cait}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", [name for name, cls in METHODS.items() if cls.family == "transformer"])
def test_batches_items_and_layers(method: str, name: str) -> None:
    model, images = attrlib.wrap_model(NETS[name](), 32), pictures(3, 32)
    if method == "LeGrad" and name != "siglip":
        with pytest.raises(MethodError, match="LeGrad lets the head read the output of every block"):
            attrlib.explain(model, images, method, 0)
        return
    for layer in ("Input", "layers.0.blocks.0" if name.startswith("swin") else "blocks.0"):
        together = attrlib.explain(model, images, method, [0, 1, 2], layer).maps
        assert together.isfinite().all()
        for batch in (1, 2):
            found = attrlib.explain(model, images, method, [0, 1, 2], layer, batch_size=batch).maps
            # The rules of CheferLRP divide by sums that may nearly cancel.
            assert torch.allclose(found, together, rtol=1e-2, atol=(1e-3 if method == "CheferLRP" else 1e-5) * float(together.max()))


def test_shares_of_pooled_keys_are_equal_and_a_token_that_asks_nothing_stays_what_it_is() -> None:
    layout = attrlib.models.Layout("tokens", 8, 2, 2)
    step = Step(layout, keys=torch.tensor([0, 0, 1, 1]), queries=torch.tensor([0, -1, -1, 1]))
    matrix = torch.tensor([[[0.25, 0.75], [1.0, 0.0]]])
    dense = torch.tensor([[0.125, 0.125, 0.375, 0.375], [0, 0, 0, 0], [0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    kept = torch.diag(torch.tensor([0.5, 1, 1, 0.5]))
    assert torch.allclose(step.back(torch.eye(4), matrix, 0.5)[0], dense + kept)
    assert torch.equal(step.rows(matrix[:, None], [0, 3])[0, 0], dense[[0, 3]])


def test_a_position_that_feeds_a_second_slot_ever_so_slightly_is_noticed() -> None:
    source = torch.randn(1, 4, 6, requires_grad=True)
    slots = torch.arange(4).view(1, 4, 1)
    order = [2, 0, 3, 1]
    clean = source[:, order].tanh()
    layout = attrlib.models.Layout("tokens", 6, 2, 2)
    assert slots_of(clean, slots * 30, source, layout).tolist() == [30, 90, 0, 60]
    assert slots_of(clean[:, :2], slots[:, :2], source, layout).tolist() == [1, -1, 0, -1]
    # Through a channel of its own, so that the ratio of the two gradients stays near a whole number.
    leaky = torch.cat([clean[..., :5], 0.01 * source.roll(1, 1)[..., 5:]], dim=-1)
    assert slots_of(leaky, slots * 30, source, layout) is None


def test_flow_divides_merged_tokens_equally() -> None:
    layout, coarse = attrlib.models.Layout("tokens", 8, 2, 4), attrlib.models.Layout("tokens", 8, 1, 2)
    merged = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    blocks = attrlib.methods.attention.steps.Blocks(0, (Step(layout), Step(coarse, merged=merged)), (1,))
    nothing = [torch.zeros(1, 8, 8), torch.zeros(1, 2, 2)]
    assert torch.equal(flow(nothing, blocks, 0), torch.tensor([[0, 0, 0.25, 0.25, 0, 0, 0.25, 0.25]]))


# What is refused ------------------------------------------------------------------------------------------------------------------

REFUSED = {
    "maxvit_rmlp_pico_rw_256": (dict(img_size=64, depths=(1, 1, 1, 1)), 64, "do not consist of whole tokens of block 1"),
    "xcit_nano_12_p16_224": (dict(depth=2), 64, "the keys of block 0 of .* are not the positions of a layer"),
    "pvt_v2_b0": (dict(), 64, "mixes its tokens between blocks 0 and 1 other than by attention"),
    "levit_128s": (dict(), 224, "has fewer queries than tokens"),
    "gcvit_xxtiny": (dict(), 224, "the queries of block 1 of .* are not the tokens that it attends to"),
    "nest_tiny": (dict(), 224, "the attention of block 0 of .* is not softmax"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_whose_tokens_cannot_be_followed_are_refused_with_the_reason(name: str) -> None:
    options, size, reason = REFUSED[name]
    model = attrlib.wrap_model(made(lambda: timm.create_model(name, num_classes=CLASSES, **options)), size)
    for method in [name for name, cls in METHODS.items() if cls.family == "transformer"]:
        with pytest.raises(MethodError, match=f"{reason}.*use a gradient, CAM or perturbation method instead"):
            METHODS[method]().check(model, model.layer("Input"))


class Convolved(nn.Module):
    """A block that ends with a convolution over its tokens."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.conv = block, nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        return x + self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def test_a_convolution_between_windows_is_refused() -> None:
    sizes = dict(img_size=32, patch_size=4, window_size=WINDOW, embed_dim=8, depths=(2,), num_heads=(2,), num_classes=CLASSES)
    module = spread(timm.models.swin_transformer.SwinTransformer(**sizes))
    module.layers[0].blocks[0] = Convolved(module.layers[0].blocks[0])
    model = attrlib.wrap_model(spread(module), 32)
    with pytest.raises(MethodError, match="mixes its tokens between blocks 0 and 1 other than by attention"):
        attrlib.explain(model, pictures(1, 32), "Rollout", 0)


class ImagesInside(nn.Module):
    """A Swin whose windows are sorted by their place first, and by the image second."""

    def __init__(self) -> None:
        super().__init__()
        self.net = swin()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_windows_that_images_share_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = timm.models.swin_transformer.WindowAttention.forward

    def interleaved(self: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
        order = torch.arange(len(x)).view(-1, 4).T.flatten() if mask is None and len(x) % 4 == 0 else torch.arange(len(x))
        return original(self, x[order], mask)[order.argsort()]

    monkeypatch.setattr(timm.models.swin_transformer.WindowAttention, "forward", interleaved)
    model = attrlib.wrap_model(ImagesInside(), 32)
    with pytest.raises(MethodError, match="mixes the windows of its images"):
        attrlib.explain(model, pictures(2, 32), "Rollout", 0)
