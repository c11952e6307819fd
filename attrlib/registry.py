"""Typed fields, and registries of classes that declare them: the one mechanism behind methods, protocols and specs.

A registered class is a frozen dataclass. Its fields, declared with `param`, are its parameters; form, command line, links
and tests are generated from them. Specs (`attrlib.specs`) declare their fields in the same way.
"""

import dataclasses
import math
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from types import MappingProxyType, NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from attrlib.errors import AttrlibError, SpecError, unknown


@dataclass(frozen=True)
class Paper:
    """A source: authors and year, title, address."""

    authors: str
    title: str
    url: str


Value = bool | int | float | str | None
REQUIRED: Any = dataclasses.MISSING
"""The default of a field that must be given."""


@dataclass(frozen=True)
class Param:
    """One typed field: its kind, default, range or choices, and a sentence of help.

    Form, link, flag and text form are derived from it. `kind` is `int`, `float`, `bool`, `str`, or any other type together with `read`.

    Attributes:
        name: Name in links and messages; the flag on the command line is `flag`, by default the name with dashes.
        auto: What is chosen where the value is None; only a field with `auto` may be None.
        above: Exclusive lower bound, where `low` is an inclusive one.
        none: The text of None; empty for a field that is left out then.
        read: Reads a value that is no plain type from its text form; `str` writes it.
        write: Writes such a value, where `str` does not.
        check: Raises `SpecError` for a value of the right type that makes no sense.
        label: Label of its widget in the app.
        noun: What one of the `choices` is called in messages.
        missing: Message for a required field that is not given.
        positional: Whether its value stands on the command line without a flag.
        path: Attributes that lead to the value, where it belongs to a spec within a spec.
    """

    name: str
    kind: type
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    auto: str = ""
    above: float | None = None
    none: str = "auto"
    read: Callable[[str], Any] | None = None
    write: Callable[[Any], str] | None = None
    check: Callable[[Any], object] | None = None
    flag: str = ""
    label: str = ""
    noun: str = ""
    missing: str = ""
    positional: bool = False
    path: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is REQUIRED

    @property
    def is_plain(self) -> bool:
        """Whether the value is a number, a bool or a text."""
        return self.read is None and self.kind in (int, float, bool, str)

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value: it turns on what is off by default."""
        return self.kind is bool and self.default is False

    def parse(self, value: object) -> Any:
        """Return the value in its type, from text or from a Python object. Raises `SpecError` outside range or choices."""
        if value is None or (self.auto and value == self.none):
            if self.auto:
                return None
            raise SpecError(f"{self.name} needs a value: {self.expects()}")
        parsed = self._convert(value)
        self._check(parsed, value)
        return parsed

    def validate(self, value: object) -> None:
        """Check a value that is in its type already. Raises `SpecError`."""
        if value is None and self.auto:
            return
        number = self.kind in (int, float) and self.is_plain
        if value is None or (number and (isinstance(value, bool) or not isinstance(value, Integral if self.kind is int else Real))):
            raise self._wrong(value)
        self._check(value, value)

    def expects(self) -> str:
        """Say in words which values are allowed."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        kind = {int: "a whole number", float: "a number"}.get(self.kind, "a text")
        ends = ((" above {:.12g}", self.above), (" from {:.12g}", self.low), (" to {:.12g}", self.high))
        word = f", or {self.none}" if self.auto and self.none else ""
        return kind + "".join(words.format(end) for words, end in ends if end is not None) + word

    def format(self, value: Any) -> str:
        """Write a value as text; the inverse of `parse`."""
        if value is None:
            return self.none
        if self.write is not None:
            return self.write(value)
        return str(value).lower() if isinstance(value, bool) else str(value)

    def _wrong(self, value: object) -> SpecError:
        return SpecError(f"{self.name}={str(value)[:40]!r} is not valid: expected {self.expects()}")

    def _check(self, parsed: Any, given: object) -> None:
        if self.choices and parsed not in self.choices:
            raise SpecError(unknown(self.noun or self.name, given, self.choices))
        if self.is_plain and isinstance(parsed, int | float) and not isinstance(parsed, bool):
            low = -math.inf if self.low is None else self.low
            high = sys.float_info.max if self.high is None else self.high
            if not (low <= parsed <= high) or (self.above is not None and parsed <= self.above):
                raise SpecError(f"{self.name}={given!s:.40} is out of range: {self.expects()}")
        if self.check is not None:
            self.check(parsed)

    def _convert(self, value: object) -> Any:
        if self.read is not None:
            return self.read(value) if isinstance(value, str) else value
        wrong = self._wrong(value)
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
    **about: Any,
) -> Any:
    """Declare a dataclass field: default (`REQUIRED` for none), help, and the other attributes of `Param`.

    The type is read from the annotation.
    """
    return dataclasses.field(default=default, metadata=about | {"help": help})


def nested(cls: type, *, without: Collection[str] = (), instead: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> Any:
    """Declare a dataclass field that is a spec itself: its fields are fields of the whole.

    Args:
        cls: The type of the field. If all its own fields have defaults, so has this one.
        without: Names of its fields that stay at their defaults.
        instead: Attributes of `Param` that differ here, by name of the field.
    """
    about = {"nested": cls, "without": without, "instead": instead}
    if any(p.required for p in params_of(cls)):
        return dataclasses.field(metadata=about)
    return dataclasses.field(default_factory=cls, metadata=about)


def params_of(cls: type) -> tuple[Param, ...]:
    """Return the fields that a class declares with `param`, in order, those of a spec within a spec among them."""
    return _declared(cls)


@cache
def _declared(cls: type) -> tuple[Param, ...]:
    hints = get_type_hints(cls)
    found: list[Param] = []
    for f in dataclasses.fields(cls):
        if "nested" in f.metadata:
            for inner in params_of(f.metadata["nested"]):
                if inner.name not in f.metadata["without"]:
                    changed = f.metadata["instead"].get(inner.name, {})
                    found.append(dataclasses.replace(inner, path=(f.name, *inner.path), **changed))
        elif "help" in f.metadata:
            about: dict[str, Any] = {"name": f.name, "kind": _kind(hints[f.name]), "default": f.default, "path": (f.name,)}
            found.append(Param(**about | f.metadata))
    return tuple(found)


def _kind(hint: Any) -> type:
    """The type itself for a generic or optional type: `int` for `int | None`, `tuple` for `tuple[str, ...]`."""
    options = [t for t in get_args(hint) if t is not NoneType]
    if get_origin(hint) in (Union, UnionType):
        return _kind(options[0])
    return get_origin(hint) or hint


def parse_params(cls: type, given: Mapping[str, object], owner: str) -> dict[str, Value]:
    """Return all parameters of `cls`, checked, defaults filled in. Raises `SpecError` naming `owner`."""
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
