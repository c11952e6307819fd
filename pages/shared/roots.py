"""Restrict the files that the app may read to configured folders, whatever path a link or a visitor gives."""

import os
from contextlib import suppress
from pathlib import Path

import streamlit as st

from attrlib.data.datasets import NAMED, SOURCES, Dataset, FileDataset, load_dataset
from attrlib.errors import DataError, ModelError
from attrlib.models.cards import Card, card_of, files_of
from attrlib.models.checkpoints import split_key
from attrlib.models.folders.folder import is_folder_name, is_path_of_folder, local_path
from attrlib.models.names import RANDOM
from attrlib.specs import ModelSpec

VARIABLE = "ATTRLIB_DATA_ROOTS"
_LOCAL = ("localhost", "127.0.0.1", "::1")
_ADVICE = f"the operator of the app can add its folder to {VARIABLE}"


def roots() -> tuple[Path, ...]:
    """Return the folders in `ATTRLIB_DATA_ROOTS` (separated as in PATH); by default home and working folder on localhost, else none."""
    configured = os.environ.get(VARIABLE)
    if configured is not None:
        return tuple(Path(folder).expanduser().resolve() for folder in configured.split(os.pathsep) if folder.strip())
    return (Path.home().resolve(), Path.cwd().resolve()) if st.get_option("server.address") in _LOCAL else ()


def readable(path: str) -> bool:
    """Return whether the app may read a path. Symbolic links are resolved first, so none can lead outside."""
    try:
        real = Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError):
        return False
    return any(real.is_relative_to(root) for root in roots())


def _has_name(source: str) -> bool:
    return source in NAMED or source.startswith(tuple(SOURCES))


def check_data(source: str) -> str:
    """Return the name or path of data that the app may read.

    Raises `DataError` otherwise, with the same message whether the path exists or not.
    """
    if _has_name(source) or readable(source):
        return source
    raise DataError(f"{source[:120]!r} is neither the name of a data set nor in a folder that this app may read; {_ADVICE}")


def load_data(source: str) -> Dataset:
    """Return data of which the app may read every file, else raise `DataError`: symbolic links and CSV files may lead anywhere."""
    data = load_dataset(check_data(source))
    if _has_name(source) or not isinstance(data, FileDataset):
        return data
    folders: dict[str, bool] = {}
    outside = 0
    for path in data.paths():
        folder = os.path.dirname(path)
        if folder not in folders:
            folders[folder] = readable(folder)
        # In an allowed folder only symbolic links lead outside, so plain files need no check of their full path.
        outside += not folders[folder] or (os.path.islink(path) and not readable(path))
    if outside:
        raise DataError(
            f"{outside} of the files of {source[-120:]!r} are outside the folders that this app may read, because of links or a CSV file; "
            f"copy them there, or {_ADVICE}"
        )
    return data


def model_files(path: str) -> list[Path]:
    """Return the files that are read of a model at a path: those of a folder, or a checkpoint and what is read with it."""
    with suppress(OSError, RuntimeError, ValueError):
        folder = Path(path).expanduser()
        if folder.is_dir():
            return sorted(folder.iterdir())
    return files_of(path)


def _check_model_path(path: str) -> None:
    # The path itself comes first, so that nothing outside is opened.
    if not (readable(split_key(path)[0]) and all(readable(str(file)) for file in model_files(path))):
        raise ModelError(f"{path[:120]!r} is not in a folder that this app may read; {_ADVICE}")


def check_model(spec: ModelSpec) -> ModelSpec:
    """Return the model if the app may read its checkpoint or its folder, and the folder that the card of a checkpoint names.

    Raises `ModelError` otherwise, with the same message whether the file exists or not.
    """
    paths = [path for path in (spec.checkpoint, path_of(spec.architecture)) if path and not path.startswith(RANDOM)]
    for path in paths:
        _check_model_path(path)
        card = card_of(path)
        named = path_of(Card.read(card).architecture) if card else None
        if named:
            _check_model_path(named)
    return spec


def path_of(architecture: str) -> str | None:
    """Return the path that an architecture is, or None for a name."""
    if is_folder_name(architecture):
        return local_path(architecture)
    return architecture if os.sep in architecture or is_path_of_folder(architecture) else None
