"""The new model as the dialog keeps it in the session: its file, and what the user says of it."""

import re
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO

import streamlit as st

from attrlib.diagnostics.input_check import NORMALISATIONS
from attrlib.errors import ModelError
from attrlib.models import EMBEDDED, check_name
from attrlib.models.bring import Draft
from attrlib.models.folders.folder import is_path_of_folder, name_of_folder
from attrlib.models.folders.prompts import PHOTO
from attrlib.registry import params_of
from attrlib.specs import ModelSpec
from pages.shared import roots

UPLOAD, PATH, PROMPTS = "upload", "path", "prompts"
NATIVE, CUSTOM = "native", "other numbers"
"""The normalisation of the card or the architecture, and one that is typed."""
FIELDS: Mapping[str, Any] = {
    "source": UPLOAD,
    "clip": "",
    "classes": "",
    "templates": PHOTO,
    "chosen": None,
    "upload": None,
    "path": "",
    "part": "",
    "has_parts": False,
    "architecture": None,
    "names_from": "model",
    "names": "",
    "names_data": None,
    "size": "",
    "normalisation": NATIVE,
    "mean": "",
    "std": "",
    "interpolation": None,
    "crop": None,
    "fit": None,
    "outputs": "auto",
    "tuned": False,
    "photo": "sample:cat",
    "photo_upload": None,
    "data": None,
    "name": "",
    "trained_on": "",
    "copy": True,
    "suggested_for": None,
    "candidate": None,
    "checking": None,
    "adding": None,
}
"""What the session keeps of the new model, with the values at first."""
PARAMS = {param.name: param for param in params_of(ModelSpec)}


def session() -> str:
    """Return a text that identifies the session."""
    return str(st.session_state.setdefault("n_session", uuid.uuid4().hex))


def key(field: str) -> str:
    """Return the session key of a field."""
    return f"n_{field}"


def get(field: str) -> Any:
    """Return the value of a field."""
    return st.session_state[key(field)]


def put(field: str, value: Any) -> None:
    """Set the value of a field."""
    st.session_state[key(field)] = value


def start() -> None:
    """Fill in the fields that the session does not have yet."""
    for field, value in FIELDS.items():
        st.session_state.setdefault(key(field), value)


def clear() -> None:
    """Forget the new model, and remove its uploaded file."""
    discard_upload()
    for field, value in FIELDS.items():
        put(field, value)


@dataclass(frozen=True, eq=False)
class Upload:
    """An uploaded file in a temporary folder, which is removed with this object."""

    folder: "tempfile.TemporaryDirectory[str]"
    path: Path

    @classmethod
    def of(cls, file: BinaryIO, name: str) -> "Upload":
        """Write an uploaded file under a name that is safe, with its ending."""
        folder = tempfile.TemporaryDirectory(prefix="attrlib-upload-", ignore_cleanup_errors=True)
        plain = re.sub(r"[^\w.-]", "_", Path(name).name)[-80:].lstrip(".") or "weights"
        path = Path(folder.name) / plain
        with path.open("wb") as opened:
            copyfileobj(file, opened)
        return cls(folder, path)


def take_upload(file: BinaryIO | None, name: str = "") -> None:
    """Keep an uploaded file in place of the last one.

    Raises:
        ModelError: It cannot be written.
    """
    discard_upload()
    if file is None:
        return
    try:
        put("upload", Upload.of(file, name))
    except OSError as error:
        raise ModelError(f"the file cannot be kept on the server ({error.strerror}); free some space there, or give its path") from None


def discard_upload() -> None:
    """Remove the uploaded file, if there is one."""
    upload = st.session_state.get(key("upload"))
    if upload is not None:
        upload.folder.cleanup()
        put("upload", None)


def location() -> str | None:
    """Return the path of the file, with the key of the weights in it if one is given; None if no file is chosen.

    Raises:
        ModelError: The app may not read it.
    """
    upload, part = get("upload"), get("part").strip()
    path = get("path").strip() if get("source") == PATH else str(upload.path) if upload else ""
    if path and get("source") == PATH:
        roots.check_model(ModelSpec(EMBEDDED, path))
        if is_path_of_folder(path):
            name = name_of_folder(path)
            raise ModelError(
                f"{path[:120]!r} is the folder of a whole model, which needs no adding; close this and type {name} as the model"
            )
    return f"{path}#{part}" if path and part else path or None


def offer_key(error: object) -> None:
    """Show the field for the key in the file if an error says that there are several sets of weights to choose from."""
    if "#" in str(error) and not get("has_parts"):
        put("has_parts", True)
        st.rerun()


def architecture() -> str:
    """Return the name of the architecture.

    Raises:
        ModelError: There is none of this name, or the app may not read it.
    """
    name = (get("architecture") or "").strip()
    if not name:
        raise ModelError("choose the architecture that the weights belong to, or type it as timm:NAME or torchvision:NAME")
    # What the app may read comes first: another message for a folder that does not exist would tell which ones do.
    roots.check_model(ModelSpec(name))
    check_name(name)
    return name


def spec(name: str, file: str) -> ModelSpec:
    """Return the model of this architecture and file that the other fields describe.

    Raises:
        SpecError: A field is not valid.
    """
    mean, std = NORMALISATIONS.get(get("normalisation"), (None, None))
    if get("normalisation") == CUSTOM:
        mean, std = get("mean").strip(), get("std").strip()
    values = {"input_size": get("size").strip(), "mean": mean, "std": std}
    values |= {field: get(field) for field in ("outputs", "interpolation", "crop", "fit")}
    return ModelSpec(name, file, **{field: PARAMS[field].parse(value) for field, value in values.items()})


def lines(field: str) -> tuple[str, ...]:
    """Return the lines of a field that are not empty."""
    return tuple(line.strip() for line in get(field).splitlines() if line.strip())


def take_suggestions(found: Draft, file: str) -> None:
    """Fill in what a file tells of its model; what it does not tell stays as it was typed."""
    put("architecture", next(iter(found.architectures), get("architecture")))
    put("name", get("name") or suggested_name(file))
    if {"mean", "std"} <= found.options.keys():
        put_normalisation(found.options["mean"], found.options["std"])
    told = {field: PARAMS[field].format(value) for field, value in found.options.items()}
    for field, of_spec in (("size", "input_size"), ("interpolation", "interpolation")):
        put(field, told.get(of_spec, get(field)))
    put("crop", found.options.get("crop", get("crop")))


def put_normalisation(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Choose a normalisation: one that has a name, or these numbers."""
    put("normalisation", next((name for name, values in NORMALISATIONS.items() if values == (mean, std)), CUSTOM))
    put("mean", PARAMS["mean"].format(mean))
    put("std", PARAMS["std"].format(std))


def suggested_name(file: str) -> str:
    """Return a name for the model after its file."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(file).name.split("#")[0].split(".")[0]).strip("_.-")[:80]
