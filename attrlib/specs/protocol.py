"""Which protocol, with which parameters."""

from dataclasses import dataclass
from typing import Self

from attrlib.errors import SpecError
from attrlib.specs.codec import Spec
from attrlib.specs.text import Pairs, Value, read_list, read_pairs, write_pairs


@dataclass(frozen=True)
class ProtocolSpec(Spec):
    """A protocol with its parameters; as text `NAME:key=value`, for example `idsds:grid=4:baseline=blur`."""

    name: str
    params: Pairs = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form. Values stay text until `attrlib.protocols.resolve`."""
        head, params = read_pairs(text)
        if not head.strip() or "@" in head:
            raise SpecError(f"{text[:80]!r} names no protocol; write NAME or NAME:key=value, as in difull:grid=3")
        return cls(head.strip(), params)

    def __str__(self) -> str:
        return f"{self.name}{write_pairs(self.params)}"

    @property
    def values(self) -> dict[str, Value]:
        """The parameters by name."""
        return dict(self.params)


def parse_protocols(text: str) -> tuple[ProtocolSpec, ...]:
    """Read a list of protocols in text form, separated by commas, each once, in order."""
    return read_list(text, ProtocolSpec.parse, "no protocol given; write for example sds,difull:grid=3")
