"""Inputs of another size than the default of the model: how they are written, how models handle them, and every method on them."""

import ast
import json
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path
from urllib.parse import parse_qsl

import attrlib  # before timm: it declares the operators that torchvision may lack

# isort: split
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F  # noqa: N812
from support.method_nets import Rectified, made, pictures
from support.nets import Transformer
from torch import nn
from typer.testing import CliRunner

from attrlib.cli import app
from attrlib.cli.common import take_model
from attrlib.errors import MethodError, ModelError, SpecError
from attrlib.models import Card, Preprocessing, with_classes
from attrlib.specs import (
    LARGEST,
    AggregateSpec,
    ExplainSpec,
    MethodSpec,
    ModelSpec,
    ProtocolSpec,
    RunSpec,
    parse_size,
)

SPECS = [
    ModelSpec("efficientnet_lite0"),
    ModelSpec("timm:resnet18", "random:3"),
    ModelSpec("timm:resnet18", None, (192, 256)),
    ModelSpec("timm:resnet18", "random:3", (32, 2048)),
    ModelSpec("attrlib:resnet10", "/some where/my@home.pth", (1, 7)),
    ModelSpec("timm:vit_tiny_patch16_224.augreg_in21k", "640.pth"),
]
each = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.text)
RESNET, VIT = ModelSpec("timm:test_resnet", "random:0"), ModelSpec("timm:test_vit", "random:0")


def loaded(spec: ModelSpec) -> attrlib.Classifier:
    return attrlib.load_model(spec.architecture, "cpu", **spec.options())


# Notation


@each
def test_text_json_flags_and_python_describe_the_same_model(spec: ModelSpec) -> None:
    assert ModelSpec.parse(spec.text) == spec
    assert ModelSpec.from_json(json.loads(json.dumps(vars(spec)))) == spec
    called = ast.parse(f"f({spec.arguments()})", mode="eval").body
    assert isinstance(called, ast.Call)
    options = {word.arg: ast.literal_eval(word.value) for word in called.keywords}
    assert options == spec.options()
    assert ModelSpec(ast.literal_eval(called.args[0]), **options) == spec
    flags = dict(zip(spec.flags()[::2], spec.flags()[1::2], strict=True))
    size = flags.get("--input-size")
    assert ModelSpec(flags["--model"], flags.get("--checkpoint"), parse_size(size) if size else None) == spec


@each
def test_links_command_lines_and_runs_contain_the_input_size(spec: ModelSpec) -> None:
    shown = ExplainSpec(spec, "sample:cat", (MethodSpec("IxG", "Input"),))
    default = ExplainSpec(ModelSpec("other", "x", (5, 5)), "sample:dog", ())
    assert ExplainSpec.read_link(dict(parse_qsl(shown.link()[1:])), default) == (shown, [])
    assert " ".join(spec.flags()) in " ".join(shlex.split(shown.cli()))
    assert f"load_model({spec.arguments()})" in shown.snippet()
    run = RunSpec(spec, "birds", (ProtocolSpec("sds"),), (MethodSpec("IxG"),))
    assert RunSpec.from_json(json.loads(json.dumps(run, default=vars))) == run
    view = AggregateSpec(run)
    assert AggregateSpec.read_link(dict(parse_qsl(view.link()[1:])), AggregateSpec(replace(run, model=default.model))) == (view, [])


def test_a_stored_run_without_input_size_is_read() -> None:
    run = RunSpec(ModelSpec("timm:resnet18", "random:3"), "birds", (ProtocolSpec("sds"),), (MethodSpec("IxG"),))
    fields = json.loads(json.dumps(run, default=vars))
    del fields["model"]["input_size"]
    assert RunSpec.from_json(fields) == run


@pytest.mark.parametrize("text", ["0x10", "10x0", f"{LARGEST + 1}x10", "10x", "x10", "axb", "-3x4", "10x10x10", "1e2", "", "10.5x3", "٣x٣"])
def test_an_impossible_size_is_refused_with_advice(text: str) -> None:
    with pytest.raises(SpecError, match=r"input size .*(192x256|from 1 to 2048)"):
        parse_size(text)


@pytest.mark.parametrize("size", [0, -1, True, (3,), (3, 4, 5), (3.0, 4), "192x256", [192, "256"], (LARGEST + 1, 3)])
def test_an_invalid_size_is_refused_in_python(size: object) -> None:
    with pytest.raises(SpecError, match="give \\(height, width\\)"):
        attrlib.load_model("timm:test_resnet", pretrained=False, input_size=size)  # type: ignore[arg-type]


def test_an_invalid_size_in_a_link_is_reported_and_ignored() -> None:
    default = ExplainSpec(ModelSpec("efficientnet_lite0"), "sample:cat", ())
    spec, problems = ExplainSpec.read_link({"model": "timm:resnet18", "input_size": "big"}, default)
    assert spec.model == ModelSpec("timm:resnet18")
    assert len(problems) == 1
    assert "'big'" in problems[0]


