"""List the licences of the installed dependencies: `attrlib licences`."""

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from attrlib.cli.common import Json, command
from attrlib.errors import SpecError

CHECKOUT = Path(__file__).parents[2] / "requirements.txt"
"""Requirements of a checkout that is not installed as a distribution."""

_LICENCE_FILE = re.compile(r"(licen[cs]e|copying)(\.(txt|md|rst))?", re.IGNORECASE)


@dataclass(frozen=True)
class Dependency:
    """An installed dependency.

    Attributes:
        name: Name of the distribution.
        version: Installed version.
        licence: SPDX expression or name of the licence, `unknown` if the package states none.
        home: Address of its project page, empty if the package states none.
        direct: Whether attrlib itself requires it.
    """

    name: str
    version: str
    licence: str
    home: str
    direct: bool


def dependencies(name: str = "attrlib") -> list[Dependency]:
    """Return the installed dependencies of a distribution and of its extras, sorted by name.

    In a checkout that is not installed, the dependencies of attrlib are those in its `requirements.txt`.

    Args:
        name: Name of the distribution.

    Raises:
        SpecError: If the distribution is not installed.
    """
    first = list(_requirements_of(name))
    direct = {canonicalize_name(r.name) for r in first}
    found: dict[str, Dependency] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    left = first
    while left:
        requirement = left.pop()
        key = canonicalize_name(requirement.name)
        if (key, frozenset(requirement.extras)) in seen or key == canonicalize_name(name):
            continue
        seen.add((key, frozenset(requirement.extras)))
        try:
            package = distribution(requirement.name)
        except PackageNotFoundError:
            continue  # of another platform, or of an extra that is not installed
        found[key] = Dependency(package.metadata["Name"], package.version, licence_of(package), _home_of(package), key in direct)
        left += [r for r in _parsed(package.requires or []) if _applies(r, requirement.extras)]
    return [found[key] for key in sorted(found)]


def licence_of(package: Distribution) -> str:
    """Return the licence that a package states: an SPDX expression if there is one, else a short name."""
    if expression := _field(package, "License-Expression"):
        return expression
    classifiers = [c.rpartition(" :: ")[2] for c in package.metadata.get_all("Classifier", []) if c.startswith("License ::")]
    named = [c for c in classifiers if c != "OSI Approved"]
    if named:
        return ", ".join(named)
    field = _field(package, "License")
    if field and "\n" not in field:
        return field
    return _title_of(package) or "unknown"


@command()
def licences(
    everything: Annotated[bool, typer.Option("--all", help="Also list the dependencies of dependencies.")] = False,
    as_json: Json = False,
) -> None:
    """List the installed dependencies with their licences, as the packages state them."""
    found = [d for d in dependencies() if everything or d.direct]
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(d) for d in found]))
        return
    for d in found:
        typer.echo(f"{d.name:32} {d.version:16} {d.licence:44} {d.home}".rstrip())


def _requirements_of(name: str) -> Iterator[Requirement]:
    try:
        lines = distribution(name).requires or []
    except PackageNotFoundError:
        if name != "attrlib" or not CHECKOUT.is_file():
            raise SpecError(f"the distribution {name} is not installed; run pip install {name}") from None
        lines = CHECKOUT.read_text(encoding="utf-8").splitlines()
    return _parsed(lines)


def _parsed(lines: list[str]) -> Iterator[Requirement]:
    for line in lines:
        try:
            yield Requirement(line)
        except InvalidRequirement:
            continue  # a comment, an empty line or an option of a requirements file


def _applies(requirement: Requirement, extras: set[str]) -> bool:
    """Return whether a requirement of a dependency applies here, with the given extras of the dependency."""
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in {"", *extras})


def _field(package: Distribution, name: str) -> str:
    """Return a field of the metadata, empty if it is absent or UNKNOWN, as old build tools write."""
    text = package.metadata[name].strip() if name in package.metadata else ""
    return "" if text.upper() == "UNKNOWN" else text


def _home_of(package: Distribution) -> str:
    if home := _field(package, "Home-page"):
        return home
    addresses = dict(line.split(", ", 1) for line in package.metadata.get_all("Project-URL", []) if ", " in line)
    lower = {label.lower(): address for label, address in addresses.items()}
    names = ("homepage", "home", "repository", "source", "source code", "github", "documentation")
    return next((lower[n] for n in names if n in lower), next(iter(lower.values()), ""))


def _title_of(package: Distribution) -> str:
    """Return the first line of the licence file of a package, empty if there is none."""
    for file in package.files or []:
        if _LICENCE_FILE.fullmatch(file.name) and ".dist-info" in str(file.parent):
            lines = file.read_text(encoding="utf-8").splitlines()
            return next((line.strip() for line in lines if line.strip()), "")[:80]
    return ""
