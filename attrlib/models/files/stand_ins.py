"""Plain values and inert objects that stand for what a pickle would construct."""

import datetime
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from attrlib.models.files.storages import Unstored, stored_tensor

_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "pathlib._local": "pathlib"}
_HARMLESS = re.compile(
    r"(argparse\.Namespace|types\.SimpleNamespace|_codecs\.encode|decimal\.Decimal|fractions\.Fraction|uuid\.UUID|torch\.(Generator|Size|device)"
    r"|builtins\.(object|set|frozenset|list|tuple|dict|complex|x?range|slice|bytearray|int)|collections\.\w+|datetime\.\w+|pathlib\.\w+"
    r"|numpy\.(dtype|ndarray|dtypes\.\w+|_core\.\w+\.\w+|random\.[\w.]+)|torch\.(optim|serialization)\.[\w.]+)"
)
_LONGEST = 300
_NUMBER = re.compile(r"[biufcSU]\d{1,6}|b|\?")


@dataclass(frozen=True)
class Global:
    """The name of a class or function in a pickle, and nothing more."""

    name: str

    def __post_init__(self) -> None:
        if len(self.name) > _LONGEST:
            raise ValueError("it names a class with an endless name")

    @classmethod
    def of(cls, module: str, name: str) -> "Global":
        """Return the name in its present form: those of Python 2 and NumPy 1 differ."""
        module = _RENAMED.get(module, module).replace("numpy.core", "numpy._core")
        return cls(f"{module}.{name}")


class Opaque:
    """An object of a class that is not read. It keeps the plain data that the pickle sets on it, and cannot run anything."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.items: dict = {}
        self.attributes: dict = {}

    @property
    def harmless(self) -> bool:
        """Whether the class is one of Python, NumPy or PyTorch that trainers put beside weights, such as a date or a namespace."""
        return _HARMLESS.fullmatch(self.name) is not None

    @property
    def title(self) -> str:
        """The name of the class, fit for a message."""
        return "".join(letter if letter.isprintable() else "?" for letter in self.name[:80])

    @property
    def is_module(self) -> bool:
        """Whether the object is a whole `torch.nn.Module`."""
        return {"_parameters", "_modules"} <= self.attributes.keys()

    def build(self, state: object) -> None:
        """Keep a state, or the first dictionary of a pair of two, as attributes."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict) and part:
                # Not copied: a small file could set the same large state many times.
                self.attributes = part
                break


