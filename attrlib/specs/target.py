"""Spec of a target: which function of the model's outputs is explained, and its parameters."""

from dataclasses import dataclass
from typing import Self

from attrlib.errors import SpecError
from attrlib.specs.text import Pairs, Value, read_pairs, write_pairs

LOGIT = "logit"
"""Name of the default target."""


@dataclass(frozen=True)
class TargetSpec:
    """A target with its parameters. Its text form is `NAME:key=value`, for example `contrast:k=3`."""

    name: str = LOGIT
    params: Pairs = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text form. Parameter values stay text until `attrlib.targets.resolve` converts them.

        A value may contain colons, as in `similarity:to=sample:cat`.

        Raises:
            SpecError: If the text is not valid.
        """
        head, params = read_pairs(text, colons=True)
        if not head.strip() or "@" in head:
            raise SpecError(f"{text[:80]!r} names no target; write NAME or NAME:key=value, as in contrast:k=3")
        return cls(head.strip(), params)

    def __str__(self) -> str:
        return f"{self.name}{write_pairs(self.params)}"

    @property
    def values(self) -> dict[str, Value]:
        """Return the parameters by name."""
        return dict(self.params)
