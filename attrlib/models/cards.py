"""Model cards: JSON files that describe trained weights and are stored beside them (`NAME.safetensors`, `NAME.json`)."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from functools import cache
from pathlib import Path
from typing import Any, Self

from attrlib import places
from attrlib.errors import ModelError, SpecError, existing_file, unknown
from attrlib.models.checkpoints import split_key
from attrlib.models.files.limits import MOST_CLASSES
from attrlib.models.files.safe import INDEX, parts_of
from attrlib.models.preprocessing import Preprocessing
from attrlib.specs import LARGEST, OUTPUTS, check_size

_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Card:
    """The description of trained weights: architecture, classes, preprocessing, and how they were trained.

    Attributes:
        architecture: Name by which the model is built.
        class_names: One name per output.
        preprocessing: Preprocessing of the input.
        data: Name of the training data.
        recipe: Settings of the training.
        deletion: Grid and baseline of the deletion that the model was fine-tuned with; None for whole images.
        accuracy: Top-1 accuracy with its 95 % CI by name (`clean`, `deleted`).
        parameters: Number of parameters.
        seed: Seed of the training.
        seconds: Duration of the training.
        epoch: The selected epoch.
        pair: Name of the same model with, or without, deletion.
        left_out: Number of training images that could not be read.
        digest: Digest of the weights file.
        outputs: What the network's numbers mean, see `attrlib.models.outputs`.
        weights: Path of the file with the weights; empty if it lies beside the card.
    """

    architecture: str
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    data: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    deletion: Mapping[str, Any] | None = None
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    parameters: int = 0
    seed: int = 0
    seconds: float = 0.0
    epoch: int = 0
    pair: str | None = None
    left_out: int = 0
    digest: str = ""
    outputs: str = "auto"
    weights: str = ""

    @property
    def count(self) -> int:
        """Return the number of outputs of the network: one for one logit of two classes, else one per name."""
        return 1 if self.outputs == "binary" else len(self.class_names)

    def values(self) -> dict[str, Any]:
        """Return the fields of the card. Those of the preprocessing that older versions do not know are left out at their defaults."""
        values = asdict(self)
        for f in dataclass_fields(Preprocessing):
            if f.metadata.get("digest") and getattr(self.preprocessing, f.name) == f.default:
                del values["preprocessing"][f.name]
        return values

    def text(self) -> str:
        """Return the card as JSON."""
        return json.dumps(self.values(), indent=1) + "\n"

    def summary(self) -> str:
        """Return a one-line description of the model."""
        tuned, data = (", deletion-tuned" if self.deletion else ""), (f" on {self.data}" if self.data else "")
        return f"{self.architecture.removeprefix('attrlib:')}{data}{tuned}, {self.parameters / 1e6:.1f} M parameters"

    def _check(self) -> None:
        kinds = {
            str: (self.architecture, self.data, self.pair or "", self.digest, self.outputs, self.weights, *self.class_names),
            int | float: (self.parameters, self.seed, self.seconds, self.epoch),
            Mapping: (self.recipe, self.deletion or {}, self.accuracy),
        }
        for kind, values in kinds.items():
            if strange := [value for value in values if not isinstance(value, kind)]:
                raise TypeError(f"a field is {strange[0]!r:.40}")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a card from a file. Raises `ModelError` if the file is not a valid model card."""
        file = Path(path)
        try:
            if file.stat().st_size > _MAX_BYTES:
                raise ValueError("too large")
            fields = json.loads(file.read_bytes())
            config = fields["preprocessing"]
            sizes = {name: tuple(map(kind, config[name])) for name, kind in (("size", int), ("mean", float), ("std", float))}
            if config.get("bands_shown") is not None:
                sizes["bands_shown"] = tuple(map(int, config["bands_shown"]))
            if not isinstance(fields["class_names"], list):
                raise TypeError("class_names is not a list")
            if len(fields["class_names"]) > MOST_CLASSES:
                raise ValueError(f"more than {MOST_CLASSES} class_names")
            card = cls(**{**fields, "class_names": tuple(fields["class_names"]), "preprocessing": Preprocessing(**{**config, **sizes})})
            card._check()
            check_size(card.preprocessing.size)
            if card.outputs not in OUTPUTS:
                raise ModelError(f"{file.name}: {unknown('kind of outputs', card.outputs, OUTPUTS)}")
            if max(card.preprocessing.size) > card.preprocessing.crop * 2 * LARGEST:
                raise ModelError(f"{file.name} has a crop that is too small for its size; set crop to 0.5 or more")
            return card
        except SpecError as error:
            raise ModelError(f"{file.name}: {error}") from None
        except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(
                f"{file.name} is not a model card ({type(error).__name__}: {str(error)[:80]}); use the JSON file that finetune wrote beside the weights"
            ) from None


ASSETS = places.assets()
"""The folder of the shipped models."""


@cache
def shipped() -> Mapping[str, Path]:
    """Return the cards of the shipped models by model name."""
    return {path.stem: path for path in sorted(ASSETS.glob("*.json")) if path.with_suffix(".safetensors").is_file()}


def smallest(data: str, tuned: bool) -> str | None:
    """Return the shipped model with the fewest parameters for a data set, or None if there is none.

    Args:
        data: Start of the name of the training data.
        tuned: Whether the model has to be deletion-tuned; False finds plain models only.
    """
    candidates = []
    for name, path in shipped().items():
        with suppress(ModelError):
            card = Card.read(path)
            if card.data.startswith(data) and bool(card.deletion) == tuned:
                candidates.append((card.parameters, name))
    return min(candidates)[1] if candidates else None


def card_of(checkpoint: str | Path) -> Path | None:
    """Return the path of the card beside a checkpoint, or None."""
    return _beside(checkpoint, ".json")


def names_file_of(checkpoint: str | Path) -> Path | None:
    """Return the text file beside a checkpoint that names its classes, `NAME.txt`, or None."""
    return _beside(checkpoint, ".txt")


def files_of(checkpoint: str | Path) -> list[Path]:
    """Return the files that loading a checkpoint reads: itself, its parts, its card and its class names, as far as they exist.

    Raises:
        ModelError: It is the index of a checkpoint in several files, and damaged.
    """
    file = existing_file(split_key(checkpoint)[0])
    if file is None:
        return []
    parts = [file.parent / name for name in parts_of(file)] if file.name.endswith(INDEX) else []
    return [each for each in (file, *parts, card_of(file), names_file_of(file)) if each is not None and existing_file(each)]


def _beside(checkpoint: str | Path, suffix: str) -> Path | None:
    file = existing_file(split_key(checkpoint)[0])
    # An index ends as a card does.
    return None if file is None or file.suffix == suffix else existing_file(file.with_suffix(suffix))


def read_names(file: Path, count: int) -> tuple[str, ...]:
    """Read class names from a text file, one per line, in the order of the model's outputs.

    Args:
        file: The text file, in UTF-8.
        count: Number of classes that the model has.

    Raises:
        ModelError: The file cannot be read or does not name `count` classes.
    """
    advice = "write one name per line, in the order of the model's outputs, or move the file away"
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ModelError(f"{file.name} beside the checkpoint is too large to name classes; {advice}")
        names = tuple(line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError):
        raise ModelError(f"{file.name} beside the checkpoint is not a readable text file; {advice}") from None
    if len(names) != count:
        raise ModelError(f"{file.name} names {len(names)} classes, but the model has {count}; {advice}")
    return names
