"""Small random image classifiers of transformers, saved as their users save them."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
CLASSES = 5
_VIT = dict(image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=48)
_DINO = {key: value for key, value in _VIT.items() if key != "intermediate_size"}
_STAGES = dict(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1])
_HEADS = dict(hidden_sizes=[8, 16, 20, 24], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 2])
_SWIN = dict(image_size=64, patch_size=4, embed_dim=12, depths=[1, 1, 1], num_heads=[1, 2, 4], window_size=4)
_LEVIT = dict(image_size=64, hidden_sizes=[16, 24, 32], num_attention_heads=[1, 2, 2], depths=[1, 1, 1], key_dim=[8, 8, 8])
_TEXT = dict(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50, bos_token_id=1, eos_token_id=2
)
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ViT": ("ViTConfig", "ViTForImageClassification", _VIT),
    "DeiT": ("DeiTConfig", "DeiTForImageClassification", _VIT),
    "DeiT, teacher": ("DeiTConfig", "DeiTForImageClassificationWithTeacher", _VIT),
    "Swin": ("SwinConfig", "SwinForImageClassification", _SWIN),
    "Swinv2": ("Swinv2Config", "Swinv2ForImageClassification", _SWIN),
    "ConvNeXt": ("ConvNextConfig", "ConvNextForImageClassification", dict(image_size=64, **_STAGES)),
    "ConvNeXtV2": ("ConvNextV2Config", "ConvNextV2ForImageClassification", dict(image_size=64, **_STAGES)),
    "ResNet": ("ResNetConfig", "ResNetForImageClassification", dict(embedding_size=8, layer_type="basic", **_STAGES)),
    "DINOv2": ("Dinov2Config", "Dinov2ForImageClassification", _DINO),
    "DINOv2, registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersForImageClassification", _DINO),
    "BEiT": ("BeitConfig", "BeitForImageClassification", _VIT),
    "MobileViT": (
        "MobileViTConfig",
        "MobileViTForImageClassification",
        dict(image_size=64, hidden_sizes=[16, 20, 24], neck_hidden_sizes=[4, 8, 8, 12, 16, 20, 24], num_attention_heads=4),
    ),
    "EfficientNet": (
        "EfficientNetConfig",
        "EfficientNetForImageClassification",
        dict(image_size=64, width_coefficient=0.25, depth_coefficient=0.3, hidden_dim=320),
    ),
    "RegNet": ("RegNetConfig", "RegNetForImageClassification", dict(embedding_size=8, groups_width=4, **_STAGES)),
    "SegFormer": ("SegformerConfig", "SegformerForImageClassification", _HEADS),
    "LeViT": ("LevitConfig", "LevitForImageClassification", _LEVIT),
    "LeViT, teacher": ("LevitConfig", "LevitForImageClassificationWithTeacher", _LEVIT),
    "PVT": ("PvtConfig", "PvtForImageClassification", dict(image_size=64, **_HEADS)),
    "CLIP": ("CLIPConfig", "CLIPForImageClassification", dict(vision_config=_VIT, text_config=_TEXT)),
    "SigLIP": ("SiglipConfig", "SiglipForImageClassification", dict(vision_config=_VIT, text_config=_TEXT)),
}
"""Config class, model class and config values of each family."""
BACKBONES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ViT": ("ViTConfig", "ViTModel", {**_VIT, "pooler_output_size": 24}),
    "DeiT": ("DeiTConfig", "DeiTModel", {**_VIT, "pooler_output_size": 24}),
    "BEiT": ("BeitConfig", "BeitModel", _VIT),
    "Data2Vec": ("Data2VecVisionConfig", "Data2VecVisionModel", _VIT),
    "DINOv2": ("Dinov2Config", "Dinov2Model", _DINO),
    "DINOv2, registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", _DINO),
    "DINOv3": ("DINOv3ViTConfig", "DINOv3ViTModel", {**_VIT, "num_attention_heads": 2, "num_register_tokens": 2}),
    "DINOv3 ConvNeXt": ("DINOv3ConvNextConfig", "DINOv3ConvNextModel", dict(image_size=64, **_STAGES)),
    "MAE": (
        "ViTMAEConfig",
        "ViTMAEForPreTraining",
        {**_VIT, "decoder_hidden_size": 16, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 16},
    ),
    "MSN": ("ViTMSNConfig", "ViTMSNModel", _VIT),
    "I-JEPA": ("IJepaConfig", "IJepaModel", _VIT),
    "ConvNeXt": ("ConvNextConfig", "ConvNextModel", dict(image_size=64, **_STAGES)),
    "ConvNeXtV2": ("ConvNextV2Config", "ConvNextV2Model", dict(image_size=64, **_STAGES)),
    "ResNet": ("ResNetConfig", "ResNetModel", dict(embedding_size=8, layer_type="basic", **_STAGES)),
    "Swin": ("SwinConfig", "SwinModel", _SWIN),
    "Swinv2": ("Swinv2Config", "Swinv2Model", _SWIN),
    "CLIP": ("CLIPVisionConfig", "CLIPVisionModel", _VIT),
    "SigLIP": ("SiglipVisionConfig", "SiglipVisionModel", _VIT),
}
"""Config class, model class and config values of backbones without a head."""
SIZES = {"ResNet": 64, "RegNet": 64, "SegFormer": 64}
"""Input sizes of the families whose configs name none."""


def tiny(family: str = "ViT", **options: object) -> nn.Module:
    """Return a small random image classifier, whose logits are neither all alike nor huge."""
    import transformers

    config, model, values = FAMILIES[family]
    return _drawn(transformers, config, model, values, **{"num_labels": CLASSES, **options})


def tiny_backbone(family: str) -> nn.Module:
    """Return a small random backbone without a head, whose features are neither all alike nor huge."""
    import transformers

    return _drawn(transformers, *BACKBONES[family])


def _drawn(transformers: Any, config: str, model: str, values: dict[str, Any], **options: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, config)(**values)
        for name, value in options.items():
            setattr(made, name, value)
        module = getattr(transformers, model)(made).eval()
        with torch.no_grad():
            for p in module.parameters():
                if p.ndim > 1:
                    nn.init.normal_(p, std=1.2 * p[0].numel() ** -0.5)
            # Statistics of real activations: with others, the outputs of deep networks vanish.
            norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
            for m in norms:
                nn.init.ones_(m.weight)
                m.momentum = 1.0
            if norms:
                module.train()(torch.randn(4, 3, 64, 64))
            for m in norms:
                m.momentum = 0.1
    return module.eval()


def saved(folder: Path, family: str = "ViT", processor: dict[str, Any] | None = None, **options: object) -> Path:
    """Save a tiny model in a folder, with an image processor of the squashed input size unless other values are given."""
    return _with_processor(tiny(family, **options), folder, family, processor)


def saved_backbone(folder: Path, family: str) -> Path:
    """Save a tiny backbone in a folder."""
    return _with_processor(tiny_backbone(family), folder, family, None)


def _with_processor(module: Any, folder: Path, family: str, processor: dict[str, Any] | None) -> Path:
    module.save_pretrained(folder)
    if processor is None and family in SIZES:
        processor = dict(image_processor_type="ViTImageProcessor", size={"height": SIZES[family], "width": SIZES[family]})
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