def test_a_model_in_a_link_or_after_a_flag_may_be_in_text_form(tmp_path: Path) -> None:
    default = ExplainSpec(ModelSpec("efficientnet_lite0"), "sample:cat", ())
    text, whole = "timm:resnet18@/there/a.pth@160x224", ModelSpec("timm:resnet18", "/there/a.pth", (160, 224))
    assert ExplainSpec.read_link({"model": text}, default)[0].model == whole
    assert ExplainSpec.read_link({"model": text, "checkpoint": "/b.pth"}, default)[0].model == replace(whole, checkpoint="/b.pth")
    assert take_model({"model": text}) == whole
    assert take_model({"model": text, "checkpoint": "random:3", "input_size": "64"}) == ModelSpec("timm:resnet18", "random:3", (64, 64))
    file = tmp_path / "own@home.pth"
    file.write_bytes(b"")
    assert take_model({"model": str(file)}) == ModelSpec(str(file))


# Models


def test_a_convolutional_network_sees_the_picture_at_that_size() -> None:
    own, other = loaded(RESNET), loaded(replace(RESNET, input_size=(96, 128)))
    assert other.input_size == (96, 128)
    assert other.spec == replace(RESNET, input_size=(96, 128))
    photo = attrlib.open_image("sample:cat").image
    assert other.preprocess(photo).shape == (3, 96, 128)
    expected = replace(own.preprocessing, size=(96, 128))(photo)
    assert torch.equal(other.preprocess(photo), expected)
    assert torch.equal(other(expected[None]), own.module(expected[None].contiguous(memory_format=torch.channels_last)))
    assert own.digest != other.digest
    assert attrlib.load_model("timm:test_resnet", "cpu", pretrained=False, input_size=64).input_size == (64, 64)


def test_position_embeddings_of_a_transformer_are_interpolated_as_by_hand() -> None:
    own, other = loaded(VIT).module, loaded(replace(VIT, input_size=(64, 128)))
    state = dict(own.state_dict())
    grid, (rows, columns) = state["pos_embed"], own.patch_embed.grid_size
    prefix, patches = grid[:, : own.num_prefix_tokens], grid[:, own.num_prefix_tokens :]
    patches = patches.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
    patches = F.interpolate(
        patches,
        size=(64 * rows // own.patch_embed.img_size[0], 128 * columns // own.patch_embed.img_size[1]),
        mode="bicubic",
        antialias=True,
    )
    state["pos_embed"] = torch.cat([prefix, patches.flatten(2).transpose(1, 2)], 1)
    expected = timm.create_model("test_vit", img_size=(64, 128)).eval()
    expected.load_state_dict(state)
    images = pictures(2, 64, 128)
    assert torch.allclose(other(images), expected(images), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("timm:test_vit", (60, 64), "patches of 16x16 px; choose an input size whose sides are multiples of that"),
        ("timm:resmlp_12_224", (96, 128), "cannot process an image of 96 x 128 px .*it accepts 224 px"),
        ("torchvision:alexnet", (32, 32), "cannot process an image of 32 x 32 px .*it accepts 224, 256, 299 px"),
    ],
)
def test_a_size_that_the_model_does_not_accept_is_refused_with_the_reason(name: str, size: tuple[int, int], reason: str) -> None:
    with pytest.raises(ModelError, match=f"{name} .*{reason}"):
        attrlib.load_model(name, "cpu", pretrained=False, input_size=size)


def test_a_checkpoint_of_another_size_and_other_classes_is_loaded(tmp_path: Path) -> None:
    start = loaded(replace(VIT, input_size=(64, 96)))
    model = with_classes(start, ["ant", "bee"])
    assert model.input_size == (64, 96)
    safetensors.torch.save_file({k: v.contiguous() for k, v in model.module.state_dict().items()}, tmp_path / "own.safetensors")
    card = Card("timm:test_vit", ("ant", "bee"), Preprocessing((64, 96)))
    (tmp_path / "own.json").write_text(card.text())
    again = attrlib.load_model(tmp_path / "own.safetensors", "cpu")
    images = pictures(2, 64, 96)
    assert torch.equal(again(images), model(images))
    back = attrlib.load_model(tmp_path / "own.safetensors", "cpu", input_size=(32, 32))
    assert back(pictures(1, 32)).shape == (1, 2)


# Every method


