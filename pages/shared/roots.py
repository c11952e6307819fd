"""Restrict what visitors may read and add on the server, whatever path a link or a visitor gives."""

import os
from contextlib import suppress
from pathlib import Path

import streamlit as st

from attrlib import models
from attrlib.data.datasets import NAMED, SOURCES, Dataset, FileDataset, load_dataset
from attrlib.data.maps import is_kept
from attrlib.data.pictures import is_named
from attrlib.errors import DataError, MethodError, ModelError, TargetError
from attrlib.models.added import added, weights_of
from attrlib.models.added import folder as folder_of_added
from attrlib.models.cards import Card, card_of, files_of
from attrlib.models.checkpoints import split_key
from attrlib.models.folders.folder import is_folder_name, is_path_of_folder, local_path
from attrlib.models.folders.prompts import prompts_file
from attrlib.models.names import RANDOM
from attrlib.registry import params_of
from attrlib.specs import MethodSpec, ModelSpec, TargetSpec
from attrlib.specs.maps import map_files
from attrlib.store import open_store
from attrlib.targets import TARGETS

VARIABLE = "ATTRLIB_DATA_ROOTS"
ADDING = "ATTRLIB_ADD_MODELS"
_LOCAL = ("localhost", "127.0.0.1", "::1")
_ADVICE = f"the operator of the app can add its folder to {VARIABLE}"


def roots() -> tuple[Path, ...]:
    """Return the folders in `ATTRLIB_DATA_ROOTS` (separated as in PATH); by default home and working folder on localhost, else none."""
    configured = os.environ.get(VARIABLE)
    if configured is not None:
        return tuple(Path(folder).expanduser().resolve() for folder in configured.split(os.pathsep) if folder.strip())
    return (Path.home().resolve(), Path.cwd().resolve()) if st.get_option("server.address") in _LOCAL else ()


def readable_text() -> str:
    """Return sentences that say which folders the app may read."""
    folders = ", ".join(map(str, roots()))
    return f"The app may read {folders or 'no folder of this server'}. The server's operator sets this with {VARIABLE}."


def refusal_to_add() -> str:
    """Return why visitors may not add or remove models, as a sentence, or an empty text if they may.

    `ATTRLIB_ADD_MODELS` decides; without it they may on localhost.
    """
    configured = os.environ.get(ADDING)
    allowed = st.get_option("server.address") in _LOCAL if configured is None else configured.strip().lower() in ("1", "true", "yes", "on")
    return "" if allowed else f"Models cannot be added or removed on this server; its operator can allow it with {ADDING}=1."


def check_target(target: TargetSpec) -> None:
    """Raise `TargetError` if a target names a picture that the app may not read; the message is the same whether it exists or not."""
    for param in params_of(TARGETS[target.name]):
        picture = str(target.values.get(param.name, ""))
        if param.names == "picture" and picture and not (is_named(picture) or readable(picture)):
            raise TargetError(f"{picture[:120]!r} is neither a sample or a bird nor in a folder that this app may read; {_ADVICE}")


def check_maps(method: MethodSpec) -> MethodSpec:
    """Return the method if it reads no maps, or maps that were uploaded or that the app may read.

    Raises `MethodError` otherwise, with the same message whether the file exists or not.
    """
    for path in map_files([method]):
        if not (is_kept(path, open_store().folder) or (readable(path) and _holds_no_links(path))):
            raise MethodError(f"the maps {path[:120]!r} are not in a folder that this app may read; {_ADVICE}")
    return method


def _holds_no_links(path: str) -> bool:
    """Return whether no file in a folder is a symbolic link, which may lead anywhere."""
    return not any(os.path.islink(os.path.join(folder, name)) for folder, folders, files in os.walk(path) for name in (*folders, *files))


def upload_limit() -> int:
    """Return the size in MB up to which checkpoints may be uploaded: that of the server."""
    return int(st.get_option("server.maxUploadSize"))


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


def _is_readable(path: str) -> bool:
    # The path itself comes first, so that nothing outside is opened.
    return readable(split_key(path)[0]) and all(readable(str(file)) for file in model_files(path))


def _check_model_path(path: str) -> None:
    if not _is_readable(path):
        raise ModelError(f"{path[:120]!r} is not in a folder that this app may read; {_ADVICE}")


def parse_model(text: str) -> ModelSpec:
    """Parse a model in text form whose checkpoint and folder the app may read.

    Raises `AttrlibError` otherwise, or if the name is unknown; the message is the same whether a path that may not be read exists or not.
    """
    spec = ModelSpec.parse(text)
    for path in _named_paths(spec):
        _check_model_path(path)
    return models.parse_model(text)


def check_model(spec: ModelSpec) -> ModelSpec:
    """Return the model if the app may read its checkpoint or its folder, and what its card names.

    The weights of an added model may also lie in the folder of the added models.

    Raises `ModelError` otherwise, with the same message whether the file exists or not.
    """
    for path in _named_paths(spec):
        _check_model_path(path)
        _check_card(card_of(path))
    card = None if spec.checkpoint else added().get(spec.architecture)
    weights = weights_of(card) if card else None
    if weights and not (_is_copied(weights) or _is_readable(str(weights))):
        raise ModelError(f"the weights of {spec.architecture} are not in a folder that this app may read; {_ADVICE}")
    _check_card(card)
    return spec


def _check_card(card: Path | None) -> None:
    """Raise `ModelError` for a card whose architecture is a folder that the app may not read, or has prompts in such a file."""
    for named in paths_of(Card.read(card).architecture) if card else []:
        _check_model_path(named)


def _is_copied(weights: Path) -> bool:
    """Return whether weights lie in the folder of the added models, after symbolic links are resolved."""
    return all(file.resolve().is_relative_to(folder_of_added().resolve()) for file in files_of(weights))


def _named_paths(spec: ModelSpec) -> list[str]:
    return [path for path in (spec.checkpoint, *paths_of(spec.architecture)) if path and not path.startswith(RANDOM)]


def paths_of(architecture: str) -> list[str]:
    """Return the paths in an architecture: that of its folder and that of its prompts; none for a name."""
    if is_folder_name(architecture):
        return [path for path in (local_path(architecture), prompts_file(architecture)) if path]
    return [architecture] if os.sep in architecture or is_path_of_folder(architecture) else []
