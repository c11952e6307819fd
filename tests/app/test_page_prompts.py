"""The dialog that makes a classifier of CLIP by prompts: every step, what goes wrong in it, and the model on the pages."""

import json
import re
import sys
from pathlib import Path

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import pytest
import torch
import transformers
from streamlit.testing.v1 import AppTest
from support.clip_models import saved_clip
from support.pages import control, link, nodes, open_page, run, settle, titles, words
from torch.nn import functional

from pages.shared.adding import candidate

PHOTO = "sample:cat"


@pytest.fixture(autouse=True)
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the app may read, on a server where visitors may not add models."""
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.setenv("ATTRLIB_ADD_MODELS", "0")
    monkeypatch.setenv("ATTRLIB_DATA_ROOTS", str(inside))
    return inside


@pytest.fixture
def clip(roots: Path) -> Path:
    return saved_clip(roots / "clip", "CLIP")


def opened(page: str = "", button: str = "model_add", **query: object) -> AppTest:
    """A page with the dialog open at the step of prompts."""
    at = open_page(page, **query).run()
    at.button(key=button).click()
    run(at).segmented_control(key="n_source").set_value("prompts")
    return run(at)


def typed(at: AppTest, model: object, classes: str, templates: str | None = None) -> AppTest:
    control(at, "n_clip").set_value(str(model))
    control(at, "n_classes").set_value(classes)
    if templates is not None:
        control(at, "n_templates").set_value(templates)
    return settle(run(at))


def use(at: AppTest) -> AppTest:
    at.button(key="n_use_prompts").click()
    return settle(run(at))


def bars(at: AppTest) -> str:
    return str(next(n.proto.body for n in reversed(nodes(at, "html")) if "Most probable" in n.proto.body))


def expected(clip: Path, sentences: list[list[str]]) -> list[str]:
    """The probabilities that transformers' own towers give for the sentences of each class, largest first."""
    own = transformers.AutoModel.from_pretrained(clip).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip)
    pixels = attrlib.load_model(f"clip:{clip}", "cpu").preprocess(attrlib.open_image(PHOTO).image)[None]
    with torch.no_grad():
        image = functional.normalize(own.get_image_features(pixels).pooler_output, dim=1)
        rows = [
            functional.normalize(own.get_text_features(**tokenizer(texts, return_tensors="pt", padding=True)).pooler_output, dim=1).mean(0)
            for texts in sentences
        ]
        logits = own.logit_scale.exp() * image @ functional.normalize(torch.stack(rows), dim=1).T
    return [f"{p:.2f}" for p in logits[0].softmax(0).sort(descending=True).values.tolist()]


def test_typed_classes_make_a_model_that_is_shown_on_a_photo_used_on_the_page_and_restored_by_its_link(clip: Path) -> None:
    at = typed(opened(methods="IxG"), clip, "cat\ndog\n\nred, fox", "a photo of a {}\nart of {}")
    assert "3 classes of 2 prompts each: 'a photo of a cat', 'art of cat', 'a photo of a dog'" in words(at)
    right = expected(clip, [[f"a photo of a {name}", f"art of {name}"] for name in ("cat", "dog", "red, fox")])
    assert re.findall(r"<span>(0\.\d\d)</span>", bars(at)) == right
    at = use(at)
    assert control(at, "model").value == f"clip:{clip}?classes=cat|dog|red%2C fox&template=a photo of a {{}}|art of {{}}"
    assert titles(at) == ["Photo", "IxG"]
    again = settle(open_page(**link(at)))
    assert [n.value for n in nodes(again, "image")] == [n.value for n in nodes(at, "image")]
    assert bars(again) == bars(at)


def test_the_prompts_of_the_chosen_model_are_changed(clip: Path) -> None:
    at = open_page(model=f"clip:{clip}?classes=cat|dog", methods="IxG").run()
    at.button(key="model_add").click()
    at = settle(run(at))
    assert [control(at, f"n_{field}").value for field in ("clip", "classes", "templates")] == [str(clip), "cat\ndog", "a photo of a {}"]
    assert "2 classes: 'a photo of a cat', 'a photo of a dog'" in words(at)
    control(at, "n_templates").set_value("")
    assert "2 classes: 'cat', 'dog'" in words(settle(run(at)))
    assert control(use(at), "model").value == f"clip:{clip}?classes=cat|dog&template={{}}"


