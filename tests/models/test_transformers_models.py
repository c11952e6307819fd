"""Models of transformers' format against transformers' own loading, and what is refused."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import safetensors.torch
import torch
import transformers
from support.hub_models import CLASSES, FAMILIES, saved, tiny
from support.nets import pictures
from torch import Tensor

from attrlib.errors import MethodError, ModelError
from attrlib.methods import METHODS
from attrlib.models import with_classes

SELF_ATTENTION = ("ViT", "DeiT", "DeiT, teacher", "DINOv2", "DINOv2, registers", "BEiT", "CLIP", "SigLIP")
"""Families whose blocks all attend among the same tokens."""
FOLLOWED = ("Swin", "Swinv2", "PVT")
"""Families whose tokens are merged between blocks, and can be followed."""
ATTENTION_METHODS = [name for name, cls in METHODS.items() if cls.family == "transformer"]
REFUSED = (
    dict.fromkeys(("BagNet", "B-cos"), "is the built-in explanation of")
    | dict.fromkeys(("Guided Backprop", "Guided Grad-CAM", "Deconvolution"), "is defined for ReLU networks|sums over channels to zero")
    | dict.fromkeys(("Gradient", "IxG", "SmoothGrad", "HiRes-CAM", "IG"), "sums over channels to zero")
    | dict.fromkeys(ATTENTION_METHODS, "has no attention downstream of Final|has no self-attention|whole tokens|fewer queries")
    | {
        "LeGrad": "lets the head read the output of every block|has no attention downstream of Final|has no self-attention|whole tokens|fewer queries",
        "TIS": "not a sequence of tokens|take a sequence of tokens|by their place in the sequence",
        "ViT-CX": "is not a layer of tokens",
        "DeepLIFT": "the multipliers of .* overflow|sums over channels to zero",
        "Guided IG": "the gradients of .* overflow|sums over channels to zero",
    }
)
"""Methods that may be refused, with the reason."""


def edit(folder: Path, **values: Any) -> Path:
    """Set values of config.json; None removes one."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def reference(folder: Path, images: Tensor) -> Tensor:
    """The logits of transformers' own loading."""
    with torch.no_grad():
        return transformers.AutoModelForImageClassification.from_pretrained(folder).eval()(images).logits


# Loading -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", family)
    model = attrlib.load_model(str(folder), device="cpu")
    images = pictures(2, *model.input_size)
    expected = reference(folder, images.flip(1) if family == "MobileViT" else images)
    assert expected.std() > 0.01
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert model.spec.text == f"hf:{folder}"
    assert type(model.module).__name__ == FAMILIES[family][1]
    assert [name for name, _ in model.module.named_modules()] == [name for name, _ in tiny(family).named_modules()]


