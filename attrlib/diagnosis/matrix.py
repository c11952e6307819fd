"""The table of methods by models: at which layers each method is defined, and why not elsewhere."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attrlib.diagnosis.examine import VALID, Finding, doctor, picture
from attrlib.errors import SpecError, StoreError
from attrlib.methods import METHODS
from attrlib.models import NAMED, Classifier, load_model
from attrlib.models.filled import calibrate, fill
from attrlib.models.names import RANDOM
from attrlib.progress import NewsProgress, no_progress
from attrlib.specs import ModelSpec


@dataclass(frozen=True)
class Cell:
    """What was found out about one method on one model.

    Attributes:
        valid: Layers at which the method is defined.
        reasons: Why it is not defined elsewhere, by layer.
        notes: What is unusual about the map, by layer.
    """

    valid: tuple[str, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, findings: Sequence[Finding], model: str) -> "Cell":
        """Return the cell of the findings at all layers. In texts, `this model` takes the place of the model's name."""
        reasons = {f.layer: f"left changed: {', '.join(f.changed)}" if f.changed else f.reason for f in findings}
        # A probe that was stopped says nothing about the map. The value of a constant map depends on the machine.
        notes = {f.layer: re.sub(r"^Constant \([^)]*\)", "Constant", f.note) for f in findings if not f.note.startswith("stopped")}
        return cls(
            tuple(f.layer for f in findings if f.state == VALID and not f.changed),
            *({layer: text.replace(model, "this model") for layer, text in texts.items() if text} for texts in (reasons, notes)),
        )

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> "Cell":
        """Return a cell from its JSON value."""
        return cls(tuple(value["valid"]), value.get("reasons", {}), value.get("notes", {}))

    def json(self) -> dict[str, Any]:
        """Return the cell as a JSON value, without what is empty."""
        texts = {"reasons": dict(self.reasons), "notes": dict(self.notes)}
        return {"valid": list(self.valid), **{name: value for name, value in texts.items() if value}}

    def footnotes(self) -> dict[str, str]:
        """Return reason or note by layer, without the layer's name in it, so that layers share it."""
        texts = {layer: self.reasons.get(layer) or self.notes.get(layer, "") for layer in NAMED}
        return {layer: t.replace(f"downstream of {layer}", "downstream of the layer") for layer, t in texts.items() if t}


@dataclass(frozen=True)
class Matrix:
    """Methods by models.

    Attributes:
        models: Text form of each model, by its title.
        cells: Cells by method and title.
    """

    models: dict[str, str]
    cells: dict[str, dict[str, Cell]]

    def json(self) -> str:
        """Return the matrix as JSON, with one line for each cell."""
        rows = [
            f" {json.dumps(name)}: {{\n" + ",\n".join(f"  {json.dumps(k)}: {json.dumps(cell.json())}" for k, cell in row.items()) + "\n }"
            for name, row in self.cells.items()
        ]
        head = f'"layers": {json.dumps(list(NAMED))},\n"models": {json.dumps(self.models)}'
        return f"{{\n{head},\n" + '"cells": {\n' + ",\n".join(rows) + "\n}\n}\n"

    def markdown(self) -> str:
        """Return the matrix as a Markdown table, with the reasons as numbered footnotes."""
        numbers: dict[str, int] = {}

        def text(cell: Cell) -> str:
            marks = sorted({numbers.setdefault(reason, len(numbers) + 1) for reason in cell.footnotes().values()})
            where = "all" if len(cell.valid) == len(NAMED) else " ".join(cell.valid) or "–"
            return where + "".join(f" [{n}]" for n in marks)

        lines = [["Method", *self.models], ["---"] * (1 + len(self.models))]
        lines += [[method, *(text(row[title]) if title in row else "" for title in self.models)] for method, row in self.cells.items()]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        reasons = "\n".join(f"- [{n}] {reason}" for reason, n in numbers.items())
        models = "\n".join(f"- {title}: `{model}`" for title, model in self.models.items() if title != model)
        return "\n\n".join(part for part in (table, reasons, models) if part) + "\n"

    def write(self, path: Path) -> None:
        """Write the matrix as JSON or Markdown, by the ending of the file.

        Raises:
            SpecError: If the file has another ending, or its folder does not exist.
        """
        text = self.json() if ending(path) == ".json" else self.markdown()
        path.write_text(text, "utf-8")


def ending(path: Path) -> str:
    """Return the ending of a file that a matrix can be written to.

    Raises:
        SpecError: If it is neither `.json` nor `.md`, or the folder does not exist.
    """
    if not path.parent.is_dir():
        raise SpecError(f"there is no folder {path.parent}; make it first, or write the table elsewhere")
    if path.suffix not in (".json", ".md"):
        raise SpecError(f"{path.name} has no ending that says the format of the table; write FILE.md or FILE.json")
    return path.suffix


def read_matrix(path: Path) -> Matrix:
    """Read a matrix from its JSON file.

    Raises:
        StoreError: If the file holds no matrix.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
        cells = {name: {title: Cell.read(cell) for title, cell in row.items()} for name, row in value["cells"].items()}
        return Matrix(dict(value["models"]), cells)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} holds no table of methods by models: {error}") from None


def survey(
    models: Mapping[str, str],
    methods: Sequence[str] | None = None,
    *,
    limit: float = 1.0,
    on_progress: NewsProgress = no_progress,
) -> Matrix:
    """Examine methods on several models at Input, Middle and Final.

    A model with random weights gets weights with which every operation matters; see `attrlib.models.filled`.

    Args:
        models: Text form of each model, by its title.
        methods: Names of methods; None for all.
        limit: Seconds after which a probe is stopped.
        on_progress: Progress callback; gets the number of finished models, the total, and the next probe. Raises `Cancelled` to stop.

    Raises:
        AttrlibError: If a model cannot be loaded, or a method does not exist.
    """
    names = [METHODS[name].name for name in (METHODS if methods is None else dict.fromkeys(methods))]
    cells: dict[str, dict[str, Cell]] = {name: {} for name in names}
    for k, (title, text) in enumerate(models.items()):
        model = _loaded(ModelSpec.parse(text))

        def report(_done: int, _total: int, probe: str = "", k: int = k, title: str = title) -> None:
            on_progress(k, len(models), f"{title} {probe}")

        found = doctor(model, names, images=1, limit=limit, on_progress=report)
        for name in names:
            cells[name][title] = Cell.of([found.finding(name, layer) for layer in NAMED], model.name)
    on_progress(len(models), len(models), "")
    return Matrix(dict(models), cells)


def updated(old: Matrix, new: Matrix) -> Matrix:
    """Return a matrix with the cells of a newer one, and with the rows of all methods that exist, in their order."""
    rows = {name: old.cells.get(name, {}) | new.cells.get(name, {}) for name in METHODS}
    return replace(old, cells={name: {k: row[k] for k in old.models if k in row} for name, row in rows.items() if row})


def _loaded(spec: ModelSpec) -> Classifier:
    model = load_model(spec.architecture, "cpu", **spec.options())
    if (spec.checkpoint or "").startswith(RANDOM):
        fill(model.module)
        with model.session():
            calibrate(model.module, picture(model, 8))
    return model
