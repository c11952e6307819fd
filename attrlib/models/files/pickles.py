"""Read pickles as plain data: nothing that a pickle names is imported, called or instantiated.

A pickle is a program for a small machine. Here its opcodes are decoded by `pickletools` and interpreted on plain containers; where the
program would call something, `stand_ins.construct` returns a plain value or an inert `Opaque`.
"""

import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import BinaryIO

from attrlib.models.files.stand_ins import Global, Opaque, construct

MOST_BYTES = 1 << 28
"""Maximum length of a pickle in bytes. The tensors of a checkpoint lie outside its pickle, so that it takes less than 1 MB."""
MOST_STEPS = 5_000_000
"""Maximum number of opcodes of a pickle, which bounds the number of objects. A large checkpoint with its optimiser takes 100,000."""
_EXTENSIONS = ("EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER")
_VALUES = (int, float, str, bytes, bool, type(None), Global, Opaque)


class DamagedError(Exception):
    """Bytes that are no complete pickle, or one that no trainer writes."""


def read_pickle(file: BinaryIO, persistent: Callable[[object], object] | None = None) -> object:
    """Read the pickle at the position of a file, and leave the position behind it.

    Sets become lists. Tuples and other compound keys of dictionaries become `Opaque`.

    Args:
        file: An open file.
        persistent: Returns the value of a persistent id; None if the format has none.

    Raises:
        DamagedError: The bytes are not a pickle, or exceed `MOST_BYTES` or `MOST_STEPS`.
    """
    machine = _Machine(persistent)
    try:
        for steps, (opcode, argument, _) in enumerate(pickletools.genops(_Bounded(file))):  # type: ignore[arg-type]
            if steps == MOST_STEPS:
                raise DamagedError(f"it holds more than {MOST_STEPS} objects beside its tensors")
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        raise DamagedError(str(error).partition("\n")[0][:120] or type(error).__name__) from None
    raise DamagedError("its pickle does not end")


class _Bounded:
    """A file that ends after `MOST_BYTES`, so that a length in a damaged file is never allocated."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.left = file, MOST_BYTES

    def read(self, count: int) -> bytes:
        data = self.file.read(min(count, self.left))
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self.file.readline(self.left)
        self.left -= len(data)
        return data


class _Machine:
    """The stack and memo of the pickle machine."""

    def __init__(self, persistent: Callable[[object], object] | None) -> None:
        self.stack: list = []
        self.marks: list[list] = []
        self.memo: dict[int, object] = {}
        self.persistent = persistent
        self.copied = 0

    def step(self, name: str, argument: object) -> None:
        """Execute one opcode."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in _EXTENSIONS:
            raise DamagedError(f"{name} is not supported")
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])  # type: ignore[index]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]  # type: ignore[index]
        elif name not in ("PROTO", "FRAME"):
            getattr(self, f"_{name.lower()}")(argument)

    def pop_mark(self) -> list:
        """Return what was pushed since the last mark."""
        values, self.stack = self.stack, self.marks.pop()
        return values

    def _mark(self, _: object) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _pop(self, _: object) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def _pop_mark(self, _: object) -> None:
        self.pop_mark()

    def _dup(self, _: object) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    # Containers.

    def _empty_list(self, _: object) -> None:
        self.stack.append([])

    _empty_set = _empty_list

    def _empty_dict(self, _: object) -> None:
        self.stack.append({})

    def _list(self, _: object) -> None:
        values = self.pop_mark()
        self.stack.append(values)

    _frozenset = _list

    def _tuple(self, _: object) -> None:
        values = self.pop_mark()
        self.stack.append(tuple(values))

    def _tuple1(self, _: object) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def _tuple2(self, _: object) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def _tuple3(self, _: object) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def _dict(self, _: object) -> None:
        values = self.pop_mark()
        self.stack.append({})
        self._set(values)

    def _append(self, _: object) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _: object) -> None:
        self._extend(self.pop_mark())

    _additems = _appends

    def _extend(self, values: list) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)

    def _setitem(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _setitems(self, _: object) -> None:
        self._set(self.pop_mark())

    def _set(self, values: list) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Opaque) else target
        if isinstance(items, dict):
            for key, value in zip(values[::2], values[1::2], strict=True):
                items[_key(key)] = value

    # Objects.

    def _global(self, argument: object) -> None:
        module, _, name = str(argument).partition(" ")
        self.stack.append(Global.of(module, name))

    def _stack_global(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(Global.of(str(module), str(name)))

    def _inst(self, argument: object) -> None:
        self.pop_mark()
        self._global(argument)
        self._call((), {})

    def _obj(self, _: object) -> None:
        function = self.pop_mark()[0]
        self.stack.append(function)
        self._call((), {})

    def _reduce(self, _: object) -> None:
        self._call(self.stack.pop(), {})

    _newobj = _reduce

    def _newobj_ex(self, _: object) -> None:
        named, args = self.stack.pop(), self.stack.pop()
        self._call(args, named)

    def _call(self, args: object, named: object) -> None:
        self._spend(args)
        self.stack[-1] = construct(self.stack[-1], args if isinstance(args, tuple) else (), named if isinstance(named, dict) else {})

    def _spend(self, values: object) -> None:
        # A value may be copied. A small file could name a large one many times.
        for value in values if isinstance(values, tuple) else ():
            self.copied += len(value) * (128 if isinstance(value, list | tuple) else 1) if isinstance(value, str | list | tuple) else 0
        if self.copied > MOST_BYTES:
            raise DamagedError("it repeats large values")

    def _build(self, _: object) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        self._spend(state)
        if isinstance(target, Opaque):
            target.build(state)
        elif isinstance(target, OrderedDict) and isinstance(state, dict):
            # torch keeps the versions of modules in this attribute of a state dict.
            target._metadata = state.get("_metadata")  # type: ignore[attr-defined]

    def _persid(self, argument: object) -> None:
        if self.persistent is None:
            raise DamagedError("it refers to tensors that are not in the file")
        self.stack.append(self.persistent(argument))

    def _binpersid(self, _: object) -> None:
        self._persid(self.stack.pop())


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


def _key(key: object) -> object:
    """Return a key whose hash an attacker cannot choose: thousands of equal ones would take a dictionary hours."""
    if isinstance(key, int) and abs(key) >= 1 << 64:
        return Opaque("builtins.int")
    return key if isinstance(key, _VALUES) else Opaque(f"builtins.{type(key).__name__}")
