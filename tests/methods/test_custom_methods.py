"""Custom methods: loading, errors, and protection of the model."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import attrlib

# isort: split
import pytest
import torch
from support.nets import Plain, made, pictures
from torch import nn

from attrlib.engine.cache import InMemoryCache
from attrlib.engine.evaluator import Evaluator
from attrlib.errors import MethodError, OutOfMemory
from attrlib.methods import METHODS, custom
from attrlib.models.modules.state import State, restored
from attrlib.protocols import create
from attrlib.specs import MethodSpec, ProtocolSpec

HERE = Path(__file__).parents[2]
EXAMPLE = HERE / "examples" / "centre_surround.py"
HEAD = """
from dataclasses import dataclass
import torch
from torch import nn
from attrlib.methods import METHODS, Method, Passes
from attrlib.registry import Paper, param
"""
SIZE = 16


def source(body: str = "return context.reduce(context.clean_gradient())", more: str = "", **changed: str) -> str:
    parts = {
        "bases": "(Method)",
        "doc": '"""Mine: the gradient."""',
        "name": 'name = "Mine"',
        "family": 'family = "custom"',
        "paper": 'paper = Paper("me", "mine", "https://example.org")',
        "passes": "return Passes(gradient=1)",
        "decorators": "@METHODS.register\n@dataclass(frozen=True)",
    } | changed
    return f"""{HEAD}
{parts["decorators"]}
class Mine{parts["bases"]}:
    {parts["doc"]}
    {parts["name"]}
    {parts["family"]}
    {parts["paper"]}
    {more}

    def attribute(self, context):
        {body}

    def passes(self, layer):
        {parts["passes"]}
