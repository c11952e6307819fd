"""Named things with typed parameters: the one mechanism behind methods and protocols.

A registered class is a frozen dataclass. Its fields, declared with `param`, are its parameters; form, command line, links
and tests are generated from them.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_type_hints

from attrlib.errors import AttrlibError, SpecError, unknown


@dataclass(frozen=True)
class Paper:
    """A source: authors and year, title, address."""

    authors: str
    title: str
    url: str


Value = bool | int | float | str | None


@dataclass(frozen=True)
class Param:
    """One typed parameter: its kind (`int`, `float`, `bool`, `str`), default, range or choices, and a sentence of help.

    `auto` describes the default `None`: what is chosen when nothing is given.
    """

    name: str
    kind: type
    default: Value
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    auto: str = ""

    def parse(self, value: object) -> Value:
        """The value in its type, from text or from a Python object. Raises `SpecError` outside range or choices."""
        if value is None or (self.auto and value == "auto"):
            if self.auto:
                return None
            raise SpecError(f"{self.name} needs a value: {self.expects()}")
        parsed = self._convert(value)
        if self.choices and parsed not in self.choices:
            raise SpecError(unknown(self.name, value, self.choices))
        if isinstance(parsed, int | float) and not isinstance(parsed, bool):
            low = -math.inf if self.low is None else self.low
            high = math.inf if self.high is None else self.high
            if not (low <= parsed <= high):
                raise SpecError(f"{self.name}={value!s:.40} is out of range: {self.expects()}")
        return parsed

    def expects(self) -> str:
        """What values are allowed, in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        kind = {int: "a whole number", float: "a number"}.get(self.kind, "a text")
        ends = ((" from {:g}", self.low), (" to {:g}", self.high))
        return kind + "".join(words.format(end) for words, end in ends if end is not None)

    def format(self, value: Value) -> str:
        """The inverse of `parse`."""
        if value is None:
            return "auto"
        return str(value).lower() if isinstance(value, bool) else str(value)

    def _convert(self, value: object) -> Value:
        wrong = SpecError(f"{self.name}={str(value)[:40]!r} is not valid: expected {self.expects()}")
        if self.kind is bool:
            words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
            if str(value).lower() not in words:
                raise wrong
            return words[str(value).lower()]
        if self.kind is str:
            return str(value)
        if isinstance(value, bool):
            raise wrong
        try:
            if self.kind is int and str(value).lstrip("-").isdecimal():
                return int(str(value))
            number = float(str(value))
        except ValueError:
            raise wrong from None
        if not math.isfinite(number) or (self.kind is int and number != int(number)):
            raise wrong
        return self.kind(number)


def param(
    default: Any,
    help: str,  # noqa: A002
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    auto: str = "",
) -> Any:
    """A dataclass field that is a parameter. Its type is read from the annotation."""
    return dataclasses.field(default=default, metadata=dict(help=help, low=low, high=high, choices=choices, auto=auto))


def params_of(cls: type) -> tuple[Param, ...]:
    """The parameters that a registered class declares, in order."""
    return _declared(cls)


@cache
def _declared(cls: type) -> tuple[Param, ...]:
    hints = get_type_hints(cls)

    def kind(name: str) -> type:
        return next((t for t in get_args(hints[name]) if t is not NoneType), hints[name])

    return tuple(Param(f.name, kind(f.name), cast(Value, f.default), **f.metadata) for f in dataclasses.fields(cls))


def parse_params(cls: type, given: Mapping[str, object], owner: str) -> dict[str, Value]:
    """All parameters of `cls`, checked, defaults filled in. Raises `SpecError` naming `owner`."""
    known = {p.name: p for p in params_of(cls)}
    for name in given:
        if name not in known:
            none = f"{owner} has no parameters, so {name!r} cannot be set."
            raise SpecError(none if not known else unknown(f"parameter of {owner}", name, known))
    try:
        return {name: p.parse(given[name]) if name in given else p.default for name, p in known.items()}
    except SpecError as error:
        raise SpecError(f"{owner}: {error}") from None


T = TypeVar("T")


class Registry(Mapping[str, type[T]]):
    """Classes by their `name`, in order of registration. It imports nothing of what it holds.

    `left_out` are files and packages that could not be loaded, each with the reason.
    """

    def __init__(self, what: str, error: type[AttrlibError]):
        self._what, self._error = what, error
        self._classes: dict[str, type[T]] = {}
        self.left_out: dict[str, str] = {}

    def register(self, cls: type[T]) -> type[T]:
        """Class decorator: adds `cls` under `cls.name`."""
        name = cls.name  # type: ignore[attr-defined]
        if name in self._classes:
            raise self._error(f"{self._what} {name!r} is registered twice")
        self._classes[name] = cls
        return cls

    def forget(self, name: str) -> None:
        """Takes a class out again."""
        del self._classes[name]

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._classes:
            missing = ", ".join(self.left_out)
            more = f"Not loaded: {missing}; python -m attrlib methods says why." if missing else ""
            raise self._error(unknown(self._what, name, self._classes, more))
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)
