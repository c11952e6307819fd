"""CLIP and SigLIP with prompts as classes, against transformers' own logits."""

import json
from pathlib import Path
from typing import Any

import attrlib  # before timm and torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from support.clip_models import FAMILIES, reference, saved_clip, tiny_clip, tokenizer
from support.nets import pictures

from attrlib.errors import ModelError
from attrlib.models import parse_model, with_classes
from attrlib.models.embedding import embedding, text_embedding
from attrlib.models.folders.prompts import join_prompts, prompts_of, split_prompts
from attrlib.models.names import canonical

ANIMALS = ["cat", "dog", "fox"]
SENTENCES = [f"a photo of a {animal}" for animal in ANIMALS]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_clip(tmp_path_factory.mktemp("model"), family)


def load(name: str | Path, **options: Any) -> attrlib.Classifier:
    return attrlib.load_model(str(name), device="cpu", **options)


# Logits --------------------------------------------------------------------------------------------------------------------


def test_logits_are_those_of_transformers(family: str, folder: Path) -> None:
    model = load(f"clip:{folder}?classes=cat|dog|fox")
    images = pictures(2, 32)
    expected = reference(folder, images, SENTENCES)
    assert expected.std(1).min() > 0.01
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    assert model.class_names == tuple(ANIMALS)
    assert model.outputs.kind == ("softmax" if family == "CLIP" else "sigmoid")
    assert model.notes[0] == "its 3 classes are prompts in the template 'a photo of a {}'"
    assert not model.findings


def test_prompts_in_python_in_a_name_and_in_a_file_are_the_same(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join([*SENTENCES[:2], "", SENTENCES[2]]) + "\n")
    images, expected = pictures(2, 32), reference(folder, pictures(2, 32), SENTENCES)
    models = [
        load(f"clip:{folder}", prompts=SENTENCES),
        load(f"clip:{folder}", prompts=ANIMALS, template="a photo of a {}"),
        load(f"clip:{folder}?prompts={file}"),
        load(f"clip:{folder}?classes=cat|dog|fox&template=a%20photo of a {{}}"),
    ]
    for model in models:
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(load(**_arguments(model))(images), expected, rtol=1e-4, atol=1e-5)
    assert models[0].class_names == models[2].class_names == tuple(SENTENCES)
    assert models[0].digest == models[1].digest


def _arguments(model: attrlib.Classifier) -> dict[str, Any]:
    """What the text form of a model is read as."""
    spec = parse_model(model.spec.text)
    return {"name": spec.architecture, **spec.options()}


def test_templates_are_averaged_and_normalised_again(family: str, folder: Path) -> None:
    templates = ["a photo of a {}", "the art of {}", "{} drawing"]
    model = load(f"clip:{folder}", prompts=ANIMALS, template=templates)
    own = transformers.AutoModel.from_pretrained(folder).eval()
    rows = []
    for animal in ANIMALS:
        texts = [template.replace("{}", animal) for template in templates]
        read = transformers.AutoTokenizer.from_pretrained(folder)(
            texts, return_tensors="pt", padding="max_length" if family == "SigLIP" else True, max_length=24, truncation=True
        )
        with torch.no_grad():
            found = own.get_text_features(read["input_ids"], *([read["attention_mask"]] if family == "CLIP" else [])).pooler_output
        mean = (found / found.norm(dim=1, keepdim=True)).mean(0)
        rows.append(mean / mean.norm())
    torch.testing.assert_close(model.module.head.weight, own.logit_scale.exp().detach() * torch.stack(rows), rtol=1e-4, atol=1e-5)
    assert "in the templates 'a photo of a {}', 'the art of {}', '{} drawing'" in model.notes[0]


def test_images_of_another_size_get_interpolated_position_embeddings(folder: Path) -> None:
    model = load(f"clip:{folder}?classes=cat|dog", input_size=48)
    images, own = pictures(1, 48), transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        features = own.get_image_features(images, interpolate_pos_encoding=True).pooler_output
    with model.session(), torch.no_grad():
        torch.testing.assert_close(embedding(model)(model.place(images)), F.normalize(features, dim=1), rtol=1e-4, atol=1e-5)


def test_imagenet_has_a_sentence_for_each_class() -> None:
    prompts = prompts_of("clip:x?classes=imagenet")
    assert prompts is not None
    assert (len(prompts.names), len(set(prompts.texts))) == (1000, 1000)
    assert (prompts.names[0], prompts.texts[0]) == ("tench, Tinca tinca", ("a photo of a tench",))


