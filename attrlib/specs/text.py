"""Text forms: NAME:key=value, lists separated by commas, and whole numbers."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from attrlib.errors import SpecError
from attrlib.registry import Value

T = TypeVar("T")
MOST = 2**31 - 1
"""Largest seed, index or number of items."""
Pairs = tuple[tuple[str, Value], ...]


def read_pairs(text: str) -> tuple[str, Pairs]:
    """Return what stands before the first colon, and the key=value pairs behind it. Raises `SpecError`."""
    head, *pairs = text.strip().split(":")
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
    """Write key=value pairs, each behind a colon."""
    return "".join(f":{key}={_write(value)}" for key, value in params)


def _write(value: Value) -> str:
    return "auto" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def read_list(text: str, parse: Callable[[str], T], missing: str = "") -> tuple[T, ...]:
    """Read a list separated by commas, each entry once, in order. Raises `SpecError(missing)` for an empty one, if that is not empty."""
    found = tuple(dict.fromkeys(parse(part) for part in text.split(",") if part.strip()))
    if missing and not found:
        raise SpecError(missing)
    return found


def write_list(values: Iterable[object]) -> str:
    """Write values separated by commas."""
    return ",".join(map(str, values))


def whole(text: object, name: str) -> int:
    """Return a non-negative whole number below 2**31. Raises `SpecError`."""
    try:
        number = int(str(text))
    except ValueError:
        number = -1
    if not 0 <= number <= MOST:
        raise SpecError(f"{name}={str(text)[:40]!r} is not valid: expected a whole number from 0")
    return number
