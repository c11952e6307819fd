"""Which method, at which layer, with which parameters."""

from dataclasses import dataclass
from typing import Any, Self

from attrlib.errors import SpecError
from attrlib.registry import REQUIRED, param
from attrlib.specs.codec import Spec
from attrlib.specs.text import Pairs, Value, read_list, read_pairs, write_list, write_pairs


@dataclass(frozen=True)
class MethodSpec(Spec):
    """A method at a layer with its parameters; as text `NAME@LAYER:key=value:key=value`, for example `IG@Final:steps=20`.

    An empty layer stands for the method's own default until `attrlib.methods.resolve` fills it in.
    """

    name: str
    layer: str = ""
    params: Pairs = ()

    @classmethod
    def parse(cls, text: str, layer: str = "") -> Self:
        """Read the text form; `layer` is used where the text names none. Values stay text until `attrlib.methods.resolve`."""
        head, params = read_pairs(text)
        name, _, own_layer = head.partition("@")
        if not name.strip():
            raise SpecError(f"{text[:80]!r} names no method; write NAME, NAME@LAYER or NAME@LAYER:key=value, as in IG@Final:steps=20")
        if "@" in own_layer:
            raise SpecError(f"{text[:80]!r} names two layers; write NAME@LAYER")
        return cls(name.strip(), own_layer.strip() or layer, params)

    def __str__(self) -> str:
        return f"{self.name}{'@' if self.layer else ''}{self.layer}{write_pairs(self.params)}"

    @property
    def values(self) -> dict[str, Value]:
        """The parameters by name."""
        return dict(self.params)


def parse_methods(text: str, layer: str = "") -> tuple[MethodSpec, ...]:
    """Read a list of methods in text form, separated by commas, each once, in order."""
    return read_list(text, lambda part: MethodSpec.parse(part, layer), "no method given; write for example IG,Grad-CAM@Final")


def methods_param() -> Any:
    """Declare the methods of a spec, in text form separated by commas."""
    return param(
        REQUIRED,
        "Separated by commas: NAME, NAME@LAYER:key=value, idsds, rao, erdem, or all",
        read=parse_methods,
        write=write_list,
        missing="no method given: add for example --methods IG,Grad-CAM; python -m attrlib methods lists them",
    )
