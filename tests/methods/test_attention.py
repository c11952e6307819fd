"""Transformer methods against a transcription of their formulas in NumPy, and on which models they are defined."""

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import math
from functools import cache

import numpy as np
import pytest
import timm
import torch
import torchvision
from support.nets import CLASSES, Transformer, made, pictures
from support.numpy_vit import DEPTH, HEADS, PATCH, SIZE, TOKENS, WIDTH, Net, spread
from torch import Tensor, nn

from attrlib.errors import MethodError
from attrlib.methods import METHODS, AttributionOptions, attribute
from attrlib.models.attention import Attentions
from attrlib.specs import MethodSpec

METHOD_NAMES = [name for name, cls in METHODS.items() if cls.family == "transformer"]
every_method = pytest.mark.parametrize("method", METHOD_NAMES)


def vit(**options: object) -> nn.Module:
    sizes = dict(img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, mlp_ratio=2, num_classes=3)
    return spread(timm.models.vision_transformer.VisionTransformer(**sizes | options))


@cache
def model() -> attrlib.Classifier:
    return attrlib.wrap_model(vit(), SIZE)


def expected(method: str, module: nn.Module, image: Tensor, target: int, first: int = 0, **options: int) -> np.ndarray:
    """The map (4,4) of one image, as the papers write it down; `first` is the first block behind the layer."""
    net, picture = Net(module), image.double().numpy()
    attention = [net.run(picture)[f"a{b}"] for b in range(DEPTH)]
    eye = np.eye(TOKENS)
    if method == "Raw attention":
        row = attention[options.get("block", DEPTH - 1)].mean(0)[0]
    elif method == "Attention Grad-CAM":
        slope = net.gradients(picture, target)[-1]
        row = np.maximum((attention[-1][:, 0] * slope[:, 0, 1:].mean(1)[:, None]).mean(0), 0)
    elif method == "LeGrad":
        row = np.mean(
            [np.maximum(s, 0).mean((0, 1)) for s in net.slopes_by_block(picture, target)[max(first, options.get("start", 0)) :]], axis=0
        )
    elif method == "Rollout":
        joint = eye
        for a in attention[max(first, options.get("start", 1)) :]:
            mixed = a.mean(0) + eye
            joint = mixed / mixed.sum(1, keepdims=True) @ joint
        row = joint[0]
    else:
        slopes = net.gradients(picture, target)
        values = attention if method == "Chefer" else net.relevances(picture, target)
        joint = eye
        for b in range(max(first, options.get("start", 0 if method == "Chefer" else 1)), DEPTH):
            joint = joint + np.maximum(slopes[b] * values[b], 0).mean(0) @ joint
        row = joint[0]
    return row[1:].reshape(4, 4)


OPTIONS = {
    "Raw attention": [{}, {"block": 0}],
    "Rollout": [{}, {"start": 0}],
    "Attention Grad-CAM": [{}],
    "Chefer": [{}, {"start": 1}],
    "CheferLRP": [{}, {"start": 0}],
    "LeGrad": [{}, {"start": 1}],
}


def test_every_method_has_an_oracle() -> None:
    assert set(OPTIONS) == set(METHOD_NAMES)


@pytest.mark.parametrize(("method", "options"), [(m, o) for m, several in OPTIONS.items() for o in several])
def test_maps_match_the_formulas_in_numpy(method: str, options: dict[str, int]) -> None:
    images = pictures(3, SIZE)
    found = attrlib.explain(model(), images, method, [0, 1, 2], "patch_embed.proj", **options).maps[:, 0].double().numpy()
    wanted = np.stack([expected(method, model().module, image, target, **options) for target, image in enumerate(images)])
    assert wanted.max() > 1e-4
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-4 * wanted.max())


def test_the_network_in_numpy_matches_the_model() -> None:
    images = pictures(2, SIZE)
    with torch.no_grad():
        logits = model()(images)
    for image, row in zip(images, logits, strict=True):
        np.testing.assert_allclose(Net(model().module).run(image.double().numpy())["logits"], row.numpy(), rtol=1e-4, atol=1e-5)


@every_method
def test_at_a_layer_the_blocks_downstream_of_it_are_used(method: str) -> None:
    images = pictures(1, SIZE)
    options = {"start": 0} if hasattr(METHODS[method], "start") else {}
    assert model().layer("Final").path == "blocks.0"
    found = attrlib.explain(model(), images, method, 1, "Final", **options).maps[0, 0].double().numpy()
    wanted = expected(method, model().module, images[0], 1, first=1, **options)
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-4 * np.abs(wanted).max())


@every_method
def test_at_input_every_pixel_has_the_value_of_its_patch(method: str) -> None:
    images = pictures(1, SIZE)
    patches = attrlib.explain(model(), images, method, 1, "patch_embed.proj").maps
    pixels = attrlib.explain(model(), images, method, 1).maps
    assert torch.equal(pixels, patches.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3))


