"""Make the support matrix, methods by architectures: `python -m docs._build.matrix --out docs/reference/matrix.json`.

Every cell is a finding of `attrlib.doctor` at Input, Middle and Final. The doctor probes with noise; that a map is constant or zero is noted only if
it is so for a picture, too. Without `--methods`, all cells are made again.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import attrlib
from attrlib.diagnosis import VALID, Finding
from attrlib.methods import METHODS
from attrlib.models import NAMED
from attrlib.registry import params_of
from attrlib.specs import MethodSpec
from docs._build.registered import MATRIX, methods

Cell = dict[str, Any]
PICTURE, PASSES = "birds:test/7", 64
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "ResNet": {"model": "birds_resnet18"},
    "VGG": {"model": "birds_vgg11_bn"},
    "EfficientNet-Lite": {"model": "efficientnet_lite0"},
    "EfficientNet": {"model": "timm:efficientnet_b0", "pretrained": False, "input_size": 128},
    "ConvNeXt": {"model": "timm:convnext_atto", "pretrained": False, "input_size": 128},
    "ViT": {"model": "birds_vit6"},
    "Swin": {"model": "timm:swin_tiny_patch4_window7_224", "pretrained": False},
    "BagNet": {"model": "birds_bagnet33"},
    "B-cos": {"model": "birds_bcos_resnet18"},
}
"""Column titles, and the instance that is probed: shipped models where there is one, else random weights."""


def cell(findings: Sequence[Finding], model: str) -> Cell:
    """Return one cell: the layers at which the method is valid, and reasons and notes by layer."""
    made: Cell = {"valid": [f.layer for f in findings if f.state == VALID and not f.changed]}
    reasons = {f.layer: f"left changed: {', '.join(f.changed)}" if f.changed else f.reason for f in findings if f.changed or f.reason}
    notes = {f.layer: f.note for f in findings if f.note}
    for name, texts in (("reasons", reasons), ("notes", notes)):
        if texts:
            made[name] = {layer: settled(text, model) for layer, text in texts.items()}
    return made


def settled(text: str, model: str) -> str:
    """Return a reason without the name of the instance, and without the value of a constant map, which depends on the machine."""
    return re.sub(r"^Constant \([^)]*\)", "Constant", text.replace(model, "this model"))


def confirmed(model: attrlib.Classifier, finding: Finding) -> Finding:
    """Return a finding with the note that holds for a picture, if any. A probe that was stopped says nothing about the map."""
    if not finding.note or finding.note.startswith("stopped"):
        return replace(finding, note="")
    counts = (p for p in params_of(METHODS[finding.method]) if p.kind is int and isinstance(p.default, int))
    fewer = tuple((p.name, PASSES) for p in counts if p.default > PASSES)
    result = attrlib.explain(model, attrlib.open_image(PICTURE).image, MethodSpec(finding.method, finding.layer, fewer))
    return replace(finding, note=result.defects[0] or "")


def probe(label: str, names: Sequence[str], limit: float) -> dict[str, Cell]:
    """Probe methods on one architecture, and return its cells by method."""
    about = dict(ARCHITECTURES[label])
    model = attrlib.load_model(about.pop("model"), "cpu", **about)
    diagnosis = attrlib.doctor(model, names, limit=limit)
    return {name: cell([confirmed(model, diagnosis.finding(name, layer)) for layer in NAMED], model.name) for name in diagnosis.methods}


def main() -> None:
    """Make the matrix."""
    parser = argparse.ArgumentParser(prog="python -m docs._build.matrix", description=__doc__)
    parser.add_argument("--out", type=Path, default=MATRIX, help="JSON file to write")
    parser.add_argument("--methods", help="methods to probe, by commas; the other cells stay")
    parser.add_argument("--architectures", help="columns to probe, by commas; the other cells stay")
    parser.add_argument("--limit", type=float, default=1.0, help="seconds after which a probe is stopped")
    args = parser.parse_args()
    every = [info.name for info in methods()]
    names = args.methods.split(",") if args.methods else every
    labels = args.architectures.split(",") if args.architectures else list(ARCHITECTURES)
    old = json.loads(args.out.read_text("utf-8")) if args.out.is_file() else {"cells": {}}
    cells: dict[str, dict[str, Cell]] = {name: dict(old["cells"].get(name, {})) for name in every}
    for label in labels:
        for name, made in probe(label, names, args.limit).items():
            cells[name][label] = made
        sys.stderr.write(f"{label}\n")
        ordered = {name: {key: row[key] for key in ARCHITECTURES if key in row} for name, row in cells.items()}
        write(args.out, ordered)


def write(out: Path, cells: dict[str, dict[str, Cell]]) -> None:
    """Write the matrix, with one line for each cell."""
    about = {label: {"model": a["model"], "random_weights": a.get("pretrained") is False} for label, a in ARCHITECTURES.items()}
    rows = [
        f" {json.dumps(name)}: {{\n" + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in row.items()) + "\n }"
        for name, row in cells.items()
    ]
    body = ",\n".join(rows)
    out.write_text(
        f'{{\n"layers": {json.dumps(list(NAMED))},\n"architectures": {json.dumps(about)},\n"cells": {{\n{body}\n}}\n}}\n', "utf-8"
    )


if __name__ == "__main__":
    main()
