"""Presets: complete, at the settings of their studies, and accepted in any list of methods."""

import json
from pathlib import Path

import attrlib  # before timm: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import torch
from PIL import Image
from support import method_nets
from support.method_nets import pictures
from typer.testing import CliRunner

import attrlib.cli.explain
from attrlib.errors import AttrlibError, MethodError, SpecError
from attrlib.methods import METHODS, PRESETS, create, defined, names_many, read_method, read_methods, resolve
from attrlib.specs import MethodSpec


@pytest.mark.parametrize("preset", attrlib.list_presets(), ids=lambda p: p.name)
def test_every_member_of_a_preset_resolves_and_no_two_are_the_same(preset: attrlib.Preset) -> None:
    resolved = [resolve(spec) for spec in preset.methods]
    assert len(set(resolved)) == len(resolved)
    assert len({label for label, _ in preset.members}) == len(preset.members)
    assert preset.name not in METHODS
    assert preset.paper.url.startswith("https://")


def settings(preset: str, label: str) -> dict[str, object]:
    spec = resolve(dict(PRESETS[preset].members)[label])
    return {"name": spec.name, "layer": spec.layer} | spec.values


NOISY = {"samples": 4, "noise": 1.0, "unit": "absolute"}


@pytest.mark.parametrize(
    ("preset", "label", "expected"),
    [
        ("idsds", "Gradient", {"name": "Gradient", "layer": "Input", "channels": "sum"}),
        ("idsds", "IxG abs", {"name": "IxG", "channels": "sum-abs"}),
        ("idsds", "IG", {"name": "IG", "steps": 50, "baseline": "zeros", "channels": "sum"}),
        ("idsds", "IG-U abs", {"name": "IG", "steps": 50, "baseline": "uniform", "channels": "sum-abs"}),
        ("idsds", "IxG-SG", {"name": "SmoothGrad", "of": "IxG", "channels": "sum"} | NOISY),
        ("idsds", "IG-SG abs", {"name": "SmoothGrad", "of": "IG", "steps": 50, "channels": "sum-abs"} | NOISY),
        ("idsds", "IG-SG-SQ", {"name": "SmoothGrad Squared", "of": "IG", "steps": 50} | NOISY),
        ("idsds", "IG-SG-VG", {"name": "VarGrad", "of": "IG", "steps": 50} | NOISY),
        ("idsds", "SG-CAM++", {"name": "Smooth Grad-CAM++", "layer": "Final", "samples": 4, "std": 0.3}),
        ("idsds", "RISE", {"name": "RISE", "samples": 1000, "cells": 8, "p": 0.1, "fill": "zeros"}),
        ("idsds", "RISE-U", {"name": "RISE-U", "samples": 1000, "cells": 8, "p": 0.1, "fill": "uniform"}),
        ("idsds", "Rollout", {"name": "Rollout", "start": 1}),
        ("rao", "Gradient Middle", {"name": "Gradient", "layer": "Middle", "channels": "abs-sum"}),
        ("rao", "Guided Backprop Input", {"name": "Guided Backprop", "layer": "Input", "channels": "abs-sum"}),
        ("rao", "IntGrad Final", {"name": "IG", "layer": "Final", "steps": 20, "baseline": "zeros", "channels": "sum"}),
        ("rao", "RISE Final", {"name": "RISE", "layer": "Final", "samples": 1000, "cells": 6, "p": 0.1}),
        ("rao", "Score-CAM Input", {"name": "Score-CAM", "layer": "Input", "weighting": "probability"}),
        ("erdem", "IG", {"name": "IG", "steps": 25}),
        ("erdem", "SmoothGrad", {"name": "SmoothGrad", "samples": 8}),
        ("erdem", "Guided Grad-CAM", {"name": "Guided Grad-CAM", "cam": "First"}),
    ],
)
def test_members_have_the_settings_of_the_reference(preset: str, label: str, expected: dict[str, object]) -> None:
    found = settings(preset, label)
    assert {name: found.get(name) for name in expected} == expected


def test_idsds_has_its_23_methods_and_those_of_special_networks_and_rao_three_layers() -> None:
    special = ("Rollout", "CheferLRP", "Grad-CAM (ViT)", "B-cos", "BagNet")
    assert len([label for label, _ in PRESETS["idsds"].members if label not in special]) == 23
    rao = PRESETS["rao"].methods
    assert len(rao) == 36
    assert [spec.layer for spec in rao] == ["Input", "Middle", "Final"] * 12


