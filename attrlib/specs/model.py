"""Spec of a model: its architecture, weights and input size."""

import re
from dataclasses import dataclass
from typing import Any, Self

from attrlib.errors import SpecError
from attrlib.registry import REQUIRED, param, params_of
from attrlib.specs.codec import Reader, Spec
from attrlib.specs.text import read_list

AT = "@"
LARGEST = 2048
"""Largest side of the input, in pixels."""
Size = tuple[int, int]


def parse_size(text: str) -> Size:
    """Parse a size in pixels, `HxW` or one number for a square, into (height, width).

    Raises:
        SpecError: If the text is not a size, or a side is out of range.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*(?:[x×]\s*(\d{1,6})\s*)?", text, re.ASCII)
    if match is None:
        raise SpecError(f"input size {text[:40]!r} is not valid: write HEIGHTxWIDTH in pixels, as in 192x256, or one number for a square")
    height, width = int(match[1]), int(match[2] or match[1])
    return check_size((height, width))


def check_size(size: int | Size) -> Size:
    """Validate an input size in pixels, a pair or one number for a square, and return (height, width).

    Raises:
        SpecError: If a side is not a whole number from 1 to `LARGEST`.
    """
    pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, tuple | list) else ()
    if len(pair) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= LARGEST for side in pair):
        raise SpecError(
            f"input size {str(size)[:40]} is not valid: give (height, width), each a whole number of pixels from 1 to {LARGEST}"
        )
    return pair[0], pair[1]


def size_text(size: Size) -> str:
    """Return a size as text, the inverse of `parse_size`."""
    return f"{size[0]}x{size[1]}"


@dataclass(frozen=True)
class ModelSpec(Spec):
    """A model: an architecture (`efficientnet_lite0`, `timm:NAME`, `torchvision:NAME`), its weights and its input size.

    `checkpoint` is the path of a local file, `random:SEED` for random weights, or None for the pretrained ones. `input_size` is
    (height, width) in pixels, or None for the model's default. The text form is ARCHITECTURE or ARCHITECTURE@CHECKPOINT, followed by
    @HxW for another input size.
    """

    architecture: str = param(
        REQUIRED,
        "A listed name, timm:NAME, torchvision:NAME, NAME@FILE, or a checkpoint with a model card; by default the embedded model",
        name="model",
    )
    checkpoint: str | None = param(
        None,
        "Weights file for the architecture, or random:SEED. A file NAME.txt next to it may list the class names, one per line, and a model card NAME.json also gives the preprocessing",
        auto="pretrained weights",
        none="",
    )
    input_size: Size | None = param(
        None, "HxW in pixels, as in 192x256", auto="the model's native size", none="", read=parse_size, write=size_text, check=check_size
    )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text form.

        Raises:
            SpecError: If there is no architecture, or the size is not valid.
        """
        head, at, last = text.strip().rpartition(AT)
        sized = at and re.fullmatch(r"\d+[x×]\d+", last, re.ASCII)
        architecture, _, checkpoint = (head if sized else text.strip()).partition(AT)
        if not architecture.strip():
            raise SpecError(f"{text[:80]!r} names no model; write ARCHITECTURE, ARCHITECTURE@CHECKPOINT, or either followed by @HxW")
        return cls(architecture.strip(), checkpoint.strip() or None, parse_size(last) if sized else None)

    @classmethod
    def build(cls, reader: Reader, default: Self | None = None) -> Self:
        """Build the spec from a reader. The field `model` may hold the whole text form.

        If any field is present, checkpoint and size are not taken from `default`. Their separate fields take precedence over the text
        form. A checkpoint or size without a model applies to the architecture of `default`.
        """
        model, checkpoint, size = params_of(ModelSpec)
        if default is not None and not any(reader.texts.get(p.name) for p in (model, checkpoint, size)):
            return default
        named = reader.value(model, REQUIRED if default is None else cls(default.architecture), cls.parse)
        return cls(
            named.architecture,
            reader.value(checkpoint, None) or named.checkpoint,
            reader.value(size, None) or named.input_size,
        )

    def __str__(self) -> str:
        return self.architecture

    @property
    def text(self) -> str:
        """Return the text form, as used in lists and links."""
        size = f"{AT}{size_text(self.input_size)}" if self.input_size else ""
        return self.architecture + (f"{AT}{self.checkpoint}" if self.checkpoint else "") + size

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of `attrlib.load_model`, without those at their defaults."""
        return {name: value for name, value in (("checkpoint", self.checkpoint), ("input_size", self.input_size)) if value is not None}

    def arguments(self) -> str:
        """Return the arguments of `attrlib.load_model` as Python code."""
        return ", ".join([repr(self.architecture), *(f"{name}={value!r}" for name, value in self.options().items())])


def parse_model_specs(text: str) -> tuple[ModelSpec, ...]:
    """Parse a comma-separated list of models, in order and without duplicates.

    Raises:
        SpecError: If an entry is not valid.
    """
    return read_list(text, ModelSpec.parse)


def write_model_specs(models: tuple[ModelSpec, ...]) -> str:
    """Return models as a comma-separated list in text form."""
    return ",".join(model.text for model in models)
