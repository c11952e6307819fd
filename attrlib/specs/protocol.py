"""Spec of a protocol: its name and parameters."""

from dataclasses import dataclass
from typing import Self

from attrlib.errors import SpecError
from attrlib.specs.codec import Spec
from attrlib.specs.text import Pairs, Value, read_list, read_pairs, write_pairs


@dataclass(frozen=True)
class ProtocolSpec(Spec):
    """A protocol with its parameters. Its text form is `NAME:key=value`, for example `idsds:grid=4:baseline=blur`."""

    name: str
    params: Pairs = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text form. Parameter values stay text until `attrlib.protocols.resolve` converts them.

        Raises:
            SpecError: If the text is not valid.
        """
        head, params = read_pairs(text)
        if not head.strip() or "@" in head:
            raise SpecError(f"{text[:80]!r} names no protocol; write NAME or NAME:key=value, as in difull:grid=3")
        return cls(head.strip(), params)

    def __str__(self) -> str:
        return f"{self.name}{write_pairs(self.params)}"

    @property
    def values(self) -> dict[str, Value]:
        """Return the parameters by name."""
        return dict(self.params)


def parse_protocols(text: str) -> tuple[ProtocolSpec, ...]:
    """Parse a comma-separated list of protocols, in order and without duplicates.

    Raises:
        SpecError: If the list is empty, or an entry is not valid.
    """
    return read_list(text, ProtocolSpec.parse, "no protocol given; write for example sds,difull:grid=3")