@every_method
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_items_that_share_an_image_have_the_same_maps_as_alone(method: str, batch_size: int) -> None:
    images, owners, targets = pictures(2, SIZE), [0, 0, 0, 1, 1], [0, 1, 2, 2, 0]
    found = attribute(model(), MethodSpec(method), images, targets, owners=owners, options=AttributionOptions(batch_size=batch_size)).maps
    alone = torch.cat([attrlib.explain(model(), images[k], method, t).maps for k, t in zip(owners, targets, strict=True)])
    assert torch.allclose(found, alone, rtol=1e-3, atol=1e-5 * float(alone.max()))


# Other transformers ---------------------------------------------------------------------------------------------------------


def as_torchvision(module: nn.Module) -> nn.Module:
    """The same weights in torchvision's ViT, whose attention is nn.MultiheadAttention."""
    other = torchvision.models.VisionTransformer(SIZE, PATCH, DEPTH, HEADS, WIDTH, 2 * WIDTH, num_classes=3)
    names = {"norm1": "ln_1", "norm2": "ln_2", "norm.": "encoder.ln.", "blocks.": "encoder.layers.encoder_layer_", "head.": "heads.head."}
    names |= {"attn.qkv.": "self_attention.in_proj_", "attn.proj": "self_attention.out_proj", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.3"}
    names |= {"patch_embed.proj": "conv_proj", "cls_token": "class_token", "pos_embed": "encoder.pos_embedding"}
    state = {}
    for key, value in module.state_dict().items():
        for old, new in names.items():
            key = key.replace(old, new)
        state[key] = value
    other.load_state_dict(state)
    return other.eval()


@every_method
def test_torchvisions_attention_gives_the_same_maps_as_timms(method: str) -> None:
    other, images = attrlib.wrap_model(as_torchvision(model().module), SIZE), pictures(2, SIZE)
    with torch.no_grad():
        assert torch.allclose(other(images), model()(images), atol=1e-5)
    for layer in ("Input", "Final"):
        found = attrlib.explain(other, images, method, [0, 1], layer).maps
        wanted = attrlib.explain(model(), images, method, [0, 1], layer).maps
        assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.max()))


@every_method
@pytest.mark.parametrize("fused", [True, False])
def test_maps_do_not_depend_on_fused_attention_which_stays_enabled_or_disabled(method: str, fused: bool) -> None:
    module = vit()
    for block in module.blocks:
        block.attn.fused_attn = fused
    images = pictures(2, SIZE)
    found = attrlib.explain(attrlib.wrap_model(module, SIZE), images, method, 0).maps
    assert torch.allclose(found, attrlib.explain(model(), images, method, 0).maps, rtol=1e-3, atol=1e-6)
    assert all(block.attn.fused_attn is fused for block in module.blocks)


