"""Draw one image explained by all methods: `python -m attrlib montage`."""

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
            "--also",
            help="Further models for methods that are not defined on the first, separated by commas: NAME or NAME@CHECKPOINT, with @HxW.",
        ),
    ] = "",
    image: Annotated[
        str, typer.Option("--image", help="A picture file (JPEG, PNG, WebP, BMP, TIFF, .npy or DICOM), sample:NAME, or birds:SPLIT/INDEX.")
    ] = "sample:cat",
    methods: Annotated[
        str,
        typer.Option(
            "--methods", help="all, or NAME@LAYER:key=value separated by commas; all,NAME:key=value sets parameters of one of them."
        ),
    ] = "all",
    seed: Annotated[str, typer.Option("--seed", help="Seed of random methods.")] = "0",
    device: Device = "auto",
    as_json: Json = False,
    *,
    options: dict[str, str],
) -> None:
    """Draw one image explained by all methods, for the class that the model predicts."""
    if out.suffix.lower() != ".png":
        raise SpecError(f"--out {out} is not a PNG file; use a name that ends in .png")
    model = take_model(options)
    view, specs, seed_value = ViewSpec.parse(options), all_methods(methods), whole(seed, "seed")
    photo = open_image(image)
    further = [ModelSpec.parse(name) for name in also.split(",") if name.strip()]
    models = [load_model(spec.architecture, device, **spec.options()) for spec in [model, *further]]
    with interruptible() as check:
        shown = explain_all(models, photo, specs, seed_value, lambda _done, _total: check())
    write_files(out.parent, {out.name: encode(draw_montage(models, photo, shown, view), "PNG")})
    refused = {str(one.method): str(one.result) for one in shown if isinstance(one.result, AttrlibError)}
    if as_json:
        seconds = {str(one.result.spec): one.result.seconds for one in shown if not isinstance(one.result, AttrlibError)}
        typer.echo(json.dumps({"out": str(out), "seconds": seconds, "refused": refused}))
        return
    for name, reason in refused.items():
        typer.echo(f"note: {name}: {reason}", err=True)
    typer.echo(f"wrote maps of {len(shown) - len(refused)} methods to {out}")