"""


Load = Callable[..., dict[str, str]]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Write files into a folder and load them; return the reasons of those left out, by file name."""
    before = list(METHODS)
    monkeypatch.setattr(METHODS, "left_out", {})

    def load(**files: str) -> dict[str, str]:
        for name, text in files.items():
            (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setenv(custom.FOLDERS, str(tmp_path))
        custom.load_custom()
        return {Path(path).name: reason for path, reason in METHODS.left_out.items()}

    yield load
    for name in [name for name in METHODS if name not in before]:
        METHODS.forget(name)


def model() -> attrlib.Classifier:
    return attrlib.wrap_model(made(Plain), SIZE)


# Loading


def test_a_file_in_the_folder_is_a_method_like_any_other(load: Load) -> None:
    assert (
        load(
            mine=source(
                more='scale: float = param(2.0, "Factor", low=0.0, high=9.0)',
                body="return self.scale * context.reduce(context.clean_gradient())",
            )
        )
        == {}
    )
    info = {m.name: m for m in attrlib.list_methods()}["Mine"]
    assert (info.family, info.summary, [p.name for p in info.params]) == ("custom", "Mine: the gradient.", ["scale"])
    images = pictures(2, SIZE)
    found = attrlib.explain(model(), images, "Mine@Final:scale=3", 1).maps
    assert torch.equal(found, 3 * attrlib.explain(model(), images, "Gradient", 1, "Final").maps)


def test_the_example_computes_what_its_docstring_says(load: Load) -> None:
    assert load(example=EXAMPLE.read_text()) == {}
    assert 20 <= len(EXAMPLE.read_text().splitlines()) <= 35
    images = pictures(2, SIZE)
    found = attrlib.explain(model(), images, "Centre-surround", 1, window=3).maps
    plain = attrlib.explain(model(), images, "IxG", 1).maps
    for y, x in ((0, 0), (5, 7), (15, 3)):
        window = plain[:, 0, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        assert torch.allclose(found[:, 0, y, x], plain[:, 0, y, x] - window.mean((1, 2)), atol=1e-5)


def test_files_that_begin_with_an_underscore_and_other_files_are_not_run(load: Load, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("raise SystemExit")
    assert load(_helper="raise SystemExit") == {}


def test_several_folders_one_of_which_is_missing(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in (1, 2):
        (tmp_path / str(k)).mkdir()
        (tmp_path / str(k) / "same.py").write_text(source(name=f'name = "Mine {k}"'))
    monkeypatch.setenv(custom.FOLDERS, os.pathsep.join(str(tmp_path / k) for k in ("1", "2", "gone")))
    custom.load_custom()
    assert {"Mine 1", "Mine 2"} <= set(METHODS)
    assert list(METHODS.left_out) == [str(tmp_path / "gone")]


def test_an_empty_variable_names_no_folder_and_without_it_the_configuration_folder_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(custom.FOLDERS, "")
    assert custom.folders() == []
    monkeypatch.delenv(custom.FOLDERS)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere")
    assert [folder.name for folder in custom.folders()] == ["methods"]


def test_an_entry_point_of_an_installed_package_is_loaded(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somebodys_package.py").write_text(source(name='name = "Installed"'))
    (tmp_path / "broken_package.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(custom.FOLDERS, "")
    points = [EntryPoint("good", "somebodys_package:Mine", custom.GROUP), EntryPoint("bad", "broken_package", custom.GROUP)]
    monkeypatch.setattr(custom, "entry_points", lambda group: points if group == custom.GROUP else [])
    custom.load_custom()
    assert METHODS["Installed"].family == "custom"
    assert list(METHODS.left_out) == ["entry point bad"]
    assert "ZeroDivisionError" in METHODS.left_out["entry point bad"]
    for name in ("somebodys_package", "broken_package"):
        sys.modules.pop(name, None)


def test_a_custom_method_appears_in_the_command_line_and_the_conformance_suite() -> None:
    environment = os.environ | {custom.FOLDERS: str(EXAMPLE.parent)}
    listed = subprocess.run(
        [sys.executable, "-m", "attrlib", "methods", "--json"], cwd=HERE, env=environment, capture_output=True, text=True, check=True
    )
    assert "Centre-surround" in {m["name"] for m in json.loads(listed.stdout)}
    suite = [sys.executable, "-m", "pytest", "-n0", "--collect-only", "tests/methods/test_methods_conformance.py", "-k", "Centre-surround"]
    found = subprocess.run(suite, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
    assert found.stdout.count("Centre-surround") > 100


# Invalid files


BROKEN = {
    "syntax": ("class Mine(:", "SyntaxError in line 1"),
    "raises": ("\n\n1 / 0", "ZeroDivisionError in line 3: division by zero"),
    "leaves": ("raise SystemExit(3)", "SystemExit in line 1: 3"),
    "imports": ("import no_such_package", "ModuleNotFoundError in line 1: No module named 'no_such_package'"),
    "empty": ("x = 1", "it does not register a method; decorate a class with @METHODS.register"),
    "no_method": (source(bases="()"), "Mine is not a frozen dataclass derived from Method"),
    "undecorated": (source(decorators="@METHODS.register"), "Mine is not a frozen dataclass"),
    "nameless": (source(name=""), "has no attribute 'name'"),
    "taken": (source(name='name = "IG"'), "method 'IG' is registered twice"),
    "unwritable": (source(name='name = "My@method"'), "the name 'My@method' of Mine cannot be used in a list of methods"),
    "homeless": (source(family=""), "Mine has no family of type str; add it next to name"),
    "unsourced": (source(paper='paper = "mine"'), "Mine has no paper of type Paper"),
    "undocumented": (source(doc=""), "Mine has no docstring"),
    "plain_field": (source(more="steps: int = 3"), "Mine.steps is not a parameter; declare it as steps: int = param(...)"),
    "bad_default": (source(more='steps: int = param(0, "Steps", low=1, high=9)'), "steps=0 is out of range"),
    "no_passes": (source(passes="return 3"), "Mine.passes returns a int; return Passes"),
    "abstract": (source().replace("def attribute", "def attributes"), "Mine cannot be created"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_loaded_is_reported_with_the_reason_and_the_others_are_loaded(load: Load, name: str) -> None:
    text, reason = BROKEN[name]
    before = set(METHODS)
    left_out = load(a_good=source(name='name = "Good A"'), broken=text, z_good=source(name='name = "Good Z"'))
    assert list(left_out) == ["broken.py"]
    assert reason in left_out["broken.py"]
    assert set(METHODS) == before | {"Good A", "Good Z"}


def test_a_world_writable_file_is_not_run(load: Load, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(source())
    (tmp_path / "mine.py").chmod(0o666)
    assert "mine.py is writable by everyone" in load()["mine.py"]
    assert "Mine" not in METHODS


def test_the_error_for_an_unknown_method_lists_files_that_were_not_loaded(load: Load) -> None:
    load(mine="1 / 0")
    with pytest.raises(MethodError, match=r"unknown method 'Mine'.*Not loaded: .*mine\.py; python -m attrlib methods shows the reason"):
        attrlib.explain(model(), pictures(1, SIZE), "Mine")


# Invalid behaviour

WRONG = {
    "not a tensor": ("return [1]", "returned a list; return a tensor of shape (2, 1, 4, 4)"),
    "shape": ("return context.clean_gradient()", "returned maps of shape (2, 8, 4, 4), expected (2, 1, 4, 4)"),
    "NaN": ("return context.reduce(context.clean_gradient() / 0 * 0)", "returned values that are not finite at Final"),
    "integers": ("return context.reduce(context.inputs).long()", "returned maps of torch.int64"),
    "raises": ("raise ValueError('no idea')", "failed in attribute: ValueError in line 18: no idea"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_maps_are_an_error_that_names_the_method_and_its_file(load: Load, name: str) -> None:
    body, reason = WRONG[name]
    assert load(mine=source(body)) == {}
    with pytest.raises(MethodError, match=re.escape(reason)) as error:
        attrlib.explain(model(), pictures(2, SIZE), "Mine", 0, "Final")
    assert str(error.value).startswith("Mine (")
    assert "mine.py)" in str(error.value)


CHANGES = {
    "weights": ("next(module.parameters()).data.mul_(2)", "the values of features.0.weight"),
    "buffer": ("dict(module.named_buffers())['features.3.running_mean'].add_(1)", "the values of features.3.running_mean"),
    "hook": ("module.features[0].register_forward_hook(lambda *a: None)", "hooks of features.0"),
    "mode": ("module.pool.train()", "the mode of pool"),
    "requires_grad": ("module.fc.bias.requires_grad_(True)", "requires_grad of fc.bias"),
    "gradient": ("module.fc.bias.grad = torch.ones_like(module.fc.bias)", "the gradient of fc.bias"),
    "layer": ("module.pool = nn.Identity()", "modules of the whole model"),
    "parameter": ("module.fc.weight = nn.Parameter(module.fc.weight * 2)", "parameters of fc"),
    "forward": ("module.pool.forward = lambda x: x", "forward of pool"),
}  # fmt: skip


@pytest.mark.parametrize("then", ["return context.reduce(context.inputs)", "raise ValueError('and fails')"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_method_that_changes_the_model_is_refused_and_the_model_restored(load: Load, name: str, then: str) -> None:
    change, what = CHANGES[name]
    assert load(mine=source(f"module = context.classifier.module\n        {change}\n        {then}")) == {}
    classifier, images = model(), pictures(2, SIZE)
    calls: list[int] = []
    handle = classifier.module.fc.register_forward_hook(lambda *_: calls.append(1))
    before, digest = State(classifier.module), classifier.digest
    with torch.no_grad():
        logits = classifier(images)
    reason = f"changed the model: {what}" if then.startswith("return") else "ValueError"
    with pytest.raises(MethodError, match=re.escape(reason)):
        attrlib.explain(classifier, images, "Mine", 0)
    assert before.changes() == []
    assert classifier.digest == digest
    with torch.no_grad():
        assert torch.equal(classifier(images), logits)
    handle.remove()
    calls.clear()
    classifier(images)
    assert calls == []


def test_an_unchanged_module_has_no_changes_and_those_of_the_caller_stay() -> None:
    module = made(Plain)
    module.fc.weight.data[0, 0] = float("nan")
    with restored(module) as changed:
        module(pictures(1, SIZE))
    assert changed == []
    assert module.fc.weight[0, 0].isnan()


@pytest.mark.parametrize(
    "error", ["torch.OutOfMemoryError('CUDA')", "MemoryError()", "RuntimeError('not enough memory: you tried to allocate')"]
)
def test_running_out_of_memory_is_not_blamed_on_the_method(load: Load, error: str) -> None:
    assert load(mine=source(f"raise {error}")) == {}
    with pytest.raises(OutOfMemory, match="not enough memory for a single image"):
        attrlib.explain(model(), pictures(1, SIZE), "Mine", 0)
    METHODS.forget("Mine")
    fits = source(f"if len(context) > 1: raise {error}\n        return context.reduce(context.inputs)")
    assert load(mine=fits) == {}
    assert attrlib.explain(model(), pictures(3, SIZE), "Mine", 0).maps.shape == (3, 1, SIZE, SIZE)


def test_stored_maps_belong_to_the_code_that_computed_them(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)

    def key(method: str) -> dict[str, object]:
        return Evaluator(model(), InMemoryCache()).keys.score(create(ProtocolSpec("sds")), MethodSpec(method, "Input"))

    load(mine=source())
    first = key("Mine")
    METHODS.forget("Mine")
    load(mine=source("return context.reduce(context.inputs)"))
    assert key("Mine")["code"] != first["code"]
    assert key("Mine") | {"code": 0} == first | {"code": 0}
    assert "code" not in key("IxG")
    # Imported modules in the same folder are part of the code.
    helper = tmp_path / "helper_of_mine.py"
    found = []
    for factor in (1, 2):
        METHODS.forget("Mine")
        sys.modules.pop("helper_of_mine", None)
        helper.write_text(f"FACTOR = {factor}")
        load(
            mine=source(
                "import helper_of_mine\n        return helper_of_mine.FACTOR * context.reduce(context.inputs)", "import helper_of_mine"
            )
        )
        found.append(key("Mine")["code"])
    sys.modules.pop("helper_of_mine", None)
    assert found[0] != found[1]


def test_uploads_and_links_cannot_name_code(load: Load, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    load()
    with pytest.raises(MethodError, match="unknown method"):
        attrlib.explain(model(), pictures(1, SIZE), str(tmp_path / "elsewhere" / "evil.py"))
    assert not marker.exists()


def test_modules_with_several_kinds_of_state_are_restored() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[0].weight.grad = torch.ones(2, 2)
    state = State(module)
    module.train(not module.training)
    module[0].weight.grad.zero_()
    module[1].running_var.zero_()
    assert len(state.changes()) == 5
    state.restore()
    assert state.changes() == []
    assert module[0].weight.grad.sum() == 4
