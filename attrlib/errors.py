"""Errors that a user can cause. Each message says what is wrong and what to do about it."""

import difflib
import textwrap
from collections.abc import Iterable
from pathlib import Path


class AttrlibError(Exception):
    """Base class of all errors of this library. On the command line: one line on standard error and exit code 2."""


class SpecError(AttrlibError):
    """A parameter, link, manifest or name that is not valid."""


class ImageError(AttrlibError):
    """A file or object that is not a usable image."""


class ModelError(AttrlibError):
    """A model or checkpoint that cannot be loaded, or that does not behave like a classifier."""


class LayerError(AttrlibError):
    """A layer that does not exist or yields no map."""


class MethodError(AttrlibError):
    """A method that does not exist, or is not defined for this model at this layer."""


class TargetError(AttrlibError):
    """A target that does not exist, or is not defined for this model, layer or class."""


class DataError(AttrlibError):
    """A data set that does not exist, is empty, or does not fit the model or the protocol."""


class ProtocolError(AttrlibError):
    """A protocol that does not exist, or is not defined for this model or these data."""


class StoreError(AttrlibError):
    """A store of results that cannot be read or written."""


class ClusterError(AttrlibError):
    """A cluster that cannot be used: it does not answer, differs in version, or has too few resources."""


class TrainingError(AttrlibError):
    """Training that cannot continue. The last good state is kept."""


class OutOfMemory(AttrlibError):
    """A single image needs more memory than is available."""


class Cancelled(AttrlibError):
    """The user cancelled the computation. On the command line: exit code 130."""


def unknown(kind: str, name: object, valid: Iterable[str], more: str = "") -> str:
    """Return the error message for an unknown name.

    Args:
        kind: Kind of thing that the name stands for, such as `layer`.
        name: The unknown name; truncated to 80 characters.
        valid: All valid names. The message suggests the closest ones, or else lists the first 12.
        more: A sentence to append.
    """
    names = list(valid)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    lower = {n.lower(): n for n in names}
    if str(name).lower() in lower:
        near = [lower[str(name).lower()]]
    shown = near or names[:12]
    hint = f"Did you mean {' or '.join(shown)}?" if near else f"Known: {', '.join(shown)}{', ...' if len(names) > 12 else '.'}"
    return f"unknown {kind} {str(name)[:80]!r}. {hint}{' ' + more if more else ''}"


def shortened(text: str, most: int = 160) -> str:
    """Return the first line of a text, cut between two words if it is longer than `most` characters."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    # Without spaces there is nowhere else to cut.
    return textwrap.shorten(line, most, placeholder=" ...") if " " in line[:most] else line[:most]


def reason_of(error: BaseException, most: int = 160) -> str:
    """Return the first line of an error's message in at most `most` characters, or else the name of its class."""
    return shortened(str(error), most) or type(error).__name__


def existing_file(path: str | Path) -> Path | None:
    """Return the path, with `~` expanded, if a file exists there. Return None otherwise, also for an invalid path."""
    try:
        file = Path(path).expanduser()
        return file if file.is_file() else None
    except (OSError, RuntimeError, ValueError):
        return None


def overwritten(error: BaseException) -> bool:
    """Return whether autograd failed because an in-place operation overwrote values that it needs.

    PyTorch has no error class for this, so the message is inspected.
    """
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in ("inplace operation", "in an in-place operation"))


def no_gradients(method: str) -> MethodError:
    """Return the error to raise if `overwritten` holds for a method that needs gradients."""
    return MethodError(
        f"{method} needs gradients, but an in-place operation of the model overwrites values that PyTorch needs to compute them; write "
        "y = y + x instead of y += x in its code, or choose a method without gradients, such as RISE"
    )
