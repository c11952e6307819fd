"""Spec of a target: which function of the model's outputs is explained, and its parameters."""

import re
from dataclasses import dataclass
from typing import Self

from attrlib.errors import SpecError
from attrlib.specs.text import BEFORE_KEY, Pairs, Value, read_pairs, write_pairs

LOGIT = "logit"
"""Name of the default target."""
_ESCAPED = re.compile("%(2C|25|3A)", re.IGNORECASE)
_ENDING = re.compile(rf",|{BEFORE_KEY}|%(?=2C|25|3A)", re.IGNORECASE)


@dataclass(frozen=True)
class TargetSpec:
    """A target with its parameters. Its text form is `NAME:key=value`, for example `contrast:k=3`."""

    name: str = LOGIT
    params: Pairs = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text form. Parameter values stay text until `attrlib.targets.resolve` converts them.

        A value may contain colons, as in `similarity:to=sample:cat`. Within a list of methods its commas are written `%2C`.

        Raises:
            SpecError: If the text is not valid.
        """
        head, params = read_pairs(text, colons=True)
        if not head.strip() or "@" in head:
            raise SpecError(f"{text[:80]!r} names no target; write NAME or NAME:key=value, as in contrast:k=3")
        return cls(head.strip(), tuple((key, _read(value)) for key, value in params))

    def __str__(self) -> str:
        return f"{self.name}{write_pairs(tuple((key, _written(value)) for key, value in self.params))}"

    @property
    def values(self) -> dict[str, Value]:
        """Return the parameters by name."""
        return dict(self.params)


def _written(value: Value) -> Value:
    """Return a value without the characters that end it in a list of methods or before another `key=`."""
    return _ENDING.sub(lambda found: f"%{ord(found[0]):02X}", value) if isinstance(value, str) else value


def _read(value: Value) -> Value:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), value) if isinstance(value, str) else value
