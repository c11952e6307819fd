"""Which model: its architecture, its weights and the size of its input."""

import re
from dataclasses import dataclass
from typing import Any, Self

from attrlib.errors import SpecError
from attrlib.registry import REQUIRED, param, params_of
from attrlib.specs.codec import Reader, Spec
from attrlib.specs.text import read_list

AT = "@"
LARGEST = 2048
"""Pixels that a side of the input may have."""
Size = tuple[int, int]


def parse_size(text: str) -> Size:
    """Height and width in pixels from `HxW`, or from one number for a square. Raises `SpecError`."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*(?:[x×]\s*(\d{1,6})\s*)?", text, re.ASCII)
    if found is None:
        raise SpecError(f"input size {text[:40]!r} is not valid: write HEIGHTxWIDTH in pixels, as in 192x256, or one number for a square")
    height, width = int(found[1]), int(found[2] or found[1])
    return check_size((height, width))


def check_size(size: int | Size) -> Size:
    """Height and width, from a pair or from one number for a square. Raises `SpecError` for what no input can have."""
    pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, tuple | list) else ()
    if len(pair) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= LARGEST for side in pair):
        raise SpecError(
            f"input size {str(size)[:40]} is not valid: give (height, width), each a whole number of pixels from 1 to {LARGEST}"
        )
    return pair[0], pair[1]


def size_text(size: Size) -> str:
    """The inverse of `parse_size`."""
    return f"{size[0]}x{size[1]}"


@dataclass(frozen=True)
class ModelSpec(Spec):
    """Which model: an architecture (`efficientnet_lite0`, `timm:NAME`, `torchvision:NAME`) and where its weights come from.

    `checkpoint` is the path of a local file, `random:SEED` for random weights, or None for the pretrained ones; `input_size` is
    (height, width) in pixels, None for the model's own. As text ARCHITECTURE or ARCHITECTURE@CHECKPOINT, with @HxW behind it for a size.
    """

    architecture: str = param(
        REQUIRED,
        "A name of the list, timm:NAME, torchvision:NAME, NAME@FILE, or a checkpoint with its card; by default the embedded model",
        name="model",
    )
    checkpoint: str | None = param(
        None,
        "File with weights for the architecture, or random:SEED. NAME.txt beside it may name the classes, one a line",
        auto="the pretrained weights",
        none="",
    )
    input_size: Size | None = param(
        None, "HxW in pixels, as in 192x256", auto="the model's own", none="", read=parse_size, write=size_text, check=check_size
    )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form. Raises `SpecError` for no name, and for a size that no input can have."""
        head, at, last = text.strip().rpartition(AT)
        sized = at and re.fullmatch(r"\d+[x×]\d+", last, re.ASCII)
        architecture, _, checkpoint = (head if sized else text.strip()).partition(AT)
        if not architecture.strip():
            raise SpecError(f"{text[:80]!r} names no model; write ARCHITECTURE, ARCHITECTURE@CHECKPOINT, or either with @HxW behind it")
        return cls(architecture.strip(), checkpoint.strip() or None, parse_size(last) if sized else None)

    @classmethod
    def build(cls, reader: Reader, default: Self | None = None) -> Self:
        """Read the fields, the first of them also in text form. Where any is given, none of the others is that of `default`.

        A checkpoint or a size of its own goes before what the text form says; a checkpoint without a model is one of the default's.
        """
        model, checkpoint, size = params_of(ModelSpec)
        if default is not None and not any(reader.texts.get(p.name) for p in (model, checkpoint, size)):
            return default
        given = reader.value(model, REQUIRED if default is None else cls(default.architecture), cls.parse)
        return cls(
            given.architecture,
            reader.value(checkpoint, None) or given.checkpoint,
            reader.value(size, None) or given.input_size,
        )

    def __str__(self) -> str:
        return self.architecture

    @property
    def text(self) -> str:
        """All of it in a word, as it stands in lists and links."""
        size = f"{AT}{size_text(self.input_size)}" if self.input_size else ""
        return self.architecture + (f"{AT}{self.checkpoint}" if self.checkpoint else "") + size

    def options(self) -> dict[str, Any]:
        """Return what `attrlib.load_model` is called with besides the architecture."""
        return {name: value for name, value in (("checkpoint", self.checkpoint), ("input_size", self.input_size)) if value is not None}

    def arguments(self) -> str:
        """Return the arguments of `attrlib.load_model`, as Python."""
        return ", ".join([repr(self.architecture), *(f"{name}={value!r}" for name, value in self.options().items())])


def parse_model_specs(text: str) -> tuple[ModelSpec, ...]:
    """Read a list of models in text form, separated by commas, each once, in order. Raises `SpecError`."""
    return read_list(text, ModelSpec.parse)


def write_model_specs(models: tuple[ModelSpec, ...]) -> str:
    """Write models in text form, separated by commas."""
    return ",".join(model.text for model in models)
