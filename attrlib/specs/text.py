"""Parse and write text forms: NAME:key=value, comma-separated lists, and whole numbers."""

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from attrlib.errors import SpecError
from attrlib.registry import Value

T = TypeVar("T")
MOST = 2**31 - 1
"""Largest allowed seed, index or number of items."""
Pairs = tuple[tuple[str, Value], ...]
BEFORE_KEY = r":(?=\s*\w+\s*=)"
"""Matches a colon that precedes `key=`."""


def read_pairs(text: str, colons: bool = False) -> tuple[str, Pairs]:
    """Parse NAME:key=value:key=value into the part before the first colon and the pairs after it. Values stay text.

    Args:
        text: The text.
        colons: Whether values may contain colons, except before another `key=`.

    Raises:
        SpecError: If a pair is not key=value, or a key is given twice.
    """
    head, *pairs = re.split(BEFORE_KEY, text.strip()) if colons else text.strip().split(":")
    params: list[tuple[str, Value]] = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if key.strip() in dict(params):
            raise SpecError(f"{key.strip()[:40]!r} is given twice in {text[:80]!r}")
        if not equals or not key.strip():
            raise SpecError(f"{pair[:40]!r} in {text[:80]!r} is not key=value; write for example IG:steps=20")
        params.append((key.strip(), value.strip()))
    return head, tuple(params)


def write_pairs(params: Pairs) -> str:
    """Return key=value pairs as text, each preceded by a colon."""
    return "".join(f":{key}={_write(value)}" for key, value in params)


def _write(value: Value) -> str:
    return "auto" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def read_list(text: str, parse: Callable[[str], T], missing: str = "") -> tuple[T, ...]:
    """Parse a comma-separated list, in order and without duplicates.

    Args:
        text: The list. Empty entries are ignored.
        parse: Parser of one entry.
        missing: Error message for an empty list. If empty, an empty list is allowed.

    Raises:
        SpecError: If the list is empty and `missing` is given, or as raised by `parse`.
    """
    values = tuple(dict.fromkeys(parse(part) for part in text.split(",") if part.strip()))
    if missing and not values:
        raise SpecError(missing)
    return values


def write_list(values: Iterable[object]) -> str:
    """Return values as a comma-separated list."""
    return ",".join(map(str, values))


def whole(text: object, name: str) -> int:
    """Parse a whole number from 0 to 2**31 - 1.

    Args:
        text: The number, or its text.
        name: Name of the number in the error message.

    Raises:
        SpecError: If it is not a whole number in that range.
    """
    try:
        number = int(str(text))
    except ValueError:
        number = -1
    if not 0 <= number <= MOST:
        raise SpecError(f"{name}={str(text)[:40]!r} is not valid: expected a whole number from 0")
    return number
