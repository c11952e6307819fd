"""Architectures are suggested for a checkpoint from its keys and shapes, whatever its prefix, head, input size and channels."""

import sys
from typing import Any

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import timm
import torch
import torchvision

from attrlib.errors import ModelError
from attrlib.models import suggest


def outline(library: Any, name: str, **options: Any) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        make = timm.create_model if library is timm else torchvision.models.get_model
        return make(name, **options).state_dict()


CASES = {
    "torchvision:resnet18": outline(torchvision, "resnet18", num_classes=4),
    "torchvision:resnet50": outline(torchvision, "resnet50"),
    "torchvision:densenet121": outline(torchvision, "densenet121", num_classes=4),
    "torchvision:vgg11_bn": outline(torchvision, "vgg11_bn"),
    "torchvision:mobilenet_v2": outline(torchvision, "mobilenet_v2", num_classes=4),
    "torchvision:vit_b_16": outline(torchvision, "vit_b_16", image_size=96),
    "timm:vit_tiny_patch16_224": outline(timm, "vit_tiny_patch16_224", img_size=96, num_classes=4),
    "timm:vit_small_patch16_224": outline(timm, "vit_small_patch16_224", in_chans=1),
    "timm:swin_tiny_patch4_window7_224": outline(timm, "swin_tiny_patch4_window7_224"),
    "timm:convnext_tiny": outline(timm, "convnext_tiny"),
    "timm:efficientnet_b0": outline(timm, "efficientnet_b0", num_classes=4),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("prefix", ["", "model.net."])
def test_the_architecture_of_a_checkpoint_is_among_the_suggestions(name: str, prefix: str) -> None:
    assert name in suggest({prefix + key: value for key, value in CASES[name].items()}, seconds=60)


def test_only_what_fits_is_suggested() -> None:
    for found in suggest(CASES["timm:vit_tiny_patch16_224"], seconds=60):
        source, _, short = found.partition(":")
        own = outline(timm if source == "timm" else torchvision, short)
        assert own["blocks.0.attn.qkv.weight"].shape == (576, 192), found
    assert suggest({"a.weight": torch.zeros(3, 3)}) == []
    assert suggest({}) == []


def test_no_time_is_spent_after_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["attrlib.models.loading.suggestions"], "outline_of", lambda *_: pytest.fail("built"))
    assert suggest(CASES["torchvision:resnet18"], seconds=0) == []


def test_a_checkpoint_of_another_network_is_refused_with_what_it_looks_like(tmp_path: Any) -> None:
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=4).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"w\.pth does not fit this architecture .*; it looks like timm:vit_tiny_patch16_224"):
        attrlib.load_model("timm:vit_small_patch16_224", "cpu", checkpoint=tmp_path / "w.pth")
