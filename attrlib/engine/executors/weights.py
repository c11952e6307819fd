"""Checkpoints of a run on other machines: from the same path if the file there is the same, else from the driver."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attrlib.errors import ModelError
from attrlib.models.cards import files_of
from attrlib.models.checkpoints import split_key
from attrlib.models.names import RANDOM
from attrlib.specs import ModelSpec


@dataclass(frozen=True)
class WeightFile:
    """A file that loading a checkpoint reads.

    Attributes:
        checkpoint: The checkpoint as the model's spec names it.
        path: The file at the driver.
        digest: Digest of its bytes.
    """

    checkpoint: str
    path: str
    digest: str


def weight_files(model: ModelSpec) -> list[WeightFile]:
    """Return the files of a model's checkpoint, the checkpoint itself first; empty if it has none."""
    if model.checkpoint is None or model.checkpoint.startswith(RANDOM):
        return []
    return [WeightFile(model.checkpoint, str(file), _digest(file)) for file in files_of(model.checkpoint)]


def located_weights(files: Sequence[WeightFile], fetch: Callable[[str], bytes]) -> dict[str, str]:
    """Return where this machine has each checkpoint; those that it lacks are fetched, once for each machine.

    Args:
        files: The files of all checkpoints.
        fetch: Returns the content of a file of the driver, by its path there.

    Raises:
        ModelError: If a file cannot be written.
    """
    of: dict[str, list[WeightFile]] = {}
    for file in files:
        of.setdefault(file.checkpoint, []).append(file)
    return {checkpoint: _located(checkpoint, own, fetch) for checkpoint, own in of.items()}


def _located(checkpoint: str, files: Sequence[WeightFile], fetch: Callable[[str], bytes]) -> str:
    if all(_is_same(Path(file.path), file.digest) for file in files):
        return checkpoint
    # Named by the content, so that all workers of a machine and later runs share it.
    folder = Path(tempfile.gettempdir()) / f"attrlib-weights-{os.getuid() if hasattr(os, 'getuid') else 0}" / files[0].digest
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file in files:
            copy = folder / Path(file.path).name
            if not _is_same(copy, file.digest):
                _write(copy, fetch(file.path))
    except OSError as error:
        raise ModelError(
            f"it cannot read {checkpoint} and cannot write a copy to {folder} ({error.strerror}); make the file readable there, or free the disk"
        ) from None
    name, key = folder / Path(files[0].path).name, split_key(checkpoint)[1]
    return f"{name}#{key}" if key else str(name)


def _write(path: Path, content: bytes) -> None:
    """Write a file so that other workers of the machine never see a part of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.replace(file.name, path)


def _is_same(path: Path, expected: str) -> bool:
    try:
        return _digest(path) == expected
    except OSError:
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
