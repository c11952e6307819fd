"""Maps made elsewhere as a method of a run: `maps:file=PATH`."""

from collections.abc import Iterable
from pathlib import Path

from attrlib.specs.method import MethodSpec

MAPS = "maps"
"""Name of the method that stands for maps from a file."""
_QUOTED = ("%", ":", ",")
"""Characters of a path that mean something else in the text form of a method."""


def maps_spec(path: str | Path) -> MethodSpec:
    """Return the method that stands for the maps in a file or folder, whose path is made absolute.

    Example:
        >>> str(maps_spec("/data/a:b.npz"))
        'maps:file=/data/a%3Ab.npz'
    """
    text = str(Path(path).expanduser().absolute())
    for character in _QUOTED:
        text = text.replace(character, f"%{ord(character):02X}")
    return MethodSpec(MAPS, "", (("file", text),))


def path_of(spec: MethodSpec) -> str:
    """Return the path of the file or folder of a method `maps`."""
    text = str(spec.values.get("file", ""))
    for character in reversed(_QUOTED):
        text = text.replace(f"%{ord(character):02X}", character)
    return text


def are_maps(spec: MethodSpec) -> bool:
    """Return whether a method stands for maps from a file."""
    return spec.name == MAPS


def map_files(methods: Iterable[MethodSpec]) -> list[str]:
    """Return the paths of the files and folders that methods read maps from."""
    return [path_of(method) for method in methods if are_maps(method)]