def turned(net: nn.Module) -> nn.Module:
    """The network that sees a transposed picture as the given one sees the picture: its filters are transposed, and all else is the same."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight = nn.Parameter(module.weight.detach().transpose(2, 3).contiguous())
    return net


NETS = {"convolutional": lambda: made(Rectified, torch.relu), "transformer": lambda: made(Transformer, 1, 3)}
"""Networks in which only the filters depend on the direction."""
TALL, WIDE = (16, 40), (40, 16)
SMALL = {"steps": 3, "samples": 4, "cells": 4, "p": 0.5, "segments": "grid"}


@cache
def upright(name: str) -> attrlib.Classifier:
    return attrlib.wrap_model(NETS[name](), TALL)


@cache
def lying(name: str) -> attrlib.Classifier:
    return attrlib.wrap_model(turned(NETS[name]()), WIDE)


@pytest.mark.parametrize("layer", ["Input", "Middle", "Final"])
@pytest.mark.parametrize("method", [info.name for info in attrlib.list_methods()])
@pytest.mark.parametrize("name", NETS)
def test_the_map_of_a_transposed_picture_by_the_transposed_network_is_the_transposed_map(name: str, method: str, layer: str) -> None:
    info = next(info for info in attrlib.list_methods() if info.name == method)
    params = {p.name: SMALL[p.name] for p in info.params if p.name in SMALL}
    if "channels" in {p.name for p in info.params}:
        # Before a LayerNorm the sum of a gradient over channels is zero except for rounding.
        params["channels"] = "abs-sum"
    images = pictures(2, *TALL)
    try:
        maps = attrlib.explain(upright(name), images, method, [1, 3], layer, **params).maps
    except MethodError:
        assert info.needs
        return
    other = attrlib.explain(lying(name), images.transpose(2, 3), method, [1, 3], layer, **params).maps
    height, width = upright(name).layer(layer).shape[1:]
    assert maps.shape == (2, 1, height, width)
    assert other.shape == (2, 1, width, height)
    assert height != width
    # The loss of extremal perturbation sorts the mask, whose values are equal at first: the order of the positions breaks the ties.
    if not info.seeded and method != "Extremal perturbation":
        # The rules of CheferLRP divide by sums that may nearly cancel.
        share = 1e-2 if method == "CheferLRP" else 1e-4
        assert torch.allclose(other.transpose(2, 3), maps, rtol=1e-3, atol=share * float(maps.abs().max()))


# The command line


def run(*words: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, list(words))
    return found.exit_code, found.output


def test_explain_writes_maps_of_that_size_and_its_manifest_repeats_them(tmp_path: Path) -> None:
    model = ("--model", RESNET.architecture, "--checkpoint", "random:0")
    code, output = run(
        "explain", *model, "--input-size", "64x96", "--image", "sample:cat", "--methods", "IxG,Grad-CAM", "--out", str(tmp_path / "a")
    )
    assert code == 0, output
    assert np.load(tmp_path / "a" / "maps.npz")["IxG@Input:channels=sum"].shape == (64, 96)
    manifest = tmp_path / "a" / "manifest.json"
    assert json.loads(manifest.read_text())["spec"]["model"] == {**vars(RESNET), "input_size": [64, 96]}
    code, output = run("explain", "--from", str(manifest), "--out", str(tmp_path / "b"))
    assert code == 0, output
    assert "identical to the manifest, bit for bit" in output
    code, output = run("explain", "--from", str(manifest), "--input-size", "64x64", "--out", str(tmp_path / "c"))
    assert code == 2
    assert "--input-size cannot be combined with --from" in output


def test_doctor_score_and_montage_accept_a_size(tmp_path: Path) -> None:
    code, output = run("doctor", "--model", "birds_resnet10", "--input-size", "32x64", "--methods", "Random", "--json")
    assert code == 0, output
    assert json.loads(output)["layers"]["Input"] == [3, 32, 64]
    score = (
        "score",
        "--model",
        "birds_resnet10",
        "--data",
        "birds",
        "--protocol",
        "sds",
        "--methods",
        "Random",
        "--limit",
        "1",
        "--plan",
        "--json",
    )
    assert run(*score, "--input-size", "32x64")[0] == 0
    code, output = run(
        "montage",
        "--model",
        "birds_resnet10",
        "--input-size",
        "32x64",
        "--also",
        "birds_resnet10@64x32",
        "--methods",
        "Random",
        "--out",
        str(tmp_path / "m.png"),
    )
    assert code == 0, output


@pytest.mark.parametrize("command", ["explain", "score", "aggregate", "doctor", "montage", "finetune"])
def test_an_invalid_size_ends_every_command_with_one_line_and_exit_code_2(command: str, tmp_path: Path) -> None:
    needed = {
        "explain": ("--image", "sample:cat", "--methods", "IxG", "--out", str(tmp_path)),
        "score": ("--protocol", "sds", "--methods", "IxG", "--data", "birds"),
        "aggregate": ("--methods", "IxG", "--data", "birds", "--out", str(tmp_path)),
        "doctor": (),
        "montage": ("--out", str(tmp_path / "m.png")),
        "finetune": ("--data", "birds", "--out", str(tmp_path / "w.safetensors")),
    }[command]
    code, output = run(command, *needed, "--input-size", "huge")
    assert code == 2
    assert output.strip().startswith("error: input size 'huge' is not valid")
    assert len(output.strip().splitlines()) == 1


def test_maps_at_two_sizes_have_different_keys() -> None:
    one, two = loaded(replace(RESNET, input_size=(32, 64))), loaded(replace(RESNET, input_size=(64, 32)))
    assert one.digest != two.digest
    assert all(torch.equal(a, b) for a, b in zip(one.module.state_dict().values(), two.module.state_dict().values(), strict=True))
