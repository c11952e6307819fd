"""Draw one picture explained by all methods: `python -m attrlib montage`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from attrlib.cli.common import MODEL, Device, Json, command, interruptible, take_model
from attrlib.cli.explain import write_files
from attrlib.data.pictures import open_image
from attrlib.engine.montage import all_methods, draw_montage, explain_all
from attrlib.errors import AttrlibError, SpecError
from attrlib.figures.overlay import encode
from attrlib.models import load_model
from attrlib.registry import params_of
from attrlib.specs import ModelSpec, ViewSpec, whole


@command(options=MODEL + params_of(ViewSpec))
def montage(
    out: Annotated[Path, typer.Option("--out", help="The PNG file to write.")],
    also: Annotated[
        str,
        typer.Option(
            "--also", help="Further models, by commas: for methods that are not defined for the first; NAME, NAME@CHECKPOINT, and @HxW."
        ),
    ] = "",
    image: Annotated[str, typer.Option("--image", help="A JPEG, PNG or WebP file, or sample:NAME.")] = "sample:cat",
    methods: Annotated[
        str,
        typer.Option("--methods", help="all, or NAME@LAYER:key=value by commas; all,NAME:key=value for all, one of them with settings."),
    ] = "all",
    seed: Annotated[str, typer.Option("--seed", help="Seed of random methods.")] = "0",
    device: Device = "auto",
    as_json: Json = False,
    *,
    options: dict[str, str],
) -> None:
    """Draw one picture explained by all methods, each with its predicted class."""
    if out.suffix.lower() != ".png":
        raise SpecError(f"--out {out} is no PNG file; give a name that ends in .png")
    model = take_model(options)
    view, specs, start = ViewSpec.parse(options), all_methods(methods), whole(seed, "seed")
    photo = open_image(image)
    further = [ModelSpec.parse(name) for name in also.split(",") if name.strip()]
    models = [load_model(spec.architecture, device, **spec.options()) for spec in [model, *further]]
    with interruptible() as check:
        shown = explain_all(models, photo, specs, start, lambda _done, _total: check())
    write_files(out.parent, {out.name: encode(draw_montage(models, photo, shown, view), "PNG")})
    refused = {str(one.method): str(one.result) for one in shown if isinstance(one.result, AttrlibError)}
    if as_json:
        seconds = {str(one.result.spec): one.result.seconds for one in shown if not isinstance(one.result, AttrlibError)}
        typer.echo(json.dumps({"out": str(out), "seconds": seconds, "refused": refused}))
        return
    for name, reason in refused.items():
        typer.echo(f"note: {name}: {reason}", err=True)
    typer.echo(f"wrote {len(shown) - len(refused)} methods to {out}")
