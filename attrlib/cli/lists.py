"""List models, methods, targets, presets, protocols and data sets, and `download` models: `python -m attrlib models|methods|...`."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from attrlib.cli.common import Json, command
from attrlib.data.datasets import Dataset, list_datasets, load_dataset
from attrlib.methods import METHODS, list_methods, list_presets
from attrlib.models import download as download_checkpoint
from attrlib.models import list_models
from attrlib.protocols import list_protocols
from attrlib.registry import Param
from attrlib.targets import list_targets

_CLASSES = 20
"""Maximum number of classes named when a data set is described."""


@command()
def models(
    pattern: Annotated[str, typer.Argument(help="Pattern, for example 'timm:resnet*'; by default the models that need no download.")] = "",
    as_json: Json = False,
) -> None:
    """List models."""
    infos = list_models(pattern)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(m) for m in infos]))
        return
    for m in infos:
        typer.echo(f"{m.name:32} {m.source:12} {m.note}".rstrip())
    if not pattern:
        typer.echo(
            "Also every timm:NAME and torchvision:NAME (search: models 'timm:resnet*'), and your own weights with --checkpoint FILE."
        )


@command()
def download(name: Annotated[str, typer.Argument(help="idsds:NAME, a model published with IDSDS.")], as_json: Json = False) -> None:
    """Download a published checkpoint into the cache folder."""

    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            typer.echo(f"\r{done / 2**20:.0f} of {total / 2**20:.0f} MB ", nl=False, err=True)

    path = download_checkpoint(name, show)
    typer.echo(json.dumps({"path": str(path)}) if as_json else f"{name}: {path}")


@command()
def methods(as_json: Json = False) -> None:
    """List attribution methods with their parameters. Custom methods that could not be loaded go to standard error."""
    infos = list_methods()
    for source, reason in METHODS.left_out.items():
        typer.echo(f"not loaded: {source}: {reason}", err=True)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(m) for m in infos], default=lambda kind: kind.__name__))
        return
    for m in infos:
        typer.echo(f"{m.name:16} {m.family:13} default layer {m.default_layer:6} {m.summary}")
        _params(m.params)


@command()
def targets(as_json: Json = False) -> None:
    """List targets, what a map explains of the outputs, with their parameters; used as in --methods Grad-CAM:target=contrast:k=3."""
    infos = list_targets()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(t) for t in infos], default=lambda kind: kind.__name__))
        return
    for t in infos:
        typer.echo(f"{t.name:16} {t.summary}")
        _params(t.params)


@command()
def presets(as_json: Json = False) -> None:
    """List presets: the methods of published studies with their settings, used as in --methods idsds."""
    infos = list_presets()
    if as_json:
        plain = [{"name": p.name, "title": p.title, "summary": p.summary, "paper": dataclasses.asdict(p.paper)} for p in infos]
        members = [[{"name": label, "method": str(spec)} for label, spec in preset.members] for preset in infos]
        typer.echo(json.dumps([preset | {"members": methods} for preset, methods in zip(plain, members, strict=True)]))
        return
    for preset in infos:
        typer.echo(f"{preset.name:8} {preset.title}: {preset.summary} ({preset.paper.authors})")
        for label, spec in preset.members:
            typer.echo(f"{'':8} {label:24} {spec}")


@command()
def protocols(as_json: Json = False) -> None:
    """List protocols with their parameters."""
    infos = list_protocols()
    if as_json:
        # JSON cannot express infinity.
        plain = [dataclasses.asdict(p) | {"bounds": [b if abs(b) < float("inf") else None for b in p.bounds]} for p in infos]
        typer.echo(json.dumps(plain, default=lambda kind: kind.__name__))
        return
    for p in infos:
        chance = "" if p.chance is None else f", chance {p.chance:g}"
        typer.echo(f"{p.name:14} {'higher' if p.higher_is_better else 'lower'} is better{chance}. {p.summary} ({p.paper.authors})")
        _params(p.params)


@command()
def datasets(
    source: Annotated[
        str, typer.Argument(help="A name, a folder or a CSV file to describe; by default the named data sets are listed.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List named data sets, or describe one: its images and classes, what was assumed, and what was left out."""
    if source:
        _describe(load_dataset(source), as_json)
        return
    infos = list_datasets()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(d) for d in infos]))
        return
    for d in infos:
        counts = ", ".join(f"{n} {noun}" for n, noun in ((d.count, "images"), (d.classes, "classes")) if n is not None)
        typer.echo(f"{d.name:14} {d.summary} ({counts}{', masks' if d.masks else ''})")
    typer.echo("Also any folder of class folders, folder of images, or CSV file with columns file,label.")


def _describe(data: Dataset, as_json: bool) -> None:
    if as_json:
        fields = {"name": data.name, "count": len(data), "class_names": data.class_names, "multi_label": data.multi_label}
        typer.echo(json.dumps(fields | {"masks": data.has_masks, "notes": data.notes}))
        return
    typer.echo(f"{data.name}: {data.describe()}")
    if data.class_names:
        typer.echo(f"classes: {', '.join(data.class_names[:_CLASSES])}{', ...' if data.class_names[_CLASSES:] else ''}")
    for note in data.notes:
        typer.echo(f"note: {note}", err=True)


def _params(params: Sequence[Param]) -> None:
    for p in params:
        typer.echo(f"{'':16} {p.name}={p.format(p.default)}: {p.help} ({p.auto or p.expects()})")
