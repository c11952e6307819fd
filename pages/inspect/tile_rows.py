"""Rows of the gallery, one per model, each with its explained class and its computed maps."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import streamlit as st
from PIL import Image

from attrlib.data.images import Photo
from attrlib.engine.jobs import Job
from attrlib.errors import AttrlibError
from attrlib.methods import Attribution
from attrlib.models import Classifier
from attrlib.specs import MethodSpec, ModelSpec
from pages.shared import job_status, jobs, tiles
from pages.shared.classes import Reading, readings


@dataclass(frozen=True, eq=False)
class Row:
    """A model with its spec, the picture, the explained class, and what the model reads off the picture."""

    spec: ModelSpec
    model: Classifier
    photo: Photo
    target: int
    top: list[Reading]

    @property
    def class_name(self) -> str:
        """Return the name of the explained class."""
        return self.model.class_names[self.target].split(",")[0]

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
                slots.append(tiles.Slot(method, jobs.map_job(self.model, self.photo, method, self.target, st.session_state.seed)))
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
    same = _same_class(model, first) if wanted else None
    return Row(spec, model, photo, next(iter(best)) if same is None else same, list(best.values()))


def _same_class(model: Classifier, first: Row) -> int | None:
    """Return the first row's class in another model, by the same index and name or by name alone; None if there is none."""
    if len(model.class_names) > first.target and model.class_names[first.target] == first.model.class_names[first.target]:
        return first.target
    try:
        return model.target(first.class_name)
    except AttrlibError:
        return None


def strips(rows: Sequence[Row], slots: Sequence[list[tiles.Slot]]) -> list[tiles.Strip]:
    """Return the strips that the gallery shows: a single row is titled Photo, several rows by their models."""
    names = ["Photo"] if len(rows) == 1 else _names(rows)
    return [
        tiles.Strip(name, row.picture, row.class_name, row.top, row_slots) for name, row, row_slots in zip(names, rows, slots, strict=True)
    ]


def ready_maps(rows: Sequence[Row], slots: Sequence[list[tiles.Slot]]) -> list[Ready]:
    """Return the computed maps that are valid, under the shortest unambiguous names."""
    ready = [
        (row, slot.method, slot.job) for row, row_slots in zip(rows, slots, strict=True) for slot in row_slots if slot.job and slot.done
    ]
    ready = [(row, method, job) for row, method, job in ready if job.result.defects[0] is None]
    short = [f"{method.name}@{method.layer}" for _, method, _ in ready]
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
