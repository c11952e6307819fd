"""Explain one image with several methods: `python -m attrlib explain`."""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from attrlib.cli.common import Device, Json, command, read_options
from attrlib.data.images import Photo
from attrlib.data.pictures import open_image
from attrlib.engine.explain import MANIFEST, Explanation, check_same, explain_photo, first, read_manifest
from attrlib.errors import ImageError, SpecError
from attrlib.methods import defined, names_many, read_methods
from attrlib.models import load_model
from attrlib.progress import Progress
from attrlib.registry import params_of
from attrlib.specs import LOGIT, ExplainSpec, TargetSpec, flag_of
from attrlib.store import parse_bytes

PREDICTED = "predicted"
REPEATED = ("image", "checkpoint")
"""Fields that may accompany a manifest, to give the present location of its files."""


@command(options=params_of(ExplainSpec))
def explain(
    out: Annotated[Path, typer.Option("--out", help="Folder for panel.png, maps.npz and manifest.json.")],
    layer: Annotated[str, typer.Option("--layer", help="Layer for methods that name none: Input, Middle, Final or a module path.")] = "",
    method_target: Annotated[
        str, typer.Option("--method-target", help="Target of methods that name none, such as contrast:k=3 or versus:other=CLASS.")
    ] = "",
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", help="Memory budget, as in 4GB; by default half of the free memory.")
    ] = None,
    device: Device = "auto",
    manifest: Annotated[Path | None, typer.Option("--from", help="Manifest of an explanation to repeat.")] = None,
    as_json: Json = False,
    *,
    options: dict[str, str],
) -> None:
    """Explain one image with several methods."""
    target = options.pop("target", None)
    if manifest is not None:
        flags = [flag_of(p) for p in params_of(ExplainSpec) if p.name in options and p.name not in REPEATED]
        for flag in [
            *flags,
            *(["--target"] if target is not None else []),
            *(["--layer"] if layer else []),
            *(["--method-target"] if method_target else []),
        ]:
            raise SpecError(
                f"{flag} cannot be combined with --from, as the manifest defines the explanation; "
                "only --image, --checkpoint, --max-memory and --device may be added"
            )
        content = read_manifest(manifest)
        spec = content["spec"]
        model = dataclasses.replace(spec.model, checkpoint=options.get("checkpoint") or spec.model.checkpoint)
        spec = dataclasses.replace(spec, image=options.get("image") or spec.image, model=model)
    else:
        content = None
        spec = read_options(ExplainSpec, options, methods=lambda text: read_methods(text, layer, TargetSpec.parse(method_target or LOGIT)))
    budget = None if max_memory is None else parse_bytes(max_memory, "max-memory")
    photo = _open(spec.image, manifest if "image" not in options else None)
    notes = [f"{photo.name}: {note}" for note in photo.notes]
    classifier = load_model(spec.model.architecture, device, **spec.model.options())
    notes += classifier.remarks
    if content is not None:
        check_same(content, classifier, photo)
    else:
        if target not in (None, PREDICTED):
            spec = dataclasses.replace(spec, target=classifier.target(target))
        if names_many(options["methods"]):
            methods, reasons = defined(classifier, spec.methods)
            spec = dataclasses.replace(spec, methods=methods)
            notes += reasons
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    explanation = explain_photo(spec, classifier, photo, _progress_line(), budget)
    files = explanation.files()
    write_files(out, files)
    same = None if content is None else content["files"] == json.loads(files[MANIFEST])["files"]
    _report(explanation, out, same, notes, as_json)


def _open(image: str, manifest: Path | None) -> Photo:
    """Open the picture; if it is one that a manifest names and it is missing, the error says how to give another path."""
    try:
        return open_image(image)
    except ImageError as error:
        if manifest is None:
            raise
        raise ImageError(f"{error}. {manifest} names it; add --image PATH if it lies elsewhere") from None


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write all files or none. Raises `SpecError` if the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in files:
            if (folder / name).is_dir():
                raise IsADirectoryError(0, f"{name} is a folder")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
            for name, data in files.items():
                (Path(part) / name).write_bytes(data)
            for name in files:
                (Path(part) / name).replace(folder / name)
    except OSError as error:
        raise SpecError(
            f"cannot write to {str(folder)!r} ({error.strerror}); choose another folder with --out, or free some space"
        ) from None


def _progress_line() -> Progress:
    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            typer.echo(f"\r{done}/{total} passes " if done < total else "\r" + " " * 24 + "\r", nl=False, err=True)

    return show


def _report(explanation: Explanation, out: Path, same: bool | None, notes: list[str], as_json: bool) -> None:
    maps: list[dict[str, Any]] = [
        {"method": str(a.spec), "seconds": round(a.seconds, 4), "shape": list(a.maps.shape[2:]), "defect": a.defects[0]}
        | first(a.diagnostics)
        for a in explanation.attributions
    ]
    target = explanation.target
    name = explanation.model.class_names[target]
    if as_json:
        result = {"target": target, "class": name, "out": str(out), "device": str(explanation.model.device), "maps": maps, "notes": notes}
        typer.echo(json.dumps(result if same is None else result | {"identical": same}))
        return
    typer.echo(f"{explanation.model.name} on {explanation.model.device}: {name} ({target})")
    for m in maps:
        notes = [f"convergence error {m['convergence']:.1%}"] if m.get("convergence") is not None else []
        typer.echo("  ".join([f"{m['method']:44} {m['seconds']:8.3f} s", *notes, *([m["defect"]] if m["defect"] else [])]))
    typer.echo(f"wrote panel.png, maps.npz and manifest.json to {out}")
    if same is not None:
        typer.echo(
            "identical to the manifest, bit for bit"
            if same
            else "NOT identical to the manifest: another device or version of PyTorch rounds differently"
        )
