"""The table of methods by models: its cells, footnotes and files, and the command that writes it."""

import attrlib

# isort: split
import json
import re
from pathlib import Path

import pytest
import timm
import torch
from support import zoo
from support.nets import Plain, Transformer, made
from support.refusals import CANCELS
from torch import nn
from typer.testing import CliRunner

from attrlib.cli import app
from attrlib.diagnosis import FAMILIES, Cell, Finding, Matrix, doctor, read_matrix, survey, updated
from attrlib.errors import SpecError, StoreError
from attrlib.methods import METHODS
from attrlib.models.filled import calibrate, fill

VIT = "timm:vit_tiny_patch16_224?img_size=32&patch_size=8&depth=2&embed_dim=24&num_heads=3&num_classes=4@random:0"
RESNET = "timm:resnet18?layers=1/1/1/1@random:0@64x64"
NO_ATTENTION = "this model has no self-attention; use a gradient, CAM or perturbation method instead"
BAGNET = "BagNet is the built-in explanation of a BagNet, which this model is not; choose another method"


@pytest.fixture(scope="module")
def table() -> Matrix:
    return survey({"ViT": VIT, "Lite": "efficientnet_lite0"}, ["Sobel", "Rollout", "BagNet"])


def test_cells_say_where_a_method_is_defined_and_why_not_elsewhere(table: Matrix) -> None:
    assert list(table.cells) == ["Sobel", "Rollout", "BagNet"]
    every = ("Input", "Middle", "Final")
    assert table.cells["Sobel"] == {"ViT": Cell(every), "Lite": Cell(every)}
    assert table.cells["Rollout"]["Lite"] == Cell((), dict.fromkeys(every, NO_ATTENTION))
    assert table.cells["BagNet"]["ViT"] == Cell((), dict.fromkeys(every, BAGNET))


def test_a_cell_leaves_out_names_layers_and_what_depends_on_the_machine() -> None:
    findings = [
        Finding("Mine", "Input", "valid", note="Constant (0.12): every position has the same value. Choose another layer."),
        Finding("Mine", "Middle", "valid", note="stopped after 1 s: time is estimated, the map was not checked"),
        Finding("Mine", "Final", "refused", "Mine is not defined for wrapped:Net, which has Gelu downstream of Final"),
    ]
    cell = Cell.of(findings, "wrapped:Net")
    assert cell.valid == ("Input", "Middle")
    assert cell.notes == {"Input": "Constant: every position has the same value. Choose another layer."}
    assert cell.footnotes()["Final"] == "Mine is not defined for this model, which has Gelu downstream of the layer"
    assert Cell.of([Finding("Mine", "Input", "valid", changed=("hooks of fc",))], "M") == Cell((), {"Input": "left changed: hooks of fc"})


def test_markdown_has_a_row_for_each_method_and_reasons_as_footnotes(table: Matrix) -> None:
    lines = table.markdown().splitlines()
    assert lines[:5] == [
        "| Method | ViT | Lite |",
        "| --- | --- | --- |",
        "| Sobel | all | all |",
        "| Rollout | Input Middle [1] | – [2] |" if "Final" not in table.cells["Rollout"]["ViT"].valid else lines[3],
        lines[4],
    ]
    assert f"{NO_ATTENTION}" in table.markdown()
    number = next(line.split("]")[0] for line in lines if line.endswith(NO_ATTENTION)).removeprefix("- [")
    assert lines[3].endswith(f"– [{number}] |")
    assert f"- ViT: `{VIT}`" in lines


def test_a_json_file_holds_the_same_table(table: Matrix, tmp_path: Path) -> None:
    table.write(tmp_path / "table.json")
    assert read_matrix(tmp_path / "table.json") == table
    assert len((tmp_path / "table.json").read_text().splitlines()) < 30


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"models": {}, "cells": {"a": 1}}'])
def test_another_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(StoreError, match=r"x\.json holds no table of methods by models"):
        read_matrix(tmp_path / "x.json")


def test_an_update_replaces_cells_and_drops_methods_that_are_gone() -> None:
    one, other = Cell(("Input",)), Cell(("Final",))
    old = Matrix({"a": "a"}, {"IG": {"a": one}, "gone": {"a": one}, "Gradient": {"a": one}})
    new = updated(old, Matrix({"a": "a"}, {"IG": {"a": other}}))
    assert list(new.cells.items()) == [("Gradient", {"a": one}), ("IG", {"a": other})]


def test_every_family_of_the_zoo_has_an_instance() -> None:
    assert set(zoo.FAMILIES) <= set(FAMILIES)
    for text in FAMILIES.values():
        name = attrlib.ModelSpec.parse(text).architecture.partition("?")[0]
        assert name in {m.name for m in attrlib.list_models()} or timm.is_model(name.removeprefix("timm:")), name


