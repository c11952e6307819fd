"""From a model and a data set to a checkpoint with its card: what `python -m attrlib finetune` does."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from attrlib.data.datasets import Dataset, load_dataset
from attrlib.data.derived import Kept, hold_out
from attrlib.data.labels import match_classes, with_description
from attrlib.errors import DataError, SpecError, TrainingError
from attrlib.models import Card, Classifier, load_model, with_classes
from attrlib.models.zoo import architecture_of
from attrlib.progress import Listener, no_listener
from attrlib.specs import ModelSpec, digest
from attrlib.statistics import proportion
from attrlib.training.accuracy import accuracies, check_labelled
from attrlib.training.recipe import Recipe
from attrlib.training.train import TrainingProgress, train

HELD_OUT = 0.1
"""Of the training data, what chooses the best epoch where no data are given for it."""
GRID = 4
"""Cells in each direction of which one is deleted to measure accuracy on deleted images, for models that never saw any."""


@dataclass(frozen=True)
class Training:
    """Training to be done: a model, its weights to begin with, data to train on, to choose the best epoch on, and to report on.

    Without `select`, a tenth of the data is held out; without `report`, accuracies are those on the selection data, and the card
    says so. `pair` names the same model without deletion, from which this one was made.
    """

    model: ModelSpec
    data: str
    recipe: Recipe = field(default_factory=Recipe)
    select: str | None = None
    report: str | None = None
    pair: str | None = None

    @property
    def id(self) -> str:
        """What names the state of the training."""
        return digest(asdict(self))


def train_checkpoint(
    training: Training,
    out: Path,
    folder: Path,
    device: str = "auto",
    watch: Listener[TrainingProgress] = no_listener,
    datasets: Mapping[str, Dataset] | None = None,
) -> Card:
    """Trains, and writes `out` (.safetensors, matrices in float16) and its card beside it (.json). Interrupted, the same call goes on.

    `folder` holds the state until then. `datasets` are those at hand by name, where they are not to be loaded anew. Where the
    data's classes are not the model's, the head is made anew; where the model knows all of them, from its own rows. Raises
    `DataError`, `ModelError`, `SpecError` and `TrainingError`, which say what to do.
    """
    if out.suffix != ".safetensors":
        raise SpecError(f"{out.name!r} is no name for weights; let it end with .safetensors")
    at_hand = dict(datasets or {})
    whole_set = at_hand.get(training.data) or Kept(load_dataset(training.data))
    if len(whole_set.class_names) < 2:
        raise DataError(
            f"{whole_set.name} has {len(whole_set.class_names)} class(es); training needs at least 2: give a folder of class folders"
        )
    if training.select is None:
        data, select = hold_out(whole_set, HELD_OUT, training.recipe.seed)
    else:
        data, select = whole_set, at_hand.get(training.select) or Kept(load_dataset(training.select))
    report = select if training.report is None else at_hand.get(training.report) or load_dataset(training.report)
    check_labelled(report)
    model = _model(training, whole_set, _place(device))
    _check_size(model, training.recipe)
    classes, of_select, of_report = (match_classes(d.class_names, model.class_names) for d in (data, select, report))
    trained = train(model, data, classes, select, of_select, training.recipe, folder, watch)
    if int(os.environ.get("RANK", 0)):
        return Card(str(training.model), model.class_names, model.preprocessing)
    state = {name: _rounded(tensor) for name, tensor in trained.state.items()}
    model.module.load_state_dict(state)
    # The card is about what the file holds, so accuracies are those of the rounded weights.
    right = accuracies(model, report, of_report, training.recipe.deletion or GRID, training.recipe.baseline)
    data_bytes = safetensors.torch.save(state)
    card = Card(
        architecture=architecture_of(model.spec.architecture),
        class_names=model.class_names,
        preprocessing=model.preprocessing,
        data=whole_set.name,
        recipe=asdict(training.recipe),
        deletion={"grid": training.recipe.deletion, "baseline": training.recipe.baseline} if training.recipe.deletion else None,
        accuracy={
            "data": report.name,
            "clean": asdict(proportion(right.clean, right.count)),
            "deleted": asdict(proportion(right.deleted or 0, right.count)),
        },
        parameters=sum(p.numel() for p in model.module.parameters()),
        seed=training.recipe.seed,
        seconds=round(trained.seconds, 1),
        epoch=trained.epoch,
        pair=training.pair,
        left_out=len(trained.left_out),
        digest=hashlib.blake2b(data_bytes, digest_size=16).hexdigest(),
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for path, content in ((out, data_bytes), (out.with_suffix(".json"), card.text().encode())):
            part = path.with_name(path.name + ".part")
            part.write_bytes(content)
            part.replace(path)
    except OSError as error:
        raise TrainingError(f"{out} cannot be written ({error.strerror}); the training is kept, make room and run the same again") from None
    return card


def _model(training: Training, data: Dataset, device: str) -> Classifier:
    start = load_model(training.model.architecture, device, **training.model.options())
    try:
        known: Sequence[int] | None = match_classes(data.class_names, start.class_names)
    except DataError:
        known = None
    if known is not None and len(data.class_names) == len(start.class_names):
        return start
    return with_classes(start, [with_description(name) for name in data.class_names], known, training.recipe.seed)


def _place(device: str) -> str:
    """Under `torchrun` each process has a GPU of its own."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if device == "auto" and local is not None and torch.cuda.is_available() else device


def _check_size(model: Classifier, recipe: Recipe) -> None:
    if min(model.input_size) < recipe.deletion:
        raise SpecError(
            f"images of {model.input_size[0]} x {model.input_size[1]} px have no {recipe.deletion} x {recipe.deletion} cells; choose a smaller deletion"
        )


def _rounded(tensor: Tensor) -> Tensor:
    """Matrices in float16; what is added, scaled with or divided by stays exact."""
    return (tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor).contiguous()
