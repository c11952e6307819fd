"""Base class of all specs. It derives link, command line, Python code and JSON from the declared fields, and parses them back.

A spec is a frozen dataclass whose fields are declared with `param`, or with `nested` if they are specs themselves (see
`attrlib.registry`). A new field needs no other code.
"""

import dataclasses
import inspect
import json
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeVar
from urllib.parse import urlencode

from pydantic import ConfigDict, TypeAdapter, ValidationError

from attrlib.errors import AttrlibError, SpecError, unknown
from attrlib.registry import REQUIRED, Param, params_of

F = TypeVar("F", bound=Callable[..., Any])
Parsers = Mapping[str, Callable[[str], Any]]
"""Parsers that override the declared ones, by field: for names that only higher-level modules can resolve."""


class Reader:
    """Reader of fields from text.

    Args:
        texts: Text of each field, by name. Fields may be missing.
        parsers: Parsers that override the declared ones, by field.
        problems: List to which messages about invalid values are added; the fields keep their defaults. If None, the first invalid
            value raises `SpecError`.
    """

    def __init__(self, texts: Mapping[str, str], parsers: Parsers = MappingProxyType({}), problems: list[str] | None = None):
        self.texts, self._parsers, self._problems = texts, parsers, problems

    def value(self, param: Param, default: Any, parse: Callable[[str], Any] | None = None) -> Any:
        """Return the value of a field.

        Args:
            param: The field.
            default: Value of a missing field, or `REQUIRED`.
            parse: Parser of the text, by default the declared one.

        Raises:
            SpecError: If a required field is missing, or if the text is invalid and problems are not collected.
        """
        text = self.texts.get(param.name)
        if text == "" and self._problems is not None:
            return () if param.kind is tuple else default
        if text is None:
            if default is REQUIRED:
                raise SpecError(param.missing or f"no {param.name} given: add {flag_of(param)}")
            return default
        try:
            return self._parsers.get(param.name, parse or param.parse)(text)
        except AttrlibError as error:
            if self._problems is None:
                raise
            self._problems.append(str(error))
            return default


