"""Models that were added to this computer: weights with a model card, in one folder, loaded by name like the shipped ones."""

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from platformdirs import user_data_dir
from safetensors.torch import save_file

from attrlib.errors import ModelError, existing_file
from attrlib.models.cards import Card, shipped
from attrlib.models.checkpoints import SUFFIXES, split_key
from attrlib.models.classifier import Classifier
from attrlib.models.files.safe import INDEX

VARIABLE = "ATTRLIB_MODELS"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
_RESERVED = ("efficientnet_lite0",)


def folder() -> Path:
    """Return the folder of the added models: `ATTRLIB_MODELS` if it is set, else `models` in the user's data folder."""
    return Path(os.environ.get(VARIABLE) or Path(user_data_dir("attrlib")) / "models").expanduser()


def added() -> dict[str, Path]:
    """Return the cards of the added models by model name; a card whose weights are missing is left out."""
    try:
        cards = sorted(folder().glob("*.json"))
    except OSError:
        return {}
    return {card.stem: card for card in cards if _NAME.fullmatch(card.stem) and weights_of(card) is not None}


def left_out() -> list[str]:
    """Return why cards in the folder are not listed, one sentence for each."""
    try:
        cards = sorted(set(folder().glob("*.json")) - set(added().values()))
    except OSError:
        return []
    reasons = []
    for card in cards:
        try:
            if Card.read(card).weights or _NAME.fullmatch(card.stem):
                reasons.append(f"the weights of the added model {card.stem} are gone; put them back, or remove {card}")
        except ModelError as error:
            reasons.append(f"{error}, or remove {card}")
    return reasons


def named() -> Mapping[str, Path]:
    """Return the cards of all models that are loaded by name: the shipped ones and the added ones."""
    return added() | dict(shipped())


def architecture_of(name: str) -> str:
    """Return the architecture from which a model is rebuilt: that of the card for a shipped or added model, else the name itself."""
    return Card.read(named()[name]).architecture if name in named() else name


def weights_of(card: Path) -> Path | None:
    """Return the weights that a card describes: the file that it names, or the one beside it; None if there is none."""
    try:
        other = Card.read(card).weights
    except ModelError:
        return None
    if other:
        return Path(other) if existing_file(split_key(other)[0]) else None
    return next((file for suffix in SUFFIXES if (file := card.with_suffix(suffix)).is_file()), None)


def add_model(model: Classifier, name: str, *, data: str = "", copy: bool = True) -> Path:
    """Add a model that was loaded from a checkpoint to this computer, with its classes, preprocessing and outputs.

    It is then listed, and `load_model(name)` loads it.

    Args:
        model: The model, loaded by `load_model` from a checkpoint.
        name: Its new name: letters, digits, `_`, `-` and `.`.
        data: Name of the data that it was trained on, for its card.
        copy: Whether to copy the file with the weights; otherwise the card names its present place.

    Returns:
        The path of the model card.

    Raises:
        ModelError: The name is not valid or taken, the model has no checkpoint file, or a file cannot be written.
    """
    check_new(name)
    path, key = split_key(model.spec.checkpoint or "")
    file = existing_file(path) if path else None
    if file is None:
        raise ModelError(f"{model.name} was not loaded from a file, so it cannot be added; load it with checkpoint=FILE first")
    card = Card(
        architecture=architecture_of(model.architecture),
        class_names=model.class_names,
        preprocessing=model.preprocessing,
        data=data,
        deletion={"declared": True} if model.deletion_tuned else None,
        parameters=sum(p.numel() for p in model.module.parameters()),
        outputs=model.outputs.kind,
        weights="" if copy else str(file.resolve()) + (f"#{key}" if key else ""),
    )
    place = folder() / f"{name}.json"
    try:
        folder().mkdir(parents=True, exist_ok=True)
        if copy and (key or file.name.endswith(INDEX)):
            # Of a file with several networks, and of one in several parts, the weights alone.
            state = {name: value.detach().cpu().clone().contiguous() for name, value in model.module.state_dict().items()}
            _replace(place.with_suffix(".safetensors"), lambda part: save_file(state, part))
        elif copy:
            _replace(place.with_suffix(file.suffix), lambda part: shutil.copyfile(file, part))
        _replace(place, lambda part: part.write_text(card.text()))
    except OSError as error:
        raise ModelError(f"{name} cannot be written to {folder()} ({error.strerror}); free some space, or set {VARIABLE}") from None
    return place


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name first, so that it is never seen half written."""
    part = file.with_name(file.name + ".part")
    try:
        write(part)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def check_new(name: str) -> None:
    """Raise `ModelError` if a model cannot be added under this name."""
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"{name[:80]!r} is not a valid name; use up to 80 letters, digits, '_', '-' and '.', beginning with a letter or digit"
        )
    if name in _RESERVED or name in named():
        raise ModelError(f"there is already a model {name!r}; choose another name, or remove that model first")


def remove_model(name: str) -> None:
    """Remove an added model: its card, and its weights if they were copied. Raises `ModelError` if there is none of this name."""
    card = added().get(name)
    if card is None:
        raise ModelError(f"there is no added model {name[:80]!r}; python -m attrlib models lists them")
    copied = None if Card.read(card).weights else weights_of(card)
    for file in (card, copied):
        if file is not None:
            file.unlink(missing_ok=True)