LAYOUTS = {
    "class token": (vit, {}, [0]),
    "registers": (vit, {"reg_tokens": 3}, [0]),
    "no class token": (vit, {"class_token": False, "global_pool": "avg", "fc_norm": True}, list(range(16))),
    "class token that is not read": (vit, {"global_pool": "avg", "fc_norm": True}, list(range(1, 17))),
    "distilled": (
        lambda: spread(timm.models.deit.VisionTransformerDistilled(
            img_size=SIZE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, mlp_ratio=2, num_classes=3
        )), {}, [0, 1],
    ),
    "own, one head": (lambda: spread(made(Transformer, 1, 2)), {}, [0]),
    "own, without prefix": (lambda: spread(made(Transformer, 0, 2)), {}, list(range(64))),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_prefix_tokens_and_the_tokens_that_are_read_are_inferred(name: str) -> None:
    net, options, read = LAYOUTS[name]
    module, images = net(**options), pictures(2, SIZE)
    with torch.no_grad(), Attentions() as seen:
        module(images)
    last = seen.matrices[-1] if seen.matrices[-1].ndim == 4 else seen.matrices[-1][:, None]
    side = math.isqrt(last.shape[-1])
    wanted = last.mean(1)[:, read].mean(1)[:, -side * side :].view(2, 1, side, side)
    found = attrlib.explain(attrlib.wrap_model(module, SIZE), images, "Raw attention", 0, "Middle").maps if "no" not in name else None
    pixels = attrlib.explain(attrlib.wrap_model(module, SIZE), images, "Raw attention", 0).maps
    assert found is None or torch.allclose(found, wanted, atol=1e-6)
    assert torch.allclose(pixels[..., :: SIZE // side, :: SIZE // side], wanted, atol=1e-6)
    for method in METHOD_NAMES:
        assert attrlib.explain(attrlib.wrap_model(module, SIZE), images, method, 1).maps.isfinite().all()


@every_method
def test_an_image_that_is_not_square_has_a_matching_grid_of_tokens(method: str) -> None:
    wide = attrlib.wrap_model(vit(img_size=(16, 32)), (16, 32))
    images = pictures(2, 16, 32)
    assert attrlib.explain(wide, images, method, 0).maps.shape == (2, 1, 16, 32)
    patches = attrlib.explain(wide, images, method, 0, "patch_embed.proj").maps
    assert patches.shape == (2, 1, 2, 4)
    alone = [attrlib.explain(wide, image[None], method, 0, "patch_embed.proj").maps for image in images]
    assert torch.allclose(torch.cat(alone), patches, rtol=1e-3, atol=1e-6)


# Where they are not defined -------------------------------------------------------------------------------------------------

REFUSED = {
    "timm:resnet18": (dict(), 64, "has no self-attention"),
    "timm:mixer_s32_224": (dict(img_size=64), 64, "has no self-attention"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_models_are_refused_with_the_reason(name: str) -> None:
    options, size, reason = REFUSED[name]
    refused = attrlib.wrap_model(made(lambda: timm.create_model(name.removeprefix("timm:"), num_classes=3, **options)), size)
    for method in METHOD_NAMES:
        with pytest.raises(MethodError, match=reason):
            METHODS[method]().check(refused, refused.layer("Input"))
        with pytest.raises(MethodError, match=reason):
            attrlib.explain(refused, pictures(1, size), method, 0, "Input")


@every_method
def test_a_layer_without_attention_downstream_of_it_is_refused(method: str) -> None:
    pooled = attrlib.wrap_model(spread(made(Transformer, 0, 2)), 16)
    with pytest.raises(MethodError, match=r".* has no attention downstream of Final; choose an earlier layer, or Input"):
        attrlib.explain(pooled, pictures(1, 16), method, 0, "Final")


@pytest.mark.parametrize(
    ("method", "options", "layer", "reason"),
    [
        ("Rollout", {"start": 2}, "Input", "start=2 leaves out all of the 2 blocks"),
        ("CheferLRP", {"start": 7}, "Input", "start=7 leaves out all"),
        ("Raw attention", {"block": 2}, "Input", "block=2 is not downstream of Input; choose one from 0 to 1"),
        ("Raw attention", {"block": 0}, "Final", "block=0 is not downstream of Final; choose one from 1 to 1"),
    ],
)
def test_missing_blocks_are_refused(method: str, options: dict[str, int], layer: str, reason: str) -> None:
    with pytest.raises(MethodError, match=reason):
        attrlib.explain(model(), pictures(1, SIZE), method, 0, layer, **options)


class Squared(nn.Module):
    """A transformer whose MLP squares its activations."""

    def __init__(self) -> None:
        super().__init__()
        self.net = made(Transformer, 1, 2)
        for block in self.net.blocks:
            block.mlp.register_forward_hook(lambda _m, _args, output: output.square())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_relevance_is_refused_before_anything_runs_if_a_function_has_no_rule() -> None:
    squared = attrlib.wrap_model(Squared().eval(), 16)
    with pytest.raises(MethodError, match=r"CheferLRP has no rule for square, .*; use Chefer instead"):
        METHODS["CheferLRP"]().check(squared, squared.layer("Input"))
    assert attrlib.explain(squared, pictures(1, 16), "Chefer", 0).maps.isfinite().all()


def test_attention_is_unfused_only_inside_the_context() -> None:
    q = torch.randn(1, 2, 4, 8)
    with Attentions() as seen:
        apart = nn.functional.scaled_dot_product_attention(q, q, q)
    assert len(seen.matrices) == 1
    assert torch.allclose(apart, nn.functional.scaled_dot_product_attention(q, q, q), atol=1e-6)
    assert len(seen.matrices) == 1


@pytest.mark.parametrize("causal", [True, False])
def test_masks_and_scales_apply_when_attention_is_unfused(causal: bool) -> None:
    q, k, v = torch.randn(3, 2, 2, 5, 4).unbind(0)
    masks = [None] if causal else [None, torch.rand(5, 5) > 0.3, torch.randn(5, 5)]
    for mask in masks:
        options = dict(
            attn_mask=mask if mask is None or mask.dtype != torch.bool else mask | torch.eye(5, dtype=torch.bool),
            scale=0.3,
            is_causal=causal,
        )
        with Attentions():
            apart = nn.functional.scaled_dot_product_attention(q, k, v, **options)
        assert torch.allclose(apart, nn.functional.scaled_dot_product_attention(q, k, v, **options), atol=1e-6)


def test_masked_multi_head_attention_is_refused() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.attend, self.fc = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            mask = torch.eye(x.shape[1], dtype=torch.bool)
            return self.fc(self.attend(x, x, x, attn_mask=mask)[0].mean(1))

    with pytest.raises(MethodError, match="with masks, extra keys or separate projections"):
        attrlib.explain(attrlib.wrap_model(Masked().eval(), 16), pictures(1, 16), "Rollout", 0)
