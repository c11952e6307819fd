"""Recognise files that hold no weights of PyTorch, and say what they are and what to do with them."""

import re
import tarfile
from collections.abc import Collection
from pathlib import Path

from attrlib.errors import ModelError

ADVICE = "save it again with safetensors, or with torch.save(model.state_dict(), FILE)"
_CONVERT = "load its weights into a model of PyTorch, and save torch.save(model.state_dict(), FILE)"
_UNPACK = "unpack it, and give the checkpoint inside"
_AGAIN = "copy or download it again"
_MAGICS = (
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as weights of Keras", _CONVERT),
    (0, b"GGUF", "a GGUF file of llama.cpp", _CONVERT),
    (0, b"\x93NUMPY", "a single NumPy array", _CONVERT),
    (4, b"TFL3", "a model of TensorFlow Lite", _CONVERT),
    (0, b"MATLAB 5.0", "a MATLAB file", _CONVERT),
    (0, b"\x1f\x8b", "compressed with gzip", _UNPACK),
    (0, b"BZh", "compressed with bzip2", _UNPACK),
    (0, b"\xfd7zXZ\0", "compressed with xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (0, b"\x89PNG", "a picture", "give the file with the weights"),
    (0, b"\xff\xd8\xff", "a picture", "give the file with the weights"),
    (0, b"%PDF", "a PDF document", "give the file with the weights"),
)
_SUFFIXES = {
    ".onnx": "an ONNX model",
    ".pb": "a graph of TensorFlow",
    ".tflite": "a model of TensorFlow Lite",
    ".caffemodel": "a model of Caffe",
    ".mlmodel": "a model of Core ML",
    ".engine": "an engine of TensorRT",
    ".msgpack": "weights of Flax",
    ".index": "the index of a TensorFlow checkpoint",
}
_TORCHSCRIPT = "a TorchScript program (torch.jit.save), which holds compiled code"
_EXPORTED = "a program of torch.export, which holds a graph"


def refusal(name: str, kind: str, advice: str) -> ModelError:
    """Return the error for a file that is something else: what it is, then what to do."""
    return ModelError(f"{name} is not a checkpoint that PyTorch can read: it is {kind}; {advice}")


def check_format(file: Path) -> None:
    """Raise `ModelError` if the first bytes or the suffix of a file show that it holds no weights of PyTorch."""
    with file.open("rb") as opened:
        start = opened.read(512)
    if not start:
        raise refusal(file.name, "empty (0 bytes)", _AGAIN)
    for offset, magic, kind, advice in _MAGICS:
        if start[offset:].startswith(magic):
            raise refusal(file.name, kind, advice)
    if text := _text(start):
        raise refusal(file.name, *_kind_of_text(text))
    if file.suffix.lower() in _SUFFIXES or re.match(rb"\x08[\x03-\x10]\x12", start):
        raise refusal(file.name, _SUFFIXES.get(file.suffix.lower(), "an ONNX model"), _CONVERT)
    if start[257:262] == b"ustar" or (start[:1] != b"\x80" and not start.startswith(b"PK") and tarfile.is_tarfile(file)):
        raise refusal(file.name, *_kind_of_tar(file))
    if file.suffix == ".safetensors" and start.startswith((b"PK", b"\x80")):
        raise refusal(file.name, "no safetensors file, but one that torch.save wrote", "give it a name that ends in .pth")
    if file.suffix == ".bin" and file.with_suffix(".xml").is_file():
        raise refusal(file.name, "the weights of an OpenVINO model", _CONVERT)


def check_zip(name: str, entries: Collection[str]) -> None:
    """Raise `ModelError` if a zip file with these entries is not an archive of torch.save."""
    ends = {entry.partition("/")[2] for entry in entries}
    inside = next((entry for entry in sorted(entries) if entry.endswith((".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".h5"))), None)
    if "constants.pkl" in ends:
        raise refusal(name, _TORCHSCRIPT, "save the weights of torch.jit.load(FILE) with torch.save(module.state_dict(), NEW)")
    if "serialized_exported_program.json" in entries or {"archive_format", "models/model.json"} & {*entries, *ends}:
        raise refusal(name, _EXPORTED, "save the weights of torch.export.load(FILE) with torch.save(program.state_dict, NEW)")
    if "data.pkl" in ends:
        return
    if "model.weights.h5" in entries:
        raise refusal(name, "a model of Keras", _CONVERT)
    if entries and all(entry.endswith(".npy") for entry in entries):
        raise refusal(name, "an archive of NumPy arrays (.npz)", _CONVERT)
    if any(entry.endswith("saved_model.pb") for entry in entries):
        raise refusal(name, "a zip file with a SavedModel of TensorFlow", _CONVERT)
    if inside:
        raise refusal(name, f"a zip file of a folder with {inside[-80:]!r}", _UNPACK)
    raise refusal(name, "a zip file that PyTorch did not write", f"{_UNPACK}, if there is one")


def _text(start: bytes) -> str:
    """Return the start of a text file, or nothing for other files."""
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:256]
    return start.decode("ascii") if start and all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start) else ""


def _kind_of_text(text: str) -> tuple[str, str]:
    lower = text.lower()
    if lower.startswith("version https://git-lfs"):
        return "a Git LFS pointer to the file", "run git lfs pull, or download the file itself"
    if lower.startswith(("<?xml", "<net")):
        return "an XML file, such as the graph of an OpenVINO model", _CONVERT
    if lower.startswith("<"):
        return "a web page, perhaps an error or a login in place of a download", "download the file itself"
    return "a text file", "download the file itself"


def _kind_of_tar(file: Path) -> tuple[str, str]:
    try:
        with tarfile.open(file, "r:") as archive:
            names = {entry.name for entry, _ in zip(archive, range(8), strict=False)}
    except (tarfile.TarError, OSError, ValueError):
        names = set()
    if {"sys_info", "pickle", "storages"} <= names:
        return "an archive of PyTorch before version 0.2", "load it with an old PyTorch, and save torch.save(model.state_dict(), FILE)"
    return "a tar archive", _UNPACK
