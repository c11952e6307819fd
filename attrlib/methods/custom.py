"""Custom methods, loaded from Python files in a configured folder and from the entry points of installed packages.

A file in this folder runs with all rights of the user. Uploads, and files named in a link, are never run.
"""

import dataclasses
import functools
import importlib.util
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from platformdirs import user_config_dir
from torch import Tensor

from attrlib.errors import AttrlibError, MethodError, shortened
from attrlib.methods.base import METHODS, Method, Passes
from attrlib.methods.context import AttributionContext
from attrlib.models import Layer, Layout
from attrlib.models.chunks import out_of_memory
from attrlib.models.modules.state import restored
from attrlib.registry import Paper, params_of
from attrlib.specs import digest

FOLDERS = "ATTRLIB_METHODS"
GROUP = "attrlib.methods"
_MODULE_PREFIX = "attrlib_custom_"
F = TypeVar("F", bound=Callable[..., Any])


def folders() -> list[Path]:
    """Return the folders of custom methods: those in `ATTRLIB_METHODS`, by default `methods` in the user's configuration folder."""
    named = os.environ.get(FOLDERS)
    if named is None:
        return [Path(user_config_dir("attrlib")) / "methods"]
    return [Path(part).expanduser() for part in named.split(os.pathsep) if part.strip()]


def load_custom() -> None:
    """Register the custom methods in all files `*.py` of `folders()` and in the entry points `attrlib.methods`.

    A file or entry point that cannot be loaded is skipped, and the reason is stored in `METHODS.left_out`.
    """
    for folder in folders():
        if not folder.is_dir():
            if FOLDERS in os.environ:
                METHODS.left_out[str(folder)] = f"the folder does not exist; create it, or remove it from {FOLDERS}"
            continue
        for file in sorted(folder.glob("*.py")):
            if not file.name.startswith("_"):
                _load(str(file), functools.partial(_run, file))
    for point in entry_points(group=GROUP):
        _load(f"entry point {point.name}", point.load)


def _load(source: str, run: Callable[[], object]) -> None:
    before = set(METHODS)
    try:
        run()
        new = [METHODS[name] for name in METHODS if name not in before]
        if not new:
            raise MethodError("it does not register a method; decorate a class with @METHODS.register")
        for cls in new:
            _check(cls)
            _guard(cls, source)
    except (Exception, SystemExit) as error:  # noqa: BLE001  custom code may raise anything, and the other files must still be loaded
        for name in [name for name in METHODS if name not in before]:
            METHODS.forget(name)
        METHODS.left_out[source] = str(error) if isinstance(error, AttrlibError) else _describe(error)


def _run(file: Path) -> None:
    for path in (file.parent, file):
        if os.name == "posix" and path.stat().st_mode & stat.S_IWOTH:
            raise MethodError(f"{path.name} is writable by everyone, so it is not run; remove that permission with chmod o-w")
    name = f"{_MODULE_PREFIX}{digest(str(file.resolve()))[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None, "a file has a location"
    assert spec.loader is not None, "a Python file has a loader"
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look up the module of their class.
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _check(cls: type[Method]) -> None:
    """Raise `MethodError` if menus, links and tests cannot be generated for the class."""
    name = cls.__name__
    if not issubclass(cls, Method) or "__dataclass_fields__" not in vars(cls):
        raise MethodError(
            f"{name} is not a frozen dataclass derived from Method; write @METHODS.register, @dataclass(frozen=True), class {name}(Method)"
        )
    if not isinstance(cls.name, str) or not re.fullmatch(r"[^@:,=\s]([^@:,=\n]*[^@:,=\s])?", cls.name):
        raise MethodError(f"the name {cls.name!r} of {name} cannot be used in a list of methods; leave out @ : , = and spaces at its ends")
    for attribute, kind in (("family", str), ("paper", Paper), ("default_layer", str), ("needs", tuple)):
        if not isinstance(getattr(cls, attribute, None), kind):
            raise MethodError(f"{name} has no {attribute} of type {kind.__name__}; add it next to name")
    if not (cls.__doc__ or "").strip() or (cls.__doc__ or "").startswith(f"{name}("):
        raise MethodError(f"{name} has no docstring; add one whose first line says what the method computes")
    for field in dataclasses.fields(cls):
        if "help" not in field.metadata:
            raise MethodError(f"{name}.{field.name} is not a parameter; declare it as {field.name}: int = param(...)")
    for param in params_of(cls):
        param.parse(param.default)
    try:
        passes = cls().passes(Layer("Input", "", Layout("NCHW", 3, 32, 32)))
    except TypeError as error:
        raise MethodError(f"{name} cannot be created ({error}); define attribute(context) and passes(layer)") from None
    if not isinstance(passes, Passes):
        raise MethodError(f"{name}.passes returns a {type(passes).__name__}; return Passes(forward=..., gradient=...)")


