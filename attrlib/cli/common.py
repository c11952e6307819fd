"""Code shared by all commands: flags generated from parameters, and one-line error messages."""

import functools
import inspect
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Annotated, Any, TypeVar

import typer

from attrlib.cli.app import app
from attrlib.data.datasets import anchored
from attrlib.errors import AttrlibError, Cancelled, SpecError, existing_file
from attrlib.models import EMBEDDED
from attrlib.models.checkpoints import split_key
from attrlib.models.names import located
from attrlib.registry import Param, params_of
from attrlib.specs import ModelSpec, Spec, flag_of, read_list
from attrlib.specs.codec import Parsers
from attrlib.store import Run

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", help="Number of worker processes, one for each GPU or sharing the cores; with --cluster, number of actors."),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster", help="Compute on Ray: ray starts it on this machine, ray://HOST:PORT or ray://auto uses a cluster that runs."
    ),
]
DataRoots = Annotated[
    list[str] | None,
    typer.Option("--data-root", help="Folder in which the workers of a cluster look for the data; repeat for several."),
]

MODEL = params_of(ModelSpec)
S = TypeVar("S", bound=Spec)


def _parse_model(text: str) -> ModelSpec:
    """Parse a model from the path of an existing file, whatever its name, or else from its text form. Make paths absolute."""
    if existing_file(split_key(text)[0]):
        return ModelSpec(_anchor(text))
    model = ModelSpec.parse(text)
    return replace(model, architecture=located(model.architecture), checkpoint=_anchor(model.checkpoint) if model.checkpoint else None)


def _anchor(path: str) -> str:
    file, key = split_key(path)
    return anchored(file) + (f"#{key}" if key else "")


PARSERS: Parsers = {
    "model": _parse_model,
    "checkpoint": lambda text: _anchor(text) if text else None,
    "data": anchored,
    "filter_models": lambda text: read_list(text, _parse_model),
}
"""Parsers of fields that the command line reads differently from links: its paths are relative to the current folder."""


def read_options(cls: type[S], options: Mapping[str, str], **parsers: Callable[[str], Any]) -> S:
    """Return the spec described by the flags; without a model, the embedded one.

    Args:
        cls: Type of the spec.
        options: Text of the flags, by field name.
        **parsers: Parsers of fields. They override `PARSERS`.

    Raises:
        AttrlibError: If a flag is not valid.
    """
    return cls.read({"model": EMBEDDED, **options}, {**PARSERS, **parsers})


def take_model(options: dict[str, str]) -> ModelSpec:
    """Remove the flags of a model from `options`, and return the model. Raises `SpecError` if they are not valid."""
    return read_options(ModelSpec, {p.name: options.pop(p.name) for p in MODEL if p.name in options})


def command(options: tuple[Param, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose errors are printed in one line, with exit code 2 (130 if cancelled).

    Args:
        options: Parameters that become flags. The command receives the texts of the flags that are set, by name, as keyword `options`.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(**arguments: Any) -> None:
            try:
                if options:
                    texts = {p.name: arguments.pop(p.name) for p in options}
                    texts = {name: "true" if text is True else text for name, text in texts.items() if text not in (None, False)}
                    arguments["options"] = texts
                function(**arguments)
            except (Cancelled, KeyboardInterrupt):
                typer.echo("cancelled", err=True)
                raise typer.Exit(130) from None
            except AttrlibError as error:
                typer.echo(f"error: {' '.join(str(error).split())}", err=True)
                raise typer.Exit(2) from None

        declared = [p for p in inspect.signature(function).parameters.values() if p.name != "options"]
        run.__signature__ = inspect.Signature([*declared, *map(_flag, options)])  # type: ignore[attr-defined]
        app.command(function.__name__)(run)
        return run

    return decorate


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Stop the computation at its next step on Ctrl-C or SIGTERM, and immediately on a second signal.

    Yields:
        A function to call at every step. It raises `Cancelled` after the first signal.
    """
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    def check() -> None:
        if stopping.is_set():
            raise Cancelled("cancelled")

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def duration(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _flag(param: Param) -> inspect.Parameter:
    kind: Any
    if param.positional:
        kind = Annotated[str, typer.Argument(help=_help(param))]
        return inspect.Parameter(param.name, inspect.Parameter.KEYWORD_ONLY, annotation=kind)
    option = typer.Option(flag_of(param), help=_help(param))
    kind = Annotated[bool, option] if param.is_switch else Annotated[str | None, option]
    return inspect.Parameter(param.name, inspect.Parameter.KEYWORD_ONLY, default=False if param.is_switch else None, annotation=kind)


def _help(param: Param) -> str:
    notes = [param.expects()] if param.is_plain and not param.is_switch and (param.kind is not str or param.choices) else []
    if not (param.required or param.is_switch):
        default = param.format(param.default) or param.auto
        notes += [f"default {default}"] if default else []
    return f"{param.help}{' (' if notes else ''}{'; '.join(notes)}{')' if notes else ''}."


def chosen_run(runs: Iterable[Run], start: str | None, none: str) -> Run:
    """Return the run whose key begins with some characters, or the one that was changed last.

    Args:
        runs: The stored runs.
        start: The first characters of the key; None for the last run.
        none: What to say if there is no run.

    Raises:
        SpecError: If there is no such run, or several begin with these characters.
    """
    found = sorted((run for run in runs if run.key.startswith(start or "")), key=lambda run: run.updated, reverse=True)
    if not found:
        raise SpecError(f"no run key starts with {start!r}; python -m attrlib cache lists all runs" if start is not None else none)
    if start is not None and len(found) > 1:
        raise SpecError(f"{len(found)} run keys start with {start!r}; give more characters")
    return found[0]
