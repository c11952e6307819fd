"""Spec of a method: its name, layer and parameters."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

from attrlib.errors import SpecError
from attrlib.registry import REQUIRED, param
from attrlib.specs.codec import Spec
from attrlib.specs.target import TargetSpec
from attrlib.specs.text import Pairs, Value, read_list, read_pairs, write_list, write_pairs

TARGET = ":target="
"""What precedes the target in the text form of a method. All that follows belongs to the target."""


@dataclass(frozen=True)
class MethodSpec(Spec):
    """A method at a layer with its parameters and its target.

    Its text form is `NAME@LAYER:key=value:key=value:target=TARGET`, for example `IG@Final:steps=20` or `Grad-CAM:target=contrast:k=3`. An
    empty layer stands for the method's default, which `attrlib.methods.resolve` fills in.
    """

    name: str
    layer: str = ""
    params: Pairs = ()
    target: TargetSpec = field(default=TargetSpec(), metadata={"digest": "if set"})

    @classmethod
    def parse(cls, text: str, layer: str = "", target: TargetSpec = TargetSpec()) -> Self:  # noqa: B008  it is immutable
        """Parse the text form. Parameter values stay text until `attrlib.methods.resolve` converts them.

        Args:
            text: For example `IG@Final:steps=20`.
            layer: Layer for a text that names none.
            target: Target for a text that names none.

        Raises:
            SpecError: If the text is not valid.
        """
        method, mark, named_target = text.partition(TARGET)
        head, params = read_pairs(method)
        name, _, named_layer = head.partition("@")
        if not name.strip():
            raise SpecError(f"{text[:80]!r} names no method; write NAME, NAME@LAYER or NAME@LAYER:key=value, as in IG@Final:steps=20")
        if "@" in named_layer:
            raise SpecError(f"{text[:80]!r} names two layers; write NAME@LAYER")
        return cls(name.strip(), named_layer.strip() or layer, params, TargetSpec.parse(named_target) if mark else target)

    def __str__(self) -> str:
        target = "" if self.target == TargetSpec() else f"{TARGET}{self.target}"
        return f"{self.name}{'@' if self.layer else ''}{self.layer}{write_pairs(self.params)}{target}"

    @property
    def label(self) -> str:
        """Return the text form without the layer, for titles beside which the layer stands."""
        return str(replace(self, layer=""))

    @property
    def values(self) -> dict[str, Value]:
        """Return the parameters by name."""
        return dict(self.params)


def parse_methods(text: str, layer: str = "", target: TargetSpec = TargetSpec()) -> tuple[MethodSpec, ...]:  # noqa: B008  it is immutable
    """Parse a comma-separated list of methods, in order and without duplicates.

    Args:
        text: Methods in text form, for example `IG,Grad-CAM@Final`.
        layer: Layer of the methods that name none.
        target: Target of the methods that name none.

    Raises:
        SpecError: If the list is empty, or an entry is not valid.
    """
    return read_list(text, lambda part: MethodSpec.parse(part, layer, target), "no method given; write for example IG,Grad-CAM@Final")


def methods_param() -> Any:
    """Declare the field for the methods of a spec, whose text form is a comma-separated list."""
    return param(
        REQUIRED,
        "Separated by commas: NAME, NAME@LAYER:key=value, idsds, rao, erdem, finer-cam, or all",
        read=parse_methods,
        write=write_list,
        missing="no method given: add for example --methods IG,Grad-CAM; python -m attrlib methods lists them",
    )
