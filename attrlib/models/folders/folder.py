"""Folders of models, on this machine or on the Hugging Face hub: what they hold, and their weights."""

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies

import huggingface_hub
from huggingface_hub import errors
from torch import Tensor

from attrlib.errors import ModelError, reason_of
from attrlib.models.checkpoints import read_checkpoint
from attrlib.models.folders.prompts import CLIP, split_prompts

HUB, LOCAL = "timm:hf-hub:", "timm:local-dir:"
PREFIXES = ("hf:", HUB, LOCAL, CLIP)
"""How the name of a model starts that is a folder, or a repository of the hub."""
CONFIG = "config.json"
_FIRST = (CONFIG, "preprocessor_config.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights by preference, each alone or as shards that FILE.index.json lists."""
_REPOSITORY = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*", re.ASCII)
_REVISION = "?revision="
_MAX_BYTES = 16 << 20
"""Maximum size of a JSON file in bytes; the names of 22,000 classes need about 2 MB."""


@dataclass(frozen=True)
class Folder:
    """A folder of a model.

    Attributes:
        path: The local folder, None for a repository of the hub.
        repository: ORG/NAME of the repository on the hub, empty for a local folder.
        revision: Branch, tag or commit of the repository; None for its default branch.
    """

    path: Path | None
    repository: str = ""
    revision: str | None = None

    @classmethod
    def parse(cls, name: str) -> Self:
        """Return the folder that the name of a model means.

        `hf:ORG/NAME`, `timm:hf-hub:ORG/NAME`, `clip:ORG/NAME` are repositories, `hf:/PATH`, `hf:./PATH`, `clip:/PATH`,
        `timm:local-dir:PATH` local folders. A repository may be followed by `?revision=BRANCH`.

        Raises:
            ModelError: There is no such folder, or the name is none of a repository.
        """
        prefix = next(p for p in PREFIXES if name.startswith(p))
        if prefix == CLIP:
            base, options = split_prompts(name)
            text = where = base.removeprefix(CLIP)
            revision = options.get("revision", "")
        else:
            text = name.removeprefix(prefix)
            where, _, revision = text.partition(_REVISION)
        if prefix != LOCAL and _REPOSITORY.fullmatch(where):
            return cls(None, where, revision or None)
        folder = _existing_folder(text) if prefix != HUB else None
        if folder is None:
            raise ModelError(
                f"there is no folder {text[:200]!r}, and it is not the name of a repository; write ORG/NAME for one of the Hugging Face hub, or "
                "the path of a folder with config.json and weights"
            )
        return cls(folder)

    def config(self, name: str) -> dict[str, Any]:
        """Return the content of config.json. Raises `ModelError` if there is none, or if it is not a JSON object."""
        values = _read_json(self.files(_FIRST, name) / CONFIG)
        if values is None:
            raise ModelError(f"{name} has no {CONFIG}; {_holds(self.path) if self.path else 'it is not a model of transformers or timm'}")
        return values

    def local(self, name: str) -> Path:
        """Return the folder on this machine that holds config.json, after downloading it if need be."""
        return self.files(_FIRST, name)

    def settings(self, file: str, name: str) -> dict[str, Any] | None:
        """Return the content of a JSON file that need not be there."""
        return _read_json(self.files(_FIRST, name) / file)

    def weights(self, name: str) -> dict[str, Tensor]:
        """Return all tensors of the weights, read without running code; safetensors if there are any.

        Raises:
            ModelError: There are no weights, or a file is missing or damaged.
        """
        for file in _WEIGHTS:
            stem, dot, ending = file.rpartition(".")
            folder = self.files((file, f"{file}.index.json", f"{stem}-*{dot}{ending}"), name)
            for found in (folder / file, folder / f"{file}.index.json"):
                if found.is_file():
                    return read_checkpoint(found).state
        raise ModelError(f"{name} holds no weights; expected {' or '.join(_WEIGHTS)}, alone or in parts with an index")

    def files(self, patterns: tuple[str, ...], name: str) -> Path:
        """Return the folder with the files of these patterns, after downloading those that the cache lacks."""
        if self.path is not None:
            return self.path
        try:
            with offline_if_unreachable():
                return Path(huggingface_hub.snapshot_download(self.repository, revision=self.revision, allow_patterns=list(patterns)))
        except Exception as error:
            reason, advice = hub_problem(error, self.repository)
            raise ModelError(f"{name} could not be downloaded: {reason}; {advice}") from error


def is_folder_name(name: str) -> bool:
    """Return whether the name of a model means a folder or a repository rather than an architecture."""
    return name.startswith(PREFIXES)


def is_path_of_folder(name: str) -> bool:
    """Return whether a name is the path of an existing folder."""
    return not is_folder_name(name) and _existing_folder(name) is not None


def local_path(name: str) -> str | None:
    """Return the path of the local folder that the name of a model means, whether it exists or not; None if it is none."""
    prefix = next((p for p in PREFIXES if name.startswith(p)), "")
    text = (split_prompts(name)[0] if prefix == CLIP else name).removeprefix(prefix)
    if not prefix or prefix == HUB or (prefix != LOCAL and _REPOSITORY.fullmatch(text.partition(_REVISION)[0])):
        return None
    return text


def name_of_folder(path: str) -> str:
    """Return the name by which the model in a local folder is loaded: `hf:PATH` or `timm:local-dir:PATH`.

    Raises:
        ModelError: The folder is of neither format; the message lists what it holds.
    """
    folder = Path(path).expanduser().resolve()
    config = _read_json(folder / CONFIG)
    if config is None or not ({"model_type", "architectures", "architecture"} & config.keys()):
        raise ModelError(f"{path[:200]!r} is not the folder of a model of transformers or timm; {_holds(folder)}")
    return f"{LOCAL if is_timm(config) else 'hf:'}{folder}"


def is_timm(config: Mapping[str, Any]) -> bool:
    """Return whether a config is one of timm: also transformers saves models of timm, under the type timm_wrapper."""
    return isinstance(config.get("architecture"), str) and config.get("model_type", "timm_wrapper") == "timm_wrapper"


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Set the hub client offline if there is no connection; it would retry for most of a minute before it reads its cache."""
    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE
    host = urlsplit(constants.ENDPOINT)
    try:
        if not getproxies():
            socket.create_connection((host.hostname or "", host.port or 443), timeout=4).close()
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def hub_problem(error: BaseException, what: str = "") -> tuple[str, str]:
    """Return why a download failed, and what to do about it.

    Args:
        error: The error; its causes are looked at, too.
        what: The repository, if known.
    """
    chain: list[BaseException] = []
    while len(chain) < 10 and (error not in chain):
        chain.append(error)
        error = error.__cause__ or error.__context__ or error
    host = urlsplit(huggingface_hub.constants.ENDPOINT).hostname
    login = "log in with `hf auth login`, or set HF_TOKEN"
    # The cause of "not in the cache" may be that the server refused.
    answers = {
        errors.GatedRepoError: ("access to it is granted on request only", f"accept its conditions at https://{host}/{what} and {login}"),
        errors.RepositoryNotFoundError: (f"{host} has no such repository, or it is private", f"check the name, or {login}"),
        errors.RevisionNotFoundError: ("it has no such revision", "name one of its branches, tags or commits"),
        errors.HFValidationError: ("this is not the name of a repository", "write ORG/NAME"),
    }
    for kind, answer in answers.items():
        if any(isinstance(each, kind) for each in chain):
            return answer
    for each in chain:
        status = getattr(getattr(each, "response", None), "status_code", None)
        if status is not None:
            return f"{host} answers with status {status}", "try again later"
    if any(isinstance(each, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled) for each in chain):
        return f"there is no connection to {host}, and the files are not in its cache", "connect to the internet, or give a local folder"
    return reason_of(chain[0]), "connect to the internet, or give a local folder"


def _existing_folder(path: str) -> Path | None:
    try:
        folder = Path(path).expanduser()
        return folder.resolve() if path and folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):
        return None


def _read_json(file: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, None if there is no file. Raises `ModelError` if it is none."""
    try:
        if not file.is_file():
            return None
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        values = json.loads(file.read_bytes())
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        return values
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file.name} in {file.parent} cannot be read ({reason_of(error)}); copy or download it again") from None


def _holds(folder: Path) -> str:
    names = sorted(os.listdir(folder))
    listed = ", ".join(name[:60] for name in names[:6]) + (", ..." if names[6:] else "")
    return f"it holds {listed or 'nothing'}, but config.json and weights (model.safetensors or pytorch_model.bin) are needed"
