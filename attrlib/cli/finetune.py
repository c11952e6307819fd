"""Fine-tune a model on images with deleted patches: `python -m attrlib finetune`."""

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from attrlib.cli.common import MODEL, Device, Json, command, duration, interruptible, take_model
from attrlib.data.datasets import anchored
from attrlib.errors import Cancelled
from attrlib.models import Card
from attrlib.training import PRESETS, Recipe, Training, TrainingProgress, train_checkpoint

EVERY = 10.0
"""Seconds between lines of progress if standard error is not a terminal."""


@command(options=MODEL + Recipe.options())
def finetune(
    data: Annotated[str, typer.Option("--data", help="What to train on: a name, a folder of class folders, or a CSV file.")],
    out: Annotated[Path, typer.Option("--out", help="File for the weights, .safetensors; the model card goes beside it.")],
    select: Annotated[str | None, typer.Option("--select", help="Data to choose the best epoch on; by default a tenth held out.")] = None,
    report: Annotated[str | None, typer.Option("--report", help="Data that the accuracies in the card are about.")] = None,
    preset: Annotated[str, typer.Option("--preset", help=f"Where the other flags begin: {', '.join(PRESETS)}.")] = "idsds",
    fractions: Annotated[
        str | None, typer.Option("--fractions", help="Train anew on each share of the data, as 0.2,0.4,1: writes OUT_20, OUT_40, OUT_100.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
    *,
    options: dict[str, str],
) -> None:
    """Fine-tune a model, by default as IDSDS asks: on images half of which miss one cell. Interrupted, the same command goes on.

    Several GPUs: torchrun --nproc-per-node N -m attrlib finetune ...
    """
    begin = take_model(options)
    recipe = Recipe.parse(options, preset)
    training = Training(begin, anchored(data), recipe, select and anchored(select), report and anchored(report))
    todo = {out: training}
    if fractions is not None:
        shares = [Recipe.parse({"fraction": text}).fraction for text in fractions.split(",")]
        todo = {out.with_stem(f"{out.stem}_{100 * share:g}"): replace(training, recipe=replace(recipe, fraction=share)) for share in shares}
    made = {path: _train(own, path, device, as_json) for path, own in todo.items()}
    if int(os.environ.get("RANK", 0)):
        return
    # Only after all are trained: until then, the same command skips those that are finished.
    for path in made:
        shutil.rmtree(_state(path), ignore_errors=True)
    if as_json:
        found = [{"out": str(path), **asdict(card)} for path, card in made.items()]
        typer.echo(json.dumps(found[0] if fractions is None else {"models": found}))
    else:
        for path, card in made.items():
            _report(card, path, training.report or training.select)


def _train(training: Training, out: Path, device: str, quiet: bool) -> Card:
    state = _state(out)
    with interruptible() as check:
        show = _line(quiet or int(os.environ.get("RANK", 0)) > 0)

        def on_progress(found: TrainingProgress) -> None:
            check()
            show(found)

        try:
            return train_checkpoint(training, out, state, device, on_progress)
        except Cancelled:
            typer.echo(f"stopped: the epochs that are done are kept in {state}; the same command goes on", err=True)
            raise


def _state(out: Path) -> Path:
    return out.with_suffix(".training")


def _line(quiet: bool) -> Callable[[TrainingProgress], None]:
    """Return a listener that shows the progress of training: in place on a terminal, otherwise a line every few seconds."""
    last = 0.0

    def show(found: TrainingProgress) -> None:
        nonlocal last
        terminal = sys.stderr.isatty()
        if quiet or time.monotonic() - last < (0.5 if terminal else EVERY):
            return
        last = time.monotonic()
        parts = [f"epoch {found.epoch}", f"step {found.step}/{found.steps}", f"loss {found.loss:.3f}"]
        parts += [f"clean {found.clean:.1%}"] if found.clean is not None else []
        parts += [f"deleted {found.deleted:.1%}"] if found.deleted is not None else []
        parts += [f"{duration(found.seconds_left)} left"] if found.seconds_left is not None else []
        text = ", ".join(parts)
        typer.echo(f"\r{text:78}" if terminal else text, nl=not terminal, err=True)

    return show


def _report(card: Card, out: Path, data: str | None) -> None:
    if sys.stderr.isatty():
        typer.echo("\r" + " " * 78 + "\r", nl=False, err=True)
    for name in ("clean", "deleted"):
        found = card.accuracy[name]
        typer.echo(
            f"{name:8} {found['mean']:7.1%}  [{found['low']:.1%}, {found['high']:.1%}]  {found['n']} images of {card.accuracy['data']}"
        )
    if card.left_out:
        typer.echo(f"note: {card.left_out} training image(s) could not be read and were left out", err=True)
    typer.echo(f"wrote {out} and {out.with_suffix('.json').name}: epoch {card.epoch}, {duration(card.seconds)}")
    protocol = "idsds" if card.deletion else "sds"
    score = ["python", "-m", "attrlib", "score", "--model", str(out), "--protocol", protocol, "--methods", "all", "--data"]
    # Held-out data have no name.
    typer.echo(f"{shlex.join(score)} {'DATA' if data is None else shlex.quote(data)}")