class _Dtype(Opaque):
    """A NumPy dtype of numbers, text or objects."""

    def __init__(self, code: str, *_: object) -> None:
        super().__init__("numpy.dtype")
        self.code, self.order = code, "="

    def build(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = str(state[1])

    def dtype(self) -> np.dtype:
        """Return the dtype. Raise `ValueError` for structures and others whose values are not read."""
        if not _NUMBER.fullmatch(self.code):
            raise ValueError(self.code)
        return np.dtype(self.order + self.code)


class NumPyArray(Opaque):
    """A NumPy array; `values` is None until it is built, and if it is not an array of numbers or text."""

    def __init__(self, *_: object) -> None:
        super().__init__("numpy.ndarray")
        self.values: np.ndarray | list | None = None

    @property
    def is_numeric(self) -> bool:
        """Whether the values are numbers."""
        return isinstance(self.values, np.ndarray) and self.values.dtype.kind in "biufc"

    def build(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) == 5:
            self.values = _array(*state[1:])


def construct(what: object, args: tuple, named: dict) -> object:
    """Return a plain value for a call of `what`, or an `Opaque` of its name."""
    name = what.name if isinstance(what, Global | Opaque) else f"builtins.{type(what).__name__}"
    make = _CONSTRUCTORS.get(name) if isinstance(what, Global) else None
    if make is None:
        return Opaque(name)
    try:
        return make(*args, **named)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return Opaque(name)


def _encode(text: object, encoding: object = "latin1") -> bytes:
    # Bytes in pickles of protocol 2 are text; no other codec is looked up.
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError(encoding)
    return text.encode("latin1")


def _scalar(kind: _Dtype, data: object = b"") -> object:
    raw = data if isinstance(data, bytes) else _encode(data)
    (value,) = np.frombuffer(raw, kind.dtype()).tolist()
    return value


def _array(shape: object, kind: object, fortran: object, data: object) -> np.ndarray | list | None:
    if isinstance(data, list):
        return data
    if not isinstance(kind, _Dtype) or not isinstance(shape, tuple) or not isinstance(data, str | bytes | bytearray):
        return None
    try:
        flat = np.frombuffer(_encode(data) if isinstance(data, str) else data, kind.dtype())
        return flat.reshape(shape, order="F" if fortran else "C")
    except (TypeError, ValueError):
        return None


def _array_from_buffer(buffer: object, kind: object, shape: object, order: object = "C") -> NumPyArray:
    array = NumPyArray()
    array.values = _array(shape, kind, order == "F", buffer)
    return array


def _sequence(values: object = (), *_: object) -> list:
    if not isinstance(values, list | tuple):
        raise TypeError
    return list(values)


def _mapping(values: object = (), *_: object, ordered: type[dict] = dict) -> dict:
    if isinstance(values, dict):
        return ordered(values)
    pairs = values if isinstance(values, list | tuple) else ()
    return ordered((key, value) for key, value in pairs if isinstance(key, str | int))


def _ordered(*args: object) -> dict:
    return _mapping(*args, ordered=OrderedDict)


def _moment(kind: Callable) -> Callable[..., str]:
    return lambda *args: str(kind(*args))


def _same(value: object, *_: object) -> object:
    return value


def _device(kind: str, index: int | None = None) -> str:
    return f"{kind:.20}" if index is None else f"{kind:.20}:{index:d}"


def _path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _attribute(owner: Global, name: str) -> object:
    return Global(f"{owner.name}.{name}") if isinstance(owner, Global) else Opaque("builtins.getattr")


def _typed_tensor(
    storage: object, offset: int, size: object, stride: object, grad: object, hooks: object, dtype: Global, metadata: object = None
) -> object:
    return stored_tensor(storage, offset, size, stride, grad, hooks, metadata, dtype=dtype.name)


def _unstored(kind: str) -> Callable[..., Unstored]:
    return lambda *_: Unstored(kind)


def _of_type(function: Global, _type: object, args: tuple, *_: object) -> object:
    # A subclass of Tensor, such as fastai's, is read as the tensor that it wraps.
    return construct(function if function.name.startswith("torch._utils.") else Global("torch.Tensor"), args, {})


_PATH_NAMES = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_CONSTRUCTORS: dict[str, Callable[..., object]] = {
    "_codecs.encode": _encode,
    "builtins.set": _sequence,
    "builtins.frozenset": _sequence,
    "builtins.list": _sequence,
    "builtins.tuple": _sequence,
    "builtins.dict": _mapping,
    "builtins.getattr": _attribute,
    "collections.OrderedDict": _ordered,
    "collections.Counter": _mapping,
    "collections.defaultdict": lambda *_: {},
    "collections.deque": _sequence,
    "copyreg._reconstructor": lambda kind, *_: construct(kind, (), {}),
    "copyreg.__newobj__": lambda kind, *args: construct(kind, args, {}),
    "datetime.date": _moment(datetime.date),
    "datetime.datetime": _moment(datetime.datetime),
    "datetime.time": _moment(datetime.time),
    "datetime.timedelta": _moment(datetime.timedelta),
    **{f"pathlib.{name}": _path for name in _PATH_NAMES},
    "numpy.dtype": _Dtype,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.multiarray._reconstruct": NumPyArray,
    "numpy._core.numeric._frombuffer": _array_from_buffer,
    "torch.Size": _sequence,
    "torch.device": _device,
    "torch._utils._rebuild_tensor": stored_tensor,
    "torch._utils._rebuild_tensor_v2": stored_tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _same,
    "torch._utils._rebuild_parameter_with_state": _same,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch._tensor._rebuild_from_type": _of_type,
    "torch._utils._rebuild_qtensor": _unstored("quantised"),
    "torch._utils._rebuild_sparse_tensor": _unstored("sparse"),
    "torch._utils._rebuild_sparse_csr_tensor": _unstored("sparse"),
    "torch._utils._rebuild_nested_tensor": _unstored("nested"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unstored("without data"),
}