def test_random_weights_are_filled_so_that_every_operation_matters() -> None:
    module = timm.create_model("deit3_small_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=4)
    fill(module)
    first = {name: values.clone() for name, values in module.named_parameters()}
    assert all(values.std() > 0.05 for values in first.values())
    assert all(values.abs().min() > 0.5 for name, values in first.items() if name.endswith("gamma"))
    fill(module)
    assert all(torch.equal(values, first[name]) for name, values in module.named_parameters())
    module.eval()
    gradients = torch.autograd.grad(module(torch.randn(2, 3, 32, 32)).square().sum(), [*module.parameters()], allow_unused=True)
    assert all(g is not None and g.abs().max() > 1e-4 for g in gradients)


def test_the_statistics_of_batchnorm_are_those_of_the_images() -> None:
    module, images = made(Plain), 3 * torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    calibrate(module, images)
    norm, outputs = module.features[3], list[torch.Tensor]()
    norm.register_forward_hook(lambda _module, args, _output: outputs.append(args[0]))
    module(images)
    assert torch.allclose(norm.running_mean, outputs[0].mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(norm.running_var, outputs[0].var((0, 2, 3)), rtol=1e-3)
    assert not any(part.training for part in module.modules())
    assert norm.momentum == 0.1


# What the doctor says of maps


def test_superpixels_of_the_probe_differ() -> None:
    found = doctor(attrlib.wrap_model(made(Plain), 64), ["LIME", "KernelSHAP"], layers=["Input"])
    assert [(f.state, f.note) for f in found.findings] == [("valid", "")] * 2


class Chaotic(nn.Module):
    """Its outputs, and their gradient, change altogether if the image changes by a millionth."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((1e7 * self.conv(x)).sin().mean((2, 3)))


def test_maps_of_rounding_errors_are_noted() -> None:
    found = doctor(attrlib.wrap_model(made(Chaotic), 16), ["Gradient", "IxG", "Random"], layers=["Input"])
    assert {f.method for f in found.findings if f.note.startswith("Rounding errors")} == {"Gradient", "IxG"}


def test_sums_over_channels_that_cancel_are_refused() -> None:
    module = made(Transformer, 1, 3)
    fill(module)
    found = doctor(attrlib.wrap_model(module, 16), ["Gradient", "IxG", "Grad-CAM", "Random"])
    refused = {(f.method, f.layer) for f in found.findings if re.search(CANCELS, f.reason)}
    assert refused == {("Gradient", "Middle"), ("Gradient", "Final"), ("IxG", "Final")} | refused & {("IxG", "Middle")}
    assert not any(f.note for f in found.findings if f.method != "Random")


# The command line


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *arguments])
    return result.exit_code, result.stderr


def test_the_command_writes_a_table_and_updates_rows_of_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    assert run("--matrix", str(path), "--models", f"{VIT},birds_bagnet33", "--methods", "Sobel,Rollout") == (0, "")
    made_first = json.loads(path.read_text())
    assert made_first["models"] == {VIT: VIT, "birds_bagnet33": "birds_bagnet33"}
    assert run("--matrix", str(path), "--methods", "BagNet") == (0, "")
    both = json.loads(path.read_text())
    assert list(both["cells"]) == [name for name in METHODS if name in ("Rollout", "BagNet", "Sobel")]
    assert both["cells"]["BagNet"]["birds_bagnet33"]["valid"] == ["Input"]
    assert both["cells"]["Sobel"] == made_first["cells"]["Sobel"]
    assert run("--matrix", str(tmp_path / "table.md"), "--models", "birds_bagnet33", "--methods", "BagNet") == (0, "")
    assert (tmp_path / "table.md").read_text().startswith("| Method | birds_bagnet33 |\n| --- | --- |\n| BagNet | Input")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--matrix", "table.txt"), "table.txt has no ending that says the format of the table; write FILE.md or FILE.json"),
        (("--matrix", "t.md", "--model", "birds_bagnet33"), "--matrix takes its models from --models"),
        (("--models", "birds_bagnet33"), "--models names the models of a table; give its file with --matrix FILE"),
        (("--matrix", "t.md", "--models", "timm:nothing"), "unknown timm model"),
        (("--matrix", "t.md", "--models", "birds_bagnet33", "--methods", "nothing"), "unknown method"),
        (("--matrix", "missing/t.md", "--models", "birds_bagnet33", "--methods", "Sobel"), "no folder missing"),
    ],
)
def test_errors_are_one_line_before_anything_runs(
    arguments: tuple[str, ...], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, err = run(*arguments)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert reason in err
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_format_is_refused_by_the_library_too(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no ending"):
        Matrix({}, {}).write(tmp_path / "table.csv")
