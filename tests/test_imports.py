"""What `import attrlib` and the command line load, what the core needs, and what the stub names."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import LIMIT

import attrlib
from attrlib.cli import app
from attrlib.cli.app import COMMANDS, load

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "skimage",
    "sqlalchemy",
    "matplotlib",
    "plotly",
    "streamlit",
    "pydantic",
    "transformers",
)
EXTRAS = ("plotly", "matplotlib", "streamlit", "pandas", "pyarrow", "transformers")
ROOT = Path(attrlib.__file__).parents[1]
STUB = ast.parse((ROOT / "attrlib" / "__init__.pyi").read_text())
PUBLIC: list[str] = next(ast.literal_eval(node.value) for node in STUB.body if isinstance(node, ast.Assign))


def python(code: str, *arguments: str) -> str:
    """Run code in a new process, and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_attrlib_imports_nothing_heavy() -> None:
    loaded = python("import attrlib, json, sys; print(json.dumps(sorted(sys.modules)))")
    assert not set(HEAVY) & set(json.loads(loaded))


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_need_no_torch(flag: str) -> None:
    code = "import sys; sys.argv[0] = 'attrlib'\ntry:\n from attrlib.cli import main; main()\nexcept SystemExit: pass\nprint(sorted(sys.modules))"
    printed = python(code, flag)
    assert "attrlib" in printed.splitlines()[0]
    assert not set(HEAVY) & set(ast.literal_eval(printed.splitlines()[-1]))


def test_every_name_of_the_stub_can_be_imported() -> None:
    named = {alias.name for node in STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    modules = {alias.name for node in STUB.body if isinstance(node, ast.ImportFrom) and node.module is None for alias in node.names}
    assert sorted(named - modules) == sorted(PUBLIC)
    for name in named:
        assert getattr(attrlib, name) is not None
    assert set(PUBLIC) <= set(dir(attrlib))
    with pytest.raises(AttributeError):
        attrlib.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_a_function_is_not_hidden_by_a_module_of_its_name() -> None:
    printed = python(
        "import pkgutil, importlib, attrlib, sys\n"
        "for m in pkgutil.walk_packages(attrlib.__path__, 'attrlib.'):\n"
        "    m.name.endswith('__main__') or importlib.import_module(m.name)\n"
        "print([name for name in sys.argv[1:] if not callable(getattr(attrlib, name))])",
        *PUBLIC,
    )
    assert printed.strip() == "[]"


def test_the_core_needs_no_extra() -> None:
    code = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({EXTRAS}))
import attrlib
failed = []
for module in pkgutil.walk_packages(attrlib.__path__, "attrlib."):
    if not module.name.startswith(("attrlib.figures.", "attrlib.__main__", "attrlib._app")):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            failed.append((module.name, str(error)))
print(failed)
model = attrlib.load_model("birds_resnet10", device="cpu")
print(tuple(attrlib.explain(model, "sample:cat", "Grad-CAM").maps.shape[:2]))
"""
    assert python(code).splitlines() == ["[]", "(1, 1)"]


def test_figures_name_the_extra_that_they_need() -> None:
    code = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRAS}))
sys.argv[1:] = ["study", "robustness", "--models", "birds_resnet10", "--out", "figures"]
from attrlib.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT)
    assert done.returncode == 2
    assert done.stderr.strip() == 'error: figures need plotly, which is not installed; pip install "attrlib[app]"'


@pytest.mark.parametrize("first", ["torchvision", "timm", "torchvision.ops"])
def test_torchvision_can_be_imported_after_attrlib(first: str) -> None:
    """With a CPU build of torch, the operators that torchvision lacks are declared as soon as anybody imports it."""
    assert python(f"import attrlib, {first}; import torchvision.ops, timm; print('fine')").strip() == "fine"


def test_summaries_of_commands_are_those_of_their_help() -> None:
    import typer

    for name in COMMANDS:
        load(name)
    group = typer.main.get_command(app)
    commands = group.commands  # type: ignore[attr-defined]
    assert set(commands) == set(COMMANDS), "a command that is not listed is not found"
    for name, entry in COMMANDS.items():
        assert entry.summary == " ".join((commands[name].help or "").split("\n\n")[0].split())
        assert commands[name].callback.__module__ == f"attrlib.cli.{entry.module}"
