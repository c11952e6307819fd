"""Backbones of transformers without a head against transformers' own loading."""

import json
from pathlib import Path
from typing import Any

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import safetensors.torch
import timm
import torch
import transformers
from support.hub_models import BACKBONES, saved_backbone
from support.nets import pictures
from torch import Tensor

from attrlib.errors import ModelError, ProtocolError
from attrlib.models.embedding import embedding

# The feature of each family: the pooled output of transformers, the class token, or the mean of the patches.
CLASS_TOKEN = ("MAE", "MSN", "Data2Vec")


def expected(folder: Path, family: str, images: Tensor) -> Tensor:
    options: dict[str, Any] = {"mask_ratio": 0.0} if family == "MAE" else {}
    own = transformers.AutoModel.from_pretrained(folder, **options).eval()
    with torch.no_grad():
        output = own(images)
    if family in CLASS_TOKEN:
        return output.last_hidden_state[:, 0]
    return output.last_hidden_state.mean(1) if family == "I-JEPA" else output.pooler_output.flatten(1)


@pytest.mark.parametrize("family", BACKBONES)
def test_features_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    folder = saved_backbone(tmp_path, family)
    model = attrlib.load_model(str(folder), device="cpu")
    images = pictures(2, *model.input_size)
    features = expected(folder, family, images)
    assert (features[0] - features[1]).abs().max() > 1e-3
    torch.testing.assert_close(model(images), features, rtol=1e-4, atol=1e-5)
    assert (model.outputs.kind, model.class_names[1]) == ("features", "feature 1")
    assert model.notes[0] == f"{model.name} has no classes: its features are explained"
    assert not model.findings
    with model.session():
        torch.testing.assert_close(embedding(model)(images), features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["ViT", "DINOv2, registers", "MAE", "I-JEPA", "ConvNeXt"])
@pytest.mark.parametrize("method", ["IG@Input:steps=4", "Grad-CAM@Final", "IxG@Middle:channels=abs-sum"])
def test_methods_explain_a_feature(family: str, method: str, tmp_path: Path) -> None:
    model = attrlib.load_model(str(saved_backbone(tmp_path, family)), device="cpu")
    maps = attrlib.explain(model, pictures(1, *model.input_size), method, target=3).maps
    assert maps.isfinite().all()
    assert maps.any()


def test_the_patches_of_a_masked_autoencoder_stay_at_their_places(tmp_path: Path) -> None:
    model = attrlib.load_model(str(saved_backbone(tmp_path, "MAE")), device="cpu")
    images = pictures(2, 32)
    module: Any = model.module
    read: list[Tensor] = []
    handle = module.layers[0].register_forward_pre_hook(lambda _, args: read.append(args[0]))
    with torch.no_grad():
        model(images)
        patches = module.embeddings.patch_embeddings(images) + module.embeddings.position_embeddings[:, 1:]
    handle.remove()
    torch.testing.assert_close(read[-1][:, 1:], patches)


def test_without_weights_of_a_pooling_layer_the_class_token_is_the_feature(tmp_path: Path) -> None:
    folder = saved_backbone(tmp_path, "ViT")
    state = safetensors.torch.load_file(folder / "model.safetensors")
    file = {key: value for key, value in state.items() if not key.startswith("pooler")}
    assert len(file) < len(state)
    safetensors.torch.save_file(file, folder / "model.safetensors", {"format": "pt"})
    model = attrlib.load_model(str(folder), device="cpu")
    images = pictures(2, 32)
    own = transformers.ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images), own(images).last_hidden_state[:, 0])
    assert model.notes[1] == f"the weights of {model.name} have no pooling layer: its features are the class token"


def test_position_embeddings_are_interpolated_for_another_size(tmp_path: Path) -> None:
    folder = saved_backbone(tmp_path, "MAE")
    model = attrlib.load_model(str(folder), device="cpu", input_size=48)
    images = pictures(1, 48)
    own = transformers.ViTMAEModel.from_pretrained(folder, mask_ratio=0.0).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(images), own(images, interpolate_pos_encoding=True).last_hidden_state[:, 0])


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = saved_backbone(tmp_path, "DINOv2")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(ModelError, match=r"do not fit Dinov2Model \(\d+ missing: .*give config.json and weights that were saved together"):
        attrlib.load_model(str(folder), device="cpu")


def test_features_have_no_probability() -> None:
    model = attrlib.load_model("timm:test_vit?num_classes=0", "cpu", pretrained=False)
    assert model.outputs.kind == "features"
    with pytest.raises(ProtocolError, match="has no probability"):
        model.probabilities(model(pictures(1, *model.input_size)))


def test_a_folder_of_timm_without_classes_returns_features(tmp_path: Path) -> None:
    module = timm.create_model("test_vit", num_classes=0).eval()
    timm.models.save_for_hf(module, str(tmp_path))
    model = attrlib.load_model(str(tmp_path), device="cpu")
    images = pictures(2, *model.input_size)
    with torch.no_grad():
        torch.testing.assert_close(model(images), module(images))
    assert (model.outputs.kind, len(model.class_names)) == ("features", module.num_features)