@pytest.mark.parametrize(
    ("page", "button", "chooser"),
    [("aggregate", "a_model_add", "a_model"), ("scores", "s_models_add", "s_models"), ("studies", "t_models_add", "t_models")],
)
def test_every_page_takes_the_model(page: str, button: str, chooser: str, clip: Path) -> None:
    at = opened(page, button)
    before = control(at, chooser).value
    name = f"clip:{clip}?classes=cat|dog&template=a photo of a {{}}"
    at = use(typed(at, clip, "cat\ndog"))
    assert control(at, chooser).value == ([*before, name] if isinstance(before, list) else name)


@pytest.mark.parametrize(
    ("classes", "templates", "says"),
    [
        ("cat", "a {}", "give two classes or more"),
        ("cat\ndog\ncat", "a {}", "class 'cat' of {model} is given 2 times"),
        ("cat\ndog", "a photo", "template 'a photo' of {model} has no {{}}"),
    ],
)
def test_prompts_that_are_not_valid_are_refused_before_a_model_is_loaded(
    classes: str, templates: str, says: str, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate, "load_model", lambda *_, **__: pytest.fail("loaded"))
    at = typed(opened(methods="IxG"), clip, classes, templates)
    assert len(at.error) == 1
    assert says.format(model=f"clip:{clip}").lower() in words(at).lower()
    assert "n_use_prompts" not in {b.key for b in at.button}


@pytest.mark.parametrize("trouble", ["no text side", "no tokenizer", "a long text", "the extra hub is missing"])
def test_what_cannot_be_loaded_is_said_before_its_weights_are_read(trouble: str, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attrlib.models.folders.transformers_clip.with_weights", lambda *_: pytest.fail("read"))
    classes = "cat\ndog"
    if trouble == "no text side":
        (clip / "config.json").write_text(json.dumps({"model_type": "vit"}))
        says = "not a CLIP or SigLIP with image and text towers"
    elif trouble == "no tokenizer":
        for file in clip.glob("*token*"):
            file.unlink()
        for file in clip.glob("vocab*"):
            file.unlink()
        says = "has no tokenizer"
    elif trouble == "a long text":
        classes, says = f"cat\n{'dog ' * 20}", "shorten it"
    else:
        monkeypatch.setitem(sys.modules, "transformers", None)
        says = 'pip install "attrlib[hub]"'
    at = typed(opened(methods="IxG"), clip, classes)
    assert len(at.error) == 1
    assert says in words(at)
    assert at.button(key="n_use_prompts").disabled


def test_a_folder_outside_the_roots_is_refused_whether_it_exists_or_not(tmp_path: Path) -> None:
    saved_clip(tmp_path / "outside", "CLIP")
    at = opened(methods="IxG")
    said = [words(typed(at, tmp_path / name, "cat\ndog")).replace(f"/{name}'", "/NAME'") for name in ("outside", "nothing")]
    assert "is not in a folder that this app may read" in said[0]
    assert said[0] == said[1]


def test_a_folder_whose_name_no_link_can_hold_is_refused(roots: Path) -> None:
    saved_clip(roots / "at@home", "CLIP")
    assert "rename the folder" in words(typed(opened(methods="IxG"), roots / "at@home", "cat\ndog"))


def test_a_full_list_of_models_takes_no_other(clip: Path) -> None:
    at = opened("scores", "s_models_add")
    chooser, most = at.session_state["n_into"]
    at.session_state[chooser] = [f"timm:resnet18@random:{seed}" for seed in range(most)]
    at = typed(at, clip, "cat\ndog")
    assert at.button(key="n_use_prompts").disabled
    assert "as many models as it takes" in words(at)
