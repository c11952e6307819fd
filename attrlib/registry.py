"""Typed parameters, and registries of classes that declare them. Methods, protocols and specs are built on both.

A registered class is a frozen dataclass whose parameters are its fields, declared with `param`. Forms, command-line flags, links and
tests are generated from them. Specs (`attrlib.specs`) declare their fields in the same way.
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
    """A citation: authors and year, title, URL."""

    authors: str
    title: str
    url: str


Value = bool | int | float | str | None
REQUIRED: Any = dataclasses.MISSING
"""The default of a required field."""


@dataclass(frozen=True)
class Param:
    """One typed field: its kind, default, range or choices, and a help text.

    The form widget, link field, flag and text form are derived from it.

    Attributes:
        name: Name in links and messages.
        kind: `int`, `float`, `bool`, `str`, or any other type together with `read`.
        default: The default value, or `REQUIRED`.
        help: Meaning of the field, in one sentence.
        low: Inclusive lower bound.
        high: Inclusive upper bound.
        choices: The allowed values; empty if any value in range is allowed.
        auto: Description of what None selects. Only a field with `auto` may be None.
        above: Exclusive lower bound.
        none: Text form of None. If empty, a field that is None is omitted from the text.
        read: Parser of the text form, required if `kind` is not a plain type.
        write: Writer of the text form, if `str` is not enough.
        check: Validator that raises `SpecError` for an invalid value of the right type.
        flag: Flag on the command line; by default the name with dashes.
        label: Label of the widget in the app.
        noun: Name for one of the `choices` in messages.
        missing: Error message if a required field is missing.
        positional: Whether the value is a positional argument on the command line.
        names: What a text names: `class`, `classes`, `layer` or `picture`. Forms then offer those that there are.
        path: Attribute names that lead to the value, for a field of a nested spec.
        digest: `if set` leaves the default out of keys, so that results from before the parameter was added stay valid; `never` leaves out
            what no result depends on.
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
    names: str = ""
    path: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    digest: str = ""

    @property
    def required(self) -> bool:
        """Return whether the field has no default."""
        return self.default is REQUIRED

    @property
    def is_plain(self) -> bool:
        """Return whether the value is a number, a bool or a string."""
        return self.read is None and self.kind in (int, float, bool, str)

    @property
    def is_switch(self) -> bool:
        """Return whether the flag takes no value: it turns on an option that is off by default."""
        return self.kind is bool and self.default is False

    def parse(self, value: object) -> Any:
        """Convert text or a Python object to the kind of the field. Raises `SpecError` if the value is not allowed."""
        if value is None or (self.auto and value == self.none):
            if self.auto:
                return None
            raise SpecError(f"{self.name} needs a value: {self.expects()}")
        parsed = self._convert(value)
        self._check(parsed, value)
        return parsed

    def validate(self, value: object) -> None:
        """Check a value that already has the right type. Raises `SpecError` if it is not valid."""
        if value is None and self.auto:
            return
        number = self.kind in (int, float) and self.is_plain
        if value is None or (number and (isinstance(value, bool) or not isinstance(value, Integral if self.kind is int else Real))):
            raise self._invalid(value)
        self._check(value, value)

    def expects(self) -> str:
        """Return a description of the allowed values."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        kind = {int: "a whole number", float: "a number"}.get(self.kind, "text")
        ends = ((" above {:.12g}", self.above), (" from {:.12g}", self.low), (" to {:.12g}", self.high))
        word = f", or {self.none}" if self.auto and self.none else ""
        return kind + "".join(words.format(end) for words, end in ends if end is not None) + word

    def format(self, value: Any) -> str:
        """Return a value as text, the inverse of `parse`."""
        if value is None:
            return self.none
        if self.write is not None:
            return self.write(value)
        return str(value).lower() if isinstance(value, bool) else str(value)

    def _invalid(self, value: object) -> SpecError:
        return SpecError(f"{self.name}={str(value)[:40]!r} is not valid: expected {self.expects()}")

    def _check(self, parsed: Any, value: object) -> None:
        if self.choices and parsed not in self.choices:
            raise SpecError(unknown(self.noun or self.name, value, self.choices))
        if self.is_plain and isinstance(parsed, int | float) and not isinstance(parsed, bool):
            low = -math.inf if self.low is None else self.low
            high = sys.float_info.max if self.high is None else self.high
            if not (low <= parsed <= high) or (self.above is not None and parsed <= self.above):
                raise SpecError(f"{self.name}={value!s:.40} is out of range: {self.expects()}")
        if self.check is not None:
            self.check(parsed)

    def _convert(self, value: object) -> Any:
        if self.read is not None:
            return self.read(value) if isinstance(value, str) else value
        invalid = self._invalid(value)
        if self.kind is bool:
            words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
            if str(value).lower() not in words:
                raise invalid
            return words[str(value).lower()]
        if self.kind is str:
            return str(value)
        if isinstance(value, bool):
            raise invalid
        try:
            if self.kind is int and str(value).lstrip("-").isdecimal():
                return int(str(value))
            number = float(str(value))
        except ValueError:
            raise invalid from None
        if not math.isfinite(number) or (self.kind is int and number != int(number)):
            raise invalid
        return self.kind(number)


def param(
    default: Any,
    help: str,  # noqa: A002
    **attributes: Any,
) -> Any:
    """Declare a dataclass field as a parameter. Its kind is read from the annotation.

    Args:
        default: The default value, or `REQUIRED`.
        help: Meaning of the field, in one sentence.
        **attributes: Other attributes of `Param`.
    """
    return dataclasses.field(default=default, metadata=attributes | {"help": help})


def nested(cls: type, *, without: Collection[str] = (), instead: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> Any:
    """Declare a dataclass field that is itself a spec. Its fields become fields of the outer spec.

    Args:
        cls: The type of the field. If all fields of the type have defaults, so has this field.
        without: Names of fields to omit; they keep their defaults.
        instead: Attributes of `Param` to override, by field name.
    """
    metadata = {"nested": cls, "without": without, "instead": instead}
    if any(p.required for p in params_of(cls)):
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default_factory=cls, metadata=metadata)


def params_of(cls: type) -> tuple[Param, ...]:
    """Return the fields that a class declares with `param`, in order, including those of nested specs."""
    return _declared(cls)


@cache
def _declared(cls: type) -> tuple[Param, ...]:
    hints = get_type_hints(cls)
    params: list[Param] = []
    for f in dataclasses.fields(cls):
        if "nested" in f.metadata:
            for inner in params_of(f.metadata["nested"]):
                if inner.name not in f.metadata["without"]:
                    overrides = f.metadata["instead"].get(inner.name, {})
                    params.append(dataclasses.replace(inner, path=(f.name, *inner.path), **overrides))
        elif "help" in f.metadata:
            attributes: dict[str, Any] = {"name": f.name, "kind": _kind(hints[f.name]), "default": f.default, "path": (f.name,)}
            params.append(Param(**attributes | f.metadata))
    return tuple(params)


def _kind(hint: Any) -> type:
    """Return the plain type of a generic or optional type: `int` for `int | None`, `tuple` for `tuple[str, ...]`."""
    options = [t for t in get_args(hint) if t is not NoneType]
    if get_origin(hint) in (Union, UnionType):
        return _kind(options[0])
    return get_origin(hint) or hint


def parse_params(cls: type, values: Mapping[str, object], owner: str) -> dict[str, Value]:
    """Return all parameters of a class, parsed, checked and with defaults filled in.

    Args:
        cls: A class that declares its parameters with `param`.
        values: Parameter values by name, as text or in their own type.
        owner: Name of the class in messages.

    Raises:
        SpecError: If a parameter does not exist or is not valid. The message names `owner`.
    """
    params = {p.name: p for p in params_of(cls)}
    for name in values:
        if name not in params:
            none = f"{owner} has no parameters, so {name!r} cannot be set."
            raise SpecError(none if not params else unknown(f"parameter of {owner}", name, params))
    try:
        return {name: p.parse(values[name]) if name in values else p.default for name, p in params.items()}
    except SpecError as error:
        raise SpecError(f"{owner}: {error}") from None


def summary_of(cls: type) -> str:
    """Return the first line of the docstring of a registered class, which lists show; empty without one."""
    return (cls.__doc__ or "").strip().partition("\n")[0]


T = TypeVar("T")


class Registry(Mapping[str, type[T]]):
    """Mapping from names to registered classes, in order of registration. The registry does not import any module.

    Attributes:
        left_out: Reason for each file or package that could not be loaded.
    """

    def __init__(self, kind: str, error: type[AttrlibError]):
        self._kind, self._error = kind, error
        self._classes: dict[str, type[T]] = {}
        self._unlisted: dict[str, type[T]] = {}
        self.left_out: dict[str, str] = {}

    def register(self, cls: type[T]) -> type[T]:
        """Register `cls` under `cls.name`; used as a class decorator. Raises the registry's error if the name is taken."""
        name = cls.name  # type: ignore[attr-defined]
        if name in self._classes:
            raise self._error(f"{self._kind} {name!r} is registered twice")
        self._classes[name] = cls
        return cls

    def unlisted(self, cls: type[T]) -> type[T]:
        """Register `cls` for specs that name it, but not for lists; used as a class decorator."""
        self._unlisted[cls.name] = cls  # type: ignore[attr-defined]
        return cls

    def forget(self, name: str) -> None:
        """Remove a class from the registry."""
        del self._classes[name]

    def __getitem__(self, name: str) -> type[T]:
        if name in self._unlisted:
            return self._unlisted[name]
        if name not in self._classes:
            missing = ", ".join(self.left_out)
            more = f"Not loaded: {missing}; python -m attrlib methods shows the reason." if missing else ""
            raise self._error(unknown(self._kind, name, self._classes, more))
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)
