"""Fine-tune a model on images with deleted patches: `python -m attrlib finetune`."""

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from attrlib.cli.common import MODEL, Device, Json, command, duration, interruptible, take_model
from attrlib.data.datasets import anchored, load_dataset
from attrlib.errors import Cancelled
from attrlib.models import Card
from attrlib.training import PRESETS, Recipe, Training, TrainingProgress, train_checkpoint

EVERY = 10.0
"""Seconds between lines of progress if standard error is not a terminal."""


@command(options=MODEL + Recipe.options())
def finetune(
    data: Annotated[str, typer.Option("--data", help="Training data: a name, a folder of class folders, or a CSV file.")],
    out: Annotated[Path, typer.Option("--out", help="File for the weights, .safetensors; the model card is written next to it.")],
    select: Annotated[
        str | None, typer.Option("--select", help="Data to select the best epoch on; by default a held-out tenth of the training data.")
    ] = None,
    report: Annotated[str | None, typer.Option("--report", help="Data on which the accuracies in the model card are measured.")] = None,
    preset: Annotated[str, typer.Option("--preset", help=f"Defaults of the other flags: {', '.join(PRESETS)}.")] = "idsds",
    fractions: Annotated[
        str | None, typer.Option("--fractions", help="Train one model per fraction of the data: 0.2,0.4,1 writes OUT_20, OUT_40, OUT_100.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
    *,
    options: dict[str, str],
) -> None:
    """Fine-tune a model, by default for IDSDS: one patch is deleted from half of the images. Run the same command again to resume.

    On several GPUs: torchrun --nproc-per-node N -m attrlib finetune ...
    """
    model = take_model(options)
    recipe = Recipe.parse(options, preset)
    training = Training(model, anchored(data), recipe, select and anchored(select), report and anchored(report))
    trainings = {out: training}
    if fractions is not None:
        shares = [Recipe.parse({"fraction": text}).fraction for text in fractions.split(",")]
        trainings = {
            out.with_stem(f"{out.stem}_{100 * share:g}"): replace(training, recipe=replace(recipe, fraction=share)) for share in shares
        }
    if not int(os.environ.get("RANK", 0)):
        for note in load_dataset(data, training=True).notes:
            typer.echo(f"note: {note}", err=True)
    cards = {path: _train(each, path, device, as_json) for path, each in trainings.items()}
    if int(os.environ.get("RANK", 0)):
        return
    # Only once all are trained: until then, the same command skips the finished ones.
    for path in cards:
        shutil.rmtree(_state(path), ignore_errors=True)
    if as_json:
        models = [{"out": str(path), **card.values()} for path, card in cards.items()]
        typer.echo(json.dumps(models[0] if fractions is None else {"models": models}))
    else:
        for path, card in cards.items():
            _report(card, path, training.report or training.select)


def _train(training: Training, out: Path, device: str, quiet: bool) -> Card:
    state = _state(out)
    with interruptible() as check:
        show = _line(quiet or int(os.environ.get("RANK", 0)) > 0)

        def on_progress(progress: TrainingProgress) -> None:
            check()
            show(progress)

        try:
            return train_checkpoint(training, out, state, device, on_progress)
        except Cancelled:
            typer.echo(f"stopped: finished epochs are kept in {state}; run the same command to resume", err=True)
            raise


def _state(out: Path) -> Path:
    return out.with_suffix(".training")


def _line(quiet: bool) -> Callable[[TrainingProgress], None]:
    """Return a progress callback that updates one line on a terminal, and else prints a line every few seconds."""
    last = 0.0

    def show(progress: TrainingProgress) -> None:
        nonlocal last
        terminal = sys.stderr.isatty()
        if quiet or time.monotonic() - last < (0.5 if terminal else EVERY):
            return
        last = time.monotonic()
        parts = [f"epoch {progress.epoch}", f"step {progress.step}/{progress.steps}", f"loss {progress.loss:.3f}"]
        parts += [f"clean {progress.clean:.1%}"] if progress.clean is not None else []
        parts += [f"deleted {progress.deleted:.1%}"] if progress.deleted is not None else []
        parts += [f"{duration(progress.seconds_left)} left"] if progress.seconds_left is not None else []
        text = ", ".join(parts)
        typer.echo(f"\r{text:78}" if terminal else text, nl=not terminal, err=True)

    return show


def _report(card: Card, out: Path, data: str | None) -> None:
    if sys.stderr.isatty():
        typer.echo("\r" + " " * 78 + "\r", nl=False, err=True)
    for name in ("clean", "deleted"):
        accuracy = card.accuracy[name]
        typer.echo(
            f"{name:8} {accuracy['mean']:7.1%}  [{accuracy['low']:.1%}, {accuracy['high']:.1%}]  {accuracy['n']} images of {card.accuracy['data']}"
        )
    if card.left_out:
        typer.echo(f"note: {card.left_out} training image(s) could not be read and were left out", err=True)
    typer.echo(f"wrote {out} and {out.with_suffix('.json').name}: epoch {card.epoch}, {duration(card.seconds)}")
    protocol = "idsds" if card.deletion else "sds"
    score = ["python", "-m", "attrlib", "score", "--model", str(out), "--protocol", protocol, "--methods", "all", "--data"]
    # Held-out data have no name to score on.
    typer.echo(f"{shlex.join(score)} {'DATA' if data is None else shlex.quote(data)}")
