"""Imports follow the levels of CONTRIBUTING.md, modules are short and documented, and ruff and mypy find nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from support.waiting import LIMIT

HERE = Path(__file__).parent.parent
MAX_LINES = 350

LEVELS = [
    {"app"},
    {"pages", "attrlib.cli"},
    {"attrlib.studies"},
    {"attrlib.submissions", "attrlib.api", "attrlib.diagnosis", "attrlib.retraining", "attrlib.tuning"},
    {"attrlib.analysis", "attrlib.diagnostics", "attrlib.aggregation"},
    {"attrlib.engine"},
    {"attrlib.methods", "attrlib.protocols", "attrlib.training", "attrlib.figures"},
    {"attrlib.targets"},
    {"attrlib.models", "attrlib.data", "attrlib.store", "attrlib.binning"},
    {"attrlib.postprocess", "attrlib.deletion", "attrlib.bands"},
    {"attrlib.imputation"},
    {"attrlib.specs"},
    {
        "attrlib.progress",
        "attrlib.statistics",
        "attrlib.significance",
        "attrlib.registry",
        "attrlib.errors",
        "attrlib._torchvision",
        "attrlib._openmp",
        "attrlib.places",
    },
]
"""Packages by level, from the top. A module imports from lower levels and from its own package; the bottom level also from itself."""
BOTTOM = len(LEVELS) - 1
EXEMPT = {"attrlib", "attrlib.__main__"}


def name_of(path: Path) -> str:
    parts = path.relative_to(HERE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(p): p for p in [HERE / "app.py", *sorted(HERE.glob("attrlib/**/*.py")), *sorted(HERE.glob("pages/**/*.py"))]}
LIBRARY = {name: path for name, path in MODULES.items() if name.partition(".")[0] == "attrlib"}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def place(module: str) -> tuple[int, str]:
    """Return the level and package of a module. `attrlib` itself is on the level of its public functions."""
    if module in ("attrlib", "attrlib.__init__"):
        return 2, "attrlib"
    return next((i, package) for i, packages in enumerate(LEVELS) for package in packages if within(module, package))


def imports(module: str, tree: ast.AST) -> Iterator[str]:
    """Yield every module that is imported anywhere in the tree; for `from package import module` the module."""
    is_package = module in MODULES and MODULES[module].name == "__init__.py"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                up = len(parts) - node.level + is_package
                base = ".".join([*parts[:up], *([base] if base else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


def project_imports(module: str, tree: ast.AST) -> set[str]:
    """Return the imported modules of this project."""
    return {name for name in imports(module, tree) if name.partition(".")[0] in ("attrlib", "pages", "app")}


def violations(module: str, tree: ast.AST) -> list[str]:
    """Return a line for each import that the levels do not allow."""
    level, package = place(module)
    lines = []
    for name in sorted(project_imports(module, tree)):
        other_level, other_package = place(name)
        if not (other_level > level or other_package == package or other_level == level == BOTTOM):
            lines.append(f"{module} imports {name}")
    return lines


# Levels


@pytest.mark.parametrize("module", sorted(set(MODULES) - EXEMPT))
def test_every_module_belongs_to_a_package(module: str) -> None:
    assert any(within(module, package) for packages in LEVELS for package in packages), f"{module} has no level: add it to LEVELS"


def test_every_package_exists() -> None:
    for package in set.union(*LEVELS):
        assert any(within(module, package) for module in MODULES), f"{package} does not exist: remove it from LEVELS"


@pytest.mark.parametrize("module", sorted(set(MODULES) - EXEMPT))
def test_a_module_imports_only_from_lower_levels_or_its_own_package(module: str) -> None:
    assert violations(module, TREES[module]) == []


def test_the_bottom_level_has_no_import_cycles() -> None:
    bottom = {m for m in MODULES if m not in EXEMPT and place(m)[0] == BOTTOM}
    graph = {m: project_imports(m, TREES[m]) & bottom for m in bottom}
    assert set(graph) >= {"attrlib.registry", "attrlib.errors"}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", sorted(LIBRARY))
def test_the_library_never_imports_streamlit(module: str) -> None:
    assert not [name for name in imports(module, TREES[module]) if name.partition(".")[0] == "streamlit"]
    if module == "attrlib.cli.serve":
        return  # It starts Streamlit in another process.
    strings = [node.value for node in ast.walk(TREES[module]) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not [text for text in strings if text.partition(".")[0] == "streamlit"]


@pytest.mark.parametrize(
    ("module", "source", "allowed"),
    [
        ("attrlib.models.zoo", "from attrlib.specs import ModelSpec", True),
        ("attrlib.models.zoo", "import attrlib._torchvision", True),
        ("attrlib.models.zoo", "from attrlib.models.layers import Layer", True),
        ("attrlib.models.zoo", "from .layers import Layer", True),
        ("attrlib.models.zoo", "from attrlib.methods import attribute", False),
        ("attrlib.models.zoo", "def f():\n    import attrlib.methods.base", False),
        ("attrlib.models.zoo", "from attrlib import methods", False),
        ("attrlib.models.zoo", "from attrlib import explain", False),
        ("attrlib.models.zoo", "import attrlib", False),
        ("attrlib.models.zoo", "from ..methods import attribute", False),
        ("attrlib.models.zoo", "from .. import methods", False),
        ("attrlib.models.zoo", "from attrlib.data.images import Photo", False),
        ("attrlib.methods.cams", "from attrlib.figures.overlay import draw", False),
        ("attrlib.figures.panel", "import attrlib.methods", False),
        ("attrlib.engine.jobs", "from attrlib.api import explain", False),
        ("attrlib.engine.jobs", "from attrlib.methods import Method", True),
        ("attrlib.api", "from attrlib.engine.jobs import queue", True),
        ("attrlib.api", "from attrlib.cli import app", False),
        ("attrlib.cli", "from pages.shared import jobs", False),
        ("attrlib.specs.codec", "from attrlib.registry import Param", True),
        ("attrlib.specs.run", "from attrlib.specs.codec import Spec", True),
        ("attrlib.specs.run", "from attrlib.models import Classifier", False),
        ("attrlib.registry", "from attrlib.specs import whole", False),
        ("pages.inspect", "import attrlib", True),
        ("pages.inspect", "from attrlib.cli import app", False),
        ("pages.inspect", "from pages.shared import jobs", True),
        ("pages.inspect", "import app", False),
        ("app", "from pages.shared import sidebar", True),
    ],
)
def test_violations_are_found(module: str, source: str, allowed: bool) -> None:
    assert (violations(module, ast.parse(source)) == []) is allowed


# Size and docstrings


def public(name: str) -> bool:
    return not name.startswith("_")


CLASSES = {node.name: node for name in LIBRARY for node in ast.walk(TREES[name]) if isinstance(node, ast.ClassDef)}


def documents(cls: str, method: str) -> bool:
    """Return whether a class of the library, or one of its base classes, has a docstring for the method."""
    node = CLASSES.get(cls)
    if node is None:
        return False
    documented = any(isinstance(m, ast.FunctionDef) and m.name == method and ast.get_docstring(m) for m in node.body)
    return documented or any(documents(base.id, method) for base in node.bases if isinstance(base, ast.Name))


def undocumented(module: str) -> list[str]:
    """Return the public functions, classes and methods of a module that have no docstring, not even an inherited one."""
    names = []
    for node in TREES[module].body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or not public(node.name):
            continue
        if not ast.get_docstring(node):
            names.append(f"{module}.{node.name}, line {node.lineno}")
        if isinstance(node, ast.ClassDef):
            methods = [m for m in node.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef) and public(m.name)]
            names += [f"{module}.{node.name}.{m.name}, line {m.lineno}" for m in methods if not documents(node.name, m.name)]
    return names


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"attrlib.__main__"}))
def test_a_module_is_short_and_has_a_docstring(module: str) -> None:
    assert len(MODULES[module].read_text().splitlines()) <= MAX_LINES
    assert ast.get_docstring(TREES[module])


@pytest.mark.parametrize("module", sorted(LIBRARY))
def test_everything_public_has_a_docstring(module: str) -> None:
    assert undocumented(module) == []


# Tools


@pytest.mark.parametrize("tool", ["ruff check", "ruff format --check", "mypy"])
def test_the_tools_find_nothing(tool: str) -> None:
    result = subprocess.run([sys.executable, "-m", *tool.split()], cwd=HERE, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
