"""Which model: its architecture, its weights and the size of its input; in one text form, and in flags, links and Python."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from attrlib.errors import SpecError

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
class ModelSpec:
    """Which model: an architecture (`efficientnet_lite0`, `timm:NAME`, `torchvision:NAME`) and where its weights come from.

    `checkpoint` is the path of a local file, `random:SEED` for random weights, or None for the pretrained ones; `input_size` is
    (height, width) in pixels, None for the model's own. As text ARCHITECTURE or ARCHITECTURE@CHECKPOINT, with @HxW behind it for a size.
    """

    architecture: str
    checkpoint: str | None = None
    input_size: Size | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads the text form. Raises `SpecError` for no name, and for a size that no input can have."""
        head, at, last = text.strip().rpartition(AT)
        sized = at and re.fullmatch(r"\d+[x×]\d+", last, re.ASCII)
        architecture, _, checkpoint = (head if sized else text.strip()).partition(AT)
        if not architecture.strip():
            raise SpecError(f"{text[:80]!r} names no model; write ARCHITECTURE, ARCHITECTURE@CHECKPOINT, or either with @HxW behind it")
        return cls(architecture.strip(), checkpoint.strip() or None, parse_size(last) if sized else None)

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Self:
        """From what JSON holds of it. Raises `KeyError`, `TypeError` or `SpecError` for anything else."""
        checkpoint, size = fields.get("checkpoint"), fields.get("input_size")
        known = {"architecture", "checkpoint", "input_size"}
        if set(fields) - known or not isinstance(fields["architecture"], str) or not isinstance(checkpoint, str | None):
            raise TypeError(f"a model has {', '.join(sorted(known))}, as text")
        return cls(fields["architecture"], checkpoint, None if size is None else check_size(size))

    def __str__(self) -> str:
        return self.architecture

    @property
    def text(self) -> str:
        """All of it in a word, as it stands in lists and links."""
        size = f"{AT}{size_text(self.input_size)}" if self.input_size else ""
        return self.architecture + (f"{AT}{self.checkpoint}" if self.checkpoint else "") + size

    def fields(self) -> dict[str, str]:
        """The fields of a link that name it."""
        given = {"checkpoint": self.checkpoint, "input_size": self.input_size and size_text(self.input_size)}
        return {"model": self.architecture} | {name: value for name, value in given.items() if value}

    def flags(self) -> list[str]:
        """The words of a command line that name it."""
        names = {"model": "--model", "checkpoint": "--checkpoint", "input_size": "--input-size"}
        return [word for name, value in self.fields().items() for word in (names[name], value)]

    def options(self) -> dict[str, Any]:
        """What `attrlib.load_model` is called with besides the architecture."""
        return {name: value for name, value in (("checkpoint", self.checkpoint), ("input_size", self.input_size)) if value is not None}

    def arguments(self) -> str:
        """The call of `attrlib.load_model`, as Python."""
        return ", ".join([repr(self.architecture), *(f"{name}={value!r}" for name, value in self.options().items())])


LINK = ("model", "checkpoint", "input_size")
"""The fields of a link that name a model."""


def read_model(fields: Mapping[str, str], default: ModelSpec, problems: list[str]) -> ModelSpec:
    """The inverse of `ModelSpec.fields`, forgiving: the default without any of them; what makes no sense is a problem, and left out.

    The model may also be in text form, as in lists; fields of its own go before what that says.
    """
    if not any(fields.get(name) for name in LINK):
        return default
    given, size = ModelSpec(default.architecture), None
    try:
        given = ModelSpec.parse(fields["model"]) if fields.get("model") else given
        size = parse_size(fields["input_size"]) if fields.get("input_size") else None
    except SpecError as error:
        problems.append(str(error))
    return ModelSpec(given.architecture, fields.get("checkpoint") or given.checkpoint, size or given.input_size)
