"""A small architecture of every family of backbones, for the table of methods by models."""

_SMALL = "?num_classes=10&depth=4"
_WINDOWS = "?num_classes=10&img_size=64&window_size=4"

FAMILIES = {
    "ResNet": "timm:resnet18@random:0@128x128",
    "VGG": "birds_vgg11_bn",
    "DenseNet": "timm:densenet121@random:0@128x128",
    "EfficientNet": "timm:efficientnet_b0@random:0@128x128",
    "MobileNetV4": "timm:mobilenetv4_conv_small@random:0@128x128",
    "MobileNetV4 hybrid": "timm:mobilenetv4_hybrid_medium@random:0@128x128",
    "ConvNeXt": "timm:convnext_atto@random:0@128x128",
    "MaxViT": "timm:maxvit_pico_rw_256?img_size=128@random:0",
    "ViT": f"timm:vit_tiny_patch16_224{_SMALL}&img_size=64@random:0",
    "DeiT-III": f"timm:deit3_small_patch16_224{_SMALL}&img_size=64@random:0",
    "DINOv2": f"timm:vit_small_patch14_reg4_dinov2{_SMALL}&img_size=56@random:0",
    "DINOv3": f"timm:vit_small_patch16_dinov3{_SMALL}&img_size=64@random:0",
    "EVA02": f"timm:eva02_tiny_patch14_224{_SMALL}&img_size=56@random:0",
    "SigLIP": f"timm:vit_base_patch16_siglip_224{_SMALL}&img_size=64@random:0",
    "Swin": f"timm:swin_tiny_patch4_window7_224{_WINDOWS}@random:0",
    "SwinV2": f"timm:swinv2_tiny_window8_256{_WINDOWS}@random:0",
    "CaiT": f"timm:cait_xxs24_224{_SMALL}&img_size=64@random:0",
    "BEiT": f"timm:beit_base_patch16_224{_SMALL}&img_size=64@random:0",
    "MLP-Mixer": "timm:mixer_s16_224?img_size=64&num_classes=10@random:0",
    "PoolFormer": "timm:poolformer_s12@random:0@64x64",
    "FastViT": "timm:fastvit_sa12@random:0@64x64",
    "BagNet": "birds_bagnet33",
    "B-cos": "birds_bcos_resnet18",
}
"""Text form of the instance of each family. Images are small and transformers have four blocks, because neither decides whether a method is defined."""