def test_weights_in_parts_and_old_files_are_read(tmp_path: Path) -> None:
    whole, parts, old = saved(tmp_path / "whole"), tmp_path / "parts", tmp_path / "old"
    tiny().save_pretrained(parts, max_shard_size="20KB")
    assert len(list(parts.glob("*.safetensors"))) > 2
    shutil.copytree(whole, old)
    torch.save(safetensors.torch.load_file(old / "model.safetensors"), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    for folder in (parts, old):
        assert attrlib.load_model(str(folder), device="cpu").digest == attrlib.load_model(str(whole), device="cpu").digest


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    before = attrlib.load_model(str(folder), device="cpu").digest
    shutil.copytree(folder, tmp_path / "copy")
    assert attrlib.load_model(f"hf:{tmp_path / 'copy'}", device="cpu").digest == before
    # No module shows the range of initial weights, and another value of such a kind might matter.
    edit(folder, attention_probs_dropout_prob=0.3)
    assert attrlib.load_model(str(folder), device="cpu").digest != before


def test_half_precision_weights_are_read_as_float32(tmp_path: Path) -> None:
    tiny().half().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    model = attrlib.load_model(str(tmp_path), device="cpu")
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    assert model(pictures(1, 32)).isfinite().all()


def test_images_of_another_size_get_interpolated_position_embeddings(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    model = attrlib.load_model(str(folder), device="cpu", input_size=48)
    images = pictures(1, 48)
    with torch.no_grad():
        expected = transformers.ViTForImageClassification.from_pretrained(folder).eval()(images, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(model(images), expected)
    assert attrlib.explain(model, images, "Grad-CAM").maps.shape[2:] == (6, 6)


def test_other_weights_of_the_same_architecture(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    other = tiny("ViT", num_labels=3)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    model = attrlib.load_model(f"hf:{folder}", device="cpu", checkpoint=tmp_path / "other.pth")
    images = pictures(1, 32)
    torch.testing.assert_close(model(images), other(images).logits)
    assert model.class_names == ("class 0", "class 1", "class 2")


@pytest.mark.parametrize("family", ["ViT", "Swin", "CLIP", "BEiT"])
@pytest.mark.parametrize("form", ["safetensors", "checkpoint of a Trainer"])
def test_the_file_that_transformers_saves_is_a_checkpoint_for_its_architecture(family: str, form: str, tmp_path: Path) -> None:
    folder, other = saved(tmp_path / "model", family), tiny(family, num_labels=3)
    other.save_pretrained(tmp_path / "other")
    file = tmp_path / "other" / "model.safetensors"
    if form != "safetensors":
        torch.save({"state_dict": safetensors.torch.load_file(file), "epoch": 3}, file := tmp_path / "other.ckpt")
    model = attrlib.load_model(f"hf:{folder}", device="cpu", checkpoint=file)
    images = pictures(1, model.input_size[0])
    torch.testing.assert_close(model(images), other(images).logits)
    assert not any("left out" in note for note in model.notes)


# Classes and outputs -------------------------------------------------------------------------------------------------------


def test_class_names_are_those_of_the_config(tmp_path: Path) -> None:
    names = ["cat", "dog", "fox", "hen", "owl"]
    folder = edit(saved(tmp_path), id2label={str(i): name for i, name in enumerate(names)})
    assert attrlib.load_model(str(folder), device="cpu").class_names == tuple(names)


@pytest.mark.parametrize(
    ("problem", "labels", "outputs"),
    [
        (None, 5, "softmax"),
        ("single_label_classification", 5, "softmax"),
        ("multi_label_classification", 5, "sigmoid"),
        ("regression", 1, "scalar"),
        (None, 1, "scalar"),
        ("multi_label_classification", 1, "sigmoid"),
    ],
)
def test_the_problem_type_says_what_the_outputs_mean(problem: str | None, labels: int, outputs: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, num_labels=labels, problem_type=problem)
    assert attrlib.load_model(str(folder), device="cpu").outputs.kind == outputs


# Methods -------------------------------------------------------------------------------------------------------------------


def rollout(matrices: list[Tensor]) -> Tensor:
    """Rollout from block 1 on, with explicit products."""
    product = torch.eye(matrices[0].shape[-1])
    for matrix in matrices[1:]:
        mixed = matrix[0].mean(0) + torch.eye(matrix.shape[-1])
        product = (mixed / mixed.sum(-1, keepdim=True)) @ product
    return product


@pytest.mark.parametrize("family", SELF_ATTENTION)
def test_rollout_multiplies_the_attention_that_transformers_returns(family: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, family)
    model = attrlib.load_model(str(folder), device="cpu")
    images = pictures(1, 32)
    own = transformers.AutoModelForImageClassification.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        attentions = own(images, output_attentions=True).attentions
    prefix = attentions[0].shape[-1] - 16
    # The head of BEiT and SigLIP reads the mean of the patches, that of CLIP too, and that of DINOv2 class token and patches.
    rows = {"BEiT": range(1, 17), "SigLIP": range(16), "CLIP": range(1, 17), "DeiT, teacher": range(2)}.get(family, range(1))
    if family.startswith("DINOv2"):
        rows = [0, *range(prefix, prefix + 16)]
    expected = rollout(list(attentions))[list(rows)].mean(0)[prefix:].view(4, 4)
    found = attrlib.explain(model, images, "Rollout").maps[0, 0, ::8, ::8]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", SELF_ATTENTION)
@pytest.mark.parametrize("method", ATTENTION_METHODS)
def test_attention_methods_run_at_the_input(family: str, method: str, tmp_path: Path) -> None:
    model = attrlib.load_model(str(saved(tmp_path, family)), device="cpu")
    assert attrlib.explain(model, pictures(1, 32), method).maps.isfinite().all()


@pytest.mark.parametrize("family", FOLLOWED)
@pytest.mark.parametrize("method", ATTENTION_METHODS)
def test_attention_methods_follow_tokens_that_are_merged(family: str, method: str, tmp_path: Path) -> None:
    model = attrlib.load_model(str(saved(tmp_path, family)), device="cpu")
    images = pictures(1, *model.input_size)
    if method == "LeGrad":
        with pytest.raises(MethodError, match="LeGrad lets the head read the output of every block"):
            attrlib.explain(model, images, method)
        return
    maps = attrlib.explain(model, images, method).maps
    assert maps.isfinite().all()
    # Attention that goes to the class token of PVT, which its last stage adds, shows nothing of the image.
    assert method != "Rollout" or family == "PVT" or float(maps[..., ::8, ::8].sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {*SELF_ATTENTION, *FOLLOWED}))
def test_attention_methods_are_refused_elsewhere(family: str, tmp_path: Path) -> None:
    model = attrlib.load_model(str(saved(tmp_path, family)), device="cpu")
    with pytest.raises(MethodError, match=r"has no place in the image|whole tokens|fewer queries|has no self-attention"):
        attrlib.explain(model, pictures(1, *model.input_size), "Rollout")


@pytest.mark.parametrize("family", ["ViT", "ConvNeXt", "Swin", "SegFormer"])
def test_every_other_method_runs_or_says_why_not(family: str, tmp_path: Path) -> None:
    model = attrlib.load_model(str(saved(tmp_path, family)), device="cpu")
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    hooks = [len(m._forward_hooks) for m in model.module.modules()]
    for method in METHODS:
        for layer in ("Input", "Final"):
            try:
                maps = attrlib.explain(model, pictures(1, *model.input_size), method, layer=layer).maps
            except MethodError as error:
                reason = str(error)
                assert re.search(REFUSED[method], reason), reason
                followed = method in ATTENTION_METHODS and method != "LeGrad" and layer == "Input"
                assert not followed or family not in (*SELF_ATTENTION, *FOLLOWED)
            else:
                assert maps.isfinite().all()
    assert all(torch.equal(value, before[key]) for key, value in model.module.state_dict().items())
    assert [len(m._forward_hooks) for m in model.module.modules()] == hooks


# What is refused -----------------------------------------------------------------------------------------------------------


def refusal(name: str | Path) -> str:
    with pytest.raises(ModelError) as error:
        attrlib.load_model(str(name), device="cpu")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_model_without_a_head_is_named(tmp_path: Path) -> None:
    config = transformers.ViTConfig(**FAMILIES["ViT"][2])
    transformers.ViTModel(config).save_pretrained(tmp_path / "plain")
    # Without classes it is a backbone, whose features are explained; a number of classes needs a head.
    with pytest.raises(ModelError, match="holds ViTModel, which is not an image classifier"):
        with_classes(attrlib.load_model(str(tmp_path / "plain"), device="cpu"), ["a", "b"])
    # A list of architectures that claims a head does not make one.
    edit(tmp_path / "plain", architectures=["ViTForImageClassification"])
    message = refusal(tmp_path / "plain")
    assert "2 missing: classifier.bias, classifier.weight" in message
    assert "AutoModelForImageClassification" in message


def test_a_config_of_other_weights_is_named(tmp_path: Path) -> None:
    message = refusal(edit(saved(tmp_path / "vit"), num_hidden_layers=4))
    assert "16 missing: vit.layers.3." in message
    assert message.endswith("; give config.json and weights that were saved together")


def test_other_tasks_are_named(tmp_path: Path) -> None:
    clip = transformers.CLIPModel(transformers.CLIPConfig(**FAMILIES["CLIP"][2]))
    clip.save_pretrained(tmp_path / "clip")
    message = refusal(tmp_path / "clip")
    assert f"holds CLIPModel, which is not an image classifier; load it as clip:{tmp_path / 'clip'}?classes=A|B" in message
    folder = edit(saved(tmp_path / "detr"), model_type="detr", architectures=["DetrForObjectDetection"])
    assert "holds DetrForObjectDetection, which is not an image classifier" in refusal(folder)


def test_code_of_a_repository_is_never_run(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    folder = edit(
        saved(tmp_path / "own"), model_type="own_vit", auto_map={"AutoConfig": "code.C", "AutoModelForImageClassification": "code.M"}
    )
    (folder / "code.py").write_text(f"open({str(witness)!r}, 'w')")
    assert "comes with its own code" in refusal(folder)
    # transformers knows this type, so its own class is used whatever auto_map says.
    edit(folder, model_type="vit")
    (folder / "preprocessor_config.json").write_text(
        json.dumps(dict(image_processor_type="ViTImageProcessor", size=32, auto_map={"AutoImageProcessor": "code.P"}))
    )
    assert attrlib.load_model(str(folder), device="cpu").input_size == (32, 32)
    assert not witness.exists()


def test_settings_that_load_code_or_other_files_are_left_out(tmp_path: Path) -> None:
    folder = edit(
        saved(tmp_path), _attn_implementation="evil/kernel", attn_implementation="evil/kernel", transformers_weights="/etc/passwd",
        output_attentions=True, output_hidden_states=True, return_dict=False, dtype="float16",
    )  # fmt: skip
    model = attrlib.load_model(str(folder), device="cpu")
    assert model.module.config._attn_implementation == "eager"
    assert not any(m._forward_hooks for m in model.module.modules())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (dict(model_type="nonsense"), "does not know the model_type 'nonsense'"),
        (dict(model_type=None), "does not know the model_type 'None'"),
        (dict(quantization_config={"quant_method": "bitsandbytes"}), "is quantised"),
        (dict(hidden_size="many"), "config.json of .* is not valid"),
        (dict(hidden_size=100_000, num_attention_heads=1), r"asks for \d+ values, but its weights have \d+"),
        (dict(num_hidden_layers=10**9), "asks for 1000000000 layers"),
        (dict(intermediate_size=40), r"9 of another shape: vit\.layers\.0\.mlp\.fc1"),
        (dict(num_hidden_layers=4), "missing"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(values: dict[str, Any], reason: str, tmp_path: Path) -> None:
    folder = edit(saved(tmp_path), **values)
    with pytest.raises(ModelError, match=reason):
        attrlib.load_model(str(folder), device="cpu")


def test_random_weights_are_bounded(tmp_path: Path) -> None:
    folder = edit(saved(tmp_path), hidden_size=200_000, num_attention_heads=1)
    with pytest.raises(ModelError, match=r"at most 2000000000 can be drawn at random"):
        attrlib.load_model(f"hf:{folder}", device="cpu", pretrained=False)


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    torch.save({"classifier.weight": Path("x"), "f": print}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refusal(folder)


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert refusal(folder).endswith('hf: models need transformers, which is not installed; pip install "attrlib[hub]"')


# New heads, and lists ------------------------------------------------------------------------------------------------------


def test_a_new_head_keeps_all_other_weights(tmp_path: Path) -> None:
    model = attrlib.load_model(str(saved(tmp_path)), device="cpu")
    other = with_classes(model, ["a", "b", "c"], rows=[4, 0, 1])
    images = pictures(2, 32)
    torch.testing.assert_close(other(images), model(images)[:, [4, 0, 1]])
    assert len(model.class_names) == CLASSES
    assert other.class_names == ("a", "b", "c")


def test_repositories_are_not_listed() -> None:
    assert attrlib.list_models("hf:*") == []
