"""The registered methods and protocols, without those of the user, and the facts about them that the code does not contain."""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from attrlib.methods import METHODS, MethodInfo, list_methods
from attrlib.protocols import ProtocolInfo, list_protocols

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MAPS = DOCS / "reference" / "maps"
MATRIX = DOCS / "reference" / "matrix.json"


def methods() -> list[MethodInfo]:
    """Return the methods of this package, in order. Custom methods are left out."""
    return [info for info in list_methods() if not METHODS[info.name].code]


def protocols() -> list[ProtocolInfo]:
    """Return the protocols, in order."""
    return list_protocols()


@cache
def facts(kind: str) -> dict[str, dict[str, Any]]:
    """Return the facts of all methods, targets or protocols, by registered name.

    Args:
        kind: `methods`, `targets` or `protocols`.
    """
    return tomllib.loads((Path(__file__).parent / f"{kind}.toml").read_text("utf-8"))


def fact(kind: str, name: str) -> dict[str, Any]:
    """Return the facts of one method, target or protocol.

    Raises:
        KeyError: If there are none; the message says where to add them.
    """
    try:
        return facts(kind)[name]
    except KeyError:
        raise KeyError(f"docs/_build/{kind}.toml has no entry for {name!r}: add one") from None


def slug(name: str) -> str:
    """Return a name as a part of a file name or of an anchor: `Grad-CAM++` becomes `grad-campp`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("+", "p")).strip("-")
