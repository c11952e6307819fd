"""Targets in the app: chosen beside the class, named in tiles, links and code, refused with the reason, and offered where scores allow them."""

import attrlib  # before torchvision: it declares the operators that torchvision may lack

# isort: split
import io
import shlex
import zlib

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest
from support.nets import Plain, made
from support.pages import control, heads, link, nodes, open_page, settle, targets, texts, titles
from typer.testing import CliRunner

import attrlib.cli
import pages.shared.jobs
from attrlib.data.samples import open_sample
from attrlib.methods import PRESETS, resolve
from attrlib.registry import params_of
from attrlib.specs import ExplainSpec, MethodSpec, TargetSpec
from attrlib.targets import TARGETS, similarity
from pages.inspect.choice import DEFAULT
from pages.shared import selection

METHODS = "IxG,Gradient"
NAMES = ("ant", "bee", "cat", "dog", "elk")


class Small:
    """Small networks behind the checkpoints that links name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: int):
        self.first = first
        self.models: dict[str | None, attrlib.Classifier] = {}
        monkeypatch.setattr(pages.shared.jobs, "load_model", lambda _name, checkpoint=None, **_options: self.models[checkpoint])

    def add(self, **options) -> str:
        seed = self.first + len(self.models)
        checkpoint = f"random:{seed}"
        self.models[checkpoint] = attrlib.wrap_model(made(Plain, seed=seed), 32, **({"class_names": NAMES} | options))
        return checkpoint


@pytest.fixture
def small(monkeypatch, request) -> Small:
    # Tests of one process share their jobs, so each has weights of its own.
    return Small(monkeypatch, 10 * zlib.crc32(request.node.name.encode()) % 2**30)


def opened(checkpoint: str, **query: str) -> AppTest:
    return settle(open_page(**({"model": "efficientnet_lite0", "checkpoint": checkpoint, "methods": METHODS, "target": "2"} | query)))


def arrays(at: AppTest) -> list[str]:
    return [str(n.value) for n in nodes(at, "image")][1:]


def methods_of(at: AppTest) -> list[MethodSpec]:
    return [resolve(method) for method in ExplainSpec.read_link(link(at), DEFAULT)[0].methods]


# Inspect


def test_the_logit_is_explained_at_first_and_nothing_says_so(small):
    at = opened(small.add())
    assert control(at, "explained").value == "logit"
    assert "target=" not in link(at)["methods"]
    assert heads(at)[0] == ("Photo", "cat")
    assert targets(at) == []


@pytest.mark.parametrize(
    ("target", "phrase"),
    [
        ("probability", "probability of cat"),
        ("contrast:k=2:by=logits:strength=0.5", "cat rather than similar classes"),
        ("versus:other=4", "cat rather than elk"),
        ("labels:classes=0+3", "ant + dog"),
        ("negative", "against cat"),
        ("similarity:to=sample:coffee", "similarity to sample:coffee"),
        ("channel:layer=Final:index=3", "channel 3 of Final"),
        ("neuron:layer=Final:index=3:row=1:column=2", "channel 3 of Final at row 1, column 2"),
    ],
)
def test_every_target_is_named_in_the_tiles_and_restored_from_a_link(target, phrase, small):
    checkpoint = small.add()
    at = opened(checkpoint, methods=",".join(f"{name}:target={target}" for name in METHODS.split(",")))
    assert control(at, "explained").value == target.partition(":")[0]
    assert control(at, "methods").value == METHODS.split(",")
    assert heads(at)[0] == ("Photo", phrase)
    named = target.replace("other=4", "other=elk").replace("classes=0+3", "classes=ant+dog")
    assert targets(at) == ["", named, named]
    assert methods_of(at) == [resolve(MethodSpec.parse(f"{name}:target={target}")) for name in METHODS.split(",")]
    again = settle(open_page(**link(at)))
    assert link(again) == link(at)
    assert arrays(again) == arrays(at)
    assert not set(arrays(at)) & set(arrays(opened(checkpoint)))


def test_every_parameter_of_every_target_has_a_control(small):
    at = opened(small.add())
    for name, cls in TARGETS.items():
        control(at, "explained").set_value(name)
        at = settle(at)
        for param in params_of(cls):
            assert control(at, f"explained_{name}_{param.name}").help.startswith(f"{param.help}.")


def test_a_new_target_starts_with_what_makes_sense_for_the_picture(small):
    checkpoint = small.add()
    model = small.models[checkpoint]
    probabilities = model(model.preprocess(open_sample("cat").image)[None])[0]
    best = next(k for k in probabilities.argsort(descending=True).tolist() if k != 2)
    at = opened(checkpoint)
    for name, start in (("versus", f"other={best}"), ("labels", "classes=2"), ("channel", "layer=Final:index=0")):
        control(at, "explained").set_value(name)
        at = settle(at)
        assert methods_of(at)[0].target == resolve(MethodSpec.parse(f"IxG:target={name}:{start}")).target
        assert titles(at) == ["Photo", "IxG", "Gradient"]
        assert len(set(arrays(at))) == 2


def test_one_click_beside_another_class_explains_the_class_rather_than_that_one(small):
    at = opened(small.add())
    before = arrays(at)
    assert not next(b for b in at.button if b.key == "rather-4").disabled
    assert next(b for b in at.button if b.key == "rather-2").disabled
    at.button(key="rather-4").click()
    at = settle(at)
    assert "Why cat rather than ant?" in {b.help for b in at.button}
    assert heads(at)[0] == ("Photo", "cat rather than elk")
    assert methods_of(at)[0].target == TargetSpec("versus", (("other", "4"),))
    assert arrays(at) != before
    at.button(key="rather-4").click()
    at = settle(at)
    assert control(at, "explained").value == "logit"
    assert arrays(at) == before


def test_a_method_may_carry_a_target_of_its_own(small):
    at = opened(small.add(), methods="IxG,Gradient:target=negative,IxG:target=probability")
    assert control(at, "explained").value == "logit"
    assert targets(at) == ["", "", "negative", "probability"]
    control(at, "explained").set_value("contrast")
    at = settle(at)
    assert [m.target.name for m in methods_of(at)] == ["contrast", "negative", "probability"]


def test_what_a_target_does_not_allow_is_a_grey_tile_with_the_reason(small):
    at = opened(small.add(), methods="LRP:target=probability,IxG:target=probability")
    assert titles(at) == ["Photo", "LRP", "IxG"]
    assert "linear in the logits" in texts(at)
    at = opened(small.add(), methods="IxG@Final,IxG@Input", target="1")
    control(at, "explained").set_value("channel")
    at = settle(at)
    assert "is not upstream of channel" in texts(at).replace("\\", "")
    assert len(nodes(at, "image")) == 3
    assert "Versus compares class 1 (bee) with itself" in texts(
        opened(small.add(), methods="IxG:target=versus:other=bee", target="1")
    ).replace("\\", "")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("nothing", "Unknown target 'nothing'"),
        ("contrast:k=0", "k=0 is out of range"),
        ("versus:other=77", "77 is not a class"),
        ("versus", "Versus needs another class"),
        ("labels", "Labels needs a set of classes"),
        ("channel", "Channel needs a layer"),
        ("channel:layer=nowhere", "nowhere"),
        ("similarity", "Similarity needs another picture or a text"),
    ],
)
def test_a_link_with_a_target_that_the_model_does_not_have_says_so(target, says, small):
    at = opened(small.add(), methods=f"IxG:target={target}")
    assert says in texts(at).replace("\\", "")
    assert "Photo" in titles(at)
    assert not at.exception


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/nothing", "~/photo.png", "sample:../photo.png"])
def test_a_picture_of_the_server_is_read_only_from_the_roots(path, small, monkeypatch, tmp_path):
    monkeypatch.setenv("ATTRLIB_DATA_ROOTS", str(tmp_path))
    opened_files: list[str] = []
    real = similarity.open_image
    monkeypatch.setattr(similarity, "open_image", lambda name: (opened_files.append(name), real(name))[1])
    at = opened(small.add(), methods=f"IxG:target=similarity:to={path}")
    assert "nor in a folder that this app may read" in texts(at)
    assert titles(at) == ["Photo"]
    assert not opened_files
    open_sample("coffee").image.save(tmp_path / "photo.png")
    at = opened(small.add(), methods=f"IxG:target=similarity:to={tmp_path / 'photo.png'}")
    assert titles(at) == ["Photo", "IxG"]
    assert len(arrays(at)) == 1


def test_a_strength_out_of_range_is_one_message(small):
    at = opened(small.add(), methods="IxG:target=contrast,Gradient:target=contrast")
    control(at, "explained_contrast_strength").set_value(0.0)
    at = settle(at)
    assert texts(at).count("strength=0.0 is out of range") == 1


def test_a_further_model_is_compared_by_the_names_of_its_classes(small):
    first, turned = small.add(), small.add(class_names=NAMES[::-1])
    at = opened(first, also=f"efficientnet_lite0@{turned}", methods="IxG:target=versus:other=4")
    photos = [line for title, line in heads(at) if title.startswith("efficientnet_lite0@")]
    assert photos == ["cat rather than elk", "cat rather than elk"]
    assert targets(at) == ["", "versus:other=elk"] * 2
    assert "target=versus:other=0" in at.main.code[1].value.splitlines()[1]
    foreign = small.add(class_names=("a", "b", "c", "d", "e"))
    at = opened(first, also=f"efficientnet_lite0@{foreign}", methods="IxG:target=versus:other=4")
    assert "has no class elk, which the target names" in texts(at).replace("\\", "")


def test_command_line_and_python_compute_the_same_maps(small, monkeypatch, tmp_path):
    checkpoint = small.add()
    at = opened(checkpoint, methods="IxG:target=versus:other=4,Gradient:target=contrast:k=2")
    model = small.models[checkpoint]
    expected = [
        attrlib.explain(model, open_sample("cat"), f"IxG:target=versus:other={NAMES[4]}", 2).maps,
        attrlib.explain(model, open_sample("cat"), "Gradient", 2, method_target="contrast:k=2").maps,
    ]
    monkeypatch.setattr(attrlib, "load_model", lambda *_args, **_options: model)
    found: dict = {}
    exec(at.main.code[2].value, found)
    assert all(torch.equal(a, b) for a, b in zip(found["maps"].values(), expected, strict=True))
    monkeypatch.setattr("attrlib.cli.explain.load_model", lambda *_args, **_options: model)
    words = shlex.split(at.main.code[1].value)[3:]
    result = CliRunner().invoke(attrlib.cli.app, [*words[:-1], str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    with np.load(io.BytesIO((tmp_path / "out" / "maps.npz").read_bytes())) as maps:
        assert all(np.array_equal(maps[name], b[0, 0].numpy()) for name, b in zip(maps.files, expected, strict=True))


@pytest.mark.parametrize("tool", ["Patches", "Deletion"])
def test_deletion_says_why_it_does_not_judge_a_target_that_is_not_the_class(tool, small):
    at = opened(small.add(), methods="IxG:target=versus:other=4", tool=tool)
    assert "Deletion measures what the class loses, but this map explains versus:other=4" in texts(at).replace("\\", "")
    at = opened(small.add(), methods="IxG:target=contrast", tool=tool)
    assert "Deletion measures" not in texts(at)
    assert not at.exception


@pytest.mark.parametrize("tool", ["Compare", "Sanity"])
def test_maps_of_any_target_are_compared(tool, small):
    at = opened(small.add(), methods="IxG,IxG:target=versus:other=4,IxG@First:target=channel:layer=Final", tool=tool)
    key = "compare_first" if tool == "Compare" else "sanity_map"
    options = at.selectbox(key=key).options
    assert options[:2] == ["IxG@Input", "IxG@Input:target=versus:other=4"]
    at.selectbox(key=key).set_value(options[1])
    at = settle(at)
    assert not at.exception
    assert "rank correlation" in texts(at, "markdown", "html").lower() or any("rank correlation" in line for _, line in heads(at))


# The controls of methods


@pytest.mark.parametrize(
    ("text", "target", "entries"),
    [
        ("Grad-CAM,IxG", "logit", ["Grad-CAM", "IxG"]),
        ("Grad-CAM:target=contrast,IxG:target=contrast", "contrast", ["Grad-CAM", "IxG"]),
        ("Grad-CAM,Grad-CAM:target=contrast", "logit", ["Grad-CAM", "Finer-CAM"]),
        ("Grad-CAM:target=contrast", "logit", ["Finer-CAM"]),
        ("IxG:target=negative,Grad-CAM:target=contrast", "negative", ["IxG", "Finer-CAM"]),
        ("IxG,IxG:target=negative", "logit", ["IxG", "IxG@Input:channels=sum:target=negative"]),
    ],
)
def test_methods_with_targets_become_widgets_and_come_back(text, target, entries):
    methods = [resolve(MethodSpec.parse(part)) for part in text.split(",")]
    found = selection.as_widgets(methods)
    assert (found.target.name, found.entries) == (target, entries)
    assert selection.chosen_methods(found.entries, found.layer, found.params, found.target) == (methods, [])


def test_finer_cam_is_grad_cam_with_a_contrast(small):
    (expected,) = PRESETS["finer-cam"].methods
    assert resolve(expected) == resolve(MethodSpec.parse("Grad-CAM@Final:target=contrast"))
    at = opened(small.add(), methods="IxG")
    control(at, "methods").set_value(["IxG", "Finer-CAM"])
    at = settle(at)
    assert methods_of(at)[1] == resolve(expected)
    assert control(settle(open_page(**link(at))), "methods").value == ["IxG", "Finer-CAM"]