# Embeddings ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", ["?classes=cat|dog|fox", ""])
def test_embeddings_of_images_and_texts_share_a_space(prompts: str, family: str, folder: Path) -> None:
    model = load(f"clip:{folder}{prompts}")
    images, own = model.place(pictures(2, 32)), transformers.AutoModel.from_pretrained(folder).eval()
    with model.session(), torch.no_grad():
        features = embedding(model)(images)
    text = text_embedding(model, SENTENCES[1])
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    cosine = (reference(folder, images, SENTENCES)[:, 1] - getattr(own, "logit_bias", torch.zeros(1)).item()) / own.logit_scale.exp().item()
    torch.testing.assert_close(features @ text, cosine, rtol=1e-4, atol=1e-5)
    assert embedding(model).path == ("head" if prompts else "")


def test_without_prompts_the_embedding_is_explained(folder: Path) -> None:
    model = load(f"clip:{folder}")
    assert (model.outputs.kind, model.class_names[0]) == ("features", "feature 0")
    assert f"{model.name} has no prompts: its image embeddings are explained" in model.notes[0]


# Methods -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["IG", "IxG", "Grad-CAM", "Layer-CAM", "RISE"])
def test_methods_run_through_the_normalisation(method: str, folder: Path) -> None:
    model = load(f"clip:{folder}?classes=cat|dog|fox")
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    maps = attrlib.explain(model, pictures(1, 32), method, target="dog").maps
    assert maps.isfinite().all()
    assert maps.any()
    assert all(torch.equal(value, before[key]) for key, value in model.module.state_dict().items())


@pytest.mark.parametrize("layer", ["Input", "Middle", "Final"])
def test_gradients_are_those_of_transformers_at_every_layer(layer: str, folder: Path) -> None:
    model, images = load(f"clip:{folder}?classes=cat|dog|fox"), pictures(1, 32)
    own, path, text = transformers.AutoModel.from_pretrained(folder).eval(), model.layer(layer).path, text_embedding(model, SENTENCES[2])
    outputs = [leaf := images.clone().requires_grad_()]
    if path:
        own.get_submodule(path).register_forward_hook(lambda _module, _args, output: outputs.append(output))
    features = own.get_image_features(leaf).pooler_output
    logit = own.logit_scale.exp() * (features / features.norm(dim=1, keepdim=True)) @ text
    gradient, values = torch.autograd.grad(logit.sum(), outputs[-1])[0], outputs[-1].detach()
    if path:
        # Grad-CAM, because LayerNorm makes input times gradient of a token vanish.
        cam = (gradient[:, -16:].mean(1, keepdim=True) * values[:, -16:]).sum(2).relu()
        method, expected = "Grad-CAM", cam.view(1, 1, 4, 4)
    else:
        method, expected = "IxG", (gradient * values).sum(1, keepdim=True)
    found = attrlib.explain(model, images, f"{method}@{layer}", target=2).maps
    assert expected.any()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_integrated_gradients_are_complete(folder: Path) -> None:
    model, images = load(f"clip:{folder}?classes=cat|dog|fox"), pictures(1, 32)
    change = (model(images) - model(images * 0))[0, 1]
    assert abs(change) > 0.05
    found = attrlib.explain(model, images, "IG@Input:steps=300", target=1).maps.sum()
    torch.testing.assert_close(found, change, rtol=0.02, atol=0.0)


def test_attention_methods_run_on_clip(tmp_path: Path) -> None:
    model = load(f"clip:{saved_clip(tmp_path, 'CLIP')}?classes=cat|dog|fox")
    for method in ("Rollout", "Chefer"):
        assert attrlib.explain(model, pictures(1, 32), method, target="dog").maps.any()


# Weights, heads and names --------------------------------------------------------------------------------------------------


def test_a_checkpoint_replaces_the_weights(folder: Path, tmp_path: Path) -> None:
    model = load(f"clip:{folder}?classes=cat|dog|fox")
    state = {key: value + 0.01 for key, value in model.module.state_dict().items()}
    torch.save(state, tmp_path / "tuned.pth")
    other = load(f"clip:{folder}?classes=cat|dog|fox", checkpoint=tmp_path / "tuned.pth")
    model.module.load_state_dict(state)
    torch.testing.assert_close(other(pictures(2, 32)), model(pictures(2, 32)))
    assert other.class_names == tuple(ANIMALS)
    assert other.outputs.kind == model.outputs.kind


def test_a_new_head_keeps_the_image_tower(folder: Path) -> None:
    model = load(f"clip:{folder}?classes=cat|dog|fox")
    images = pictures(2, 32)
    torch.testing.assert_close(with_classes(model, ["a", "b"], rows=[2, 0])(images), model(images)[:, [2, 0]])


