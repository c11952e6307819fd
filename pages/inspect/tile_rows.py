"""Rows of the gallery, one per model, each with its explained class and its computed maps."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import streamlit as st
from PIL import Image

from attrlib.data.images import Photo
from attrlib.engine.jobs import Job
from attrlib.errors import AttrlibError
from attrlib.methods import Attribution
from attrlib.models import Classifier
from attrlib.specs import MethodSpec, ModelSpec, TargetSpec
from attrlib.targets import create as create_target
from attrlib.targets import short as short_target
from attrlib.targets.base import class_name
from pages.inspect.same_class import for_model, same_class, spoken
from pages.shared import job_status, jobs, targets, tiles
from pages.shared.classes import Reading, readings


@dataclass(frozen=True, eq=False)
class Row:
    """A model with its spec, the picture, the explained class, and what the model reads off the picture, by class.

    `origin` is the model whose classes the targets of methods name: that of the first row.
    """

    spec: ModelSpec
    model: Classifier
    photo: Photo
    target: int
    top: Mapping[int, Reading]
    origin: Classifier

    @property
    def class_name(self) -> str:
        """Return the name of the explained class."""
        return class_name(self.model, self.target)

    def phrase(self, explained: TargetSpec) -> str:
        """Return what the maps of a target explain, or the name of the class if the model does not have the target."""
        try:
            method = for_model(MethodSpec("", target=explained), self.model, self.origin)
            return create_target(method.target).phrase(self.model, self.target)
        except AttrlibError:
            return self.class_name

    @property
    def picture(self) -> Image.Image:
        """Return the photo as the model sees it."""
        return tiles.picture(self.photo.digest, self.model.preprocessing, self.photo)

    def slots(self, methods: Sequence[MethodSpec]) -> list[tiles.Slot]:
        """Request the map of each method, and return its slot; the slot of a method that is not defined holds the reason."""
        slots = []
        for method in methods:
            try:
                self.model.layer(method.layer)
                method = for_model(method, self.model, self.origin)
                job = jobs.map_job(self.model, self.photo, method, self.target, st.session_state.seed)
                slots.append(tiles.Slot(method, job, explained=spoken(method, self.model)))
            except AttrlibError as error:
                slots.append(tiles.Slot(method, None, str(error)))
        return slots


@dataclass(frozen=True, eq=False)
class Ready:
    """A computed map, with a name that is unique on the page."""

    name: str
    row: Row
    job: Job

    @property
    def attribution(self) -> Attribution:
        """Return the map."""
        return self.job.result


@dataclass(frozen=True, eq=False)
class PendingRow:
    """A row whose model is not loaded yet."""

    spec: ModelSpec
    job: Job


def further_row(spec: ModelSpec, photo: Photo, first: Row, wanted: bool) -> Row | PendingRow | None:
    """Return the row of a further model: explained for its prediction or, if a class is `wanted`, for the first row's class.

    Returns None after showing why the model cannot be loaded. The page does not wait: rows that are ready are shown.
    """
    loading = jobs.model_job(spec)
    if not loading.ended:
        return PendingRow(spec, loading)
    model = job_status.wait_for(loading, f"Loading {spec}")
    if model is None:
        return None
    prediction = jobs.prediction_job(model, photo)
    if not prediction.ended:
        return PendingRow(spec, prediction)
    values = job_status.wait_for(prediction, f"Running {spec}")
    if values is None:
        return None
    best = readings(model, values)
    same = same_class(model, first.target, first.model) if wanted else None
    return Row(spec, model, photo, next(iter(best)) if same is None else same, best, first.model)


def strips(rows: Sequence[Row], slots: Sequence[list[tiles.Slot]]) -> list[tiles.Strip]:
    """Return the strips that the gallery shows: a single row is titled Photo, several rows by their models.

    In the first row one can ask why the model sees the explained class rather than another one.
    """
    names = ["Photo"] if len(rows) == 1 else _names(rows)
    explained = targets.chosen()
    return [
        tiles.Strip(name, row.picture, row.phrase(explained), row.top, row_slots, _rather(row, explained) if row is rows[0] else None)
        for name, row, row_slots in zip(names, rows, slots, strict=True)
    ]


def _rather(row: Row, explained: TargetSpec) -> tiles.Rather | None:
    """Return the choice of a class to compare with; None for numbers, and if there is no other class."""
    if not row.model.outputs.has_classes or len(row.top) < 2:
        return None
    other = str(explained.values.get("other", "")) if explained.name == "versus" else ""
    return tiles.Rather(row.target, int(other) if other.isdecimal() else None, _explain_rather)


def _explain_rather(other: int) -> None:
    targets.set_versus(other)
    # The controls are above the part of the page that polls.
    st.rerun()


def ready_maps(rows: Sequence[Row], slots: Sequence[list[tiles.Slot]]) -> list[Ready]:
    """Return the computed maps that are valid, under the shortest unambiguous names."""
    ready = [
        (row, slot.method, slot.job) for row, row_slots in zip(rows, slots, strict=True) for slot in row_slots if slot.job and slot.done
    ]
    ready = [(row, method, job) for row, method, job in ready if job.result.defects[0] is None]
    short = [str(MethodSpec(method.name, method.layer, target=short_target(method.target))) for _, method, _ in ready]
    twice = {(row, name) for (row, name), count in Counter(zip([id(row) for row, _, _ in ready], short, strict=True)).items() if count > 1}
    names = [str(method) if (id(row), name) in twice else name for (row, method, _), name in zip(ready, short, strict=True)]
    if len(rows) > 1:
        models = dict(zip(map(id, rows), _names(rows), strict=True))
        names = [f"{name} · {models[id(row)]}" for name, (row, _, _) in zip(names, ready, strict=True)]
    return [Ready(name, row, job) for name, (row, _, job) in zip(names, ready, strict=True)]


def _names(rows: Sequence[Row]) -> list[str]:
    """Return the names of the models; checkpoints by file name if these differ."""
    short = [replace(row.spec, checkpoint=row.spec.checkpoint and Path(row.spec.checkpoint).name).text for row in rows]
    return [name if short.count(name) == 1 else row.spec.text for name, row in zip(short, rows, strict=True)]