def _guard(cls: type[Method], source: str) -> None:
    """Wrap the methods of a custom class: name it in errors, check its maps, and restore the model if it was changed.

    Also sets `code`, so that stored maps depend on the source of the class.
    """
    cls.code = _code(Path(sys.modules[cls.__module__].__file__ or ""))
    cls.check = _named(cls.check, cls, source)  # type: ignore[method-assign]
    cls.passes = _named(cls.passes, cls, source)  # type: ignore[method-assign]
    attribute = _named(cls.attribute, cls, source)

    @functools.wraps(attribute)
    def guarded(self: Method, context: AttributionContext) -> Tensor:
        with restored(context.classifier.module) as changed:
            maps = attribute(self, context)
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise MethodError(
                f"{cls.name} ({source}) changed the model: {changed[0]}{more}; the model was restored, and the maps were discarded"
            )
        return _proper(maps, context, f"{cls.name} ({source})")

    cls.attribute = guarded  # type: ignore[method-assign]


def _code(file: Path) -> str:
    """Return a digest of the file and of the loaded modules in its folder. Imports from elsewhere are assumed not to change."""
    files = {
        Path(path)
        for name, module in list(sys.modules.items())
        if not name.startswith(_MODULE_PREFIX) and (path := getattr(module, "__file__", None))
    }
    beside = sorted(path for path in files - {file} if path.parent == file.parent and path.is_file())
    return digest(*(path.read_bytes() for path in (file, *beside)))


def _named(function: F, cls: type[Method], source: str) -> F:
    @functools.wraps(function)
    def named(*args: Any) -> Any:
        try:
            return function(*args)
        except AttrlibError:
            raise
        except Exception as error:
            if out_of_memory(error):
                raise
            raise MethodError(f"{cls.name} ({source}) failed in {function.__name__}: {_describe(error)}") from error

    return named  # type: ignore[return-value]


def _proper(maps: object, context: AttributionContext, name: str) -> Tensor:
    expected = (len(context), 1, *context.layer.shape[1:])
    if not isinstance(maps, Tensor):
        raise MethodError(f"{name} returned a {type(maps).__name__}; return a tensor of shape {expected}")
    if tuple(maps.shape) != expected:
        raise MethodError(f"{name} returned maps of shape {tuple(maps.shape)}, expected {expected}")
    if not maps.is_floating_point() or not bool(maps.isfinite().all()):
        problem = "values that are not finite" if maps.is_floating_point() else f"maps of {maps.dtype}"
        raise MethodError(f"{name} returned {problem} at {context.layer.name}; return finite floats, 0 where the attribution is undefined")
    return maps


def _describe(error: BaseException) -> str:
    """Return an error as one line of text, with the line of the file that raised it."""
    lines = list(_lines(error))
    place = f" in line {lines[-1]}" if lines else ""
    text = shortened(str(error), 200)
    return f"{type(error).__name__}{place}{': ' if text else ''}{text}"


def _lines(error: BaseException) -> Iterator[int]:
    """Yield the line numbers of a traceback that are in files of custom methods."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        yield error.lineno
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_globals.get("__name__", "").startswith(_MODULE_PREFIX):
            yield traceback.tb_lineno
        traceback = traceback.tb_next
