"""What all commands share: the application, flags from parameters, errors in one line."""

import functools
import inspect
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Annotated, Any

import typer

from attrlib.data.datasets import anchored
from attrlib.errors import AttrlibError, Cancelled, existing_file
from attrlib.model_spec import ModelSpec, parse_size
from attrlib.registry import Param

app = typer.Typer(
    help="Explore and judge attribution maps of image classifiers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ModelName = Annotated[
    str, typer.Option("--model", help="A name of the list, timm:NAME, torchvision:NAME, NAME@FILE, or a checkpoint with its card.")
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--checkpoint", help="File with weights for the architecture, or random:SEED. NAME.txt beside it may name the classes, one a line."
    ),
]
InputSize = Annotated[str | None, typer.Option("--input-size", help="HxW in pixels, as in 192x256; by default the model's own.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]


def model_spec(model: str, checkpoint: str | None, input_size: str | None) -> ModelSpec:
    """The model that the flags name, `--model` alone in text form too: NAME@CHECKPOINT@HxW. Raises `SpecError`."""
    given = ModelSpec(model) if existing_file(model) else ModelSpec.parse(model)
    size = None if input_size is None else parse_size(input_size)
    return with_path(ModelSpec(given.architecture, checkpoint or given.checkpoint, size or given.input_size))


def with_path(model: ModelSpec) -> ModelSpec:
    """The model with its checkpoint by a path that holds in any folder."""
    return replace(model, checkpoint=model.checkpoint and anchored(model.checkpoint))


def main() -> None:
    """Entry point of `python -m attrlib`."""
    app(prog_name="python -m attrlib")


def command(options: tuple[Param, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a command: `options` become flags, passed as keyword `options`; errors end in one line and exit code 2 (130 if cancelled)."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(**given: Any) -> None:
            try:
                if options:
                    given["options"] = {p.name: value for p in options if (value := given.pop(p.name)) is not None}
                function(**given)
            except (Cancelled, KeyboardInterrupt):
                typer.echo("cancelled", err=True)
                raise typer.Exit(130) from None
            except AttrlibError as error:
                typer.echo(f"error: {' '.join(str(error).split())}", err=True)
                raise typer.Exit(2) from None

        own = [p for p in inspect.signature(function).parameters.values() if p.name != "options"]
        run.__signature__ = inspect.Signature([*own, *map(_flag, options)])  # type: ignore[attr-defined]
        app.command(function.__name__)(run)
        return run

    return decorate


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Ctrl-C and SIGTERM end the work at its next step; a second one at once."""
    asked = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    def check() -> None:
        if asked.is_set():
            raise Cancelled("cancelled")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def duration(seconds: float) -> str:
    """In hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _flag(option: Param) -> inspect.Parameter:
    kind = Annotated[
        str | None, typer.Option(f"--{option.name}", help=f"{option.help} ({option.expects()}; default {option.format(option.default)}).")
    ]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
