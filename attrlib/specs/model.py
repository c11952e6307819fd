"""Spec of a model: its architecture, its weights, what goes in and what its outputs mean."""

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any, Self

from attrlib.errors import SpecError
from attrlib.registry import REQUIRED, param, params_of
from attrlib.specs.codec import Reader, Spec
from attrlib.specs.text import read_list, whole

AT = "@"
LARGEST = 2048
"""Largest side of the input, in pixels."""
Size = tuple[int, int]
OUTPUTS = ("auto", "softmax", "sigmoid", "binary", "scalar", "features", "probabilities")
"""Kinds of outputs, see `attrlib.models.outputs`; `auto` chooses one by the shape of the outputs and by a probe."""
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
FITS = ("centre", "squash", "border")
_SIZE = r"\d{1,6}(?:[x×]\d{1,6})?"


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


def parse_numbers(text: str) -> tuple[float, ...]:
    """Parse one number for each channel, separated by slashes or commas, as in `0.5/0.5/0.5`.

    Raises:
        SpecError: If a part is not a number.
    """
    try:
        return tuple(float(part) for part in re.split(r"[/,]", text))
    except ValueError:
        raise SpecError(f"{text[:40]!r} is not valid: write one number for each channel, separated by slashes, as in 0.5/0.5/0.5") from None


def numbers_text(values: tuple[float, ...] | tuple[int, ...]) -> str:
    """Return numbers as text, the inverse of `parse_numbers`."""
    return "/".join(map(str, values))


def _check_numbers(values: object) -> None:
    if not isinstance(values, tuple | list) or not values or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        raise SpecError(f"{str(values)[:40]} is not valid: give one number for each channel")


def parse_bands(text: str) -> tuple[int, ...]:
    """Parse the numbers of channels, separated by slashes or commas, as in `3/2/1`.

    Raises:
        SpecError: If a part is not a whole number.
    """
    return tuple(whole(part, "bands_shown") for part in re.split(r"[/,]", text))


def _check_bands(values: object) -> None:
    if not isinstance(values, tuple | list) or len(values) not in (1, 3) or not all(isinstance(v, int) and v >= 0 for v in values):
        raise SpecError(f"bands_shown={str(values)[:40]} is not valid: give one channel, or three, as in 3/2/1")


def _channels_param(what: str) -> Any:
    return param(
        None,
        f"{what} of each channel that the model expects, for colours in [0,1], as in 0.5/0.5/0.5",
        auto="that of the model card or the architecture",
        none="",
        read=parse_numbers,
        write=numbers_text,
        check=_check_numbers,
    )


