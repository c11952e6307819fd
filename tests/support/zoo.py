"""A small random member of every family of backbones that people fine-tune, built by timm with few blocks and small widths."""

from collections.abc import Callable
from functools import cache, partial

import attrlib  # before timm: it declares the operators that torchvision may lack

# isort: split
import timm
import torch
from timm.layers import GroupNorm1
from timm.models import fastvit
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.densenet import DenseNet
from timm.models.efficientnet import EfficientNet
from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitConvCfg, MaxxVitTransformerCfg
from timm.models.metaformer import MetaFormer
from timm.models.mlp_mixer import MlpMixer
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.vgg import VGG
from torch import Tensor, nn

from attrlib.models.filled import calibrate, fill
from support.numbers import SEED

CLASSES = 4
SIZE = 32
"""Height and width of images in pixels."""
LARGE = ("ResNet", "VGG", "DenseNet", "EfficientNet", "ConvNeXt", "PoolFormer", "FastViT")
"""Members that read images of twice this size, because their last stage has 1/32 of it."""

TOKENS = {"img_size": SIZE, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}
"""4 x 4 patches, three blocks of three heads."""
WINDOWS = {"img_size": SIZE, "patch_size": 4, "window_size": 4, "embed_dim": 8, "depths": (2, 2, 1), "num_heads": (1, 2, 2)}
"""8 x 8 patches in four windows, which the second block shifts, then 4 x 4 and 2 x 2 in one."""
STAGES = (8, 12, 16, 24)
"""Channels of the four stages."""


def _vit(name: str, **options: object) -> nn.Module:
    return timm.create_model(name, num_classes=CLASSES, **TOKENS | options)


def _stages(net: Callable[..., nn.Module], *stages: str, **options: object) -> nn.Module:
    return net(decode_arch_def([[block] for block in stages]), num_classes=CLASSES, stem_size=8, num_features=24, **options)


def _vgg() -> nn.Module:
    return VGG([8, "M", 12, "M", 16, 16, "M", 16, "M", 24, "M"], CLASSES, mlp_ratio=1 / 256, norm_layer=nn.BatchNorm2d)


def _maxvit() -> nn.Module:
    blocks = MaxxVitTransformerCfg(dim_head=8, window_size=(4, 4), rel_pos_type="bias_tf", act_layer="gelu_tanh")
    layers = MaxxVitConvCfg(pre_norm_act=True, padding="same", norm_layer="batchnorm2d", act_layer="gelu_tanh")
    return MaxxVit(MaxxVitCfg((8, 16), (1, 1), ("M", "M"), 8, True, layers, blocks, 16), SIZE, num_classes=CLASSES)


def _poolformer() -> nn.Module:
    options = {"downsample_norm": None, "mlp_act": nn.GELU, "mlp_bias": True, "norm_layers": GroupNorm1, "use_mlp_head": False}
    scales = {"layer_scale_init_values": 1.0, "res_scale_init_values": None}
    return MetaFormer(3, CLASSES, depths=(1, 1, 2, 1), dims=STAGES, **options, **scales)


def _fastvit() -> nn.Module:
    mixers = ("repmixer", "repmixer", "repmixer", "attention")
    positions = (None, None, None, partial(fastvit.RepConditionalPosEnc, spatial_shape=(7, 7)))
    # The heads of its attention have 32 channels.
    widths = (8, 16, 16, 32)
    return fastvit.FastVit(
        layers=(1, 1, 1, 2), embed_dims=widths, mlp_ratios=(2,) * 4, token_mixers=mixers, pos_embs=positions, num_classes=CLASSES
    )


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "ResNet": lambda: timm.create_model("resnet18", num_classes=CLASSES, layers=(1, 1, 1, 1), channels=STAGES),
    "VGG": _vgg,
    "DenseNet": lambda: DenseNet(4, (2, 2, 2, 2), CLASSES),
    "EfficientNet": lambda: _stages(
        EfficientNet, "ds_r1_k3_s1_e1_c8_se0.25", "ir_r2_k3_s2_e4_c12_se0.25", "ir_r1_k5_s2_e4_c16_se0.25", "ir_r1_k3_s2_e4_c16_se0.25",
        act_layer=nn.SiLU
    ),
    "MobileNetV4": lambda: _stages(
        MobileNetV3, "er_r1_k3_s2_e4_c8", "uir_r1_a3_k5_s2_e4_c12", "uir_r1_a0_k0_s1_e2_c12", "uir_r1_a3_k0_s1_e4_c12", head_bias=False
    ),
    "MobileNetV4 hybrid": lambda: _stages(
        MobileNetV3, "er_r1_k3_s2_e4_c8", "uir_r1_a3_k5_s2_e4_c16", "mqa_r1_k3_h2_s1_v2_d8_c16", "uir_r1_a3_k0_s1_e4_c16",
        head_bias=False, layer_scale_init_value=1.0,
    ),
    "ConvNeXt": lambda: timm.create_model("convnext_atto", num_classes=CLASSES, depths=(1, 1, 2, 1), dims=STAGES, patch_size=2),
    "MaxViT": _maxvit,
    "ViT": lambda: _vit("vit_tiny_patch16_224"),
    "DeiT-III": lambda: _vit("deit3_small_patch16_224"),
    "DINOv2": lambda: _vit("vit_small_patch14_reg4_dinov2"),
    "DINOv3": lambda: _vit("vit_small_patch16_dinov3"),
    "EVA02": lambda: _vit("eva02_tiny_patch14_224"),
    "SigLIP": lambda: _vit("vit_base_patch16_siglip_224"),
    "Swin": lambda: timm.create_model("swin_tiny_patch4_window7_224", num_classes=CLASSES, **WINDOWS),
    "SwinV2": lambda: timm.create_model("swinv2_tiny_window8_256", num_classes=CLASSES, **WINDOWS),
    "CaiT": lambda: _vit("cait_xxs24_224", patch_size=4, depth_token_only=2),
    "BEiT": lambda: _vit("beit_base_patch16_224"),
    "MLP-Mixer": lambda: MlpMixer(CLASSES, SIZE, patch_size=8, num_blocks=3, embed_dim=24),
    "PoolFormer": _poolformer,
    "FastViT": _fastvit,
}  # fmt: skip
"""Members by family. Their options keep the operations of the family, and leave few of each."""


@cache
def member(family: str) -> attrlib.Classifier:
    """Return the member of a family in evaluation mode, built once, as no computation changes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = FAMILIES[family]().eval()
    fill(module, SEED)
    images, head = pictures(family, 32, seed=2), module.get_classifier()
    calibrate(module, images)
    with torch.no_grad():
        # No probability is near 0 or 1, and every class is predicted for some image.
        head.weight /= module(images).std(0).mean()
        head.bias -= module(images).mean(0)
    return attrlib.wrap_model(module, size(family))


def size(family: str) -> int:
    """Return the height and width of a member's images."""
    return 2 * SIZE if family in LARGE else SIZE


def pictures(family: str, count: int, seed: int = 1) -> Tensor:
    """Return smooth random images (count,3,h,w) for a member: noise at several scales, so that regions differ as in photos."""
    side, generator = size(family), torch.Generator().manual_seed(seed + SEED)
    scales = (torch.randn(count, 3, cells, cells, generator=generator) for cells in (2, 4, 8, 16, side))
    return torch.stack([nn.functional.interpolate(each, size=(side, side), mode="bilinear") for each in scales]).sum(0) / 2