def test_random_weights_read_no_tokenizer(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    one, other = (load(f"clip:{tmp_path}?classes=cat|dog", pretrained=False, seed=seed) for seed in (0, 1))
    assert one.class_names == ("cat", "dog")
    assert one.digest != other.digest


@pytest.mark.parametrize(
    "classes", [["cat", "dog"], ["a|b", "50% @ c, d & e=f?", "#1"], ["über", "猫 + 狗"], ["%7C", "a b"], ["{}", "{x}"]]
)
def test_any_text_can_be_a_class(classes: list[str], tmp_path: Path) -> None:
    from attrlib.models.folders.prompts import named_by_prompts

    name = named_by_prompts("clip:org/name", classes, "is it {}, or | not?")
    prompts = prompts_of(name)
    assert prompts is not None
    assert list(prompts.names) == classes
    assert prompts.texts[0] == (f"is it {classes[0]}, or | not?",)
    assert canonical(name) == name
    assert not {"@", ","} & set(name.partition("?")[2])
    assert parse_model(f"{name}@48x48").architecture == name


def test_options_have_one_order() -> None:
    one = canonical("clip:org/name?template={}&classes=b|a&revision=v1.0")
    assert one == "clip:org/name?revision=v1.0&classes=b|a&template={}"
    assert join_prompts(*split_prompts(one)) == one


def test_a_relative_folder_and_file_become_absolute(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.txt").write_text("cat\ndog\n")
    (tmp_path / "model").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    model = load("clip:./model?prompts=p.txt")
    assert model.spec.architecture == f"clip:{tmp_path}/model?prompts={tmp_path}/p.txt"


# What is refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("?classes=cat", "has 1 class: its logit has nothing to compare with; give two classes or more"),
        ("?classes=|", "option classes of .* is empty"),
        ("?classes=", "option classes of .* is empty"),
        ("?classes=cat|dog|cat", "class 'cat' of .* is given 2 times; keep one"),
        ("?classes=cat|dog&template=a photo", r"template 'a photo' of .* has no \{\}, so all classes are the same"),
        ("?template=a {}", "has a template but no classes"),
        ("?classes=cat|dog&classes=fox|hen", "option classes of .* is given twice"),
        ("?classes=cat|dog&prompts=x.txt", "has classes and prompts"),
        ("?class=cat|dog", "unknown option of .* 'class'. Did you mean classes"),
        ("?prompts=/nowhere/p.txt", "there is no file '/nowhere/p.txt' with prompts"),
        ("?classes=cat|" + "dog " * 30, r"has \d+ tokens, but .* reads 24; shorten it"),
    ],
)
def test_prompts_that_make_no_classes_are_refused(options: str, message: str, folder: Path) -> None:
    with pytest.raises(ModelError, match=message) as error:
        load(f"clip:{folder}{options}")
    assert "\n" not in str(error.value)


def test_prompts_for_other_models_are_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="timm:test_vit has no text side, so prompts make no classes of it"):
        load("timm:test_vit", prompts=ANIMALS)
    with pytest.raises(ModelError, match="has prompts in its name already"):
        load(f"clip:{folder}?classes=cat|dog", prompts=ANIMALS)
    with pytest.raises(ModelError, match="is one text; give a list with one for each class"):
        load(f"clip:{folder}", prompts="cat")
    with pytest.raises(ModelError, match="template makes sentences of prompts; give prompts too"):
        load(f"clip:{folder}", template="a {}")
    with pytest.raises(ModelError, match="the text is empty"):
        text_embedding(load(f"clip:{folder}?classes=cat|dog"), "  ")


def test_a_missing_tokenizer_is_named(family: str, tmp_path: Path) -> None:
    tiny_clip(family).save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"has no tokenizer, which turns texts into numbers; copy .* one of tokenizer\.json, vocab\.json with"
    ):
        load(f"clip:{tmp_path}?classes=cat|dog")
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(ModelError, match="has no tokenizer"):
        load(f"clip:{tmp_path}?classes=cat|dog")


def test_a_damaged_or_foreign_tokenizer_is_named(tmp_path: Path) -> None:
    folder = saved_clip(tmp_path, "CLIP")
    own = (folder / "tokenizer.json").read_text()
    values = json.loads(own)
    values["model"]["vocab"] = {unit: 1000 + i for unit, i in values["model"]["vocab"].items()}
    for token in values["added_tokens"]:
        token["id"] += 1000
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(ModelError, match=r"has other words than its text tower|tokenizer of .* cannot be read"):
        load(f"clip:{folder}?classes=cat|dog")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer of .* cannot be read|cannot be built by transformers"):
        load(f"clip:{folder}?classes=cat|dog")


def test_other_folders_are_named(tmp_path: Path) -> None:
    from support.hub_models import saved

    with pytest.raises(ModelError, match="holds a model of the type 'vit', not a CLIP or SigLIP with image and text towers"):
        load(f"clip:{saved(tmp_path)}?classes=cat|dog")


def test_tokenizers_differ_between_words() -> None:
    """The oracles would not notice texts that are all unknown words."""
    for family in FAMILIES:
        ids = tokenizer(family)(SENTENCES)["input_ids"]
        assert len({tuple(each) for each in ids}) == len(SENTENCES)