def test_a_list_of_methods_may_name_presets_and_all() -> None:
    found = read_methods("Sobel, erdem,IG:steps=25,all", "Final")
    erdem = PRESETS["erdem"].methods
    assert found[: 1 + len(erdem)] == (MethodSpec("Sobel", "Final"), *erdem)
    assert found[1 + len(erdem)] == MethodSpec("IG", "Final", (("steps", "25"),))
    assert found[2 + len(erdem) :] == tuple(MethodSpec(name, "Final") for name in METHODS if name != "Sobel")
    assert read_methods("IG,IG@Final") == (MethodSpec("IG"), MethodSpec("IG", "Final"))
    assert [names_many(text) for text in ("IG,Sobel", "IG, rao", "all", "rao:x=1")] == [False, True, True, False]


@pytest.mark.parametrize("text", ["", " , "])
def test_an_empty_list_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="no method given; write for example IG,Grad-CAM@Final, or idsds, rao, erdem, finer-cam or all"):
        read_methods(text)


@pytest.mark.parametrize("name", ["functional", "vit_tiny"])
def test_methods_that_are_not_defined_for_a_model_are_left_out_with_the_reason(name: str) -> None:
    model = method_nets.model(name)
    kept, reasons = defined(model, PRESETS["idsds"].methods)
    labels = [label for label, spec in PRESETS["idsds"].members if spec in kept]
    left = {"Rollout", "CheferLRP", "Grad-CAM (ViT)", "B-cos", "BagNet"} if name == "functional" else {"B-cos", "BagNet"}
    assert {label for label, _ in PRESETS["idsds"].members} - set(labels) == left
    assert len(reasons) == len(left)
    assert all(" is left out: " in reason for reason in reasons)
    with pytest.raises(SpecError, match="none of these methods is defined for wrapped:Functional: BagNet is left out"):
        defined(method_nets.model("functional"), [MethodSpec("BagNet")])


@pytest.mark.parametrize("name", ["functional", "vit_tiny"])
def test_erdems_methods_run_on_every_model_for_which_they_are_defined(name: str) -> None:
    model = method_nets.model(name)
    kept, reasons = defined(model, PRESETS["erdem"].methods)
    assert bool(reasons) == (name == "vit_tiny")
    for spec in kept:
        assert attrlib.explain(model, pictures(1, 64), spec, 0).maps.isfinite().all()
    for spec in set(PRESETS["erdem"].methods) - set(kept):
        with pytest.raises(AttrlibError):
            create(spec).check(model, model.layer("Input"))


def test_the_command_line_accepts_presets_and_lists_the_skipped_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attrlib.cli.explain, "load_model", lambda *_args, **_options: method_nets.model("vit_tiny"))
    picture = tmp_path / "picture.png"
    Image.fromarray((torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()).save(picture)
    given = ["explain", "--image", str(picture), "--methods", "erdem", "--out", str(tmp_path / "out"), "--json"]
    result = CliRunner().invoke(attrlib.cli.app, given)
    assert result.exit_code == 0, result.output
    names = [m["method"].partition("@")[0] for m in json.loads(result.stdout)["maps"]]
    assert names == ["Gradient", "IG", "GradientSHAP", "SmoothGrad"]
    assert result.stderr.count("is left out: ") == 3
    with np.load(tmp_path / "out" / "maps.npz") as maps:
        assert len(maps.files) >= 4


def test_the_command_line_lists_presets() -> None:
    text = CliRunner().invoke(attrlib.cli.app, ["presets"]).stdout
    assert "IG-SG-VG" in text
    found = json.loads(CliRunner().invoke(attrlib.cli.app, ["presets", "--json"]).stdout)
    assert [p["name"] for p in found] == ["idsds", "rao", "erdem", "finer-cam"]
    assert {"name": "IxG abs", "method": "IxG:channels=sum-abs"} in found[0]["members"]


def test_a_preset_of_one_method_is_a_method_of_the_library() -> None:
    model, images = method_nets.model("resnet18"), pictures(2, 64)
    finer = attrlib.explain(model, images, "Finer-CAM", [1, 3])
    assert str(finer.spec.target) != "logit"
    assert torch.equal(finer.maps, attrlib.explain(model, images, "Grad-CAM", [1, 3], method_target="contrast:k=3").maps)
    assert read_method("finer-cam", "Middle") == MethodSpec.parse("Grad-CAM@Middle:target=contrast")
    with pytest.raises(MethodError, match="unknown method 'idsds'"):
        attrlib.explain(model, images, "idsds", [1, 3])