class Spec:
    """Base class of all specs: frozen dataclasses that define what to compute and show."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)
    command: ClassVar[str] = ""
    """The command of `python -m attrlib` that computes the spec."""
    out: ClassVar[str] = ""
    """Default output folder of the command, or empty if the command does not need one."""
    noun: ClassVar[str] = "spec"
    """Name of the spec in messages."""

    def __post_init__(self) -> None:
        for p in params_of(type(self)):
            if len(p.path) == 1:
                p.validate(getattr(self, p.path[0]))

    @classmethod
    def build(cls, reader: Reader, default: Self | None = None) -> Self:
        """Build a spec from a reader.

        Args:
            reader: Reader of the fields.
            default: Spec that provides the missing fields. If None, the declared defaults are used.

        Raises:
            SpecError: If a field is invalid or missing.
        """
        values: dict[str, Any] = {}
        for f in dataclasses.fields(cls):  # type: ignore[arg-type]
            params = [p for p in params_of(cls) if p.path[0] == f.name]
            fallback = REQUIRED if default is None else getattr(default, f.name)
            if "nested" in f.metadata:
                values[f.name] = f.metadata["nested"].build(_Inner(reader, params, f.metadata), None if fallback is REQUIRED else fallback)
            else:
                values[f.name] = reader.value(params[0], params[0].default if fallback is REQUIRED else fallback)
        return cls(**values)

    @classmethod
    def read(cls, texts: Mapping[str, str], parsers: Parsers = MappingProxyType({})) -> Self:
        """Build a spec from text fields, for example the values of command-line flags.

        Args:
            texts: Text of each field, by name.
            parsers: Parsers that override the declared ones, by field.

        Raises:
            SpecError: For the first field that is invalid or missing.
        """
        return cls.build(Reader(texts, parsers))

    @classmethod
    def read_link(cls, fields: Mapping[str, str], default: Self, parsers: Parsers = MappingProxyType({})) -> tuple[Self, list[str]]:
        """Build a spec from the fields of a link. Fields that are missing or invalid keep their defaults.

        Args:
            fields: Text of each field of the link, by name.
            default: Spec that provides the defaults.
            parsers: Parsers that override the declared ones, by field.

        Returns:
            The spec, and messages about invalid values and unknown fields.
        """
        names = [p.name for p in params_of(cls)]
        problems = [unknown("field of the link", name, names) for name in sorted(set(fields) - set(names))]
        spec = cls.build(Reader(fields, parsers, problems), default)
        return spec, list(dict.fromkeys(problems))

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Build a spec from its JSON value. Types are checked strictly.

        Raises:
            SpecError: If the value is not a valid spec of this type.
        """
        try:
            return _adapter_of(cls).validate_json(json.dumps(value))
        except (ValidationError, TypeError, ValueError, RecursionError) as error:
            raise SpecError(f"not a valid {cls.noun} ({_reason(error)}); create it again") from None

    def fields(self) -> dict[str, str]:
        """Return every field as text, by name. Optional fields with empty text, such as None, are omitted."""
        texts = {p.name: (p, p.format(attrgetter(".".join(p.path))(self))) for p in params_of(type(self))}
        return {name: text for name, (p, text) in texts.items() if text or p.required}

    def link(self) -> str:
        """Return the query string of a link that restores the spec.

        Every value is written out, so that old links keep their meaning if a default changes.
        """
        return "?" + urlencode(self.fields(), safe="@:,=/")

    def flags(self) -> list[str]:
        """Return the command-line words of the fields that differ from their defaults."""
        texts, words = self.fields(), []
        for p in params_of(type(self)):
            if p.name in texts and (p.required or texts[p.name] != p.format(p.default)):
                words += [flag_of(p)] if not p.positional else []
                words += [texts[p.name]] if not p.is_switch else []
        return words

    def cli(self, out: str = "") -> str:
        """Return the equivalent command line, with the output folder `out` (by default that of the spec, if it has one)."""
        folder = out or self.out
        return shlex.join(["python", "-m", "attrlib", self.command, *self.flags(), *(["--out", folder] if folder else [])])

    def keywords(self, names: Collection[str]) -> str:
        """Return the named fields that differ from their defaults as Python keyword arguments, each preceded by a comma."""
        defaults = {p.path[0]: p.default for p in params_of(type(self)) if len(p.path) == 1}
        return "".join(f", {n}={getattr(self, n)!r}" for n in names if getattr(self, n) != defaults[n])


class _Inner(Reader):
    """Reader of the fields of a nested spec, under their names in the outer spec."""

    def __init__(self, outer: Reader, params: list[Param], metadata: Mapping[str, Any]):
        self._outer, self._params = outer, {p.path[1:]: p for p in params}
        self.texts = outer.texts

    def value(self, param: Param, default: Any, parse: Callable[[str], Any] | None = None) -> Any:
        """Return the value of a field, or its default if the outer spec omits the field."""
        outer_param = self._params.get(param.path)
        return default if outer_param is None else self._outer.value(outer_param, default, parse)


def flag_of(param: Param) -> str:
    """Return the command-line flag of a field."""
    return f"--{param.flag or param.name.replace('_', '-')}"


def options_of(cls: type) -> tuple[Param, ...]:
    """Return the fields of a spec that a form can set: numbers, switches and texts with a default."""
    return tuple(p for p in params_of(cls) if p.is_plain and not p.required and len(p.path) == 1)


def documented(options: Iterable[Param]) -> Callable[[F], F]:
    """Return a decorator that lists the options that a function takes as `**options` in its signature and docstring."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        *declared, rest = signature.parameters.values()
        kind = inspect.Parameter.KEYWORD_ONLY
        named = [inspect.Parameter(p.name, kind, default=p.default, annotation=p.kind | None if p.auto else p.kind) for p in options]
        function.__signature__ = signature.replace(parameters=[*declared, *named, rest])  # type: ignore[attr-defined]
        lines = [f"    {p.name}: {p.help}; default {p.format(p.default)}." for p in options]
        function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Options:", *lines])
        return function

    return decorate


def _adapter_of(cls: type) -> TypeAdapter:
    return _adapter(cls)


@cache
def _adapter(cls: type) -> TypeAdapter:
    return TypeAdapter(cls)


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'top level'}: {first['msg']}"[:120]
    return f"{type(error).__name__}: {str(error)[:80]}"
