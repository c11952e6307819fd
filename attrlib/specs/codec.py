"""Base of all specs, which derives link, command line, Python and JSON from their declared fields, and reads them back.

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
"""Parsers that replace those of the declaration for some fields, for names that only higher-level modules know."""


class Reader:
    """Reader of fields from text.

    Args:
        texts: The text of each field that is given, by name.
        parsers: Parsers that replace those of the declaration, by field.
        problems: List that collects messages about invalid values, whose fields keep their defaults. If None, the first invalid value
            raises `SpecError`.
    """

    def __init__(self, texts: Mapping[str, str], parsers: Parsers = MappingProxyType({}), problems: list[str] | None = None):
        self.texts, self._parsers, self._problems = texts, parsers, problems

    def value(self, param: Param, default: Any, parse: Callable[[str], Any] | None = None) -> Any:
        """Return the value of a field.

        Args:
            param: The field.
            default: Value if the field is not given, `REQUIRED` if it must be.
            parse: Parser of the text, by default that of the declaration.

        Raises:
            SpecError: If a required field is missing, or its text is invalid and problems are not collected.
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
    """Base class of all specs: frozen dataclasses that define what is computed and shown."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)
    command: ClassVar[str] = ""
    """The command of `python -m attrlib` that computes the spec."""
    out: ClassVar[str] = ""
    """Default output folder of the command, empty if it need not write one."""
    what: ClassVar[str] = "spec"
    """What messages call the spec."""

    def __post_init__(self) -> None:
        for p in params_of(type(self)):
            if len(p.path) == 1:
                p.validate(getattr(self, p.path[0]))

    @classmethod
    def build(cls, reader: Reader, default: Self | None = None) -> Self:
        """Build a spec from a reader.

        Args:
            reader: Reader of the given fields.
            default: Spec that provides the fields that are not given. If None, the defaults of the declaration are used.

        Raises:
            SpecError: If a field is invalid or missing.
        """
        values: dict[str, Any] = {}
        for f in dataclasses.fields(cls):  # type: ignore[arg-type]
            own = [p for p in params_of(cls) if p.path[0] == f.name]
            otherwise = REQUIRED if default is None else getattr(default, f.name)
            if "nested" in f.metadata:
                values[f.name] = f.metadata["nested"].build(_Inner(reader, own, f.metadata), None if otherwise is REQUIRED else otherwise)
            else:
                values[f.name] = reader.value(own[0], own[0].default if otherwise is REQUIRED else otherwise)
        return cls(**values)

    @classmethod
    def read(cls, texts: Mapping[str, str], parsers: Parsers = MappingProxyType({})) -> Self:
        """Build a spec from text fields, as given by command-line flags.

        Args:
            texts: The text of each field that is given, by name.
            parsers: Parsers that replace those of the declaration, by field.

        Raises:
            SpecError: For the first field that is invalid or missing.
        """
        return cls.build(Reader(texts, parsers))

    @classmethod
    def read_link(cls, fields: Mapping[str, str], default: Self, parsers: Parsers = MappingProxyType({})) -> tuple[Self, list[str]]:
        """Build a spec from the fields of a link. Fields that are missing or invalid keep their defaults.

        Args:
            fields: The text of each field of the link, by name.
            default: Spec that provides the defaults.
            parsers: Parsers that replace those of the declaration, by field.

        Returns:
            The spec, and messages about invalid values and unknown fields.
        """
        known = [p.name for p in params_of(cls)]
        problems = [unknown("field of the link", name, known) for name in sorted(set(fields) - set(known))]
        spec = cls.build(Reader(fields, parsers, problems), default)
        return spec, list(dict.fromkeys(problems))

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Build a spec from its JSON value. Types are checked strictly.

        Raises:
            SpecError: If the value is not one of this spec.
        """
        try:
            return _adapter_of(cls).validate_json(json.dumps(value))
        except (ValidationError, TypeError, ValueError, RecursionError) as error:
            raise SpecError(f"this is no {cls.what} ({_reason(error)}); begin it anew") from None

    def fields(self) -> dict[str, str]:
        """Return every field as text, by name. Optional fields with empty text, such as None, are left out."""
        found = {p.name: (p, p.format(attrgetter(".".join(p.path))(self))) for p in params_of(type(self))}
        return {name: text for name, (p, text) in found.items() if text or p.required}

    def link(self) -> str:
        """Return the query string of a link that restores the spec.

        Every value is written out, so that a later change of a default does not change the meaning of old links.
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
        """Return the command line that computes the same, with the output folder `out` (by default that of the spec, if it has one)."""
        folder = out or self.out
        return shlex.join(["python", "-m", "attrlib", self.command, *self.flags(), *(["--out", folder] if folder else [])])

    def keywords(self, names: Collection[str]) -> str:
        """Return Python code for the named fields that differ from their defaults, as keyword arguments to append to others."""
        own = {p.path[0]: p.default for p in params_of(type(self)) if len(p.path) == 1}
        return "".join(f", {n}={getattr(self, n)!r}" for n in names if getattr(self, n) != own[n])


class _Inner(Reader):
    """Reader of the fields of a nested spec, under the names that they have in the outer spec."""

    def __init__(self, outer: Reader, own: list[Param], metadata: Mapping[str, Any]):
        self._outer, self._own = outer, {p.path[1:]: p for p in own}
        self.texts = outer.texts

    def value(self, param: Param, default: Any, parse: Callable[[str], Any] | None = None) -> Any:
        """Return the value of a field, or its default if the outer spec leaves the field out."""
        found = self._own.get(param.path)
        return default if found is None else self._outer.value(found, default, parse)


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
        *own, rest = signature.parameters.values()
        kind = inspect.Parameter.KEYWORD_ONLY
        named = [inspect.Parameter(p.name, kind, default=p.default, annotation=p.kind | None if p.auto else p.kind) for p in options]
        function.__signature__ = signature.replace(parameters=[*own, *named, rest])  # type: ignore[attr-defined]
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
        return f"{'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}"[:120]
    return f"{type(error).__name__}: {str(error)[:80]}"
