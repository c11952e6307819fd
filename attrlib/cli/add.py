"""Add a model to this computer under a name, or remove it: `python -m attrlib add|remove`."""

import json
from typing import Annotated

import typer

from attrlib.cli.common import MODEL, Device, Json, command, take_model
from attrlib.models import add_model, load_model, remove_model


@command(options=MODEL)
def add(
    name: Annotated[str, typer.Argument(help="The new name: letters, digits, '_', '-' and '.'.")],
    data: Annotated[str, typer.Option("--trained-on", help="Name of the data that the model was trained on, for its card.")] = "",
    deletion_tuned: Annotated[
        bool, typer.Option("--deletion-tuned", help="The checkpoint is fine-tuned on deleted patches, as idsds requires.")
    ] = False,
    link: Annotated[bool, typer.Option("--link", help="Do not copy the weights; the card names the place of the file.")] = False,
    device: Device = "auto",
    as_json: Json = False,
    *,
    options: dict[str, str],
) -> None:
    """Add a checkpoint to the models of this computer, with its architecture, preprocessing and outputs."""
    spec = take_model(options)
    model = load_model(spec.architecture, device, deletion_tuned=deletion_tuned, **spec.options())
    for note in model.notes:
        typer.echo(f"note: {note}", err=True)
    card = add_model(model, name, data=data, copy=not link)
    typer.echo(json.dumps({"name": name, "card": str(card)}) if as_json else f"added {name}; its card is {card}")


@command()
def remove(name: Annotated[str, typer.Argument(help="Name of an added model.")]) -> None:
    """Remove an added model; a file that was not copied stays."""
    remove_model(name)
    typer.echo(f"removed {name}")