@dataclass(frozen=True)
class ModelSpec(Spec):
    """A model: an architecture (`efficientnet_lite0`, `timm:NAME`, `torchvision:NAME`), its weights, its inputs and its outputs.

    `checkpoint` is the path of a local file, `random:SEED` for random weights, or None for the pretrained ones. `input_size` is
    (height, width) in pixels, or None for the model's default. `outputs` says what the network's numbers mean. The other fields
    replace the preprocessing of the model card or of the architecture.

    The text form is ARCHITECTURE or ARCHITECTURE@CHECKPOINT, followed by @HxW for another input size, and by @FIELD=VALUE for the
    other fields, as in `timm:resnet18@my.pth@96x96@outputs=sigmoid@mean=0.5/0.5/0.5`. The architecture may end with its own options,
    as in `timm:vit_tiny_patch16_224?img_size=96&in_chans=1`.
    """

    architecture: str = param(
        REQUIRED,
        "A listed name, timm:NAME, torchvision:NAME, NAME@FILE, or a checkpoint with a model card; by default the embedded model",
        name="model",
    )
    checkpoint: str | None = param(
        None,
        "Checkpoint for the architecture, FILE or FILE#KEY, or random:SEED. A file NAME.txt next to it may list the class names, one per line, and a model card NAME.json also gives the preprocessing",
        auto="pretrained weights",
        none="",
    )
    input_size: Size | None = param(
        None, "HxW in pixels, as in 192x256", auto="the model's native size", none="", read=parse_size, write=size_text, check=check_size
    )
    outputs: str = param(
        "auto",
        "What the network's numbers are: logits of exclusive classes (softmax), of labels (sigmoid), one logit of two classes (binary), numbers (scalar), features of a backbone without a head (features), or probabilities",
        choices=OUTPUTS,
        noun="kind of outputs",
    )
    mean: tuple[float, ...] | None = _channels_param("Mean")
    std: tuple[float, ...] | None = _channels_param("Standard deviation")
    interpolation: str | None = param(
        None, "Interpolation that resizes pictures", choices=INTERPOLATIONS, auto="that of the model card or the architecture", none=""
    )
    crop: float | None = param(
        None,
        "Share of the picture's short side that the crop covers",
        above=0,
        high=2,
        auto="that of the model card or the architecture",
        none="",
    )
    fit: str | None = param(
        None,
        "How pictures of another shape are fitted: cropped at the centre, squashed, or with a border",
        choices=FITS,
        auto="that of the model card or the architecture",
        none="",
    )
    white: float | None = param(
        None,
        "Value that becomes 1 in pictures of 16 bits or floats, such as 4095 for 12 bits",
        above=0,
        auto="that of the model card, or 65535, and 1 for floats",
        none="",
    )
    bands_shown: tuple[int, ...] | None = param(
        None,
        "One channel to show grey, or three to show as red, green and blue, as in 3/2/1; it does not change the input",
        auto="the first three, or the first",
        none="",
        read=parse_bands,
        write=numbers_text,
        check=_check_bands,
    )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text form.

        Raises:
            SpecError: If there is no architecture, or a field is not valid.
        """
        architecture, *parts = text.strip().split(AT)
        if not architecture.strip():
            raise SpecError(f"{text[:80]!r} names no model; write ARCHITECTURE, ARCHITECTURE@CHECKPOINT, or either followed by @HxW")
        fields = {p.name: p for p in params_of(cls)[2:]}
        values: dict[str, Any] = {}
        while parts:
            name, equals, value = parts[-1].partition("=")
            if re.fullmatch(_SIZE, parts[-1], re.ASCII):
                name, value = "input_size", parts[-1]
            elif not (equals and name in fields):
                break
            if name in values:
                raise SpecError(f"{name} is given twice in {text[:80]!r}")
            values[name] = fields[name].parse(value)
            parts.pop()
        return cls(architecture.strip(), AT.join(parts).strip() or None, **values)

    @classmethod
    def build(cls, reader: Reader, default: Self | None = None) -> Self:
        """Build the spec from a reader. The field `model` may hold the whole text form.

        If any field is present, the others are not taken from `default`, except for the architecture. Separate fields take precedence
        over the text form.
        """
        model, *others = params_of(ModelSpec)
        if default is not None and not any(reader.texts.get(p.name) for p in (model, *others)):
            return default
        named = reader.value(model, REQUIRED if default is None else cls(default.architecture), cls.parse)
        given = {p.name: reader.value(p, p.default) for p in others}
        return dataclasses.replace(named, **{p.name: given[p.name] for p in others if given[p.name] not in (p.default, "")})

    def __str__(self) -> str:
        return self.architecture

    @property
    def text(self) -> str:
        """Return the text form, as used in lists and links."""
        options = self.options()
        checkpoint, size = options.pop("checkpoint", None), options.pop("input_size", None)
        parts = [self.architecture, *([checkpoint] if checkpoint else []), *([size_text(size)] if size else [])]
        return AT.join([*parts, *(f"{p.name}={p.format(options[p.name])}" for p in params_of(ModelSpec) if p.name in options)])

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of `attrlib.load_model`, without those at their defaults."""
        return {p.name: getattr(self, p.name) for p in params_of(ModelSpec)[1:] if getattr(self, p.name) != p.default}

    def preprocessing(self) -> dict[str, Any]:
        """Return the fields of `Preprocessing` that the spec replaces, besides the size."""
        return {name: value for name, value in self.options().items() if name not in ("checkpoint", "input_size", "outputs")}

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
